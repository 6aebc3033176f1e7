package agent

import (
	"errors"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/lease"
)

// TestWholeFailedPromotion: a standby whose control plane does not start gives the term
// back and says why, the next one takes it, and the first does not get it again at once.
func TestWholeFailedPromotion(t *testing.T) {
	founded(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		n1, n2, n3 := w.host("n1"), w.host("n2"), w.host("n3")
		for _, h := range []*testHost{n2, n3} {
			h.mu.Lock()
			h.startErr = errors.New("kine.service: exec format error")
			h.mu.Unlock()
		}
		n1.crash()
		// Each of the two fails once, and then rests: no circle.
		w.until(3*time.Minute, "both have failed", func() bool {
			return n2.agent.failures.notReady(w.now()) != "" && n3.agent.failures.notReady(w.now()) != ""
		})
		for _, h := range []*testHost{n2, n3} {
			if why := h.agent.failures.notReady(w.now()); !strings.Contains(why, "exec format error") {
				t.Errorf("%s says %q", h.name, why)
			}
		}
		begin, term := time.Now(), n3.agent.term.Load()
		time.Sleep(5 * time.Minute)
		if got := n3.agent.term.Load() - term; got > 14 {
			t.Errorf("%d promotions failed within %v", got, time.Since(begin))
		}
		n3.mu.Lock()
		n3.startErr = nil
		n3.mu.Unlock()
		w.until(15*time.Minute, "n3 is the master", func() bool { return w.master() == "n3" && n3.agent.phase() == lease.Master })
		found := false
		for _, c := range n3.agent.quorum.State().History {
			for _, n := range c.Notes {
				found = found || strings.Contains(n, c.Holder+": promotion for term") && strings.Contains(n, "exec format error")
			}
		}
		if !found {
			t.Errorf("the history does not say why: %+v", n3.agent.quorum.State().History)
		}
		if why := n3.agent.failures.notReady(w.now()); why != "" {
			t.Errorf("after a promotion that worked: %s", why)
		}
	})
}

func TestRestFor(t *testing.T) {
	for row, want := range map[int]time.Duration{1: 30 * time.Second, 2: time.Minute, 5: 8 * time.Minute, 6: 10 * time.Minute, 1000: 10 * time.Minute} {
		if got := restFor(row); got != want {
			t.Errorf("after %d failures: %v", row, got)
		}
	}
}
