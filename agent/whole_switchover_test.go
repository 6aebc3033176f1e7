package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/replica"
	"relevo.dev/relevo/agent/replica/kine"
)

// testCopy compares the rows of a copy with those of the master, which it asks as the
// follower does.
type testCopy struct {
	h  *testHost
	hc HostConfig
}

func (c *testCopy) Compare(ctx context.Context, _ int) (kine.Comparison, error) {
	p, err := c.Prove(ctx, 0, 0)
	return kine.Comparison{UpTo: p.UpTo, Rows: p.Rows}, err
}

func (c *testCopy) Anew(context.Context, string) error { return errors.New("not in this world") }

func (c *testCopy) Prove(ctx context.Context, after, upTo int64) (replica.Proof, error) {
	there, err := (&testFollower{c.h, c.hc}).get(ctx)
	if err != nil {
		return replica.Proof{}, err
	}
	for c.h.copied() < uint64(upTo) {
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return replica.Proof{}, err
		}
	}
	c.h.mu.Lock()
	here := slices.Clone(c.h.copy.Rows)
	c.h.mu.Unlock()
	both := int64(min(len(here), len(there.Rows)))
	last := int64(here[both-1])
	if !slices.Equal(here[:both], there.Rows[:both]) || upTo > 0 && last != upTo {
		return replica.Proof{}, replica.ErrDiffers
	}
	return replica.Proof{After: after, UpTo: last, Rows: both, Digest: fmt.Sprintf("%012d", both)}, nil
}

// frozenCopy makes the follower stand still, with other rows if there are any.
func (h *testHost) frozenCopy(rows ...uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stale = true
	if rows != nil {
		h.copy.Rows = rows
	}
}

func order(w *world, by string, o api.Order) (api.Done, error) {
	o.By = "ann"
	return w.host(by).agent.Do(w.t.Context(), o)
}

// hasCopy waits until gossip tells how old the copy of a host is.
func (w *world) hasCopy(name string, want api.CopyAge) {
	w.t.Helper()
	w.until(time.Minute, "gossip to say that the copy of "+name+" is "+string(want), func() bool {
		m, err := w.host("v4").agent.Members(w.t.Context())
		return err == nil && slices.ContainsFunc(m.Members, func(m api.Member) bool { return m.Node == name && m.Copy == want })
	})
}

// TestWholeSwitchover: checked before, proven after the stop, and nothing is lost.
func TestWholeSwitchover(t *testing.T) {
	founded(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		n1 := w.host("n1")
		d, err := order(w, "v4", api.Order{Verb: api.VerbSwitchover, To: "n3", DryRun: true})
		if err != nil || d.Plan == nil || !d.Plan.Possible || d.Plan.From != "n1" || d.Plan.To != "n3" || d.Plan.Checked == 0 {
			t.Fatalf("the plan is %+v, %v", d.Plan, err)
		}
		for _, want := range []string{"quorum", "pause", "master", "standby", "data", "version", "health"} {
			if !slices.ContainsFunc(d.Plan.Checks, func(c api.Check) bool { return c.Check == want && c.Result == api.CheckOK }) {
				t.Errorf("no check %q is ok in %+v", want, d.Plan.Checks)
			}
		}
		time.Sleep(time.Minute)
		if w.master() != "n1" || n1.agent.term.Load() != 1 {
			t.Fatal("a dry run moved the mastership")
		}
		last, err := n1.write()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := order(w, "v4", api.Order{Verb: api.VerbSwitchover, To: "n3", Why: "test"}); err != nil {
			t.Fatal(err)
		}
		m := w.follows("n1", 2)
		if m.name != "n3" || !hasRow(m.rows().Rows, last) {
			t.Errorf("%s follows, with %v", m.name, m.rows().Rows)
		}
		h := m.agent.quorum.State().History
		if r := h[len(h)-1].Reason; !strings.Contains(r, "switchover asked for by ann@v4: test") || !strings.Contains(r, "n3 has everything: revision") || h[len(h)-1].Automatic || !h[len(h)-1].Released {
			t.Errorf("the history says %+v", h[len(h)-1])
		}
		w.ready("n3", 2)
		w.hasCopy("n1", api.CopyFresh)
		// Nowhere to go, and the reasons: each is found before anything stops.
		n1.frozenCopy()
		w.hasCopy("n1", api.CopyStale)
		if _, err := w.host("n3").write(); err != nil {
			t.Fatal(err)
		}
		w.host("n2").crash()
		w.until(time.Minute, "there is an arbiter again", func() bool {
			_, err := w.host("n3").agent.askArbiter(w.t.Context())
			return err == nil
		})
		for _, tt := range []struct{ to, want string }{{"n3", "the master already"}, {"n9", "n9 is not there"}, {"v4", "v4: the arbiter does not hear of it"}, {"n2", "n2"}} {
			if _, err := order(w, "v4", api.Order{Verb: api.VerbSwitchover, To: tt.to}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("switchover to %s: %v", tt.to, err)
			}
		}
		n1.frozenCopy(1, 2, 3)
		if _, err := order(w, "v4", api.Order{Verb: api.VerbSwitchover, To: "n1"}); err == nil || !strings.Contains(err.Error(), "differs") {
			t.Errorf("switchover to a copy that differs: %v", err)
		}
		if w.master() != "n3" {
			t.Errorf("after refusals the master is %q", w.master())
		}
	})
}

