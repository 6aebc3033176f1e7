package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"
)

// Identity is who this host is in which cluster. Name and cluster never change; the
// certificate is renewed while connections go on.
type Identity struct {
	node    string
	cluster string
	id      string
	key     ed25519.PrivateKey
	ca      *x509.Certificate
	floor   time.Time // the clock cannot be before this
	cert    atomic.Pointer[tls.Certificate]
	rules   atomic.Pointer[Rules]
}

// Rules are what the members have agreed on beyond the CA's signature. They are not
// changed any more once they are set.
type Rules struct {
	// Keys are those of the members, as [KeySum]. A certificate on them is believed also
	// when it has ended by the clock of this host.
	Keys map[string][]byte
	// Removed are names that were taken out: of their certificates only one on the key in
	// Keys is believed.
	Removed map[string]bool
}

// SetRules puts rules in force for all connections that are opened from now on.
func (i *Identity) SetRules(r Rules) { i.rules.Store(&r) }

// KeySum is the SHA-256 of a public key, as the rules have it (SPKI).
func KeySum(cert *x509.Certificate) []byte {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return sum[:]
}

// KeySum is that of this host's certificate.
func (i *Identity) KeySum() []byte { return KeySum(i.cert.Load().Leaf) }

// Ends is when this host's certificate ends.
func (i *Identity) Ends() time.Time { return i.cert.Load().Leaf.NotAfter }

// Node is this host's name in the cluster.
func (i *Identity) Node() string { return i.node }

// Cluster is the name that people gave to the cluster.
func (i *Identity) Cluster() string { return i.cluster }

// ClusterID is what tells the cluster from another of the same name; see the
// function [ClusterID].
func (i *Identity) ClusterID() string { return i.id }

// Load reads the identity of this host from its trust directory. Its errors name
// the file and the way out; where the host belongs to no cluster yet they match
// [fs.ErrNotExist].
func Load(dir string) (*Identity, error) {
	ca, err := readCert(filepath.Join(dir, caCertFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this host belongs to no cluster yet (%w): `relevo init` founds one, `relevo join TOKEN` enters one", err)
	}
	if err != nil {
		return nil, err
	}
	cert, err := readCert(filepath.Join(dir, nodeCertFile))
	if err != nil {
		return nil, incomplete(dir, err)
	}
	key, err := readKey(filepath.Join(dir, nodeKeyFile))
	if err != nil {
		return nil, incomplete(dir, err)
	}
	if !belong(key, cert) {
		return nil, fmt.Errorf("%s and %s in %s do not belong together: restore both from a backup, or accept a new invitation", nodeCertFile, nodeKeyFile, dir)
	}
	// Whoever can read the CA's key can make himself any node.
	if err := private(filepath.Join(dir, caKeyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	id, err := newIdentity(ca, cert, key)
	if err != nil {
		return nil, fmt.Errorf("the trust files in %s: %w", dir, err)
	}
	return id, nil
}

// incomplete keeps a missing second file from looking like "no cluster yet".
func incomplete(dir string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the trust files in %s are not complete (%v): restore them from a backup, or accept a new invitation", dir, err)
	}
	return err
}

func newIdentity(ca, cert *x509.Certificate, key ed25519.PrivateKey) (*Identity, error) {
	if _, ok := ca.PublicKey.(ed25519.PublicKey); !ok || !ca.IsCA || ca.CheckSignatureFrom(ca) != nil {
		return nil, errors.New("the CA certificate is none that `relevo init` makes")
	}
	if err := validLabel("cluster", ca.Subject.CommonName); err != nil {
		return nil, fmt.Errorf("the CA certificate: %w", err)
	}
	i := &Identity{cluster: ca.Subject.CommonName, id: ClusterID(ca), key: key, ca: ca, floor: ca.NotBefore}
	if cert.NotBefore.After(i.floor) {
		i.floor = cert.NotBefore
	}
	// An expired certificate of our own is for the others to judge: refusing to
	// start over it would help nobody.
	node, err := i.nodeAt(cert, i.floor)
	if err != nil {
		return nil, fmt.Errorf("the certificate of this host: %w", err)
	}
	i.node = node
	i.use(cert)
	return i, nil
}

// nodeOf verifies a peer's certificate against the pinned CA and returns the node
// that it names.
func (i *Identity) nodeOf(cert *x509.Certificate, now time.Time) (string, error) {
	if now.Before(i.floor) {
		now = i.floor // a clock that was never set
	}
	return i.nodeAt(cert, now)
}

// verify looks whether a certificate is of the pinned CA and in time; mend says what helps
// if it is not in time.
func (i *Identity) verify(cert *x509.Certificate, now time.Time, mend string) error {
	if err := i.issued(cert); err != nil {
		return err
	}
	return inTime(cert, now, mend)
}

// issued makes sure that a certificate is of the pinned CA, whatever the time.
func (i *Identity) issued(cert *x509.Certificate) error {
	if err := cert.CheckSignatureFrom(i.ca); err != nil {
		return fmt.Errorf("not a certificate of the cluster %s (%.8s…): %w", i.cluster, i.id, x509.UnknownAuthorityError{Cert: cert})
	}
	return nil
}

func inTime(cert *x509.Certificate, now time.Time, mend string) error {
	if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return fmt.Errorf("the certificate of %.80q is valid from %s to %s, and the clock of this host says %s: set the clock, or %s",
			cert.Subject.CommonName, day(cert.NotBefore), day(cert.NotAfter), now.UTC().Format(time.RFC3339), mend)
	}
	return nil
}

// use presents a certificate from now on.
func (i *Identity) use(cert *x509.Certificate) {
	i.cert.Store(&tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: i.key, Leaf: cert})
}

