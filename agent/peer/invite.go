package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
)

// bundle is what an invitation holds: everything that one new host needs. Who the
// cluster is, who the host will be, and the keys. Whoever has it is that host, so
// it travels like a password. (Joining with a token, where the key never leaves
// the new host, will end in the same install.)
type bundle struct {
	Version   int    `json:"version"`
	Cluster   string `json:"cluster"`
	ClusterID string `json:"cluster_id"`
	Node      string `json:"node"`
	CA        []byte `json:"ca"`     // DER
	Cert      []byte `json:"cert"`   // DER
	Key       []byte `json:"key"`    // PKCS #8
	Gossip    []byte `json:"gossip"` // the pool's key
}

const (
	invitationType    = "RELEVO INVITATION"
	invitationVersion = 1
	// MaxInvitation is the longest text that can be one, in bytes; ours have about
	// 2 KiB.
	MaxInvitation = 32 << 10
)

func (a *Authority) bundle(node string, gossip []byte) (*bundle, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	cert, err := a.issue(node, pub)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &bundle{invitationVersion, a.cert.Subject.CommonName, ClusterID(a.cert), node, a.cert.Raw, cert.Raw, der, gossip}, nil
}

// Invite makes an invitation for node, signed by the CA in dir: armoured text, a
// secret. Whether the members let a host of that name in with it, they decide: a name is
// bound to the key with which it is enrolled.
func Invite(dir, gossipKeyFile, node string) ([]byte, error) {
	a, err := LoadAuthority(dir)
	if err != nil {
		return nil, fmt.Errorf("invite %.80s: %w", node, err)
	}
	gossip, err := ReadGossipKey(gossipKeyFile)
	if err != nil {
		return nil, fmt.Errorf("invite %.80s: %w", node, err)
	}
	b, err := a.bundle(node, gossip)
	if err != nil {
		return nil, fmt.Errorf("invite: %w", err)
	}
	body, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: invitationType, Bytes: body}), nil
}

// ReadInvitation checks an invitation and tells whom it invites to what, which is no secret.
func ReadInvitation(text []byte) (Membership, error) {
	_, id, err := parseInvitation(text)
	if err != nil {
		return Membership{}, fmt.Errorf("read the invitation: %w", err)
	}
	return Membership{id.cluster, id.id, id.node, id.KeySum()}, nil
}

// parseInvitation checks an invitation as far as it can be checked by itself.
func parseInvitation(text []byte) (*bundle, *Identity, error) {
	if len(text) > MaxInvitation {
		return nil, nil, errors.New("too long for an invitation")
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != invitationType {
		return nil, nil, fmt.Errorf("this is no invitation, or not all of it: it should begin with -----BEGIN %s----- and end with -----END %[1]s-----", invitationType)
	}
	// The version first: a later one may have fields that we do not know.
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(block.Bytes, &v); err != nil {
		return nil, nil, fmt.Errorf("it is damaged: %w", err)
	}
	if v.Version != invitationVersion {
		return nil, nil, fmt.Errorf("it has version %d, and this relevo understands %d: use the same version of relevo on both hosts", v.Version, invitationVersion)
	}
	var b bundle
	dec := json.NewDecoder(bytes.NewReader(block.Bytes))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&b); err != nil {
		return nil, nil, fmt.Errorf("it is damaged: %w", err)
	}
	ca, cert, key, err := b.parts()
	if err != nil {
		return nil, nil, fmt.Errorf("it is damaged: %w", err)
	}
	if !belong(key, cert) {
		return nil, nil, errors.New("its key and certificate do not belong together")
	}
	id, err := newIdentity([]*x509.Certificate{ca}, cert, key)
	if err != nil {
		return nil, nil, err
	}
	if id.node != b.Node || id.cluster != b.Cluster || id.id != b.ClusterID || len(b.Gossip) != gossipKeySize {
		return nil, nil, errors.New("it contradicts itself")
	}
	return &b, id, nil
}

