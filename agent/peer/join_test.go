package peer

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// gate is a member's port that lets everybody in who proves a token.
type gate struct {
	nw   *labNet
	tok  Token
	id   *Identity
	port *Port
	stop func()
	got  []*JoinRequest
}

func openGate(t *testing.T, h host, id *Identity, friend func(string) bool) *gate {
	t.Helper()
	g := &gate{nw: newLab(), tok: NewToken(id), id: id}
	ca, err := LoadAuthority(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := g.nw.Listen("n1:1")
	if err != nil {
		t.Fatal(err)
	}
	g.port, err = Listen(PortConfig{Identity: id, Listener: l, Handler: handler(), Dial: g.nw.dialer("n1"), Friend: friend,
		Resolve: func(node string) (string, error) { return node + ":1", nil }, Log: slog.New(slog.DiscardHandler),
		Join: func(_ context.Context, r *JoinRequest) JoinReply {
			g.got = append(g.got, r)
			if r.Token != g.tok.ID() || !r.Proves(g.tok.Public()) {
				return JoinReply{Code: JoinBadProof, Error: "the proof does not fit"}
			}
			cert, err := ca.Certify(r.Node, r.Key())
			if err != nil {
				return JoinReply{Code: JoinNotNow, Error: err.Error()}
			}
			return JoinReply{Cert: cert.Raw, Gossip: make([]byte, 32)}
		}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.port.Run(ctx) }()
	g.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return g
}

// join asks from a host of the lab.
func (g *gate) join(t *testing.T, tok Token, node, from string) error {
	h := newHost(t)
	j, err := Join(t.Context(), JoinConfig{Token: tok, Node: node, Addresses: []string{"n1:1"}, Dir: h.dir, Gossip: h.gossip, Dial: g.nw.dialer(from)})
	if err == nil {
		_, err = j.Install(h.dir, h.gossip)
	}
	return err
}

// open shakes hands as a host that wants to join.
func (g *gate) open(t *testing.T, from string) *tls.Conn {
	t.Helper()
	c, err := g.nw.dialer(from)(t.Context(), "tcp", "n1:1")
	if err != nil {
		t.Fatal(err)
	}
	tc := tls.Client(c, &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{ProtoJoin}, InsecureSkipVerify: true})
	if err := tc.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return tc
}

func (g *gate) request(t *testing.T, c *tls.Conn, node string) *JoinRequest {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := &JoinRequest{Version: joinVersion, Token: g.tok.ID(), Node: node}
	if r.CSR, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: node}}, key); err != nil {
		t.Fatal(err)
	}
	s := c.ConnectionState()
	if r.exporter, err = s.ExportKeyingMaterial(exporterLabel, nil, 32); err != nil {
		t.Fatal(err)
	}
	r.Proof = ed25519.Sign(g.tok.signer(), r.statement())
	return r
}

func (g *gate) send(t *testing.T, c *tls.Conn, r *JoinRequest) JoinReply {
	t.Helper()
	if err := writeFrame(c, r); err != nil {
		t.Fatal(err)
	}
	var a JoinReply
	if err := readFrame(c, maxJoinReply, &a); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestJoin(t *testing.T) {
	h, id := found(t, "n1")
	_, foreign := found(t, "n1")
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t, h, id, nil)
		defer g.stop()
		if err := g.join(t, g.tok, "n2", "x"); err != nil {
			t.Errorf("with a good token: %v", err)
		}
		if err := g.join(t, NewToken(id), "n2", "x"); err == nil || !strings.Contains(err.Error(), "does not fit") {
			t.Errorf("with another secret: %v", err)
		}
		asked := len(g.got)
		if err := g.join(t, NewToken(foreign), "n2", "x"); !errors.Is(err, ErrImpostor) {
			t.Errorf("with a token of another cluster: %v", err)
		}
		if len(g.got) != asked {
			t.Error("an impostor was told something")
		}

		// A message is worth something on its own connection only, and as it was signed.
		a, b := g.open(t, "x"), g.open(t, "y")
		r := g.request(t, a, "n3")
		if rep := g.send(t, b, r); rep.Code != JoinBadProof {
			t.Errorf("replayed on another connection: %+v", rep)
		}
		for what, change := range map[string]func(*JoinRequest){
			"another name":  func(r *JoinRequest) { r.Node = "n4" },
			"another key":   func(r *JoinRequest) { r.CSR = g.request(t, a, "n3").CSR },
			"another token": func(r *JoinRequest) { r.Token = "00000000" },
			"no proof":      func(r *JoinRequest) { r.Proof = nil },
			"a version":     func(r *JoinRequest) { r.Version = 2 },
			"no request":    func(r *JoinRequest) { r.CSR = []byte("x") },
		} {
			c := g.open(t, "x")
			q := g.request(t, c, "n3")
			change(q)
			if rep := g.send(t, c, q); rep.Code == "" || rep.Cert != nil {
				t.Errorf("%s: %+v", what, rep)
			}
			c.Close()
		}
		if rep := g.send(t, a, r); rep.Code != "" {
			t.Errorf("on its own connection: %+v", rep)
		}
		// Whoever joins is no member by that connection.
		c := g.open(t, "x")
		if _, err := c.Write([]byte("POST /who HTTP/1.1\r\nHost: n1\r\nContent-Length: 0\r\n\r\n")); err != nil {
			t.Error(err)
		}
		if answer, _ := io.ReadAll(c); len(answer) > 0 {
			t.Errorf("answered %q", answer)
		}
	})
}

