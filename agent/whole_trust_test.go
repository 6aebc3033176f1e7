package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/peer"
	"relevo.dev/relevo/agent/quorum"
)

// day of fake time, cheap while no agent runs.
const day = 24 * time.Hour

// enrolled waits until all that run know the keys of so many members.
func (w *world) enrolled(n int) {
	w.t.Helper()
	w.until(2*time.Minute, fmt.Sprintf("%d members are enrolled, and all know", n), func() bool {
		for _, h := range w.hosts {
			if h.agent != nil && len(h.agent.roll().Members) != n {
				return false
			}
		}
		return true
	})
}

// order is what a person on a host wants.
func (h *testHost) order(o api.Order) (api.Done, error) {
	o.By = "ann"
	return h.agent.Do(h.w.t.Context(), o)
}

// voteless is the host of four that has no vote.
func (w *world) voteless() *testHost {
	w.t.Helper()
	w.until(time.Minute, "three vote", func() bool {
		servers, err := w.hosts[0].agent.quorum.Servers()
		n := 0
		for _, s := range servers {
			if s.Voter {
				n++
			}
		}
		return err == nil && n == 3
	})
	for _, h := range w.hosts {
		if !w.hosts[0].agent.isVoter(h.name) {
			return h
		}
	}
	w.t.Fatal("all vote")
	return nil
}

// meets says whether a host is let in at another's port.
func (h *testHost) meets(other *testHost) error {
	h.agent.port.DropNode(other.name)
	return h.agent.port.PostJSON(h.w.t.Context(), other.name, pathWord, empty{}, &word{})
}

// TestWholeCertificates: they renew by themselves before they end, on voters and on those
// that are none; and a cluster that was switched off for longer than they live comes back.
func TestWholeCertificates(t *testing.T) {
	founded(t, "n1 n2 v3 m4", func(t *testing.T, w *world) {
		w.ready("n1", 1)
		w.enrolled(4)
		w.until(time.Minute, "the voters keep the CA's key, and nobody else does", func() bool {
			return w.host("n2").hasCA() && w.host("v3").hasCA() && !w.host("m4").hasCA()
		})
		for _, h := range w.hosts {
			h.crash()
		}
		time.Sleep(400 * day)
		for _, h := range w.hosts {
			if ends := h.end(); time.Now().Before(ends) {
				t.Fatalf("the certificate of %s is good until %s: this proves nothing", h.name, ends)
			}
			h.boot()
		}
		w.until(2*time.Minute, "all have certificates that last", func() bool {
			for _, h := range w.hosts {
				if h.agent.id.Ends().Before(time.Now().Add(360*day)) || h.end().Before(time.Now().Add(360*day)) {
					return false
				}
			}
			return true
		})
		w.until(2*time.Minute, "there is a master again", func() bool { return w.master() != "" })
	})
}

func (h *testHost) hasCA() bool { return peer.HasAuthority(h.cfg.Peer.PKIDir) }

// end is that of the certificate on disk.
func (h *testHost) end() time.Time {
	id, err := peer.Load(h.cfg.Peer.PKIDir)
	if err != nil {
		h.w.t.Fatal(err)
	}
	return id.Ends()
}

