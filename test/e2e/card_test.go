//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/test/hosts"
)

// TestCard: SD cards that are full, and that go read-only at the first error. Whatever
// becomes of the mastership, nobody else may hold it, and what was acknowledged is there.
func TestCard(t *testing.T) {
	c := newCluster(t, options{card: 1500, extra: "max_failovers: 100\n"})
	n4 := c.nodes[3]

	fill := func(t *testing.T, n *node) {
		t.Helper()
		_, _ = n.Script(within(t, time.Minute), "fallocate -l $(df --output=avail -B1 / | tail -1) /fill; dd if=/dev/zero of=/fill2 bs=1k 2>/dev/null; sync")
		out, err := n.Script(within(t, 10*time.Second), "df --output=avail / | tail -1")
		ok(t, err)
		if strings.TrimSpace(out) != "0" {
			t.Fatalf("%s still has %s kB", n.Name, out)
		}
	}
	free := func(t *testing.T, n *node) {
		t.Helper()
		_, err := n.Run(within(t, time.Minute), "rm", "-f", "/fill", "/fill2")
		ok(t, err)
	}

	c.run("the card of an arbiter is full", func(t *testing.T) {
		c.waitSteady(time.Minute)
		w := c.startWriter(n4, "arbiter")
		w.waitFor(t, 30, time.Minute)
		s, err := n4.status(within(t, 10*time.Second))
		ok(t, err)
		a := c.node(s.Quorum.Leader)
		fill(t, a)
		_, err = n4.Run(within(t, 2*time.Minute), "relevo", "step-down", "--why", "test")
		t.Logf("step-down with an arbiter that cannot write: %v", err)
		c.rest(t, 5*time.Second)
		free(t, a)
		c.waitReady(2*time.Minute, "", 0)
		w.waitFor(t, 30, time.Minute)
		w.end()
		if lost := c.check(w, n4); len(lost) > 0 {
			t.Errorf("%d acknowledged writes are lost", len(lost))
		}
	})

	if os.Getenv("NEMESIS") != "" { // takes more than a minute: what a full disk does to the readiness does not end at once
		c.run("the card of a standby is full", func(t *testing.T) {
			c.waitSteady(time.Minute)
			m := c.mustMaster()
			sb := c.nodes[slices.IndexFunc(c.nodes, func(n *node) bool { return n != m })]
			fill(t, sb)
			ok(t, hosts.Until(within(t, 2*time.Minute), sb.Name+" not to be ready", func(ctx context.Context) error {
				s, err := n4.status(ctx)
				if err != nil {
					return err
				}
				for _, st := range s.Standbys {
					if st.Node == sb.Name && !st.Ready {
						t.Logf("%s: %s", sb.Name, st.Why)
						return nil
					}
				}
				return fmt.Errorf("%+v", s.Standbys)
			}))
			free(t, sb)
			c.waitStandby(2*time.Minute, sb.Name)
		})
	}

	// What was acknowledged before the card failed must be there. What kine acknowledges
	// after that it may not have stored: only leaving helps, and how much it was is told.
	// stores: it can, so all of it must be there.
	leaves := func(t *testing.T, stores bool, harm func(m *node), mend func(m *node)) {
		t.Helper()
		c.waitSteady(time.Minute)
		m := c.mustMaster()
		s, err := n4.status(within(t, 10*time.Second))
		ok(t, err)
		before := c.startWriter(n4, "before"+m.Name)
		before.waitFor(t, 100, time.Minute)
		before.end()
		harm(m)
		begin := time.Now()
		during := c.startWriter(n4, "during"+m.Name)
		next := c.waitMasterOf(3*time.Minute, n4, s.Term+1)
		t.Logf("%s is the master %.1f s after the card of %s failed", next, time.Since(begin).Seconds(), m.Name)
		during.end()
		var h api.History
		ok(t, n4.ask(within(t, 10*time.Second), &h, "history"))
		t.Logf("why: %s", h.Changes[0].Reason)
		after := c.startWriter(n4, "after"+m.Name)
		after.waitFor(t, 30, time.Minute)
		after.end()
		for _, w := range []*writer{before, after} {
			if lost := c.check(w, n4); len(lost) > 0 {
				t.Errorf("%d acknowledged writes are lost", len(lost))
			}
		}
		missing := c.missing(during, n4)
		t.Logf("while the card was bad: %d writes acknowledged, %d not stored", during.count(), missing)
		if stores && missing > 0 {
			t.Errorf("%d writes are lost that there was room for", missing)
		}
		mend(m)
		c.waitReady(2*time.Minute, next, s.Term+1)
		c.waitStandby(2*time.Minute, m.Name)
	}

	c.run("the card of the master is nearly full", func(t *testing.T) {
		leaves(t, true, func(m *node) {
			_, err := m.Script(within(t, time.Minute), "fallocate -l $(($(df --output=avail -B1 / | tail -1) - 25000000)) /fill")
			ok(t, err)
		}, func(m *node) { free(t, m) })
	})

	c.run("the card of the master is full", func(t *testing.T) {
		leaves(t, false, func(m *node) { fill(t, m) }, func(m *node) { free(t, m) })
	})

	if os.Getenv("NEMESIS") == "" {
		return
	}
	c.run("the card of the master goes read-only", func(t *testing.T) {
		leaves(t, false, func(m *node) { ok(t, m.CardFails(within(t, 10*time.Second))) }, func(m *node) {
			ok(t, m.PowerCut(within(t, 30*time.Second)))
			ok(t, m.RepairCard(within(t, time.Minute)))
			ok(t, m.Boot(within(t, time.Minute)))
		})
	})
}

// missing counts the acknowledged writes that are not there.
func (c *cluster) missing(w *writer, from *node) int {
	c.t.Helper()
	list, err := c.client(from, 30*time.Second).List(within(c.t, time.Minute), metav1.ListOptions{})
	ok(c.t, err)
	there := map[string]bool{}
	for _, o := range list.Items {
		there[o.GetName()] = true
	}
	n := 0
	for _, a := range w.acked {
		if !there[a.name] {
			n++
		}
	}
	return n
}
