package main

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/peer"
)

// member opens the port of the host in a box. It lets everybody in who holds the token.
func (b box) member(t *testing.T, tok *peer.Token) string {
	t.Helper()
	id, err := peer.Load(b.path("etc/pki"))
	if err != nil {
		t.Fatal(err)
	}
	*tok = peer.NewToken(id)
	ca, err := peer.LoadAuthority(b.path("etc/pki"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := peer.Listen(peer.PortConfig{Identity: id, Address: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler),
		Resolve: func(string) (string, error) { return "", context.Canceled },
		Join: func(_ context.Context, r *peer.JoinRequest) peer.JoinReply {
			if r.Token != tok.ID() || !r.Proves(tok.Public()) {
				return peer.JoinReply{Code: peer.JoinBadProof, Error: "no"}
			}
			cert, err := ca.Certify(r.Node, r.Key())
			if err != nil {
				return peer.JoinReply{Code: peer.JoinNotNow, Error: err.Error()}
			}
			return peer.JoinReply{Cert: cert.Raw, Gossip: make([]byte, 32), Peers: []string{"192.0.2.1:7946"}}
		}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return p.Addr().String()
}

func TestJoinByToken(t *testing.T) {
	a, b := newBox(t), newBox(t)
	a.must("", "init", "--cluster", "home", "--node", "n1")
	var tok peer.Token
	at := a.member(t, &tok)
	sloppy := strings.ToLower(strings.ReplaceAll(tok.String(), "-", " "))
	out := b.must("", append([]string{"join", "--no-start", "--node", "n2", "--address", at}, strings.Fields(sloppy)...)...)
	if !strings.Contains(out, "n2 in the cluster home") || !strings.Contains(out, "systemctl enable --now relevo") {
		t.Errorf("%s", out)
	}
	c, err := config.Load(b.path("etc/relevo.yaml"))
	if err != nil || c.Node != "n2" || c.Cluster != "home" || strings.Join(c.Join, " ") != "192.0.2.1:7946" {
		t.Errorf("%+v, %v", c, err)
	}
	if id, err := peer.Load(b.path("etc/pki")); err != nil || id.Node() != "n2" {
		t.Errorf("%v", err)
	}
	if b.has("etc/pki/ca.key") || b.has("etc/pki/join.key") || b.has("lib/bootstrap") {
		t.Error("something is left that does not belong there")
	}
	// From a file, as on a boot partition.
	d := newBox(t)
	d.must(tok.String()+"\n", "join", "--no-start", "--node", "n3", "--address", at, "-")

	e := newBox(t)
	bad := []byte(tok.String())
	bad[3] = map[bool]byte{true: '0', false: '1'}[bad[3] == '1']
	e.mustFail("character 4 of group 1", "", "join", "--node", "n4", "--address", at, string(bad))
	e.mustFail("has 47 characters", "", "join", "--node", "n4", "--address", at, strings.ReplaceAll(tok.String(), "-", "")[1:])
	e.mustFail("--address", "", "join", "--node", "n4", "--wait", "10ms", tok.String()) // nobody announces it
	var foreign peer.Token
	f := newBox(t)
	f.must("", "init", "--cluster", "home", "--node", "m1")
	other := f.member(t, &foreign)
	e.mustFail("pretends to be yours", "", "join", "--node", "n4", "--address", other, tok.String())
	e.mustFail("--node", "", "join", "--node", "N 4", "--address", at, tok.String())
	e.mustFail("127.0.0.1:1", "", "join", "--node", "n4", "--address", "127.0.0.1:1", tok.String())
	if e.has("etc/relevo.yaml") || e.has("etc/pki/ca.crt") || e.has("etc/gossip.key") {
		t.Error("a refused join left something")
	}
	b.mustFail("already belongs", "", "join", "--address", other, foreign.String())
	a.mustFail("already belongs", "", "join", "--address", other, foreign.String())
}