// TestWholeRemoval: a member that is removed is refused at once by everybody, and by those
// who learn it later; the gossip key that it knows is changed; another board can come in
// its place, and the old one still cannot.
func TestWholeRemoval(t *testing.T) {
	founded(t, "n1 n2 v3 v4", func(t *testing.T, w *world) {
		n1, v4 := w.host("n1"), w.voteless()
		w.steady("n1", 1)
		w.enrolled(4)
		old, err := peer.ReadGossipKeys(n1.cfg.Gossip.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		v4.crash() // learns it later
		arbiter := n1.agent.quorum.Leader()
		var stolen *testHost
		for _, h := range w.hosts[1:] {
			if h != v4 && h.name != arbiter {
				stolen = h
			}
		}
		if _, err := n1.order(api.Order{Verb: api.VerbRemove, To: stolen.name}); err == nil || !strings.Contains(err.Error(), "is alive") {
			t.Errorf("removal of one that is alive: %v", err)
		}
		conn, err := stolen.agent.port.RaftLayer().Dial("n1", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		d, err := n1.order(api.Order{Verb: api.VerbRemove, To: stolen.name, Force: true})
		if err != nil || !strings.Contains(d.Text, "CA's key") {
			t.Fatalf("%+v, %v", d, err)
		}
		w.until(10*time.Second, "all have the removal in force", func() bool {
			return n1.agent.roll().gone(stolen.name) && w.host(arbiter).agent.roll().gone(stolen.name)
		})
		if err := stolen.meets(n1); err == nil {
			t.Error("a removed member is let in")
		}
		// Or it has heard of it, and listens no more.
		if err := n1.meets(stolen); !errors.Is(err, peer.ErrRemoved) && (err == nil || !strings.Contains(err.Error(), "connection refused")) {
			t.Errorf("a removed member is called: %v", err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a connection outlived the removal")
		}
		w.until(3*time.Minute, "the gossip key is changed on all", func() bool {
			for _, h := range []*testHost{n1, w.host(arbiter)} {
				keys, err := peer.ReadGossipKeys(h.cfg.Gossip.KeyFile)
				if err != nil || len(keys) != 1 || bytes.Equal(keys[0], old[0]) {
					return false
				}
			}
			return true
		})
		v4.boot() // with the old gossip key, and an old list
		w.until(3*time.Minute, "who was away has followed", func() bool {
			keys, err := peer.ReadGossipKeys(v4.cfg.Gossip.KeyFile)
			m, ok := n1.agent.member(v4.name)
			return err == nil && !bytes.Equal(keys[0], old[0]) && v4.agent.roll().gone(stolen.name) && ok && m.Status == member.Alive
		})
		w.until(3*time.Minute, "its vote is replaced", func() bool {
			servers, err := n1.agent.quorum.Servers()
			return err == nil && n1.agent.isVoter(v4.name) && !slices.ContainsFunc(servers, func(s quorum.Server) bool { return s.Node == stolen.name })
		})
		if err := stolen.meets(v4); err == nil {
			t.Error("a removed member is let in by one that was away")
		}
		// Refused also by an agent that has just started, and knows nobody yet.
		v4.kill()
		v4.boot()
		if err := stolen.meets(v4); err == nil {
			t.Error("a removed member is let in after a restart")
		}

		// Another board of that name. The stolen one goes on.
		board := stolen.twin("10.0.0.50", "spare")
		board.refused("name-taken", w.token(v4.name, api.TokenSpec{}), "n1", "n1")
		tok := w.token("n1", api.TokenSpec{})
		w.until(time.Minute, "the old board is not heard any more", func() bool {
			m, ok := n1.agent.member(stolen.name)
			return !ok || m.Status != member.Alive
		})
		stolen.crash()
		board.enters(tok, "n1")
		w.until(3*time.Minute, "the new board is a member", func() bool {
			m, ok := n1.agent.member(stolen.name)
			return ok && m.Status == member.Alive && m.Addr == board.ip && board.meets(n1) == nil
		})
		stolenID, err := peer.Load(stolen.cfg.Peer.PKIDir)
		if err != nil {
			t.Fatal(err)
		}
		if n1.agent.roll().has(stolen.name, stolenID.KeySum()) {
			t.Error("the old board's key is enrolled")
		}
		board.crash()
	})
}

// twin is another board of a host's name.
func (h *testHost) twin(ip, dir string) *testHost {
	b := &testHost{w: h.w, name: h.name, ip: ip, dir: filepath.Join(filepath.Dir(h.dir), dir)}
	b.cfg = testConfig(h.w.t, b, h.cfg.Join)
	return b
}

// TestWholeRotation: the gossip key is changed while a master serves and one member is
// away; nobody is lost from sight, and tokens are withdrawn.
func TestWholeRotation(t *testing.T) {
	founded(t, "n1 n2 v3 v4", func(t *testing.T, w *world) {
		n1, away := w.host("n1"), w.voteless()
		w.steady("n1", 1)
		w.enrolled(4)
		old, err := peer.ReadGossipKeys(n1.cfg.Gossip.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		away.crash()
		w.missed(away.name)
		tok := w.token("n1", api.TokenSpec{})
		if _, err := n1.order(api.Order{Verb: api.VerbRotate, To: "tokens"}); err != nil {
			t.Error(err)
		}
		away.refused("revoked", tok, "v5", "n1")
		if _, err := w.host(n1.agent.quorum.Leader()).order(api.Order{Verb: api.VerbRotate, To: "gossip-key"}); err != nil {
			t.Fatal(err)
		}
		if _, err := n1.order(api.Order{Verb: api.VerbRotate, To: "gossip-key"}); err == nil || !strings.Contains(err.Error(), "already") {
			t.Errorf("a second rotation: %v", err)
		}
		if _, err := n1.order(api.Order{Verb: api.VerbRotate, To: "socks"}); err == nil {
			t.Error("socks are rotated")
		}
		w.until(3*time.Minute, "the key is changed", func() bool {
			for _, h := range w.hosts {
				if h == away {
					continue
				}
				for _, m := range h.agent.pool.Members() {
					if m.Node != away.name && m.Status != member.Alive {
						t.Errorf("%s sees %s %s", h.name, m.Node, m.Status)
					}
				}
				keys, err := peer.ReadGossipKeys(h.cfg.Gossip.KeyFile)
				if err != nil || len(keys) != 1 || bytes.Equal(keys[0], old[0]) {
					return false
				}
			}
			return true
		})
		r, err := n1.agent.Rotation(t.Context())
		if err != nil || r.GossipKey.Stage != 0 || strings.Join(r.Away, " ") != away.name {
			t.Errorf("%+v, %v", r, err)
		}
		time.Sleep(time.Minute) // gossip goes on
		away.boot()
		w.until(3*time.Minute, "who was away is back", func() bool {
			for _, h := range w.hosts {
				for _, m := range h.agent.pool.Members() {
					if m.Status != member.Alive {
						return false
					}
				}
				if len(h.agent.pool.Members()) != 4 {
					return false
				}
			}
			return true
		})
		if w.master() != "n1" || n1.agent.term.Load() != 1 {
			t.Error("the master was changed by it")
		}
	})
}

// TestWholeGossipThief: who has the gossip key and no certificate sees gossip, and moves
// nothing: neither by a member that wants to vote, nor by saying that others left, nor by
// claiming their names.
func TestWholeGossipThief(t *testing.T) {
	founded(t, "n1 n2 v3", func(t *testing.T, w *world) {
		n1, n2 := w.host("n1"), w.host("n2")
		w.steady("n1", 1)
		w.enrolled(3)
		voters := func() string {
			servers, err := n1.agent.quorum.Servers()
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprint(servers)
		}
		before := voters()
		keys, err := peer.ReadGossipKeys(n1.cfg.Gossip.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		thief := func(name, ip string) (*member.Pool, func()) {
			p, err := member.New(member.Config{Node: name, BindAddr: ip, Port: 7946, Keys: keys, Log: slog.New(slog.DiscardHandler),
				Tags:      map[string]string{tagVoter: "1", tagCandidate: "1", tagPeerPort: "7947", tagTrust: "99999", tagTerm: "99"},
				Join:      func(context.Context) []string { return []string{n1.ip + ":7946", n2.ip + ":7946"} },
				Transport: func(ip string, port int) (memberlist.NodeAwareTransport, error) { return w.net.NewGossip(ip, port) }})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- p.Run(ctx) }()
			return p, func() { cancel(); <-done }
		}
		var evil []*member.Pool
		for i := range 2 {
			p, stop := thief(fmt.Sprintf("evil%d", i), fmt.Sprintf("10.0.0.%d", 90+i))
			defer stop()
			evil = append(evil, p)
		}
		w.until(time.Minute, "the thieves are in the gossip", func() bool { return len(n1.agent.pool.Members()) == 5 })
		for range 20 {
			evil[0].Remove("n2")
			evil[0].Remove("v3")
			time.Sleep(2 * time.Second)
		}
		_, stop := thief("n2", "10.0.0.95")
		time.Sleep(2 * time.Minute)
		stop()
		time.Sleep(time.Minute)
		if now := voters(); now != before {
			t.Errorf("the servers were %s, and are %s", before, now)
		}
		if w.master() != "n1" || n1.agent.term.Load() != 1 {
			t.Errorf("the master is %s in term %d", w.master(), n1.agent.term.Load())
		}
		for _, h := range w.hosts {
			select {
			case err := <-h.done:
				t.Errorf("%s ended: %v", h.name, err)
				h.done <- nil
			default:
			}
		}
	})
}

// TestRollOnDisk: what is damaged is not believed, and said.
func TestRollOnDisk(t *testing.T) {
	dir := t.TempDir()
	for text, ok := range map[string]bool{
		`{"roll":{"version":1,"members":[]}}`: true, `{`: false, `{"roll":{"version":0,"members":[{"node":"n1"}]}}`: false,
		`{"roll":7}`: false, strings.Repeat(" ", maxRoll+1): false,
	} {
		if err := os.WriteFile(filepath.Join(dir, "trust.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, id := foundCluster(t)
		a := &agent{cfg: testConfig(t, &testHost{name: "m1", ip: "10.0.0.1", dir: dir}, nil), id: id}
		if err := a.readRoll(); (err == nil) != ok {
			t.Errorf("%.60s: %v", text, err)
		}
	}
}
