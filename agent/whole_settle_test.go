package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"relevo.dev/relevo/agent/takeover"
)

// testCluster is what lies in Kubernetes: one for all hosts.
type testCluster struct {
	mu     sync.Mutex
	lost   map[string]bool // marked; true: out of service
	leases []string        // whose leases were cleared
	fails  int             // so many calls do not work
}

func (c *testCluster) call() error {
	if c.fails > 0 {
		c.fails--
		return errors.New("the API does not answer")
	}
	return nil
}

func (c *testCluster) ClearLeases(_ context.Context, s takeover.Succession) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leases = append(c.leases, s.Holders...)
	return "", c.call()
}

func (c *testCluster) MarkLost(_ context.Context, s takeover.Succession) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.Previous != "" && !s.Planned {
		c.lost[s.Previous] = s.Fenced
	}
	return "", c.call()
}

func (c *testCluster) Lost(context.Context) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.lost)), c.call()
}

func (c *testCluster) Returned(_ context.Context, host string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.call(); err != nil {
		return err
	}
	delete(c.lost, host)
	return nil
}

func (c *testCluster) marked() map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.lost)
}

// TestWholeLostNode: a master that was lost is marked, without proof not as off, until it
// is back as a standby; one that gave its term back is not.
func TestWholeLostNode(t *testing.T) {
	founded(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		w.host("n1").crash()
		m := w.follows("n1", 2)
		w.until(time.Minute, "n1 is marked", func() bool { _, ok := w.tidy.marked()["n1"]; return ok })
		if w.tidy.marked()["n1"] {
			t.Error("n1 is said to be off, and nobody has seen that")
		}
		w.tidy.mu.Lock()
		w.tidy.fails = 3
		if !slices.Contains(w.tidy.leases, "n1") {
			t.Error("its leases were not cleared")
		}
		w.tidy.mu.Unlock()
		w.host("n1").boot()
		w.until(2*time.Minute, "the mark of n1 is gone", func() bool { return len(w.tidy.marked()) == 0 })
		w.ready(m.name, 2)
		m.shutdown()
		w.follows(m.name, 3)
		time.Sleep(time.Minute)
		if got := w.tidy.marked(); len(got) > 0 {
			t.Errorf("after a planned change %v are marked", got)
		}
	})
}

// TestWholeFencedNode: with the word of a fence device the node is out of service, and the
// history keeps that.
func TestWholeFencedNode(t *testing.T) {
	device := func(w *world, _ context.Context, o fenceOrder) error { w.host(o.Node).unplug(); return nil }
	fenced(t, device, func(t *testing.T, w *world) {
		w.isolate(w.host("n1"), true)
		m := w.follows("n1", 2)
		w.until(time.Minute, "n1 is marked as off", func() bool { return w.tidy.marked()["n1"] })
		h := m.agent.quorum.State().History
		if c := h[len(h)-1]; !c.Fenced || c.Released {
			t.Errorf("the history says %+v", c)
		}
	})
}
