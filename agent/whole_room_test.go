package agent

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
)

// Left is of a file system of 1 GiB.
func (d *testData) Left(context.Context) (free, total uint64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return 1<<30 - d.filled, 1 << 30, nil
}

func (h *testHost) fill(left uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.filled = 1<<30 - left
}

// TestWholeScarce: a master whose datastore has hardly any room left goes while it can
// still store what it acknowledges, within seconds.
func TestWholeScarce(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		n1 := w.host("n1")
		n1.fill(40 << 20)
		time.Sleep(time.Minute)
		w.ready("n1", 1)
		rev, err := n1.write()
		if err != nil {
			t.Fatal(err)
		}
		n1.fill(20 << 20)
		begin := time.Now()
		w.until(15*time.Second, "n1 to leave", func() bool { return w.master() != "n1" })
		t.Logf("left after %v", time.Since(begin))
		m := w.follows("n1", 2)
		if !hasRow(m.own.Rows, rev) {
			t.Error("what n1 acknowledged is lost")
		}
		h := m.agent.quorum.State().History
		if r := h[len(h)-1].Reason; !strings.Contains(r, "says of itself: the file system of its datastore has 20 MB left of 1073 MB") && !strings.Contains(r, "for 1s it has said") {
			t.Errorf("the reason is %q", r)
		}
	})
}

// TestWholeScarceAlone: nobody can follow, so it stays, and says so; it is over when there is
// twice the room.
func TestWholeScarceAlone(t *testing.T) {
	founded(t, "n1 n2 v3", func(t *testing.T, w *world) {
		n1 := w.host("n1")
		w.host("n2").crash()
		w.until(time.Minute, "nobody to follow", func() bool {
			s, err := n1.agent.Status(t.Context())
			return err == nil && !s.Failover.Possible
		})
		told := func() bool {
			s, err := n1.agent.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return slices.ContainsFunc(s.Problems, func(p api.Problem) bool { return strings.Contains(p.Why, "does not store") })
		}
		n1.fill(1 << 20)
		w.until(30*time.Second, "the status tells", told)
		time.Sleep(2 * time.Minute)
		if m := w.master(); m != "n1" {
			t.Fatalf("the master is %q", m)
		}
		n1.fill(30 << 20)
		time.Sleep(30 * time.Second)
		if !told() {
			t.Error("it is over at 30 MiB")
		}
		n1.fill(60 << 20)
		w.until(30*time.Second, "it is over", func() bool { return !told() })
	})
}
