package files

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// Spec says what an identity consists of. Absolute paths.
type Spec struct {
	Roots   []string // files and folders
	MayMiss []string // those of Roots that need not be there, and may go again
	Needed  []string // files without which it is not whole, whatever else is there
}

// A certificate with its key, a CA bundle: some KiB. What is larger is not looked into.
const (
	maxPEM   = 256 << 10
	maxCerts = 256
)

// Cert is a certificate of an identity.
type Cert struct {
	Path   string
	SHA256 string // of its DER form, hex
	*x509.Certificate
}

type reader func(*Entry) ([]byte, error)

// looksLike says whether an entry goes by a name of certificates or keys.
func looksLike(e *Entry, ext ...string) bool {
	if e.Kind != KindFile || e.Size > maxPEM {
		return false
	}
	for _, x := range ext {
		if filepath.Ext(e.Path) == x {
			return true
		}
	}
	return false
}

// certificates reads the first certificate of each file that has one.
func certificates(man *Manifest, read reader) []Cert {
	var out []Cert
	for i := range man.Entries {
		e := &man.Entries[i]
		if !looksLike(e, ".crt", ".pem", ".cert") || len(out) == maxCerts {
			continue
		}
		text, err := read(e)
		if err != nil {
			continue
		}
		if c := firstCert(text); c != nil {
			sum := sha256.Sum256(c.Raw)
			out = append(out, Cert{Path: e.Path, SHA256: hex.EncodeToString(sum[:]), Certificate: c})
		}
	}
	return out
}

func firstCert(text []byte) *x509.Certificate {
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			return nil
		}
		if b.Type == "CERTIFICATE" {
			c, err := x509.ParseCertificate(b.Bytes)
			if err != nil {
				return nil
			}
			return c
		}
	}
}

// whole says what keeps an identity from being one: a needed file that is not there, a
// certificate or key that is empty or cut off, a key that is not its certificate's. A
// control plane that makes its files, or a disk that is full, leaves such behind.
func whole(man *Manifest, needed []string, read reader) error {
	byPath := map[string]*Entry{}
	for i := range man.Entries {
		byPath[man.Entries[i].Path] = &man.Entries[i]
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, n := range needed {
		if e := byPath[n]; e == nil || e.Kind == KindDir {
			bad("%s is missing", n)
		} else if e.Kind == KindFile && e.Size == 0 {
			bad("%s is empty", n)
		}
	}
	for i := range man.Entries {
		e := &man.Entries[i]
		if !looksLike(e, ".crt", ".key", ".pem") || len(errs) > 8 {
			continue
		}
		text, err := read(e)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", e.Path, err)
		case len(text) == 0:
			if !contains(needed, e.Path) {
				bad("%s is empty", e.Path)
			}
			continue
		case !strings.Contains(string(text), "-----BEGIN"):
			continue // a form of its own
		}
		if b, _ := pem.Decode(text); b == nil {
			bad("%s is cut off", e.Path)
			continue
		}
		base, isCert := strings.CutSuffix(e.Path, ".crt")
		k := byPath[base+".key"]
		if !isCert || k == nil || k.Kind != KindFile || k.Size == 0 || k.Size > maxPEM {
			continue
		}
		cert := firstCert(text)
		key, err := read(k)
		if cert == nil || err != nil {
			continue
		}
		if pub := publicOf(key); pub != nil && !pub.Equal(cert.PublicKey) {
			bad("%s is not the key of %s", k.Path, e.Path)
		}
	}
	return errors.Join(errs...)
}

func contains(l []string, s string) bool {
	for _, x := range l {
		if x == s {
			return true
		}
	}
	return false
}

type public interface{ Equal(crypto.PublicKey) bool }

// publicOf is the public part of the first private key in text; nil if there is none that
// is known.
func publicOf(text []byte) public {
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			return nil
		}
		var key any
		var err error
		switch b.Type {
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(b.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
		default:
			continue // EC PARAMETERS stand in front of a key
		}
		s, ok := key.(crypto.Signer)
		if err != nil || !ok {
			return nil
		}
		pub, _ := s.Public().(public)
		return pub
	}
}

// KeepVanished is how long a standby keeps a file that the master lost: it may be the
// only copy of a CA's key. After that it was meant.
const KeepVanished = 24 * time.Hour

// Kept is a file that vanished on the master.
type Kept struct {
	Entry
	Since time.Time `json:"since"` // wall clock
}

// keep gives the manifest what the one before it had and it has not.
func (man *Manifest) keep(was *Manifest, mayMiss []string, now time.Time) {
	man.Kept = nil
	if was == nil {
		return
	}
	kinds := map[string]string{}
	above := map[string]bool{} // paths that something lies in
	for _, e := range man.Entries {
		kinds[e.Path] = e.Kind
		for d := filepath.Dir(e.Path); d != "/" && !above[d]; d = filepath.Dir(d) {
			above[d] = true
		}
	}
	for _, k := range was.Kept {
		man.keepOne(k, kinds, above, now)
	}
	for _, e := range was.Entries {
		if rootOf(e.Path, mayMiss) == "" {
			man.keepOne(Kept{e, now}, kinds, above, now)
		}
	}
}

func (man *Manifest) keepOne(k Kept, kinds map[string]string, above map[string]bool, now time.Time) {
	age := now.Sub(k.Since)
	if kinds[k.Path] != "" || above[k.Path] || age >= KeepVanished || len(man.Entries)+len(man.Kept) >= MaxEntries {
		return
	}
	for d := filepath.Dir(k.Path); d != "/"; d = filepath.Dir(d) {
		if kind := kinds[d]; kind != "" && kind != KindDir {
			return
		}
	}
	man.Kept = append(man.Kept, k)
}

// expired says whether something was kept for long enough.
func (man *Manifest) expired(now time.Time) bool {
	for _, k := range man.Kept {
		if now.Sub(k.Since) >= KeepVanished {
			return true
		}
	}
	return false
}
