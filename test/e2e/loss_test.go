//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/test/hosts"
)

// rounds of TestLoss: NEMESIS=N makes N of each.
func rounds() int {
	if n, err := strconv.Atoi(os.Getenv("NEMESIS")); err == nil && n > 0 {
		return n
	}
	return 5
}

// clients of a round: eight that write to kine, 400 times a second, and one that writes
// to the API server, which says when that works again.
type clients struct {
	kine *kineWriters
	api  writers
}

func (c *cluster) startClients(from *node, prefix string) *clients {
	return &clients{c.startKineWriters(from, prefix), writers{c.startCreating(prefix+"-a", kinePace, c.creator(hosts.VIP, from))}}
}

func (cl *clients) all() writers { return append(slices.Clone(cl.kine.writers), cl.api...) }

// follow waits until kine takes writes again, on another host, and ends the clients that
// write there: the API server starts sooner without them.
func (cl *clients) follow(t *testing.T) {
	t.Helper()
	cl.kine.writers[0].waitFor(t, 50, time.Minute)
	cl.kine.end()
}

// check ends them and returns what they miss.
func (cl *clients) check(c *cluster, from *node) []write {
	c.t.Helper()
	cl.all().end() // all of them, before anybody looks
	return append(cl.kine.check(c), cl.api.check(c, from)...)
}

// TestLoss: under at least 200 writes a second (a) kine and the API server die and do not
// come back, with the agent alive: it drains the log and hands over, and nothing is lost;
// (b) the power of the host is cut: what is lost is what was in flight, no more than the
// lag that the standby told, and `relevo diff-lost` on the old master, when it is back,
// lists exactly that.
func TestLoss(t *testing.T) {
	c := newCluster(t, options{ttl: 4 * time.Second, grace: 2 * time.Second, sync: "1s", kine: true, extra: "max_failovers: 100\n"})
	n4 := c.nodes[3]
	inf := c.startInformer(n4)
	for i := range rounds() {
		c.run(fmt.Sprintf("%02d the control plane is killed", i), func(t *testing.T) {
			begin, term, m, cl := c.startRound(t, fmt.Sprintf("kill%d", i))
			_, err := m.Script(within(t, 20*time.Second), "mv /usr/local/bin/kine /root/; systemctl kill --signal=KILL "+strings.Join(hosts.Units, " "))
			ok(t, err)
			cl.follow(t)
			next := c.waitMasterOf(time.Minute, n4, term+1)
			cl.api[0].waitFor(t, 10, time.Minute)
			if missing := cl.check(c, n4); len(missing) > 0 {
				t.Errorf("the agent of %s was alive, and %d acknowledged writes are lost: %v", m.Name, len(missing), missing)
			}
			if i == 0 {
				c.sameAsList(inf, n4) // once: client-go may wait for half a minute
			}
			_, err = m.Script(within(t, 20*time.Second), "mv /root/kine /usr/local/bin/")
			ok(t, err)
			c.endRound(t, m, next, term+1, begin)
		})
		c.run(fmt.Sprintf("%02d power cut", i), func(t *testing.T) {
			prefix := fmt.Sprintf("cut%d", i)
			begin, term, m, cl := c.startRound(t, prefix)
			if i%2 == 0 {
				// For a while the standbys get nothing, so that something is lost surely.
				for _, n := range c.nodes[:3] {
					if n != m {
						ok(t, c.lab.Cut(within(t, 10*time.Second), m.Host, n.Host))
					}
				}
				c.rest(t, 1500*time.Millisecond)
			}
			cut := c.powerOff(m)
			told := c.freshAt(m)
			ok(t, c.lab.Heal(within(t, 10*time.Second)))
			cl.follow(t)
			next := c.waitMasterOf(time.Minute, n4, term+1)
			cl.api[0].waitFor(t, 10, time.Minute)
			missing := cl.check(c, n4)
			oldest := cut
			for _, w := range missing {
				if w.at.Before(oldest) {
					oldest = w.at
				}
			}
			t.Logf("%d acknowledged writes lost, the oldest %.1f ms before the cut; %s had everything %.1f ms before it, it says",
				len(missing), ms(cut.Sub(oldest)), next, ms(cut.Sub(told[next])))
			if oldest.Before(told[next].Add(-onTheWay)) {
				t.Errorf("that is more than the lag that %s told", next)
			}
			ok(t, m.Boot(within(t, time.Minute)))
			c.endRound(t, m, next, term+1, begin)
			diffLost(t, c, m, term+1, prefix+"-", cl.all(), missing)
			if i == rounds()-1 {
				c.sameAsList(inf, n4)
			}
		})
	}
}

