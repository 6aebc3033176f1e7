package quorum

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// verify asks raft's own VerifyLeader.
func verify(n *node) chan error {
	done := make(chan error, 1)
	f := n.raft.VerifyLeader()
	go func() { done <- f.Error() }()
	return done
}

// deposed is a cluster of three voters (and maybe a non-voter n4) in which n1 is
// a leader that has been replaced without knowing it: it stood still, or its
// network did, while the answers of n2 and n3 to its last heartbeats lay in the
// socket buffers. That of n2 was read late (so n1 still believes that it hears a
// majority); that of n3 waits.
func deposed(t *testing.T, nonvoters int) (c *cluster, old, next *node, n3 *hold) {
	t.Helper()
	c = newCluster(t)
	// raft's defaults for the limit of a call (10 s), and a leader lease as long
	// as the election timeout, which raft allows.
	c.times.rpc = 10 * time.Second
	c.times.lease = c.times.detect
	c.times.heartbeat = c.times.detect / 9
	old = c.form(3, nonvoters)
	time.Sleep(10 * time.Second)

	two, three := c.net.holdBack("n1", "n2"), c.net.holdBack("n1", "n3")
	<-two.caught
	<-three.caught
	// Nothing new gets through to or from n1, only what is under way already.
	c.net.mu.Lock()
	for _, a := range []string{"n2", "n3"} {
		c.net.cuts[[2]string{a, "n1"}] = true
		c.net.cuts[[2]string{a, "n4"}] = true
	}
	c.net.mu.Unlock()
	time.Sleep(c.times.detect * 6 / 10) // well inside the lease of n1, which began up to two beats ago
	close(two.release)
	next = c.arbiter("n2", "n3")
	if old.RaftTerm() >= next.RaftTerm() || !old.IsLeader() {
		t.Fatalf("the scene failed: n1 leads %v in raft term %d, %s in %d", old.IsLeader(), old.RaftTerm(), next.cfg.Node, next.RaftTerm())
	}
	return c, old, next, three
}

// raft.VerifyLeader counts an answer to a heartbeat that was sent before the
// question; Confirm does not.
func TestConfirmIgnoresOldAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, old, _, held := deposed(t, 0)
		defer c.stopAll()
		verified := verify(old)
		synctest.Wait() // the question is registered
		close(held.release)
		if err := <-verified; err != nil {
			t.Errorf("VerifyLeader does not have the flaw any more (%v): Confirm may be given up", err)
		}
		if err := old.Confirm(t.Context(), c.ask("n1")); err == nil {
			t.Error("Confirm confirmed a leader that was replaced")
		}
		// Even if the question reaches the others: they are in a later term.
		ask := func(_ context.Context, to string) (uint64, error) { return c.nodes[to].RaftTerm(), nil }
		if err := old.Confirm(t.Context(), ask); err == nil {
			t.Error("Confirm confirmed a leader that was replaced, against the others' word")
		}
	})
}

// raft.VerifyLeader counts non-voters towards the majority of voters; Confirm
// does not even ask them.
func TestConfirmIgnoresNonvoters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, old, _, held := deposed(t, 1)
		defer c.stopAll()
		defer close(held.release)
		if err := <-verify(old); err != nil {
			t.Errorf("VerifyLeader does not have the flaw any more (%v): Confirm may be given up", err)
		}
		asked := func(ctx context.Context, to string) (uint64, error) {
			if to == "n4" {
				t.Error("a non-voter was asked")
			}
			return c.ask("n1")(ctx, to)
		}
		if err := old.Confirm(t.Context(), asked); err == nil {
			t.Error("Confirm confirmed a leader that was replaced")
		}
	})
}

func TestConfirm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n1 := c.form(3, 1)
		defer c.stopAll()
		term := n1.RaftTerm()
		silent := func(ctx context.Context) (uint64, error) { <-ctx.Done(); return 0, ctx.Err() }
		gone := errors.New("switched off")
		for name, tc := range map[string]struct {
			two, three func(context.Context) (uint64, error)
			ok         bool
		}{
			"both":              {two: says(term), three: says(term), ok: true},
			"one is silent":     {two: silent, three: says(term), ok: true},
			"one is off":        {two: says(term), three: fails(gone), ok: true},
			"both off":          {two: fails(gone), three: fails(gone)},
			"both silent":       {two: silent, three: silent},
			"one ahead, one ok": {two: says(term), three: says(term + 1), ok: true},
			"one ahead":         {two: silent, three: says(term + 1)},
			"one behind":        {two: silent, three: says(term - 1)},
			"both behind":       {two: says(term - 1), three: says(0)},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			start := time.Now()
			err := n1.Confirm(ctx, func(ctx context.Context, to string) (uint64, error) {
				switch to {
				case "n2":
					return tc.two(ctx)
				case "n3":
					return tc.three(ctx)
				}
				t.Errorf("%s was asked", to)
				return 0, nil
			})
			if (err == nil) != tc.ok {
				t.Errorf("%s: %v, want ok %v", name, err, tc.ok)
			}
			if took := time.Since(start); tc.ok && took > 0 {
				t.Errorf("%s: waited %v though the majority was there", name, took)
			}
			cancel()
		}
		if err := c.nodes["n2"].Confirm(t.Context(), c.ask("n2")); !errors.Is(err, ErrNotLeader) {
			t.Errorf("Confirm on a follower: %v", err)
		}
		// A leader that loses the duty while it asks is not confirmed.
		err := n1.Confirm(t.Context(), func(ctx context.Context, to string) (uint64, error) {
			if to == "n2" {
				if err := n1.TransferTo(ctx, "n2"); err != nil {
					t.Error(err)
				}
				return term, nil
			}
			<-ctx.Done()
			return 0, ctx.Err()
		})
		if !errors.Is(err, ErrNotLeader) {
			t.Errorf("lost the duty meanwhile: %v", err)
		}
	})
}

func says(term uint64) func(context.Context) (uint64, error) {
	return func(context.Context) (uint64, error) { return term, nil }
}

func fails(err error) func(context.Context) (uint64, error) {
	return func(context.Context) (uint64, error) { return 0, err }
}

func TestConfirmAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n1 := c.form(1, 1)
		defer c.stopAll()
		never := func(context.Context, string) (uint64, error) { t.Error("asked somebody"); return 0, nil }
		if err := n1.Confirm(t.Context(), never); err != nil {
			t.Error(err)
		}
	})
}
