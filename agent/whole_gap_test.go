package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/lease"
)

// TestWholeGap: two seconds without a network, as DHCP makes them, on the host of the master or
// of the arbiter, after which the connections of before are dead or not: the control plane
// goes on.
func TestWholeGap(t *testing.T) {
	for _, of := range []string{"master", "arbiter"} {
		for _, dead := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s-%v", of, dead), func(t *testing.T) {
				founded(t, "n1 n2 n3 n4", func(t *testing.T, w *world) {
					n1 := w.host("n1")
					least := time.Hour
					look := func(d time.Duration) {
						for end := w.now() + d; w.now() < end; time.Sleep(20 * time.Millisecond) {
							least = min(least, n1.leased()-w.now())
						}
					}
					for i := range 12 {
						w.steady("n1", 1)
						// An arbiter that is new has heard the lease a moment later; and to meet all that
						// beats at another moment.
						time.Sleep(5*time.Second + time.Duration(i)*137*time.Millisecond)
						h := n1
						if of == "arbiter" {
							h = w.host(n1.agent.quorum.Leader())
						}
						w.isolate(h, true)
						look(2 * time.Second)
						if dead {
							w.net.Drop(h.ip)
						}
						w.isolate(h, false)
						look(6 * time.Second)
						if n1.agent.phase() != lease.Master || w.ended() > 0 {
							t.Fatalf("in gap %d of %s: n1 is %s, and its control plane was stopped %d times; %v of its lease were left", i, h.name, n1.agent.phase(), w.ended(), least)
						}
					}
					t.Logf("%v of the lease were always left", least)
				})
			})
		}
	}
}

// ended is how often a control plane ended.
func (w *world) ended() (n int) {
	for _, l := range w.story() {
		if strings.HasSuffix(l, "does not run it any more") {
			n++
		}
	}
	return n
}
