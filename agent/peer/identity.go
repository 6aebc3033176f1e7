package peer

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// Identity is who this host is in which cluster. It is never changed.
type Identity struct {
	node    string
	cluster string
	id      string
	cert    tls.Certificate
	pool    *x509.CertPool
	floor   time.Time // the clock cannot be before this
}

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
		return nil, fmt.Errorf("this host belongs to no cluster yet (%w): `relevo init` founds one, `relevo join` accepts an invitation", err)
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
	i := &Identity{cluster: ca.Subject.CommonName, id: ClusterID(ca), pool: x509.NewCertPool(), floor: ca.NotBefore}
	i.pool.AddCert(ca)
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
	i.cert = tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
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
	verify := func(at time.Time) error {
		_, err := cert.Verify(x509.VerifyOptions{Roots: i.pool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		return err
	}
	err := verify(now)
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		// Time is looked at first; whose it is matters more.
		if other := verify(cert.NotBefore); other != nil {
			err = other
		}
	}
	invalid = x509.CertificateInvalidError{}
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("the certificate of %.80q is valid from %s to %s, and the clock of this host says %s: set the clock, or %s",
			cert.Subject.CommonName, day(cert.NotBefore), day(cert.NotAfter), now.UTC().Format(time.RFC3339), mend)
	case err != nil:
		return fmt.Errorf("not a certificate of the cluster %s (%.8s…): %w", i.cluster, i.id, err)
	}
	return nil
}

func (i *Identity) nodeAt(cert *x509.Certificate, now time.Time) (string, error) {
	if err := i.verify(cert, now, "invite the node anew"); err != nil {
		return "", err
	}
	node := cert.Subject.CommonName
	for _, u := range cert.URIs {
		if u.Scheme == "relevo" && u.Host == i.id && u.Path == "/"+node && ValidNode(node) == nil {
			return node, nil
		}
	}
	return "", fmt.Errorf("the certificate of %.80q names no node of the cluster %s", node, i.cluster)
}

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
		Certificates: []tls.Certificate{i.cert},
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
