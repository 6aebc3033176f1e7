package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// host is a host's trust directory.
type host struct{ dir, gossip string }

func newHost(t testing.TB) host {
	dir := filepath.Join(t.TempDir(), "etc", "pki")
	return host{dir, filepath.Join(filepath.Dir(dir), "gossip.key")}
}

func found(t testing.TB, node string) (host, *Identity) {
	t.Helper()
	h := newHost(t)
	id, err := Init(h.dir, h.gossip, "home", node)
	if err != nil {
		t.Fatal(err)
	}
	return h, id
}

func (h host) invite(t testing.TB, node string) []byte {
	t.Helper()
	inv, err := Invite(h.dir, h.gossip, node)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// cluster founds one on the first name and invites the others.
func cluster(t testing.TB, names ...string) map[string]*Identity {
	t.Helper()
	h, id := found(t, names[0])
	ids := map[string]*Identity{names[0]: id}
	for _, n := range names[1:] {
		to := newHost(t)
		var err error
		if ids[n], err = Accept(h.invite(t, n), to.dir, to.gossip); err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

func wants(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error; want %q", parts)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q says nothing of %q", err, p)
		}
	}
}

func TestInvitationMakesAMember(t *testing.T) {
	h, n1 := found(t, "n1")
	to := newHost(t)
	inv := h.invite(t, "n2")
	if w, err := ReadInvitation(inv); err != nil || w.Cluster != "home" || w.ClusterID != n1.ClusterID() || w.Node != "n2" {
		t.Errorf("%+v, %v", w, err)
	}
	n2, err := Accept(inv, to.dir, to.gossip)
	if err != nil {
		t.Fatal(err)
	}
	if w, there := Earlier(to.dir, to.gossip); !there || w.Node != "n2" || !bytes.Equal(w.Key, n2.KeySum()) {
		t.Errorf("%+v, %v", w, there)
	}
	if n2.Node() != "n2" || n2.Cluster() != "home" || n2.ClusterID() != n1.ClusterID() || len(n2.ClusterID()) != 32 {
		t.Errorf("%+v", n2)
	}
	a, err1 := ReadGossipKey(h.gossip)
	b, err2 := ReadGossipKey(to.gossip)
	if err1 != nil || err2 != nil || string(a) != string(b) || len(a) != 32 {
		t.Errorf("gossip keys %v, %v", err1, err2)
	}
	for _, f := range append(trustFiles(h.dir), h.gossip, to.gossip, filepath.Join(to.dir, nodeKeyFile)) {
		if st, err := os.Stat(f); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, st.Mode(), err)
		}
	}
	if there := present(filepath.Join(to.dir, CAKeyFile)); there != nil {
		t.Error("the CA's key left the host")
	}
	_, err = Invite(to.dir, to.gossip, "n3")
	wants(t, err, "does not keep the CA's key")
	_, err = Invite(h.dir, h.gossip, "N 3")
	wants(t, err, "a-z")
	// Once more for the same node: a new key.
	if _, err := Accept(h.invite(t, "n2"), to.dir, to.gossip); err != nil {
		t.Error(err)
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	h, id := found(t, "n1")
	other, _ := found(t, "n1")
	foreign := other.invite(t, "n1")
	unchanged := func(what string) {
		t.Helper()
		if again, err := Load(h.dir); err != nil || again.ClusterID() != id.ClusterID() || again.Node() != "n1" {
			t.Errorf("%s changed the identity: %v", what, err)
		}
	}
	_, err := Init(h.dir, h.gossip, "home", "n1")
	if !errors.Is(err, ErrExists) {
		t.Errorf("second init: %v", err)
	}
	_, err = Accept(foreign, h.dir, h.gossip)
	if !errors.Is(err, ErrExists) {
		t.Errorf("another cluster: %v", err)
	}
	wants(t, err, "home", id.ClusterID()[:8], h.dir)
	_, err = Accept(h.invite(t, "n2"), h.dir, h.gossip)
	wants(t, err, "n1", "keeps its name")
	unchanged("a refused one")

	// A half of another cluster is still another cluster.
	if err := os.Remove(filepath.Join(h.dir, nodeCertFile)); err != nil {
		t.Fatal(err)
	}
	if _, err = Accept(foreign, h.dir, h.gossip); !errors.Is(err, ErrExists) {
		t.Errorf("another cluster over a half: %v", err)
	}
	if _, err = Init(h.dir, h.gossip, "home", "n1"); !errors.Is(err, ErrExists) {
		t.Errorf("init over a half: %v", err)
	}
	// One's own half is mended.
	if _, err := Accept(h.invite(t, "n1"), h.dir, h.gossip); err != nil {
		t.Error(err)
	}
	unchanged("mending")

	// A lone gossip key belongs to some pool.
	lone := newHost(t)
	if err := writeGossipKey(lone.gossip, make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	if _, err = Init(lone.dir, lone.gossip, "home", "n1"); !errors.Is(err, ErrExists) {
		t.Errorf("a lone gossip key: %v", err)
	}
}

func TestLoadSaysWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(h, other host) error
		want  string
	}{
		"empty":           {func(h, _ host) error { return os.RemoveAll(h.dir) }, "relevo init"},
		"no certificate":  {func(h, _ host) error { return os.Remove(filepath.Join(h.dir, nodeCertFile)) }, "not complete"},
		"no key":          {func(h, _ host) error { return os.Remove(filepath.Join(h.dir, nodeKeyFile)) }, "not complete"},
		"readable key":    {func(h, _ host) error { return os.Chmod(filepath.Join(h.dir, nodeKeyFile), 0o640) }, "chmod 600"},
		"readable CA key": {func(h, _ host) error { return os.Chmod(filepath.Join(h.dir, CAKeyFile), 0o644) }, "chmod 600"},
		"another's key": {func(h, o host) error {
			return os.Rename(filepath.Join(o.dir, nodeKeyFile), filepath.Join(h.dir, nodeKeyFile))
		}, "do not belong together"},
		"another's CA": {func(h, o host) error {
			return os.Rename(filepath.Join(o.dir, caCertFile), filepath.Join(h.dir, caCertFile))
		}, "not a certificate of the cluster"},
		"garbage": {func(h, _ host) error { return os.WriteFile(filepath.Join(h.dir, caCertFile), []byte("x"), 0o600) }, "no PEM block"},
		"huge": {func(h, _ host) error {
			return os.WriteFile(filepath.Join(h.dir, caCertFile), make([]byte, 1<<20), 0o600)
		}, "larger than"},
		"node for CA": {func(h, _ host) error {
			return os.Rename(filepath.Join(h.dir, nodeCertFile), filepath.Join(h.dir, caCertFile))
		}, "not complete"},
		"certificate empty": {func(h, _ host) error { return os.Truncate(filepath.Join(h.dir, nodeCertFile), 0) }, "no PEM block"},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := found(t, "n1")
			other, _ := found(t, "n1")
			if err := c.spoil(h, other); err != nil {
				t.Fatal(err)
			}
			_, err := Load(h.dir)
			wants(t, err, c.want)
			if errors.Is(err, fs.ErrNotExist) != (name == "empty") {
				t.Errorf("%v: looks like no cluster yet, or does not", err)
			}
		})
	}
}

func TestGossipKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gossip.key")
	for text, want := range map[string]string{"": "32 bytes", "AAAA": "32 bytes", "%%%": "32 bytes", strings.Repeat("A", 1<<20): "larger"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ReadGossipKey(path)
		wants(t, err, want, path)
	}
	if err := os.Chmod(path, 0o604); err != nil {
		t.Fatal(err)
	}
	_, err := ReadGossipKey(path)
	wants(t, err, "chmod 600")
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{"n1": true, "pi-zero": true, "1": true, "": false, "-a": false, "a-": false, "A": false, "a.b": false, "../x": false, "é": false, strings.Repeat("a", 63): true, strings.Repeat("a", 64): false} {
		if err := ValidNode(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
		h := newHost(t)
		if _, err := Init(h.dir, h.gossip, name, "n1"); (err == nil) != ok {
			t.Errorf("cluster %q: %v", name, err)
		}
	}
}

// TestClocks: what a certificate is worth on hosts whose clocks differ.
func TestClocks(t *testing.T) {
	at := func(year int) time.Time { return time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC) }
	ca, err := newAuthority("home", at(2026))
	if err != nil {
		t.Fatal(err)
	}
	b, err := ca.bundle("n1", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	_, own, key, err := b.parts()
	if err != nil {
		t.Fatal(err)
	}
	me, err := newIdentity([]*x509.Certificate{ca.cert}, own, key)
	if err != nil {
		t.Fatal(err)
	}
	pub, _, _ := ed25519.GenerateKey(rand.Reader)
	for name, c := range map[string]struct {
		from, to, now time.Time
		want          string // "" = accepted
	}{
		"usual":                        {at(2026), notAfter, at(2027), ""},
		"clock never set":              {at(2026), notAfter, at(1970), ""},
		"clock of the last shutdown":   {at(2026), notAfter, at(2026), ""},
		"clock far ahead":              {at(2026), notAfter, at(2099), ""},
		"expired":                      {at(2026), at(2028), at(2029), "valid from 2026-06-01 to 2028-06-01"},
		"short-lived, clock never set": {at(2026), at(2028), at(1970), ""},
		"expired before we began":      {at(2020), at(2025), at(1970), "valid from"},
		"not yet valid":                {at(2030), notAfter, at(2029), "valid from 2030"},
	} {
		cert, err := ca.issueFor("n2", pub, c.from, c.to)
		if err != nil {
			t.Fatal(err)
		}
		node, err := me.nodeOf(cert, c.now)
		if c.want == "" && (err != nil || node != "n2") {
			t.Errorf("%s: %q, %v", name, node, err)
		}
		if c.want != "" {
			wants(t, err, c.want)
		}
	}
	// What Init and Invite issue begins with the CA, and lives for a year from now.
	if !own.NotBefore.Equal(ca.cert.NotBefore) || own.NotAfter.Before(time.Now().Add(certLife-time.Hour)) || own.NotAfter.After(time.Now().Add(certLife+time.Hour)) {
		t.Errorf("%v to %v", own.NotBefore, own.NotAfter)
	}
}

