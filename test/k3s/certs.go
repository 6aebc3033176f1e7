package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// renewBefore is how long before its end a start renews a certificate.
const renewBefore = 120 * 24 * time.Hour

// pair is a certificate and its key, and where they lie.
type pair struct {
	path string // without .crt and .key
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (p *pair) load() error {
	text, err := os.ReadFile(p.path + ".crt")
	if err != nil {
		return err
	}
	b, _ := pem.Decode(text)
	if b == nil {
		return fmt.Errorf("%s.crt is no certificate", p.path)
	}
	if p.cert, err = x509.ParseCertificate(b.Bytes); err != nil {
		return err
	}
	p.key, err = loadKey(p.path + ".key")
	return err
}

func loadKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	b, _ := pem.Decode(text)
	if b == nil {
		return nil, fmt.Errorf("%s is no key", path)
	}
	return x509.ParseECPrivateKey(b.Bytes)
}

func makeKey(path string) (*ecdsa.PrivateKey, error) {
	if _, err := os.Stat(path); err == nil {
		return loadKey(path)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, write(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

// ensure loads the pair, or makes it, signed by ca (itself if nil). What is there stays,
// unless it is a leaf that ends soon or lacks one of the names.
func ensure(path string, ca *pair, t *x509.Certificate) (*pair, error) {
	p := &pair{path: path}
	err := p.load()
	switch {
	case err == nil && (ca == nil || time.Until(p.cert.NotAfter) > renewBefore && covers(p.cert, t)):
		return p, nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	if p.key, err = makeKey(path + ".key"); err != nil {
		return nil, err
	}
	t.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	t.NotBefore, t.KeyUsage = time.Now().Add(-time.Hour), t.KeyUsage|x509.KeyUsageDigitalSignature
	signer, parent := p.key, t
	if ca == nil {
		t.IsCA, t.BasicConstraintsValid, t.KeyUsage, t.NotAfter = true, true, x509.KeyUsageCertSign, time.Now().AddDate(10, 0, 0)
	} else {
		signer, parent, t.NotAfter = ca.key, ca.cert, time.Now().AddDate(1, 0, 0)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, p.key.Public(), signer)
	if err != nil {
		return nil, err
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if ca != nil { // the chain
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})...)
	}
	return p, write(path+".crt", text, 0o644)
}

func covers(c, want *x509.Certificate) bool {
	for _, n := range want.DNSNames {
		if c.VerifyHostname(n) != nil {
			return false
		}
	}
	for _, ip := range want.IPAddresses {
		if c.VerifyHostname(ip.String()) != nil {
			return false
		}
	}
	return true
}

// identity makes the files below DATA_DIR/server that make a server this very cluster's,
// or uses those that are there.
func (o *options) identity() error {
	dir := filepath.Join(o.dataDir, "server")
	tls := func(name string) string { return filepath.Join(dir, "tls", name) }
	for _, d := range []string{dir, tls(""), filepath.Join(dir, "cred"), filepath.Join(dir, "manifests"), filepath.Join(dir, "db")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	cas := map[string]*pair{}
	for _, name := range []string{"server-ca", "client-ca", "request-header-ca"} {
		ca, err := ensure(tls(name), nil, &x509.Certificate{Subject: pkix.Name{CommonName: fmt.Sprintf("k3s-%s@%d", name, time.Now().Unix())}})
		if err != nil {
			return fmt.Errorf("the CA %s: %w", name, err)
		}
		cas[name] = ca
	}
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for name, who := range map[string]pkix.Name{
		"client-admin":          {CommonName: "system:admin", Organization: []string{"system:masters"}},
		"client-kube-apiserver": {CommonName: "system:apiserver", Organization: []string{"system:masters"}},
	} {
		if _, err := ensure(tls(name), cas["client-ca"], &x509.Certificate{Subject: who, ExtKeyUsage: client}); err != nil {
			return fmt.Errorf("the certificate %s: %w", name, err)
		}
	}
	if _, err := ensure(tls("client-auth-proxy"), cas["request-header-ca"], &x509.Certificate{Subject: pkix.Name{CommonName: "system:auth-proxy"}, ExtKeyUsage: client}); err != nil {
		return err
	}
	serving := &x509.Certificate{Subject: pkix.Name{CommonName: "kube-apiserver"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}}
	for _, n := range append([]string{"127.0.0.1", "10.43.0.1", o.nodeName, o.nodeIP, o.advertise}, o.tlsSAN...) {
		if ip := net.ParseIP(n); ip != nil {
			serving.IPAddresses = append(serving.IPAddresses, ip)
		} else if n != "" {
			serving.DNSNames = append(serving.DNSNames, n)
		}
	}
	p, err := ensure(tls("serving-kube-apiserver"), cas["server-ca"], serving)
	if err != nil {
		return fmt.Errorf("the serving certificate: %w", err)
	}
	if err := dynamic(p); err != nil {
		return err
	}
	if _, err := makeKey(tls("service.key")); err != nil {
		return err
	}
	if err := link("service.key", tls("service.current.key")); err != nil {
		return err
	}
	return o.tokens(dir, cas["server-ca"])
}

// dynamic is the form in which k3s keeps the certificate that its listener shows.
func dynamic(p *pair) error {
	crt, err := os.ReadFile(p.path + ".crt")
	if err != nil {
		return err
	}
	key, err := os.ReadFile(p.path + ".key")
	if err != nil {
		return err
	}
	text, err := json.Marshal(map[string]any{"kind": "Secret", "apiVersion": "v1", "type": "kubernetes.io/tls",
		"metadata": map[string]any{"name": "k3s-serving", "namespace": "kube-system"}, "data": map[string][]byte{"tls.crt": crt, "tls.key": key}})
	if err != nil {
		return err
	}
	return write(filepath.Join(filepath.Dir(p.path), "dynamic-cert.json"), text, 0o600)
}

// tokens: K10<digest of the server's CA>::server:<secret>.
func (o *options) tokens(dir string, ca *pair) error {
	path := filepath.Join(dir, "token")
	full, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		_, _, secret := splitToken(o.token)
		if secret == "" {
			b := make([]byte, 16)
			rand.Read(b)
			secret = hex.EncodeToString(b)
		}
		full = []byte("K10" + digest(ca.cert) + "::server:" + secret + "\n")
		err = write(path, full, 0o600)
	}
	if err != nil {
		return err
	}
	hash, user, secret := splitToken(string(full))
	if hash != digest(ca.cert) || user != "server" {
		return fmt.Errorf("%s is not of the CA in %s", path, ca.path)
	}
	if err := link(path, filepath.Join(dir, "node-token")); err != nil {
		return err
	}
	agents := secret
	if o.agentToken != "" {
		_, _, agents = splitToken(o.agentToken)
		if err := write(filepath.Join(dir, "agent-token"), []byte("K10"+digest(ca.cert)+"::node:"+agents+"\n"), 0o600); err != nil {
			return err
		}
	}
	// The API server takes it as its token file; a real agent gets a certificate for it.
	passwd := secret + ",server,server,\"k3s:server,system:masters\"\n"
	if agents != secret {
		passwd += agents + ",node,node,\"k3s:agent,system:masters\"\n"
	}
	return errors.Join(
		write(filepath.Join(dir, "cred", "passwd"), []byte(passwd), 0o600),
		write(filepath.Join(dir, "manifests", "coredns.yaml"), []byte("# made anew at every start by "+version+"\n"), 0o600),
	)
}

// splitToken takes K10<hash>::<user>:<secret> apart; a bare secret is one, too.
func splitToken(t string) (hash, user, secret string) {
	t = strings.TrimSpace(t)
	if rest, ok := strings.CutPrefix(t, "K10"); ok {
		if h, up, ok := strings.Cut(rest, "::"); ok {
			u, s, _ := strings.Cut(up, ":")
			return h, u, s
		}
	}
	return "", "", t
}

func digest(c *x509.Certificate) string {
	sum := sha256.Sum256(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	return hex.EncodeToString(sum[:])
}

func link(to, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	return os.Symlink(to, path)
}

// write replaces a file, if its text is another.
func write(path string, text []byte, mode os.FileMode) error {
	if was, err := os.ReadFile(path); err == nil && bytes.Equal(was, text) {
		return nil
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, text, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