func (i *Identity) nodeAt(cert *x509.Certificate, now time.Time) (string, error) {
	// Whose it is matters first; time is looked at below.
	if err := i.issued(cert); err != nil {
		return "", err
	}
	node := cert.Subject.CommonName
	if ValidNode(node) != nil || !slices.ContainsFunc(cert.URIs, func(u *url.URL) bool {
		return u.Scheme == "relevo" && u.Host == i.id && u.Path == "/"+node
	}) {
		return "", fmt.Errorf("the certificate of %.80q names no node of the cluster %s", node, i.cluster)
	}
	vouched := false
	if r := i.rules.Load(); r != nil {
		vouched = bytes.Equal(r.Keys[node], KeySum(cert))
		if r.Removed[node] && !vouched {
			return "", fmt.Errorf("%w: %s; it can join again with a token", ErrRemoved, node)
		}
	}
	if !vouched {
		if err := inTime(cert, now, "let the node join anew with a token"); err != nil {
			return "", err
		}
	}
	return node, nil
}

// ErrRemoved says that a certificate is one of a node that was taken out of the cluster.
var ErrRemoved = errors.New("removed from the cluster")

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// peer names the other side of a connection.
func (i *Identity) peer(s tls.ConnectionState) (string, error) {
	if len(s.PeerCertificates) == 0 {
		return "", errors.New("the peer has no certificate")
	}
	return i.nodeOf(s.PeerCertificates[0], time.Now())
}

// ServerTLS is the configuration of the accepting side: TLS 1.3, one of the given ALPN
// protocols, any node of the cluster; with ProtoClient an access and no node.
func (i *Identity) ServerTLS(protos ...string) *tls.Config {
	c := i.tls("", protos...)
	node := c.VerifyConnection
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if s.NegotiatedProtocol == ProtoClient {
			_, err := i.client(s)
			return err
		}
		return node(s)
	}
	return c
}

// ClientTLS is the configuration of the dialling side: only node may answer.
func (i *Identity) ClientTLS(node, proto string) *tls.Config { return i.tls(node, proto) }

func (i *Identity) tls(want string, protos ...string) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{*i.cert.Load()},
		ClientAuth:   tls.RequireAnyClientCert,
		NextProtos:   protos,
		// Not the system's CAs, not host names, not the bare clock: the check below
		// takes the place of the library's.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			node, err := i.peer(s)
			if err != nil {
				return err
			}
			if want != "" && node != want {
				return fmt.Errorf("%s answered instead of %s", node, want)
			}
			return nil
		},
		// Connections are kept instead; and a resumed one would outlive a change of
		// the rules.
		SessionTicketsDisabled: true,
	}
}

// Due says whether two thirds of the life of this host's certificate are over.
func (i *Identity) Due(now time.Time) bool {
	if now.Before(i.floor) {
		now = i.floor
	}
	return i.Ends().Sub(now) < renewAhead
}

// Renew puts another certificate in the place of this host's, on the same key, for all
// connections that are opened from now on; dir is the trust directory.
func (i *Identity) Renew(dir string, der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("the new certificate: %w", err)
	}
	node, err := i.nodeAt(cert, i.floor)
	if err != nil {
		return fmt.Errorf("the new certificate: %w", err)
	}
	if node != i.node || !belong(i.key, cert) {
		return fmt.Errorf("the new certificate is for %.80q, or for another key", node)
	}
	if cert.NotAfter.Before(i.Ends()) {
		return fmt.Errorf("the new certificate ends on %s, before the present one: is the clock of the host that made it right?", day(cert.NotAfter))
	}
	if err := writeCert(filepath.Join(dir, nodeCertFile), cert); err != nil {
		return fmt.Errorf("write the new certificate: %w", err)
	}
	i.use(cert)
	return nil
}

// Recertify makes the next certificate of this host, where the CA's key is.
func (i *Identity) Recertify(a *Authority) []byte {
	der, err := a.Renewed(i.cert.Load().Leaf)
	if err != nil {
		return nil // Renew says so
	}
	return der
}
