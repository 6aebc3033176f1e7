//go:build e2e

package e2e

import (
	"testing"
	"time"
)

// blackout: everybody loses power at once; when it is back there is one master
// with the same data, without a person.
func blackout(t *testing.T, c *cluster) {
	n4 := c.nodes[3]
	w := c.startWriter(n4, "b")
	w.waitFor(t, 200, time.Minute)
	w.end()
	cut := time.Now()
	ok(t, c.lab.PowerCut(within(t, 30*time.Second)))
	ok(t, c.lab.Boot(within(t, 2*time.Minute)))
	s := c.waitMaster(2*time.Minute, "", 0)
	w2 := c.startWriter(n4, "c")
	w2.waitFor(t, 50, time.Minute)
	w2.end()
	if missing := c.check(w, n4); len(missing) > 0 {
		t.Errorf("%d acknowledged writes are lost, and the disks are not: %v", len(missing), missing)
	}
	c.check(w2, n4)
	c.waitReady(time.Minute, s.Master.Node, s.Master.Term)
	t.Logf("from the blackout to a master and ready standbys: %.1f s", time.Since(cut).Seconds())
}
