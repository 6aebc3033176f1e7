package kube

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// put writes a file.
func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// pair makes a certificate that is its own CA, and its key, as PEM.
func pair(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

// secured is an API server with a certificate and a token that can be changed. It
// answers with the name in the client's certificate.
type secured struct {
	*httptest.Server
	cert   atomic.Pointer[tls.Certificate]
	token  atomic.Value
	closed chan struct{} // a connection was
}

func newSecured(t *testing.T, cert, key string) *secured {
	s := &secured{closed: make(chan struct{}, 100)}
	s.use(t, cert, key)
	s.token.Store("")
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+s.token.Load().(string) {
			status(w, http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte("[+]" + r.TLS.PeerCertificates[0].Subject.CommonName + " ok\n[+]" + r.Proto + "_" + r.UserAgent() + " ok\n"))
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are meant
	s.Config.ConnState = func(_ net.Conn, is http.ConnState) {
		if is == http.StateClosed {
			s.closed <- struct{}{}
		}
	}
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{ClientAuth: tls.RequireAnyClientCert, Certificates: []tls.Certificate{*s.cert.Load()}}, nil
	}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *secured) use(t *testing.T, cert, key string) {
	t.Helper()
	p, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	s.cert.Store(&p)
}

// names of the checks that a client gets, or what went wrong.
func names(t *testing.T, c *Client) string {
	t.Helper()
	r, err := c.Ready(t.Context())
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, c := range r.Checks {
		all = append(all, c.Name)
	}
	return strings.Join(all, " ")
}

// What the files say is taken up while the client lives: a token after an answer that
// says that it is not good, certificates after a while. A certificate whose key is not
// there yet is not taken.
func TestFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	ca, token, crt, key := filepath.Join(dir, "ca"), filepath.Join(dir, "token"), filepath.Join(dir, "crt"), filepath.Join(dir, "key")
	ca1, caKey1 := pair(t, "api.test")
	s := newSecured(t, ca1, caKey1)
	s.token.Store("one")
	crt1, key1 := pair(t, "first")
	put(t, ca, ca1)
	put(t, token, "one\n")
	put(t, crt, crt1)
	put(t, key, key1)
	c, err := New(Config{URL: "https://api.test", CAFile: ca, TokenFile: token, ClientCertFile: crt, ClientKeyFile: key,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial(ctx, network, s.Listener.Addr().String())
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	later := func() {
		tr := c.http.Transport.(*transport)
		tr.mu.Lock()
		tr.read = tr.read.Add(-readAgain)
		tr.mu.Unlock()
	}
	want := func(text string) {
		t.Helper()
		if got := names(t, c); got != text {
			t.Fatalf("the API said %q; expected %q", got, text)
		}
	}
	want("first HTTP/1.1_relevo")

	s.token.Store("two")
	put(t, token, "two")
	want("ask the API whether it is ready: 401 Unauthorized: the credentials in candidate.control_plane.api are not accepted")
	want("first HTTP/1.1_relevo")

	crt2, key2 := pair(t, "second")
	put(t, crt, crt2)
	later()
	want("first HTTP/1.1_relevo") // the key is that of the first
	put(t, key, key2)
	want("first HTTP/1.1_relevo") // not looked at
	if len(s.closed) != 0 {
		t.Fatal("a connection was closed though the files were good")
	}
	later()
	want("second HTTP/1.1_relevo")
	<-s.closed // that of the first: it would be kept as long as the server keeps it

	ca2, caKey2 := pair(t, "api.test")
	s.use(t, ca2, caKey2)
	s.CloseClientConnections()
	if got := names(t, c); !strings.Contains(got, "certificate") {
		t.Fatalf("another CA's certificate was believed: %s", got)
	}
	put(t, ca, ca2)
	later()
	want("second HTTP/1.1_relevo")

	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	later()
	want("second HTTP/1.1_relevo") // what it said before is used on
}

func TestFilesThatAreNoGood(t *testing.T) {
	dir := t.TempDir()
	in := func(name, text string) string {
		put(t, filepath.Join(dir, name), text)
		return filepath.Join(dir, name)
	}
	crt, _ := pair(t, "a")
	_, other := pair(t, "b")
	for want, cfg := range map[string]Config{
		"read the token: open ":                      {TokenFile: filepath.Join(dir, "none")},
		"token is empty":                             {TokenFile: in("token", " \n")},
		"read the CA's certificate: there is none i": {CAFile: in("ca", "text")},
		"big has more than 1 MiB":                    {CAFile: in("big", strings.Repeat("x", maxFile+1))},
		"private key does not match public key":      {ClientCertFile: in("crt", crt), ClientKeyFile: in("key", other)},
	} {
		cfg.URL = "https://127.0.0.1:1"
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "prepare the client of https://127.0.0.1:1: ") {
			t.Errorf("with %+v: %v; expected %q", cfg, err, want)
		}
	}
}