// TestWholeSwitchoverCaughtUp: what the arbiter was told last of a standby that was late and
// has caught up a moment ago is no reason to refuse.
func TestWholeSwitchoverCaughtUp(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		n1, n3 := w.host("n1"), w.host("n3")
		for i := range 5 {
			w.cut(n1, n3, true)
			time.Sleep(20*time.Second + time.Duration(i)*300*time.Millisecond)
			w.cut(n1, n3, false)
			w.until(time.Minute, "n3 has caught up", func() bool {
				p := n3.agent.host.Follower.Position()
				return p.FreshAt > 0 && n3.agent.clock()-p.FreshAt < time.Second
			})
			d, err := order(w, "n3", api.Order{Verb: api.VerbSwitchover, To: "n3", DryRun: true})
			if err != nil || d.Plan == nil || !d.Plan.Possible {
				t.Errorf("%d: %+v, %v", i, d.Plan, err)
			}
		}
	})
}

// TestWholeSwitchoverFails: the standby is lost when the master has stopped. Nobody else
// has everything, so the old master goes on, with all that it had.
func TestWholeSwitchoverFails(t *testing.T) {
	founded(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		n1, n2, n3 := w.host("n1"), w.host("n2"), w.host("n3")
		n3.frozenCopy() // follows no more, and is not late enough yet to be struck off
		last, err := n1.write()
		if err != nil {
			t.Fatal(err)
		}
		w.until(10*time.Second, "n2 has it", func() bool { return n2.copied() >= last })
		if _, err := order(w, "v4", api.Order{Verb: api.VerbSwitchover, To: "n2"}); err != nil {
			t.Fatal(err)
		}
		n2.crash()
		w.until(2*time.Minute, "n1 is the master again", func() bool {
			return w.master() == "n1" && n1.agent.phase() == lease.Master && n1.agent.term.Load() > 1
		})
		if got := n1.agent.term.Load(); got != 2 {
			t.Errorf("it is the master in term %d", got)
		}
		if !hasRow(n1.rows().Rows, last) {
			t.Errorf("it lost %d: %v", last, n1.rows().Rows)
		}
		h := n1.agent.quorum.State().History
		if r := h[len(h)-1].Reason; !strings.Contains(r, "so n1 goes on") {
			t.Errorf("the history says %q", r)
		}
	})
}

// TestWholeSwitchoverAnother: the same, but a third host has everything.
func TestWholeSwitchoverAnother(t *testing.T) {
	founded(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		n1 := w.host("n1")
		last, err := n1.write()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := order(w, "v4", api.Order{Verb: api.VerbSwitchover, To: "n2"}); err != nil {
			t.Fatal(err)
		}
		w.host("n2").crash()
		m := w.follows("n1", 2)
		if m.name != "n3" || !hasRow(m.rows().Rows, last) {
			t.Errorf("%s follows, with %v", m.name, m.rows().Rows)
		}
	})
}
