package peer

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// TestRecheck: when the rules change, connections that are open end for those who would not
// be let in any more, and for nobody else: a member is known by its key.
func TestRecheck(t *testing.T) {
	c := newChanging(t)
	lab := newLab()
	n1 := c.ids["n1"]
	server, stop := lab.port(t, n1, "n1", nil)
	defer stop()
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	cert, err := c.old.Certify("ghost", key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	ghost, err := newIdentity([]*x509.Certificate{c.old.cert}, cert, key)
	if err != nil {
		t.Fatal(err)
	}
	open := func(id *Identity) *tls.Conn {
		t.Helper()
		conn, err := lab.dialer(id.Node())(t.Context(), "tcp", "n1:1")
		if err != nil {
			t.Fatal(err)
		}
		tc := tls.Client(conn, id.ClientTLS("n1", ProtoRaft))
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		if _, err := tc.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		return tc
	}
	accepted := func() net.Conn {
		t.Helper()
		conn, err := server.RaftLayer().Accept()
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	member := open(c.ids["n2"])
	ofMember := accepted()
	stranger := open(ghost)
	ofStranger := accepted()
	c.hears("n1", c.rules(2, "away")) // n2 would need another certificate for a new one
	server.Recheck()
	ofStranger.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := ofStranger.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("who is no member and has a certificate by the former CA is still connected")
	}
	if _, err := member.Write([]byte{2}); err != nil {
		t.Error(err)
	}
	if _, err := ofMember.Read(make([]byte, 1)); err != nil {
		t.Errorf("the connection of a member was closed: %v", err)
	}
	stranger.Close()
	member.Close()
}
