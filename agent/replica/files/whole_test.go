package files

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pki puts a CA and a leaf of it into the identity.
func (w *world) pki() {
	w.t.Helper()
	caKey, caText := newKey(w.t)
	now := time.Now()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0), KeyUsage: x509.KeyUsageCertSign}
	leafKey, leafText := newKey(w.t)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "api"}, DNSNames: []string{"api.lan"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0)}
	w.put("pki/ca.key", caText, 0o600)
	w.put("pki/ca.crt", signed(w.t, ca, ca, caKey, caKey), 0o644)
	w.put("pki/api.key", leafText, 0o600)
	w.put("pki/api.crt", signed(w.t, leaf, ca, leafKey, caKey), 0o644)
}

func newKey(t *testing.T) (*ecdsa.PrivateKey, string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return k, string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

func signed(t *testing.T, c, parent *x509.Certificate, key, by *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// What is not whole on the master never takes the place of what was whole here.
func TestHalfMadeIdentityIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(w *world)
		want string
	}{
		"empty key":          {func(w *world) { w.put("pki/ca.key", "", 0o600) }, "pki/ca.key is empty"},
		"empty certificate":  {func(w *world) { w.put("pki/api.crt", "", 0o644) }, "pki/api.crt is empty"},
		"cut off":            {func(w *world) { w.put("pki/api.key", "-----BEGIN EC PRIVATE KEY-----\nMHc", 0o600) }, "pki/api.key is cut off"},
		"another's key":      {func(w *world) { _, k := newKey(w.t); w.put("pki/api.key", k, 0o600) }, "pki/api.key is not the key of"},
		"needed file gone":   {func(w *world) { os.Remove(filepath.Join(w.root, "tokens.csv")) }, "tokens.csv is missing"},
		"needed file empty":  {func(w *world) { w.put("tokens.csv", "", 0o600) }, "tokens.csv is empty"},
		"no folder any more": {func(w *world) { os.RemoveAll(w.root) }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.pki()
			w.mirror = NewMirror(w.mirror.dir, Spec{Roots: []string{w.root}, Needed: []string{filepath.Join(w.root, "tokens.csv")}})
			w.update()
			was := w.mirror.Digest()
			tc.do(w)
			if err := w.mirror.Update(t.Context(), w.get); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v", err)
			}
			if w.mirror.Digest() != was || len(w.mirror.Certificates()) != 2 {
				t.Error("the good copy was touched")
			}
			again := NewMirror(w.mirror.dir, w.mirror.spec)
			if err := again.Load(); err != nil || again.Digest() != was {
				t.Errorf("on disk: %v", err)
			}
		})
	}
}

// A standby that never had one does not take half of one.
func TestHalfMadeIdentityIsNone(t *testing.T) {
	w := newWorld(t)
	w.put("pki/ca.key", "", 0o600)
	if err := w.mirror.Update(t.Context(), w.get); err == nil || w.mirror.Digest() != "" {
		t.Fatalf("%v, %q", err, w.mirror.Digest())
	}
	w.pki()
	w.update()
	if w.mirror.Digest() == "" {
		t.Error("not taken when it was whole")
	}
}

func TestVanishedFilesAreKept(t *testing.T) {
	w := newWorld(t)
	w.pki()
	w.put("manifests/coredns.yaml", "a: b", 0o600)
	manifests := filepath.Join(w.root, "manifests")
	w.mirror = NewMirror(w.mirror.dir, Spec{Roots: []string{w.root}, MayMiss: []string{manifests}})
	now := time.Now()
	w.mirror.now = func() time.Time { return now }
	w.update()
	key, err := os.ReadFile(filepath.Join(w.root, "pki/ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(w.root, "pki")), os.RemoveAll(manifests)); err != nil {
		t.Fatal(err)
	}
	w.update()
	if digest, _ := w.scan.Digest(); w.mirror.Digest() != digest {
		t.Error("the mirror does not follow")
	}
	has := func(name string) bool {
		for _, k := range w.mirror.Vanished() {
			if k.Path == filepath.Join(w.root, name) {
				return true
			}
		}
		return false
	}
	if !has("pki/ca.key") || !has("pki") || has("manifests/coredns.yaml") {
		t.Errorf("%+v", w.mirror.Vanished())
	}
	// It survives a restart and the next change, and a promotion has it.
	w.mirror = NewMirror(w.mirror.dir, w.mirror.spec)
	w.mirror.now = func() time.Time { return now }
	if err := w.mirror.Load(); err != nil {
		t.Fatal(err)
	}
	w.put("tokens.csv", "token 2", 0o640)
	w.update()
	if !has("pki/ca.key") {
		t.Fatal("forgotten")
	}
	if _, err := Install(t.Context(), w.mirror.dir, []string{w.root}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(w.root, "pki/ca.key")); err != nil || string(got) != string(key) {
		t.Fatalf("not installed: %v", err)
	}
	if fi, err := os.Stat(filepath.Join(w.root, "pki/ca.key")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	// Put back, it is no loss any more; lost again, it was meant after a day.
	w.update()
	if len(w.mirror.Vanished()) != 0 {
		t.Errorf("%+v", w.mirror.Vanished())
	}
	if err := os.Remove(filepath.Join(w.root, "pki/ca.key")); err != nil {
		t.Fatal(err)
	}
	w.update()
	now = now.Add(KeepVanished - time.Second)
	if err := w.mirror.Expire(); err != nil || !has("pki/ca.key") {
		t.Errorf("gone too early, %v", err)
	}
	now = now.Add(time.Second)
	if err := w.mirror.Expire(); err != nil || has("pki/ca.key") {
		t.Errorf("kept for ever, %v", err)
	}
	list, err := os.ReadDir(filepath.Join(w.mirror.dir, "blobs"))
	for _, b := range list {
		if text, rerr := os.ReadFile(filepath.Join(w.mirror.dir, "blobs", b.Name())); rerr != nil || string(text) == string(key) {
			t.Errorf("%s is still there (%v, %v)", b.Name(), err, rerr)
		}
	}
}

// What may be missing is no error, neither for the scanner nor for the mirror.
func TestMayMiss(t *testing.T) {
	w := newWorld(t)
	agent := filepath.Join(w.root, "..", "agent-token")
	spec := Spec{Roots: []string{w.root, agent}}
	if _, err := NewScanner(spec, 0).Digest(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	spec.MayMiss = []string{agent}
	if _, err := NewScanner(spec, 0).Digest(); err != nil {
		t.Error(err)
	}
}

func TestScannerReadsCertificates(t *testing.T) {
	w := newWorld(t)
	w.pki()
	man, certs, err := w.scan.Certificates()
	if err != nil || len(certs) != 2 || w.scan.Whole(man) != nil {
		t.Fatalf("%d, %v, %v", len(certs), err, w.scan.Whole(man))
	}
	for _, c := range certs {
		if filepath.Base(c.Path) == "api.crt" && (c.IsCA || c.VerifyHostname("api.lan") != nil) {
			t.Errorf("%+v", c)
		}
	}
	w.put("pki/api.key", "", 0o600)
	if man, _, _ := w.scan.Certificates(); w.scan.Whole(man) == nil {
		t.Error("an empty key is whole")
	}
}