func (b *bundle) parts() (ca, cert *x509.Certificate, key ed25519.PrivateKey, err error) {
	if ca, err = x509.ParseCertificate(b.CA); err != nil {
		return nil, nil, nil, fmt.Errorf("CA: %w", err)
	}
	if cert, err = x509.ParseCertificate(b.Cert); err != nil {
		return nil, nil, nil, fmt.Errorf("certificate: %w", err)
	}
	key, err = parseKey("key", b.Key)
	return ca, cert, key, err
}

// Accept installs an invitation. It refuses with [ErrExists] to overwrite the
// membership in another cluster or under another name. Accepting one more for the
// same node replaces its certificate and key.
func Accept(invitation []byte, dir, gossipKeyFile string) (*Identity, error) {
	b, id, err := parseInvitation(invitation)
	if err != nil {
		return nil, fmt.Errorf("accept the invitation: %w", err)
	}
	if err := id.mayReplace(dir, gossipKeyFile); err != nil {
		return nil, fmt.Errorf("accept the invitation for %s to %s (%.8s…): %w", id.node, id.cluster, id.id, err)
	}
	if err := b.install(dir, gossipKeyFile); err != nil {
		return nil, fmt.Errorf("accept the invitation: %w", err)
	}
	return Load(dir)
}

// mayReplace says whether what lies in dir can make place for i.
func (i *Identity) mayReplace(dir, gossipKeyFile string) error {
	there := present(append(trustFiles(dir), gossipKeyFile)...)
	if len(there) == 0 {
		return nil
	}
	cas, err := readCerts(filepath.Join(dir, caCertFile))
	if err != nil {
		return fmt.Errorf("%w, or did: there is %v, but %v; if it is of no use to anybody, `relevo join --leave-old` moves it aside", ErrExists, there, err)
	}
	switch same := slices.ContainsFunc(cas, func(ca *x509.Certificate) bool { return Fingerprint(ca) == i.IssuingCA() }); {
	case !same && ClusterID(cas[0]) == i.id:
		return fmt.Errorf("%w, %.63q (%.8s…) in %s, by another CA: nothing was changed; if the CA was changed while this host was away, `relevo join --leave-old` goes on, and keeps the files by the old one aside", ErrExists, cas[0].Subject.CommonName, i.id, dir)
	case !same:
		return fmt.Errorf("%w, %.63q (%.8s…) in %s: nothing was changed; if it shall leave that, `relevo join --leave-old` does so, and keeps its files aside", ErrExists, cas[0].Subject.CommonName, ClusterID(cas[0]), dir)
	}
	cert, err := readCert(filepath.Join(dir, nodeCertFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // cut short by a power cut
	}
	if err == nil && cert.Subject.CommonName != i.node {
		return fmt.Errorf("%w as %.80q: nothing was changed; a node keeps its name", ErrExists, cert.Subject.CommonName)
	}
	return nil
}

// install writes everything but the CA's key. The CA's certificate comes first
// and tells a second attempt to which cluster the rest belongs; the node's comes
// last.
func (b *bundle) install(dir, gossipKeyFile string) error {
	ca, cert, key, err := b.parts()
	if err == nil {
		err = b.installCA(dir, ca)
	}
	if err == nil {
		err = writeGossipKey(gossipKeyFile, b.Gossip)
	}
	if err == nil {
		err = writeKey(filepath.Join(dir, nodeKeyFile), key)
	}
	if err == nil {
		err = writeCert(filepath.Join(dir, nodeCertFile), cert)
	}
	if err != nil {
		return fmt.Errorf("install the trust files: %w", err)
	}
	return nil
}

// installCA writes the CA's certificate. Where it is among those that are believed here
// already, these stay.
func (b *bundle) installCA(dir string, ca *x509.Certificate) error {
	path := filepath.Join(dir, caCertFile)
	if was, err := readCerts(path); err == nil && slices.ContainsFunc(was, ca.Equal) {
		return nil
	}
	return writeCert(path, ca)
}