// TestJoinHostile: messages that are none, too long or never come take nothing but their
// own time.
func TestJoinHostile(t *testing.T) {
	h, id := found(t, "n1")
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t, h, id, nil)
		defer g.stop()
		for name, text := range map[string][]byte{
			"silence": nil, "half a length": {0, 0}, "a huge length": {255, 255, 255, 255, 1}, "garbage": append([]byte{0, 0, 0, 9}, "{garbage}"...),
			"less than said": append([]byte{0, 0, 0, 99}, "{}"...), "nothing": {0, 0, 0, 0},
		} {
			c := g.open(t, "x")
			begin := time.Now()
			c.Write(text)
			io.Copy(io.Discard, c)
			if d := time.Since(begin); d > handshakeTimeout+time.Second {
				t.Errorf("%s: open for %s", name, d)
			}
			c.Close()
		}
		if len(g.got) != 0 {
			t.Errorf("%d requests", len(g.got))
		}
		// Two at a time from one address.
		var held []net.Conn
		for range maxJoiningPerIP {
			held = append(held, g.open(t, "x"))
		}
		synctest.Wait()
		if err := g.join(t, g.tok, "n2", "x"); err == nil || !strings.Contains(err.Error(), "too many hosts") {
			t.Errorf("a third: %v", err)
		}
		if err := g.join(t, g.tok, "n2", "y"); err != nil {
			t.Errorf("from elsewhere: %v", err)
		}
		for _, c := range held {
			c.Close()
		}
	})
}

// TestStrangersFlood: 10 000 connections of strangers; a member finds its place all the while, and
// when it is over a host can join.
func TestStrangersFlood(t *testing.T) {
	h, id := found(t, "n1")
	ids := map[string]*Identity{"n1": id}
	to := newHost(t)
	var err error
	if ids["n2"], err = Accept(h.invite(t, "n2"), to.dir, to.gossip); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t, h, id, func(ip string) bool { return ip == "n2" })
		defer g.stop()
		m, stop := g.nw.port(t, ids["n2"], "n2", nil)
		defer stop()
		var conns []net.Conn
		for i := range 10000 {
			c, err := g.nw.Dialer(fmt.Sprint("x", i%200))(t.Context(), "tcp", "n1:1")
			if err != nil {
				continue // refused
			}
			conns = append(conns, c)
			if i%500 != 499 {
				continue
			}
			synctest.Wait()
			var who string
			m.DropNode("n1") // a new connection each time
			if err := m.PostJSON(t.Context(), "n1", "/who", nil, &who); err != nil || who != "n2" {
				t.Fatalf("after %d connections a member is not served: %v", i+1, err)
			}
			if n := g.port.limits.strangers(); n > maxPending {
				t.Fatalf("%d handshakes are unfinished", n)
			}
		}
		if err := g.join(t, g.tok, "n3", "y"); err == nil {
			t.Log("a host joined in the middle of it")
		}
		for _, c := range conns {
			c.Close()
		}
		time.Sleep(time.Minute)
		if err := g.join(t, g.tok, "n3", "y"); err != nil {
			t.Errorf("after the flood: %v", err)
		}
	})
}

