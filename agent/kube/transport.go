package kube

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	// readAgain is how long what files say is believed. Kubernetes' own clients do not
	// look more often either.
	readAgain = 50 * time.Second
	// maxFile bounds what is read of a token, a key, certificates.
	maxFile = 1 << 20
)

// transport carries requests to the API server, with the token. It reads the files
// that Config names again now and then, and after an answer that says that who asks is
// not known: tokens and certificates are renewed while the agent runs. client-go's own
// transport has HTTP/2, plug-ins for cloud accounts and a goroutine for each
// certificate: 1 MB of program on ARMv6, of which nothing was used.
type transport struct {
	cfg Config

	mu    sync.Mutex
	read  time.Time // when the files were read; zero: they are to be read
	token string
	files [3][]byte // CA, certificate, key: what base was made of
	base  *http.Transport
}

// newTransport reads the files for the first time.
func newTransport(cfg Config) (*transport, error) {
	t := &transport{cfg: cfg}
	return t, t.load()
}

// RoundTrip is [http.RoundTripper]'s.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	base, token := t.current()
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", "relevo")
	if token != "" && req.Header.Get("Authorization") == "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := base.RoundTrip(req)
	if err == nil && res.StatusCode == http.StatusUnauthorized {
		t.mu.Lock()
		t.read = time.Time{}
		t.mu.Unlock()
	}
	return res, err
}

// current is what is to be used now. If files cannot be read, what they said before is
// used on: the answer of the API tells whether that is good enough.
func (t *transport) current() (*http.Transport, string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.read) >= readAgain {
		_ = t.load()
		t.read = time.Now()
	}
	return t.base, t.token
}

// load reads the files. Only when a certificate changed, connections are made anew;
// those in use end with their requests.
func (t *transport) load() error {
	token, err := readFile("the token", t.cfg.TokenFile)
	if err != nil {
		return err
	}
	if token = bytes.TrimSpace(token); len(token) == 0 && t.cfg.TokenFile != "" {
		return fmt.Errorf("read the token: %s is empty", t.cfg.TokenFile)
	}
	var files [3][]byte
	for i, f := range []struct{ what, path string }{
		{"the CA's certificate", t.cfg.CAFile}, {"the certificate", t.cfg.ClientCertFile}, {"the certificate's key", t.cfg.ClientKeyFile},
	} {
		if files[i], err = readFile(f.what, f.path); err != nil {
			return err
		}
	}
	if t.base == nil || !bytes.Equal(files[0], t.files[0]) || !bytes.Equal(files[1], t.files[1]) || !bytes.Equal(files[2], t.files[2]) {
		c, err := t.tls(files)
		if err != nil {
			return err
		}
		if t.base != nil {
			t.base.CloseIdleConnections()
		}
		t.files, t.base = files, &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: t.cfg.Dial, TLSClientConfig: c,
			TLSHandshakeTimeout: 10 * time.Second, MaxIdleConnsPerHost: 25,
		}
	}
	t.token, t.read = string(token), time.Now()
	return nil
}

func (t *transport) tls(files [3][]byte) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if t.cfg.CAFile != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(files[0]) {
			return nil, fmt.Errorf("read the CA's certificate: there is none in %s", t.cfg.CAFile)
		}
	}
	if t.cfg.ClientCertFile != "" {
		pair, err := tls.X509KeyPair(files[1], files[2])
		if err != nil {
			return nil, fmt.Errorf("read the certificate in %s and its key in %s: %w", t.cfg.ClientCertFile, t.cfg.ClientKeyFile, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// CloseIdleConnections is what [http.Client.CloseIdleConnections] calls.
func (t *transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.base.CloseIdleConnections()
}

// readFile reads a file, if one is named.
func readFile(what, path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s has more than 1 MiB", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	return b, nil
}
