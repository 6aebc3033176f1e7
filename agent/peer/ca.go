package peer

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// notAfter is RFC 5280's "no well-defined end": of the CA, which people replace.
var notAfter = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// certLife is how long a node's certificate lives from the day of its issue; renewed is
// it when a third of that is left.
const (
	certLife   = 365 * 24 * time.Hour
	renewAhead = certLife / 3
)

// ValidNode says whether a name can be a node's: a DNS label of 1 to 63 of a-z,
// 0-9 and -.
func ValidNode(name string) error { return validLabel("node", name) }

func validLabel(what, name string) error {
	if name == "" || len(name) > 63 {
		return fmt.Errorf("%s name %.80q: 1 to 63 characters are allowed", what, name)
	}
	for i, c := range name {
		ok := c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && i > 0 && i < len(name)-1
		if !ok {
			return fmt.Errorf("%s name %q: only a-z, 0-9 and - (not at the ends) are allowed", what, name)
		}
	}
	return nil
}

// Authority is the CA with its key: who can issue certificates.
type Authority struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

func newAuthority(cluster string, now time.Time) (*Authority, error) {
	if err := validLabel("cluster", cluster); err != nil {
		return nil, err
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: cluster, Organization: []string{"relevo"}},
		NotBefore: now, NotAfter: notAfter,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &Authority{cert, key}, err
}

// issue makes a certificate for node. It names the node twice: as common name for
// people, as URI with the cluster's id for agents. It begins when the CA does: a
// board whose clock stands somewhere in between must not refuse a newer node. It ends
// a year from now; a clock that stands before the CA's beginning counts as that.
func (a *Authority) issue(node string, pub crypto.PublicKey) (*x509.Certificate, error) {
	now := time.Now()
	if now.Before(a.cert.NotBefore) {
		now = a.cert.NotBefore
	}
	return a.issueFor(node, pub, a.cert.NotBefore, now.Add(certLife))
}

// Certify makes a certificate for a key whose owner has shown that it may have that name.
func (a *Authority) Certify(node string, pub ed25519.PublicKey) (*x509.Certificate, error) {
	return a.issue(node, pub)
}

// Certificate is the CA's own.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// Renewed makes the next certificate of the node that shows this one, on the same key.
func (a *Authority) Renewed(cert *x509.Certificate) ([]byte, error) {
	next, err := a.issue(cert.Subject.CommonName, cert.PublicKey)
	if err != nil {
		return nil, err
	}
	return next.Raw, nil
}

// HasAuthority says whether a CA's key is on this host; of which, [Authorities] tells.
func HasAuthority(dir string) bool { return len(present(filepath.Join(dir, CAKeyFile))) > 0 }

// DropAuthority removes it.
func DropAuthority(dir string) error { return os.Remove(filepath.Join(dir, CAKeyFile)) }

// Sign signs what the members shall believe because the CA says it; what is the kind of
// statement. See [Identity.Signed].
func (a *Authority) Sign(what string, statement []byte) []byte {
	return ed25519.Sign(a.key, signed(what, statement))
}

// signed keeps a statement from being taken for one of another kind, or a certificate.
func signed(what string, statement []byte) []byte {
	sum := sha256.Sum256(statement)
	return append([]byte("relevo signed "+what+"\x00"), sum[:]...)
}

// LoadAuthority reads the key of the CA that issues, where this host keeps it.
func LoadAuthority(dir string) (*Authority, error) {
	all, err := LoadAuthorities(dir)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// LoadAuthorities reads the keys of all CAs that are believed here, where this host keeps
// them, the one that issues first: without its key it is an error.
func LoadAuthorities(dir string) ([]*Authority, error) {
	cas, keys, err := readAuthorities(dir)
	if err != nil {
		return nil, err
	}
	var out []*Authority
	for _, ca := range cas {
		if i := slices.IndexFunc(keys, func(k ed25519.PrivateKey) bool { return belong(k, ca) }); i >= 0 {
			out = append(out, &Authority{ca, keys[i]})
		}
	}
	if len(out) == 0 || out[0].cert != cas[0] {
		return nil, fmt.Errorf("this host does not keep the CA's key: %s and %s in %s do not belong together; a voter gets it from the others", caCertFile, CAKeyFile, dir)
	}
	return out, nil
}

func (a *Authority) issueFor(node string, pub crypto.PublicKey, from, to time.Time) (*x509.Certificate, error) {
	if err := ValidNode(node); err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: node},
		NotBefore: from, NotAfter: to,
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
	b := make([]byte, 15)
	rand.Read(b) // never fails: the runtime ends the program first
	return new(big.Int).SetBytes(b)
}

// readAuthorities reads the CAs that are believed, the one that issues first, and all keys of
// CAs that are here.
func readAuthorities(dir string) (cas []*x509.Certificate, keys []ed25519.PrivateKey, err error) {
	cas, err = readCerts(filepath.Join(dir, caCertFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("this host belongs to no cluster yet (%w): `relevo init` founds one", err)
	}
	if err != nil {
		return nil, nil, err
	}
	keys, err = readKeys(filepath.Join(dir, CAKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("this host does not keep the CA's key (%s): only voters do", filepath.Join(dir, CAKeyFile))
	}
	return cas, keys, err
}

// ofAny says whether a key is that of one of the CAs.
func ofAny(cas []*x509.Certificate, key ed25519.PrivateKey) bool {
	return slices.ContainsFunc(cas, func(ca *x509.Certificate) bool { return belong(key, ca) })
}

func belong(key ed25519.PrivateKey, cert *x509.Certificate) bool {
	return key.Public().(ed25519.PublicKey).Equal(cert.PublicKey)
}

// ErrExists says that trust files are there already and were left alone.
var ErrExists = errors.New("this host already belongs to a cluster")

// Init founds a cluster on this host: CA, the certificate of node and the gossip
// key, all files 0600. It overwrites nothing: with any of the files there already
// it fails with [ErrExists]. Names are DNS labels, see [ValidNode].
func Init(dir, gossipKeyFile, cluster, node string) (*Identity, error) {
	if there := present(append(trustFiles(dir), gossipKeyFile)...); len(there) > 0 {
		if id, err := Load(dir); err == nil {
			return nil, fmt.Errorf("found a cluster: %w: as %s in %s (%s)", ErrExists, id.node, id.cluster, dir)
		}
		return nil, fmt.Errorf("found a cluster: %w, or an earlier attempt was cut short: nothing was changed; if what is there is of no use to anybody, remove it and try again: %v", ErrExists, there)
	}
	// Whole seconds, as the certificate stores them.
	a, err := newAuthority(cluster, time.Now().UTC().Truncate(time.Second))
	if err != nil {
		return nil, fmt.Errorf("found a cluster: %w", err)
	}
	gossip := make([]byte, gossipKeySize)
	rand.Read(gossip)
	b, err := a.bundle(node, gossip)
	if err != nil {
		return nil, fmt.Errorf("found a cluster: %w", err)
	}
	// The CA's key comes first: where it is missing, this host joined.
	if err := writeKey(filepath.Join(dir, CAKeyFile), a.key); err != nil {
		return nil, fmt.Errorf("found a cluster: %w", err)
	}
	if err := b.install(dir, gossipKeyFile); err != nil {
		return nil, fmt.Errorf("found a cluster: %w", err)
	}
	return Load(dir)
}