// TestRules: who is enrolled is believed beyond the end of its certificate, who was
// removed is not; and a certificate that is renewed is shown at once.
func TestRules(t *testing.T) {
	h, me := found(t, "n1")
	ca, err := LoadAuthority(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	pub, _, _ := ed25519.GenerateKey(rand.Reader)
	now := time.Now()
	old, err := ca.issueFor("n2", pub, ca.cert.NotBefore, now.Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := ca.Certify("n2", pub)
	if err != nil {
		t.Fatal(err)
	}
	other, _, _ := ed25519.GenerateKey(rand.Reader)
	twin, err := ca.Certify("n2", other)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, cert *x509.Certificate, want string) {
		t.Helper()
		_, err := me.nodeOf(cert, now.Add(24*time.Hour))
		if want == "" && err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if want != "" {
			wants(t, err, want)
		}
	}
	check("ended, and unknown", old, "valid from")
	check("good, and unknown", fresh, "")
	me.SetRules(Rules{Keys: map[string][]byte{"n2": KeySum(fresh)}})
	check("ended, and enrolled", old, "")
	check("another key of the name", twin, "another key")
	me.SetRules(Rules{Removed: map[string]bool{"n2": true}})
	check("removed", fresh, "removed from the cluster")
	me.SetRules(Rules{Keys: map[string][]byte{"n2": KeySum(twin)}, Removed: map[string]bool{"n2": true}})
	check("removed, the old board", fresh, "removed from the cluster")
	check("removed, the new board", twin, "")

	if me.Due(now) || !me.Due(now.Add(certLife*3/4)) {
		t.Error("due at a wrong time")
	}
	wants(t, me.Renew(h.dir, fresh.Raw), "removed") // n2's
	me.SetRules(Rules{})
	wants(t, me.Renew(h.dir, fresh.Raw), "another key")
	short, err := ca.issueFor("n1", me.key.Public(), ca.cert.NotBefore, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	wants(t, me.Renew(h.dir, short.Raw), "before the present one")
	was := me.Ends()
	next, err := ca.issueFor("n1", me.key.Public(), ca.cert.NotBefore, was.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if err := me.Renew(h.dir, next.Raw); err != nil || !me.Ends().Equal(next.NotAfter) {
		t.Errorf("%v, ends %s", err, me.Ends())
	}
	if again, err := Load(h.dir); err != nil || !again.Ends().Equal(next.NotAfter) {
		t.Errorf("on disk: %v", err)
	}
	if !me.Signed("roll", []byte("x"), ca.Sign("roll", []byte("x"))) || me.Signed("other", []byte("x"), ca.Sign("roll", []byte("x"))) || me.Signed("roll", []byte("y"), ca.Sign("roll", []byte("x"))) {
		t.Error("signatures")
	}
}

func FuzzJoinRequest(f *testing.F) {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "n2"}}, key)
	if err != nil {
		f.Fatal(err)
	}
	good, _ := json.Marshal(JoinRequest{Version: 1, Token: "00000000", Node: "n2", CSR: csr, Proof: make([]byte, 64)})
	frame := func(b []byte) []byte {
		var w bytes.Buffer
		writeFrame(&w, json.RawMessage(b))
		return w.Bytes()
	}
	f.Add(frame(good))
	f.Add(frame([]byte(`{"version":1,"token":"00000000","node":"../x","csr":"AAAA"}`)))
	f.Add([]byte{0, 0, 255, 255, '{'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r JoinRequest
		if readFrame(bytes.NewReader(b), maxJoinRequest, &r) != nil || r.check() != nil {
			return
		}
		if ValidNode(r.Node) != nil || len(r.Key()) != ed25519.PublicKeySize || r.Proves(nil) || len(r.KeySum()) != 32 {
			t.Errorf("%+v", r)
		}
	})
}

func FuzzJoinReply(f *testing.F) {
	h, id := found(f, "n1")
	ca, err := LoadAuthority(h.dir)
	if err != nil {
		f.Fatal(err)
	}
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	cert, err := ca.Certify("n2", pub)
	if err != nil {
		f.Fatal(err)
	}
	good, _ := json.Marshal(JoinReply{Cert: cert.Raw, Gossip: make([]byte, 32), Peers: []string{"10.0.0.1:7946", "x"}})
	f.Add(good)
	f.Add([]byte(`{"cert":"AAAA","gossip":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var a JoinReply
		if json.Unmarshal(b, &a) != nil {
			return
		}
		if j, err := a.joined("n2", id.issuing(), key); err == nil && (j.ClusterID() != id.id || len(j.Peers) > maxJoinPeers) {
			t.Errorf("%+v", j)
		}
	})
}
