package peer

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Names of the files in the trust directory.
const (
	caCertFile   = "ca.crt"
	caKeyFile    = "ca.key"
	nodeCertFile = "node.crt"
	nodeKeyFile  = "node.key"
)

// Boards without a clock battery boot in 1970 and learn the time later, so
// certificates are valid from then on, and long.
var (
	notBefore = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC)
)

// maxPEM bounds a certificate or key file.
const maxPEM = 16 << 10

// ErrExists says that a trust directory is in use already.
var ErrExists = errors.New("this host already belongs to a cluster")

// ClusterID of a CA: the first 16 bytes of the SHA-256 of its public key, in hex.
// Two clusters with the same name differ in it.
func ClusterID(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:16])
}

// ValidNode says whether a name can be a node's: a DNS label of at most 63 bytes.
func ValidNode(name string) error {
	if name == "" || len(name) > 63 {
		return fmt.Errorf("node name %q: 1 to 63 characters are allowed", name)
	}
	for i, c := range name {
		ok := c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && i > 0 && i < len(name)-1
		if !ok {
			return fmt.Errorf("node name %q: only a-z, 0-9 and - (not at the ends) are allowed", name)
		}
	}
	return nil
}

type authority struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

func newAuthority(cluster string) (*authority, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: cluster, Organization: []string{"relevo"}},
		NotBefore: notBefore, NotAfter: notAfter,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, err
}

// issue makes a certificate for node; it names the node twice: as common name for
// people, as URI with the cluster's id for agents.
func (a *authority) issue(node string, pub crypto.PublicKey) (*x509.Certificate, error) {
	if err := ValidNode(node); err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: node},
		NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs:        []*url.URL{{Scheme: "relevo", Host: ClusterID(a.cert), Path: "/" + node}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, pub, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // the system has no randomness: nothing here can be trusted
	}
	return n
}

// Init founds a cluster on this host: CA, the certificate of node and the gossip
// key, all 0600. It never overwrites anything.
func Init(dir, gossipKeyFile, cluster, node string) (*Identity, error) {
	if cluster == "" || len(cluster) > 63 || strings.ContainsFunc(cluster, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, fmt.Errorf("cluster name %q: 1 to 63 printable characters are allowed", cluster)
	}
	if _, err := os.Stat(filepath.Join(dir, nodeCertFile)); err == nil {
		return nil, fmt.Errorf("found a cluster in %s: %w; `relevo status` shows which", dir, ErrExists)
	}
	a, err := newAuthority(cluster)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's CA: %w", err)
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	b, err := a.bundle(cluster, node, key)
	if err != nil {
		return nil, err
	}
	if err := b.install(dir, gossipKeyFile); err != nil {
		return nil, err
	}
	if err := writeKey(filepath.Join(dir, caKeyFile), a.key); err != nil {
		return nil, err
	}
	return Load(dir)
}

func loadAuthority(dir string) (*authority, error) {
	cert, err := readCert(filepath.Join(dir, caCertFile))
	if err != nil {
		return nil, err
	}
	key, err := readKey(filepath.Join(dir, caKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this host does not keep the CA's key (%s): invite from the host that ran `relevo init`", filepath.Join(dir, caKeyFile))
	}
	if err != nil {
		return nil, err
	}
	if !key.Public().(ed25519.PublicKey).Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s and %s in %s do not belong together", caCertFile, caKeyFile, dir)
	}
	return &authority{cert, key}, nil
}

// Identity is who this host is in which cluster.
type Identity struct {
	node    string
	cluster string
	id      string
	cert    tls.Certificate
	ca      *x509.Certificate
	pool    *x509.CertPool
}

// Node is this host's name in the cluster.
func (i *Identity) Node() string { return i.node }

// Cluster is the name that people gave to the cluster.
func (i *Identity) Cluster() string { return i.cluster }

// ClusterID is what tells the cluster from another of the same name.
func (i *Identity) ClusterID() string { return i.id }

// Load reads the identity of this host.
func Load(dir string) (*Identity, error) {
	ca, err := readCert(filepath.Join(dir, caCertFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this host belongs to no cluster yet (%w): `relevo init` founds one, `relevo join` accepts an invitation", err)
	}
	if err != nil {
		return nil, err
	}
	cert, err := readCert(filepath.Join(dir, nodeCertFile))
	if err != nil {
		return nil, err
	}
	key, err := readKey(filepath.Join(dir, nodeKeyFile))
	if err != nil {
		return nil, err
	}
	if !key.Public().(ed25519.PublicKey).Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s and %s in %s do not belong together: restore both from a backup, or accept a new invitation", nodeCertFile, nodeKeyFile, dir)
	}
	return newIdentity(ca, cert, key)
}

func newIdentity(ca, cert *x509.Certificate, key ed25519.PrivateKey) (*Identity, error) {
	i := &Identity{cluster: ca.Subject.CommonName, id: ClusterID(ca), ca: ca, pool: x509.NewCertPool()}
	i.pool.AddCert(ca)
	node, err := i.nodeIn(cert)
	if err != nil {
		return nil, fmt.Errorf("the certificate of this host: %w", err)
	}
	i.node = node
	i.cert = tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	return i, nil
}

// nodeIn verifies a certificate against the pinned CA and returns the node that it
// names. The time of day plays no part: a board without a clock battery must be
// able to talk before it knows the time.
func (i *Identity) nodeIn(cert *x509.Certificate) (string, error) {
	_, err := cert.Verify(x509.VerifyOptions{
		Roots: i.pool, CurrentTime: cert.NotBefore.Add(time.Second),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return "", fmt.Errorf("not a certificate of the cluster %s (%.8s…): %w", i.cluster, i.id, err)
	}
	node := cert.Subject.CommonName
	for _, u := range cert.URIs {
		if u.Scheme == "relevo" && u.Host == i.id && u.Path == "/"+node && ValidNode(node) == nil {
			return node, nil
		}
	}
	return "", fmt.Errorf("certificate of %q names no node of the cluster %s", node, i.cluster)
}

func readPEM(path, kind string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(b) > maxPEM {
		return nil, fmt.Errorf("%s: larger than any %s", path, strings.ToLower(kind))
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s: holds no PEM block %q", path, kind)
	}
	return block.Bytes, nil
}

func readCert(path string) (*x509.Certificate, error) {
	der, err := readPEM(path, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func readKey(path string) (ed25519.PrivateKey, error) {
	if st, err := os.Stat(path); err == nil && st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it, and if it was so for long, found the cluster anew", path, st.Mode().Perm())
	}
	der, err := readPEM(path, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	return parseKey(path, der)
}

func parseKey(what string, der []byte) (ed25519.PrivateKey, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: not an ed25519 key", what)
	}
	return key, nil
}

func writeKey(path string, key ed25519.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func writeCert(path string, c *x509.Certificate) error {
	return writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// writeFile writes a secret so that it is whole or not there.
func writeFile(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}
