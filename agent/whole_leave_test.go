package agent

import (
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/peer"
)

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
