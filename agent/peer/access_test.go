package peer

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// contextOf makes the file of an access to the cluster whose CA lies in dir.
func contextOf(t testing.TB, dir, name string, until time.Time) []byte {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, ca, err := IssueAccess(dir, name, pub, until)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := (&Context{Cluster: "home", Name: name, Role: "operator", Expires: until, Addresses: []string{"n1:1"}, CA: ca.Raw, Cert: cert.Raw, Key: der}).Text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func initIn(t testing.TB, node string) (dir string, id *Identity) {
	t.Helper()
	dir = t.TempDir()
	id, err := Init(filepath.Join(dir, "pki"), filepath.Join(dir, "gossip.key"), "home", node)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "pki"), id
}

// TestClients: an access speaks the clients' protocol and can never act as a node; a node
// is no access; what has ended or is of another cluster is refused.
func TestClients(t *testing.T) {
	lab := newLab()
	dir, id := initIn(t, "n1")
	p, stop := lab.port(t, id, "n1", nil)
	defer stop()
	open := func(text []byte) *Context {
		t.Helper()
		c, err := ParseContext(text)
		if err != nil {
			t.Fatal(err)
		}
		c.Via = lab.dialer("laptop")
		return c
	}
	year := time.Now().Add(365 * 24 * time.Hour)
	laptop := open(contextOf(t, dir, "laptop", year))
	conn, err := laptop.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in, err := p.Clients().Accept()
	if err != nil {
		t.Fatal(err)
	}
	if name, serial := in.(interface{ Access() (string, string) }).Access(); name != "laptop" || len(serial) < 16 {
		t.Errorf("the access is %s %s", name, serial)
	}

	// refused says whether the port ends a connection; TLS 1.3 tells a client only when it reads.
	refused := func(c *tls.Config) bool {
		plain, err := lab.dialer("laptop")(t.Context(), "tcp", "n1:1")
		if err != nil {
			t.Fatal(err)
		}
		tc := tls.Client(plain, c)
		defer tc.Close()
		if tc.Handshake() != nil {
			return true
		}
		tc.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, err = tc.Read(make([]byte, 1))
		var timeout net.Error
		return err != nil && !(asTimeout(err, &timeout))
	}
	for _, proto := range []string{ProtoHTTP, ProtoRaft} {
		c := laptop.tls.Clone()
		c.NextProtos = []string{proto}
		if !refused(c) {
			t.Errorf("an access speaks %s", proto)
		}
	}
	if c := id.ClientTLS("n1", ProtoClient); !refused(c) {
		t.Error("a node is taken for an access")
	}
	ended := open(contextOf(t, dir, "old", time.Now().Add(-time.Hour).Add(2*time.Hour)))
	if refused(ended.tls) {
		t.Error("an access in time is refused")
	}
	if _, err := id.accessOf(ended.tls.Certificates[0].Leaf, year); err == nil || !strings.Contains(err.Error(), "make another access") {
		t.Errorf("an access that has ended: %v", err)
	}
	other, _ := initIn(t, "n1")
	stranger := open(contextOf(t, other, "laptop", year))
	if _, err := stranger.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("an access to another cluster: %v", err)
	}
	if _, err := id.nodeOf(laptop.tls.Certificates[0].Leaf, time.Now()); err == nil {
		t.Error("an access is taken for a node")
	}
	if _, _, err := IssueAccess(dir, "a/b", make([]byte, 32), year); err == nil {
		t.Error("a name with / was taken")
	}
	if _, _, err := IssueAccess(dir, "a", make([]byte, 32), time.Unix(0, 0)); err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("an access of 1970: %v", err)
	}
}

func asTimeout(err error, into *net.Error) bool {
	ne, ok := err.(net.Error)
	if ok {
		*into = ne
	}
	return ok && ne.Timeout()
}

// TestClientsTakeNoPlace: however many clients there are, a member gets in.
func TestClientsTakeNoPlace(t *testing.T) {
	a := newAdmission(2, nil)
	at := func() *place {
		p, err := a.enter(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 9)})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	var places []*place
	full := false
	for i := range maxClients + 1 {
		p := at()
		if err := p.promoteClient(Access{Name: string(rune('a' + i/maxPerClient))}); err != nil {
			full = i == maxClients
			p.leave()
			break
		}
		places = append(places, p)
	}
	if !full {
		t.Errorf("%d clients were let in", len(places))
	}
	places[0].leave()
	one := at()
	if err := one.promoteClient(Access{Name: "a"}); err != nil {
		t.Errorf("a place that was given back: %v", err)
	}
	two := at()
	if err := two.promoteClient(Access{Name: "a"}); err == nil {
		t.Error("nine connections of one access were let in")
	}
	if err := at().promote("n2"); err != nil {
		t.Errorf("a member is refused for clients: %v", err)
	}
	for _, p := range append(places, one) {
		p.leave()
		p.leave()
	}
	if a.clients != 0 || a.named != 1 {
		t.Errorf("%d clients and %d nodes are left", a.clients, a.named)
	}
}

// TestContextFile: who else can read it is told; what is damaged is refused.
func TestContextFile(t *testing.T) {
	dir, _ := initIn(t, "n1")
	text := contextOf(t, dir, "laptop", time.Now().Add(time.Hour))
	path := filepath.Join(t.TempDir(), "laptop.relevo")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadContext(path); err == nil || !strings.Contains(err.Error(), "can be read by others") {
		t.Errorf("a file that all can read: %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadContext(path)
	if err != nil || c.Name != "laptop" || !strings.Contains(string(text), "laptop: the access of a relevo operator") {
		t.Fatalf("%+v, %v\n%s", c, err, text)
	}
	if _, err := ParseContext(text[:len(text)/2]); err == nil || !strings.Contains(err.Error(), "not all of it") {
		t.Errorf("half of it: %v", err)
	}
	c.Via = func(context.Context, string, string) (net.Conn, error) { return nil, os.ErrDeadlineExceeded }
	if _, err := c.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), "n1:1") {
		t.Errorf("nobody there: %v", err)
	}
}

func FuzzContext(f *testing.F) {
	dir, _ := initIn(f, "n1")
	f.Add(contextOf(f, dir, "laptop", time.Now().Add(time.Hour)))
	f.Add([]byte("-----BEGIN RELEVO ACCESS-----\ne30=\n-----END RELEVO ACCESS-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseContext(text)
		if err != nil {
			return
		}
		again, err := c.Text()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseContext(again); err != nil {
			t.Errorf("%v\n%s", err, bytes.TrimSpace(again))
		}
	})
}