// TestForeignCertificates: the CA's signature alone makes no node.
func TestForeignCertificates(t *testing.T) {
	ca, _ := newAuthority("home", time.Now())
	twin, _ := newAuthority("home", time.Now()) // same name, another key
	b, err := ca.bundle("n1", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	_, own, key, _ := b.parts()
	me, err := newIdentity([]*x509.Certificate{ca.cert}, own, key)
	if err != nil {
		t.Fatal(err)
	}
	pub, _, _ := ed25519.GenerateKey(rand.Reader)
	foreign, err := twin.issue("n2", pub)
	if err != nil {
		t.Fatal(err)
	}
	_, err = me.nodeOf(foreign, time.Now())
	wants(t, err, "not a certificate of the cluster home")
	if _, err := me.nodeOf(ca.cert, time.Now()); err == nil {
		t.Error("the CA itself passed for a node")
	}
	// Signed by the right key, but naming another cluster, another node, or none.
	for _, uri := range []string{"relevo://" + ClusterID(twin.cert) + "/n2", "relevo://" + me.id + "/n3", "https://" + me.id + "/n2", "relevo://" + me.id + "/n2/x", ""} {
		tmpl := &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{CommonName: "n2"}, NotBefore: ca.cert.NotBefore, NotAfter: notAfter}
		if u, err := url.Parse(uri); err == nil && uri != "" {
			tmpl.URIs = []*url.URL{u}
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, pub, ca.key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		_, err = me.nodeOf(cert, time.Now())
		wants(t, err, "names no node of the cluster home")
	}
}

func FuzzInvitation(f *testing.F) {
	h, _ := found(f, "n1")
	inv := h.invite(f, "n2")
	f.Add(inv)
	f.Add(append([]byte("Hello!\n"), inv...))
	f.Add(inv[:len(inv)/2])
	f.Add([]byte("-----BEGIN RELEVO INVITATION-----\ne30=\n-----END RELEVO INVITATION-----\n"))
	f.Add([]byte("-----BEGIN RELEVO INVITATION-----\neyJ2ZXJzaW9uIjoyfQ==\n-----END RELEVO INVITATION-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, id, err := parseInvitation(text)
		if err != nil {
			return
		}
		if ValidNode(id.Node()) != nil || b.Node != id.Node() || b.Version != invitationVersion || len(b.Gossip) != 32 {
			t.Errorf("accepted %+v", b)
		}
	})
}
