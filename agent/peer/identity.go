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
	floor   time.Time // the clock cannot be before this
	own     atomic.Pointer[shown]
	rules   atomic.Pointer[Rules]
	files   []*x509.Certificate // the CAs of the trust directory, until the rules name some
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
	// RemovedKeys are the keys that they had, where these are known, as [KeySum]. Who shows
	// one may ask why it is refused, whoever signed its certificate.
	RemovedKeys map[string][]byte

	// CAs are those that are believed, the one that issues first; none = those of the
	// trust directory.
	CAs []*x509.Certificate
	// Former is the one of them that goes; nil = none. Its certificates count only for the
	// names in Waiting, on their key in Keys.
	Former  *x509.Certificate
	Waiting map[string]bool
	// Cross is the key of the CA that comes, signed by Former: for who was away.
	Cross *x509.Certificate
}

// SetRules puts rules in force for all connections that are opened from now on.
func (i *Identity) SetRules(r Rules) {
	i.rules.Store(&r)
	i.use(i.leaf())
}

// KeySum is the SHA-256 of a public key, as the rules have it (SPKI).
func KeySum(cert *x509.Certificate) []byte {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return sum[:]
}

// KeySum is that of this host's certificate.
func (i *Identity) KeySum() []byte { return KeySum(i.leaf()) }

// Ends is when this host's certificate ends.
func (i *Identity) Ends() time.Time { return i.leaf().NotAfter }

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
	cas, err := readCerts(filepath.Join(dir, caCertFile))
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
	if err := private(filepath.Join(dir, CAKeyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	id, err := newIdentity(cas, cert, key)
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

// newIdentity is that of a certificate by one of the CAs; the first is the one that issues.
func newIdentity(cas []*x509.Certificate, cert *x509.Certificate, key ed25519.PrivateKey) (*Identity, error) {
	for _, ca := range cas {
		if err := CheckCA(ca); err != nil {
			return nil, err
		}
		if ClusterID(ca) != ClusterID(cas[0]) || ca.Subject.CommonName != cas[0].Subject.CommonName {
			return nil, fmt.Errorf("the CA certificates are of two clusters, %.63q and %.63q", cas[0].Subject.CommonName, ca.Subject.CommonName)
		}
	}
	ca := cas[0]
	i := &Identity{cluster: ca.Subject.CommonName, id: ClusterID(ca), key: key, floor: ca.NotBefore, files: cas}
	if cert.NotBefore.After(i.floor) {
		i.floor = cert.NotBefore
	}
	// An expired certificate of our own is for the others to judge: refusing to
	// start over it would help nobody.
	node, err := i.nodeAt(cert, i.floor, nil)
	if err != nil {
		return nil, fmt.Errorf("the certificate of this host: %w", err)
	}
	i.node = node
	i.use(cert)
	return i, nil
}

// nodeOf verifies a peer's certificate against the pinned CA and returns the node
// that it names; via are the certificates that the peer showed beside it.
func (i *Identity) nodeOf(cert *x509.Certificate, now time.Time, via ...*x509.Certificate) (string, error) {
	if now.Before(i.floor) {
		now = i.floor // a clock that was never set
	}
	return i.nodeAt(cert, now, via)
}

// verify looks whether a certificate is of the pinned CA and in time; mend says what helps
// if it is not in time.
func (i *Identity) verify(cert *x509.Certificate, now time.Time, mend string) error {
	if _, err := i.issuer(cert, nil); err != nil {
		return err
	}
	return inTime(cert, now, mend)
}

func inTime(cert *x509.Certificate, now time.Time, mend string) error {
	if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return fmt.Errorf("the certificate of %.80q is valid from %s to %s, and the clock of this host says %s: set the clock, or %s",
			cert.Subject.CommonName, day(cert.NotBefore), day(cert.NotAfter), now.UTC().Format(time.RFC3339), mend)
	}
	return nil
}

func (i *Identity) nodeAt(cert *x509.Certificate, now time.Time, via []*x509.Certificate) (string, error) {
	// Whose it is matters first; time is looked at below.
	ca, err := i.issuer(cert, via)
	if err != nil {
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
		switch {
		case vouched:
		case r.Removed[node]:
			return "", fmt.Errorf("%w: %s; it can join again with a token", ErrRemoved, node)
		case r.Keys[node] != nil:
			return "", fmt.Errorf("%w: %s; if another board takes its place, `relevo token create --replace %[2]s` lets it in", ErrOtherKey, node)
		}
		// While the CA is changed, the word of the one before, also for another one, counts
		// only where the key is known.
		known := r.Former == nil || slices.ContainsFunc(r.CAs, ca.Equal)
		if r.Former != nil && ca.Equal(r.Former) && !(vouched && r.Waiting[node]) || !known && !vouched {
			return "", fmt.Errorf("%w: %s; a new token, or a new invitation, lets it in", ErrFormerCA, node)
		}
	}
	if !vouched {
		if err := inTime(cert, now, "let the node join anew with a token"); err != nil {
			return "", err
		}
	}
	return node, nil
}

// Why a certificate that a CA of this cluster signed is not believed.
var (
	// ErrRemoved: its node was taken out of the cluster.
	ErrRemoved = errors.New("removed from the cluster")
	// ErrOtherKey: its node is a member with another key.
	ErrOtherKey = errors.New("there is a member of that name with another key")
	// ErrFormerCA: the CA is one that goes, and its node has a certificate of the new one,
	// or was no member when the CA was changed.
	ErrFormerCA = errors.New("a certificate by the CA that was before")
)

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// peer names the other side of a connection.
func (i *Identity) peer(s tls.ConnectionState) (string, error) {
	if len(s.PeerCertificates) == 0 {
		return "", errors.New("the peer has no certificate")
	}
	return i.nodeOf(s.PeerCertificates[0], time.Now(), s.PeerCertificates[1:]...)
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
		Certificates: []tls.Certificate{i.own.Load().chain},
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
