package quorum

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestElectionTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hold = time.Second
		a, b := newElection("a", hold), newElection("b", hold)
		// Both ask each other at the same moment: a goes on, b is turned down.
		if a.turn("b") != 0 || b.turn("a") != 0 {
			t.Error("somebody has to wait although nobody asked")
		}
		if a.pass("b") {
			t.Error("b's question passed while a's was under way")
		}
		if !b.pass("a") {
			t.Error("a's question was turned down")
		}
		if b.answered("a", true) {
			t.Error("b may go on although it let a pass")
		}
		if !a.answered("b", true) {
			t.Error("a may not go on")
		}
		// b holds back until a had its chance.
		if wait := b.turn("a"); wait != hold {
			t.Errorf("b waits %v, want %v", wait, hold)
		}
		time.Sleep(hold)
		if wait := b.turn("a"); wait != 0 {
			t.Errorf("b waits another %v", wait)
		}
		// a's question is no longer under way.
		if !a.pass("b") {
			t.Error("b's later question was turned down")
		}
		time.Sleep(hold)
		// Who was refused lets the other pass at once.
		a.turn("b")
		a.answered("b", false)
		if !a.pass("b") {
			t.Error("a was refused, and turns b down")
		}
	})
}

// With slow messages, elections stay inside a third of the TTL: no split votes,
// and nobody misses the other by a moment.
func TestElectionsAreQuick(t *testing.T) {
	for _, voters := range []int{3, 5} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t)
			c.net.delay = func() time.Duration { return 5*time.Millisecond + rand.N(75*time.Millisecond) }
			c.form(voters, 0)
			defer c.stopAll()
			took := elections(c, 60)
			// In simulated time this does not depend on the load of the machine;
			// it does on chance: the aim is for the 95th percentile.
			if p95 := took[len(took)*95/100]; p95 > DefaultTTL/3 {
				t.Errorf("%d voters: %v at the 95th percentile, want at most %v (%v)", voters, p95, DefaultTTL/3, took)
			}
		})
	}
}

// elections cuts the arbiter off n times, and returns how long it took until
// another was ready, sorted.
func elections(c *cluster, n int) (took []time.Duration) {
	for range n {
		time.Sleep(20*time.Second + rand.N(5*time.Second))
		old := c.arbiter().cfg.Node
		rest := c.names(old)
		c.net.cut(true, []string{old}, rest)
		took = append(took, c.await("another arbiter", func() bool {
			return slices.ContainsFunc(rest, func(name string) bool { return c.nodes[name].IsLeader() })
		}))
		c.net.cut(false, []string{old}, rest)
	}
	slices.Sort(took)
	return took
}
