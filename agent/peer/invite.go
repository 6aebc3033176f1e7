package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// An invitation is everything that one new host needs, in one file: who the
// cluster is, who the host will be, and the keys. Whoever has it is that host, so
// it travels like a password.
type bundle struct {
	Version int    `json:"version"`
	Cluster string `json:"cluster"`
	Node    string `json:"node"`
	CA      []byte `json:"ca"`   // DER
	Cert    []byte `json:"cert"` // DER
	Key     []byte `json:"key"`  // PKCS #8
	Gossip  []byte `json:"gossip"`
}

const (
	invitationType = "RELEVO INVITATION"
	maxInvitation  = 32 << 10
)

func (a *authority) bundle(cluster, node string, gossip []byte) (*bundle, error) {
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
	return &bundle{1, cluster, node, a.cert.Raw, cert.Raw, der, gossip}, nil
}

// Invite makes an invitation for node, signed by the CA in dir.
func Invite(dir, gossipKeyFile, node string) ([]byte, error) {
	a, err := loadAuthority(dir)
	if err != nil {
		return nil, fmt.Errorf("invite %s: %w", node, err)
	}
	key, err := ReadGossipKey(gossipKeyFile)
	if err != nil {
		return nil, fmt.Errorf("invite %s: %w", node, err)
	}
	b, err := a.bundle(a.cert.Subject.CommonName, node, key)
	if err != nil {
		return nil, fmt.Errorf("invite: %w", err)
	}
	body, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: invitationType, Bytes: body}), nil
}

// parseInvitation checks an invitation as far as it can be checked by itself.
func parseInvitation(text []byte) (*bundle, *Identity, error) {
	if len(text) > maxInvitation {
		return nil, nil, errors.New("too long for an invitation")
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != invitationType {
		return nil, nil, fmt.Errorf("this is no invitation: it should begin with -----BEGIN %s-----", invitationType)
	}
	var b bundle
	dec := json.NewDecoder(bytes.NewReader(block.Bytes))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&b); err != nil {
		return nil, nil, fmt.Errorf("the invitation is damaged: %w", err)
	}
	if b.Version != 1 {
		return nil, nil, fmt.Errorf("the invitation has version %d, this relevo understands 1: update it", b.Version)
	}
	ca, err := x509.ParseCertificate(b.CA)
	if err != nil {
		return nil, nil, fmt.Errorf("the invitation's CA: %w", err)
	}
	cert, err := x509.ParseCertificate(b.Cert)
	if err != nil {
		return nil, nil, fmt.Errorf("the invitation's certificate: %w", err)
	}
	key, err := parseKey("the invitation's key", b.Key)
	if err != nil {
		return nil, nil, err
	}
	if !key.Public().(ed25519.PublicKey).Equal(cert.PublicKey) {
		return nil, nil, errors.New("the invitation's key and certificate do not belong together")
	}
	id, err := newIdentity(ca, cert, key)
	if err != nil {
		return nil, nil, err
	}
	if id.node != b.Node || id.cluster != b.Cluster || len(b.Gossip) != 32 {
		return nil, nil, errors.New("the invitation contradicts itself")
	}
	return &b, id, nil
}

// Accept installs an invitation. It refuses to overwrite the membership in another
// cluster or under another name.
func Accept(invitation []byte, dir, gossipKeyFile string) (*Identity, error) {
	b, id, err := parseInvitation(invitation)
	if err != nil {
		return nil, fmt.Errorf("accept the invitation: %w", err)
	}
	switch was, err := Load(dir); {
	case err == nil && was.id != id.id:
		return nil, fmt.Errorf("accept the invitation to %s: %w, %s (%.8s…); remove %s first if it should leave that", id.cluster, ErrExists, was.cluster, was.id, dir)
	case err == nil && was.node != id.node:
		return nil, fmt.Errorf("accept the invitation for %s: %w as %s", id.node, ErrExists, was.node)
	case err == nil: // once more, with a new key: fine
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("accept the invitation: what is in %s already: %w", dir, err)
	}
	if err := b.install(dir, gossipKeyFile); err != nil {
		return nil, fmt.Errorf("accept the invitation: %w", err)
	}
	return Load(dir)
}

func (b *bundle) install(dir, gossipKeyFile string) error {
	ca, err := x509.ParseCertificate(b.CA)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(b.Cert)
	if err != nil {
		return err
	}
	key, err := parseKey("key", b.Key)
	if err != nil {
		return err
	}
	for _, err := range []error{
		writeCert(filepath.Join(dir, caCertFile), ca),
		writeFile(gossipKeyFile, []byte(base64.StdEncoding.EncodeToString(b.Gossip)+"\n")),
		writeKey(filepath.Join(dir, nodeKeyFile), key),
		writeCert(filepath.Join(dir, nodeCertFile), cert),
	} {
		if err != nil {
			return fmt.Errorf("install the identity: %w", err)
		}
	}
	return nil
}

// ReadGossipKey reads the key of the gossip pool: 32 bytes in base64.
func ReadGossipKey(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("the gossip key: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the gossip key %s can be read by others (mode %04o): chmod 600 it", path, st.Mode().Perm())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the gossip key: %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(b)))
	if err != nil || len(key) != 32 {
		return nil, fmt.Errorf("the gossip key %s is not 32 bytes in base64", path)
	}
	return key, nil
}