// onTheWay is how much later a standby may get to know that it has everything than that
// was so: the master reads, sends, and the standby, on a busy machine, has other things
// to do.
const onTheWay = 500 * time.Millisecond

// startRound waits for order, starts the clients, and until they wrote for a moment.
func (c *cluster) startRound(t *testing.T, prefix string) (begin time.Time, term uint64, master *node, cl *clients) {
	t.Helper()
	begin = time.Now()
	c.waitSteady(2 * time.Minute)
	s, err := c.nodes[3].status(within(t, 10*time.Second))
	ok(t, err)
	t.Logf("in order after %.1f s", time.Since(begin).Seconds())
	cl = c.startClients(c.nodes[3], prefix)
	wrote := time.Now()
	cl.api[0].waitFor(t, 20, time.Minute)
	cl.kine.writers[0].waitFor(t, 50, time.Minute)
	t.Logf("%.0f writes/s", float64(cl.all().count())/time.Since(wrote).Seconds())
	return begin, s.Term, c.node(s.Master.Node), cl
}

// endRound waits until the old master is a ready standby of the new one.
func (c *cluster) endRound(t *testing.T, old *node, master string, term uint64, begin time.Time) {
	t.Helper()
	back := time.Now()
	c.waitReady(2*time.Minute, master, term)
	c.standbyReady(old.Name)
	c.acknowledge(t)
	t.Logf("the round took %.1f s, %.1f s of them until %s was a standby", time.Since(begin).Seconds(), time.Since(back).Seconds(), old.Name)
}

// freshAt is when each standby of m had everything, as it says itself.
func (c *cluster) freshAt(m *node) map[string]time.Time {
	c.t.Helper()
	out := map[string]time.Time{}
	for _, n := range c.nodes[:3] {
		if n == m {
			continue
		}
		s, err := n.status(within(c.t, 20*time.Second))
		ok(c.t, err)
		if i := slices.IndexFunc(s.Standbys, func(b api.Standby) bool { return b.Node == n.Name }); i >= 0 {
			out[n.Name] = s.Standbys[i].FreshAt
		}
	}
	return out
}

// diffLost compares what clients miss with what the old master lists.
func diffLost(t *testing.T, c *cluster, old *node, term uint64, prefix string, ws writers, missing []write) {
	t.Helper()
	var answer struct {
		Reports []struct {
			Objects []struct {
				Resource string `json:"resource"`
				Name     string `json:"name"`
				Op       string `json:"op"`
				Now      string `json:"now"`
			} `json:"objects"`
			More int `json:"writes_not_listed"`
		} `json:"reports"`
	}
	// What the copy knows of the promotion waits in memory for a while, as its rows do.
	ok(t, hosts.Until(within(t, 90*time.Second), "diff-lost to know the term", func(ctx context.Context) error {
		return old.ask(ctx, &answer, "diff-lost", fmt.Sprint(term))
	}))
	listed := map[string]bool{}
	for _, r := range answer.Reports {
		if r.More > 0 {
			t.Errorf("%d more are not listed", r.More)
		}
		for _, o := range r.Objects {
			if (o.Resource == "configmaps" || o.Resource == thingsResource) && strings.HasPrefix(o.Name, prefix) {
				listed[o.Name] = true
				if o.Now != "absent" {
					t.Errorf("%s is listed as lost, and is %s", o.Name, o.Now)
				}
			}
		}
	}
	for _, w := range missing {
		if !listed[w.name] {
			t.Errorf("%s was acknowledged and is lost, and diff-lost does not list it", w.name)
		}
	}
	acked := map[string]bool{}
	for _, w := range ws {
		for _, a := range w.acked {
			acked[a.name] = true
		}
	}
	for _, w := range missing {
		delete(acked, w.name)
	}
	for name := range listed {
		if acked[name] {
			t.Errorf("diff-lost lists %s, which is there", name)
		}
	}
	t.Logf("diff-lost on %s lists %d: the %d that were acknowledged, and %d whose answer was still on its way", old.Name, len(listed), len(missing), len(listed)-len(missing))
}
