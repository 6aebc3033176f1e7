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

// departed is what the command line knows of how a host went.
func (h *testHost) departed() (left bool, removed string) {
	was, _ := peer.Earlier(h.cfg.Peer.PKIDir, h.cfg.Gossip.KeyFile)
	return Departed(h.cfg.DataDir, was)
}

// TestWholeLeave: who leaves is believed because it says so itself; it can say so again when
// nobody answers it any more.
func TestWholeLeave(t *testing.T) {
	founded(t, "n1 n2 v3 v4", func(t *testing.T, w *world) {
		w.steady("n1", 1)
		w.enrolled(4)
		var gone *testHost
		for _, name := range []string{"v3", "v4"} {
			if h := w.host(name); w.host("n1").agent.isVoter(name) {
				gone = h
			}
		}
		if _, err := gone.order(api.Order{Verb: api.VerbLeave}); err != nil {
			t.Fatal(err)
		}
		w.until(2*time.Minute, "its vote is replaced", func() bool {
			n := 0
			servers, _ := w.host("n1").agent.quorum.Servers()
			for _, s := range servers {
				if s.Voter {
					n++
				}
				if s.Node == gone.name {
					return false
				}
			}
			return n == 3
		})
		w.until(2*time.Minute, "nobody answers it", func() bool { return gone.agent.quorum.Leader() == "" })
		if d, err := gone.order(api.Order{Verb: api.VerbLeave}); err != nil || !strings.Contains(d.Text, "has left") {
			t.Errorf("asked again it says %q, %v", d.Text, err)
		}
		leftSays := func() bool {
			s, err := gone.agent.Status(t.Context())
			return err == nil && slices.ContainsFunc(s.Problems, func(p api.Problem) bool { return p.What == "this host has left the cluster" })
		}
		if !leftSays() {
			t.Error("its status does not say that it has left")
		}
		gone.shutdown()
		if left, removed := gone.departed(); !left || removed != "" {
			t.Errorf("it is not known that it has left: %v, %q", left, removed)
		}
		if left, _ := w.host("n1").departed(); left {
			t.Error("who has not left has left")
		}
		gone.boot()
		if left, _ := gone.departed(); left {
			t.Error("who is back has left")
		}
		w.until(2*time.Minute, "it is back", func() bool {
			m, ok := w.host("n1").agent.member(gone.name)
			return ok && m.Status == member.Alive && gone.meets(w.host("n1")) == nil
		})
		if log := w.log.text(); strings.Contains(log, "a list of the members from") { // an agent that starts asks for a newer one, and there is none
			t.Error("an answer without a list is taken for one that nobody signed")
		}
		if leftSays() {
			t.Error("it says that it has left, and is back")
		}
		// It has no vote any more, and so no CA's key.
		if !gone.hasCA() || !w.host("n1").hasCA() {
			t.Error("a voter without the CA's key")
		}
		w.until(20*time.Minute, "the CA's key is off a host that does not vote", func() bool { return !gone.hasCA() })
	})
}

// TestWholeLeaveUnheard: who leaves and is heard by nobody is told so, and does not count as
// one that has left.
func TestWholeLeaveUnheard(t *testing.T) {
	founded(t, "n1 n2 v3 v4", func(t *testing.T, w *world) {
		w.steady("n1", 1)
		w.enrolled(4)
		v4 := w.host("v4")
		w.isolate(v4, true)
		if d, err := v4.order(api.Order{Verb: api.VerbLeave}); err == nil || !strings.Contains(err.Error(), "none of the 3 other members heard") {
			t.Errorf("it says %q, %v", d.Text, err)
		}
		w.until(time.Minute, "it has no quorum", func() bool { return v4.agent.quorum.Leader() == "" })
		if d, err := v4.order(api.Order{Verb: api.VerbLeave, Force: true}); err != nil || !strings.Contains(d.Text, "none of the 3 other members heard") {
			t.Errorf("it says %q, %v", d.Text, err)
		}
		v4.shutdown()
		if left, _ := v4.departed(); left {
			t.Error("it has left, and nobody knows it")
		}
		w.isolate(v4, false)
	})
}

// TestWholeLeaveTooMany: who leaves does not take the vote away that the others need.
func TestWholeLeaveTooMany(t *testing.T) {
	founded(t, "n1 n2 v3 m4", func(t *testing.T, w *world) {
		w.steady("n1", 1)
		n2, v3 := w.host("n2"), w.host("v3")
		v3.crash()
		w.until(time.Minute, "v3 is away", func() bool {
			m, ok := n2.agent.member("v3")
			return ok && m.Status == member.Failed && n2.agent.quorum.Leader() != ""
		})
		for _, dry := range []bool{true, false} {
			if d, err := n2.order(api.Order{Verb: api.VerbLeave, DryRun: dry}); err == nil || !strings.Contains(err.Error(), "without n2 there are 2 voters, and of these v3 is away") {
				t.Errorf("it says %q, %v", d.Text, err)
			}
		}
		// Who has none may, and the others are told; here by one who is not the arbiter.
		m4 := w.host("m4")
		w.until(time.Minute, "m4 has been heard of", func() bool { _, ok := m4.agent.member("n1"); return ok })
		if d, err := m4.order(api.Order{Verb: api.VerbLeave}); err != nil || !strings.Contains(d.Text, "m4 has left") {
			t.Errorf("without a vote: %q, %v", d.Text, err)
		}
		if _, err := n2.order(api.Order{Verb: api.VerbRemove, To: "n1"}); err == nil || strings.Contains(err.Error(), "/v1/") || !strings.Contains(err.Error(), "n1") {
			t.Errorf("a refusal: %v", err)
		}
		v3.boot()
		w.until(time.Minute, "n2 may leave", func() bool {
			_, err := n2.order(api.Order{Verb: api.VerbLeave, DryRun: true})
			return err == nil
		})
		if n2.agent.trust.leaving.Load() {
			t.Error("it has left, and was only asked whether it may")
		}
	})
	t.Run("alone", func(t *testing.T) {
		whole(t, "n1 n2", func(t *testing.T, w *world) {
			w.hosts[0].adopt(100)
			w.start()
			w.until(2*time.Minute, "n2 is there", func() bool { _, ok := w.host("n1").agent.member("n2"); return ok })
			if d, err := w.host("n1").order(api.Order{Verb: api.VerbLeave}); err == nil || !strings.Contains(err.Error(), "n1 is the only one that votes") {
				t.Errorf("it says %q, %v", d.Text, err)
			}
		})
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
