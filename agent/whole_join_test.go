package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/peer"
)

// token makes one on a host, as a person does there.
func (w *world) token(on string, spec api.TokenSpec) peer.Token {
	w.t.Helper()
	var d api.Done
	w.until(time.Minute, "a token is made", func() bool { // the arbiter may be changing
		var err error
		d, err = w.host(on).agent.Do(w.t.Context(), api.Order{Verb: api.VerbTokenCreate, By: "ann", Token: &spec})
		return err == nil
	})
	t, err := peer.ParseToken(d.Token)
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

// forget makes a host one that never belonged to a cluster.
func (h *testHost) forget() {
	if err := os.RemoveAll(h.dir); err != nil {
		h.w.t.Fatal(err)
	}
}

// joins asks the members at the addresses to let h in, as the command does.
func (h *testHost) joins(t peer.Token, node string, at ...string) (*peer.Joined, error) {
	var addrs []string
	for _, name := range at {
		addrs = append(addrs, h.w.host(name).ip+":7947")
	}
	return peer.Join(h.w.t.Context(), peer.JoinConfig{Token: t, Node: node, Addresses: addrs, Dir: h.cfg.Peer.PKIDir, Gossip: h.cfg.Gossip.KeyFile, Dial: h.w.net.Dialer(h.ip)})
}

// enters joins and begins.
func (h *testHost) enters(t peer.Token, at ...string) {
	h.w.t.Helper()
	in, err := h.joins(t, h.name, at...)
	if err == nil {
		_, err = in.Install(h.cfg.Peer.PKIDir, h.cfg.Gossip.KeyFile)
	}
	if err != nil {
		h.w.t.Fatalf("%s joins: %v", h.name, err)
	}
	h.boot()
}

// refused joins in vain, and has the code of why.
func (h *testHost) refused(code string, t peer.Token, node string, at ...string) {
	h.w.t.Helper()
	_, err := h.joins(t, node, at...)
	var bad *peer.JoinError
	if !errors.As(err, &bad) || bad.Code != code {
		h.w.t.Errorf("%s joins as %s: %v, want %s", h.name, node, err, code)
	}
}

// TestWholeJoin: from one host to a cluster that survives the loss of its master, by
// tokens; and everything that does not let a host in.
func TestWholeJoin(t *testing.T) {
	whole(t, "n1 n2 v3 v4", func(t *testing.T, w *world) {
		n1, n2, v3, v4 := w.host("n1"), w.host("n2"), w.host("v3"), w.host("v4")
		for _, h := range []*testHost{n2, v3, v4} {
			h.forget()
		}
		n1.adopt(7)
		n1.boot()
		w.until(time.Minute, "n1 is the master", func() bool { return w.master() == "n1" && n1.agent.quorum.IsLeader() })

		two := w.token("n1", api.TokenSpec{Uses: 2})
		n2.enters(two, "n1")
		v3.refused("used-up", w.used(two, v3), "v4", "n1")
		v3.enters(w.token("n1", api.TokenSpec{}), "n1")
		w.ready("n1", 1)

		// Whoever cannot let hosts in knows who can.
		late := w.token("v3", api.TokenSpec{TTL: 60, Node: "v4"})
		v4.refused("other-name", late, "v5", "v3")
		v4.refused("name-taken", w.token("n2", api.TokenSpec{}), "n2", "n1")
		v4.refused("unknown", peer.NewToken(n1.agent.id), "v4", "n1")
		time.Sleep(61 * time.Second)
		v4.refused("expired", late, "v4", "n1")
		gone := w.token("n1", api.TokenSpec{})
		if _, err := n2.agent.Do(t.Context(), api.Order{Verb: api.VerbTokenRevoke, By: "ann", To: gone.ID()}); err != nil {
			t.Error(err)
		}
		v4.refused("revoked", gone, "v4", "n1")
		_, other := foundCluster(t)
		if _, err := v4.joins(peer.NewToken(other), "v4", "n1"); !errors.Is(err, peer.ErrImpostor) {
			t.Errorf("a token of another cluster: %v", err)
		}
		v4.enters(w.token("n1", api.TokenSpec{}), "n1", "v3")

		list, err := v3.agent.Tokens(t.Context())
		var states []string
		for _, k := range list.Tokens {
			states = append(states, k.State)
		}
		if got := strings.Join(states, ", "); err != nil || got != "used up, revoked, good, expired, used up, used up" {
			t.Errorf("%s, %v", got, err)
		}
		n1.crash()
		w.follows("n1", 2)
	})
}

// used uses a token up.
func (w *world) used(t peer.Token, by *testHost) peer.Token {
	w.t.Helper()
	if _, err := by.joins(t, "somebody", "n1"); err != nil {
		w.t.Error(err)
	}
	return t
}

func foundCluster(t *testing.T) (dir string, id *peer.Identity) {
	dir = t.TempDir()
	id, err := peer.Init(filepath.Join(dir, "pki"), filepath.Join(dir, "gossip.key"), "home", "m1")
	if err != nil {
		t.Fatal(err)
	}
	return dir, id
}
