package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"relevo.dev/relevo/agent/durable"
)

// CAKeyFile is in the trust directory of those who vote.
const CAKeyFile = "ca.key"

// Names of the other files in the trust directory.
const (
	caCertFile   = "ca.crt"
	nodeCertFile = "node.crt"
	nodeKeyFile  = "node.key"
)

const (
	maxFile       = 16 << 10 // of a certificate or key file; ours have under 1 KiB
	gossipKeySize = 32       // AES-256
)

// trustFiles are all of them, the node's key last: without it no agent starts.
func trustFiles(dir string) []string {
	return []string{filepath.Join(dir, caCertFile), filepath.Join(dir, CAKeyFile), filepath.Join(dir, nodeCertFile), filepath.Join(dir, nodeKeyFile)}
}

// present are those of the paths at which something lies, or may lie.
func present(paths ...string) []string {
	var there []string
	for _, p := range paths {
		if _, err := os.Lstat(p); !os.IsNotExist(err) {
			there = append(there, p)
		}
	}
	return there
}

// private makes sure that nobody but its owner can read a file.
func private(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it; if it was so for long, somebody may have copied it", path, st.Mode().Perm())
	}
	return nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s: larger than %d KiB, so it is not what it should be", path, maxFile>>10)
	}
	return b, nil
}

// maxBlocks bounds how many certificates or keys are in one file.
const maxBlocks = 8

func readPEMs(path, kind string) (out [][]byte, err error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != kind || len(out) >= maxBlocks {
			return nil, fmt.Errorf("%s: holds a PEM block %.40q, or more than %d: restore it from a backup", path, block.Type, maxBlocks)
		}
		out = append(out, block.Bytes)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: holds no PEM block %q: restore it from a backup", path, kind)
	}
	return out, nil
}

func readCerts(path string) (out []*x509.Certificate, err error) {
	ders, err := readPEMs(path, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, c)
	}
	return out, nil
}

// readCert reads the first.
func readCert(path string) (*x509.Certificate, error) {
	cs, err := readCerts(path)
	if err != nil {
		return nil, err
	}
	return cs[0], nil
}

func readKeys(path string) (out []ed25519.PrivateKey, err error) {
	if err := private(path); err != nil {
		return nil, err
	}
	ders, err := readPEMs(path, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	for _, der := range ders {
		k, err := parseKey(path, der)
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

// readKey reads the first.
func readKey(path string) (ed25519.PrivateKey, error) {
	ks, err := readKeys(path)
	if err != nil {
		return nil, err
	}
	return ks[0], nil
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

// ReadGossipKey reads the key of the gossip pool with which is written.
func ReadGossipKey(path string) ([]byte, error) {
	keys, err := ReadGossipKeys(path)
	if err != nil {
		return nil, err
	}
	return keys[0], nil
}

// maxGossipKeys bounds the file.
const maxGossipKeys = 4

// ReadGossipKeys reads the keys of the gossip pool, a line each: 32 bytes in base64. With
// the first is written, the others are read with, while the key is rotated.
func ReadGossipKeys(path string) ([][]byte, error) {
	if err := private(path); err != nil {
		return nil, fmt.Errorf("the gossip key: %w", err)
	}
	b, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("the gossip key: %w", err)
	}
	var keys [][]byte
	for _, line := range bytes.Fields(b) {
		key, err := base64.StdEncoding.DecodeString(string(line))
		if err != nil || len(key) != gossipKeySize || len(keys) >= maxGossipKeys {
			return nil, fmt.Errorf("the gossip key %s is not %d bytes in base64: copy it from another member", path, gossipKeySize)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("the gossip key %s is not %d bytes in base64: copy it from another member", path, gossipKeySize)
	}
	return keys, nil
}

// WriteGossipKeys writes the keys of the gossip pool, as [ReadGossipKeys] reads them.
func WriteGossipKeys(path string, keys [][]byte) error {
	var b bytes.Buffer
	for _, k := range keys {
		b.WriteString(base64.StdEncoding.EncodeToString(k) + "\n")
	}
	if err := writeFile(path, b.Bytes()); err != nil {
		return fmt.Errorf("write the gossip key: %w", err)
	}
	return nil
}

func writeGossipKey(path string, key []byte) error { return WriteGossipKeys(path, [][]byte{key}) }

func writeKey(path string, key ed25519.PrivateKey) error {
	return writeKeys(path, []ed25519.PrivateKey{key})
}

func writeKeys(path string, keys []ed25519.PrivateKey) error {
	var text []byte
	for _, k := range keys {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return err
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	}
	return writeFile(path, text)
}

func writeCert(path string, c *x509.Certificate) error {
	return writeCerts(path, []*x509.Certificate{c})
}

func writeCerts(path string, cs []*x509.Certificate) error {
	var text []byte
	for _, c := range cs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return writeFile(path, text)
}

// writeFile writes a secret, 0600, so that after a power cut it is whole or not
// there.
func writeFile(path string, b []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	return durable.Replace(path, b, 0o600)
}

// oneLine makes a message from elsewhere fit to be shown: one line, bounded, no
// control characters.
func oneLine(b []byte, most int) string {
	if len(b) > most {
		b = b[:most]
	}
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(b), "?"))
	return strings.TrimSpace(s)
}
