//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/test/hosts"
)

// nemesis is one fault as a value: it does harm and mends it. The audits come after.
type nemesis struct {
	name string
	do   func(t *testing.T, c *cluster, r *rand.Rand)
}

// apart says whether the fault can cut the master off together with its client: then it
// takes writes that nobody else will see, as long as its lease lasts.
func (n nemesis) apart() bool { return n.name == "halves" }

// nemeses are all that there are. The first few, which no other test has, run in
// `make test`; `make nemesis` runs N of them in a random order from a seed.
const shortList = 3

var nemeses = []nemesis{
	{"the API server hangs", func(t *testing.T, c *cluster, _ *rand.Rand) {
		m := c.mustMaster()
		_, err := m.Run(within(t, 10*time.Second), "systemctl", "kill", "--signal=STOP", "kube-apiserver.service")
		ok(t, err)
		s, err := c.nodes[3].status(within(t, 10*time.Second))
		ok(t, err)
		c.waitMasterOf(3*time.Minute, c.nodes[3], s.Term+1) // after the grace another takes it
	}},
	{"one way: others do not hear the master", func(t *testing.T, c *cluster, r *rand.Rand) {
		m := c.mustMaster()
		for _, n := range c.nodes {
			if n != m {
				ok(t, c.lab.Cut(within(t, 10*time.Second), m.Host, n.Host))
			}
		}
		c.rest(t, 20*time.Second)
	}},
	{"somebody else has the virtual IP", func(t *testing.T, c *cluster, _ *rand.Rand) {
		n4 := c.nodes[3]
		_, err := n4.Run(within(t, 10*time.Second), "ip", "address", "add", hosts.VIP+"/32", "dev", "eth0")
		ok(t, err)
		_, err = n4.Run(within(t, 2*time.Minute), "relevo", "step-down", "--why", "nemesis")
		ok(t, err)
		_, err = n4.Run(within(t, 10*time.Second), "ip", "address", "del", hosts.VIP+"/32", "dev", "eth0")
		ok(t, err)
	}},
	{"a bridge: n1 and n2 do not hear each other", func(t *testing.T, c *cluster, r *rand.Rand) {
		ok(t, c.lab.Partition(within(t, 10*time.Second), c.raw(c.nodes[0]), c.raw(c.nodes[1])))
		c.rest(t, 20*time.Second)
	}},
	{"a fifth of all packets is lost", func(t *testing.T, c *cluster, _ *rand.Rand) {
		for _, a := range c.nodes {
			for _, b := range c.nodes {
				if a != b {
					ok(t, c.lab.Loss(within(t, 10*time.Second), a.Host, b.Host, 20))
				}
			}
		}
		c.rest(t, 25*time.Second)
	}},
	{"the master's link flaps", func(t *testing.T, c *cluster, _ *rand.Rand) {
		m := c.mustMaster()
		for range 3 {
			ok(t, m.LinkDown(within(t, 10*time.Second)))
			c.rest(t, 5*time.Second)
			ok(t, m.LinkUp(within(t, 10*time.Second)))
			c.rest(t, 5*time.Second)
		}
	}},
	{"power cut of the master", func(t *testing.T, c *cluster, r *rand.Rand) { c.powerCut(t, c.mustMaster(), r) }},
	{"a flood of connections, and a power cut of the master", func(t *testing.T, c *cluster, _ *rand.Rand) { c.floodedFailover(t) }},
	{"power cut of any host", func(t *testing.T, c *cluster, r *rand.Rand) { c.powerCut(t, c.any(r), r) }},
	{"blackout", func(t *testing.T, c *cluster, _ *rand.Rand) {
		ok(t, c.lab.PowerCut(within(t, 30*time.Second)))
		ok(t, c.lab.Boot(within(t, 2*time.Minute)))
	}},
	{"kill of an agent", func(t *testing.T, c *cluster, r *rand.Rand) { c.signal(t, c.any(r), "relevo.service", "KILL") }},
	{"SIGSTOP of an agent", func(t *testing.T, c *cluster, r *rand.Rand) { c.signal(t, c.any(r), "relevo.service", "STOP") }},
	{"kill of kine", func(t *testing.T, c *cluster, r *rand.Rand) { c.signal(t, c.mustMaster(), "kine.service", "KILL") }},
	{"kill of the API server", func(t *testing.T, c *cluster, r *rand.Rand) {
		c.signal(t, c.mustMaster(), "kube-apiserver.service", "KILL")
	}},
	{"the master freezes for a moment", func(t *testing.T, c *cluster, r *rand.Rand) {
		m := c.mustMaster()
		ok(t, m.Freeze(within(t, 10*time.Second)))
		c.rest(t, time.Duration(500+r.IntN(1500))*time.Millisecond)
		ok(t, m.Thaw(within(t, 10*time.Second)))
	}},
	{"majority and minority", func(t *testing.T, c *cluster, r *rand.Rand) {
		p := r.Perm(4)
		ok(t, c.lab.Partition(within(t, 10*time.Second), c.raw(c.nodes[p[0]]), c.raw(c.nodes[p[1]], c.nodes[p[2]], c.nodes[p[3]])))
		c.rest(t, time.Duration(5+r.IntN(20))*time.Second)
	}},
	{"halves", func(t *testing.T, c *cluster, r *rand.Rand) {
		p := r.Perm(4)
		ok(t, c.lab.Partition(within(t, 10*time.Second), c.raw(c.nodes[p[0]], c.nodes[p[1]]), c.raw(c.nodes[p[2]], c.nodes[p[3]])))
		c.rest(t, time.Duration(5+r.IntN(20))*time.Second)
	}},
	{"the master's cable, with a client on the master", func(t *testing.T, c *cluster, _ *rand.Rand) { c.aloneWithClient(t) }},
	{"a ring", func(t *testing.T, c *cluster, _ *rand.Rand) {
		for _, p := range [][2]int{{0, 2}, {2, 0}, {1, 3}, {3, 1}} {
			ok(t, c.lab.Cut(within(t, 10*time.Second), c.nodes[p[0]].Host, c.nodes[p[1]].Host))
		}
		c.rest(t, 20*time.Second)
	}},
	{"step-down", func(t *testing.T, c *cluster, _ *rand.Rand) {
		_, err := c.nodes[3].Run(within(t, 2*time.Minute), "relevo", "step-down", "--why", "nemesis")
		ok(t, err)
	}},
	{"an upgrade of all agents in the middle of a failover", func(t *testing.T, c *cluster, r *rand.Rand) {
		m := c.mustMaster()
		s, err := c.nodes[3].status(within(t, 10*time.Second))
		ok(t, err)
		ok(t, m.PowerCut(within(t, 30*time.Second)))
		ok(t, hosts.Until(within(t, time.Minute), "a promotion", func(ctx context.Context) error {
			now, err := c.nodes[3].status(ctx)
			if err == nil && now.Term == s.Term {
				err = errors.New("not yet")
			}
			return err
		}))
		g, ctx := errgroup.WithContext(within(t, 2*time.Minute))
		for _, n := range c.nodes {
			if n != m {
				g.Go(func() error { _, err := n.Run(ctx, "dpkg", "-i", "/root/relevo.deb"); return err })
			}
		}
		ok(t, g.Wait())
		ok(t, m.Boot(within(t, time.Minute)))
	}},
	{"the agent's loop hangs", func(t *testing.T, c *cluster, r *rand.Rand) { c.hang(t, c.mustMaster()) }},
	{"power cut of the master, and no packet sockets to be had", func(t *testing.T, c *cluster, _ *rand.Rand) { c.muteFailover(t) }},
	{"systemctl restart of an agent", func(t *testing.T, c *cluster, r *rand.Rand) {
		_, err := c.any(r).Run(within(t, time.Minute), "systemctl", "restart", "relevo.service")
		ok(t, err)
	}},
}

// hang makes the agent's loop hang where it notes the lease: that file is a pipe, and
// nobody reads. The watchdog finds it, and the next agent is well.
func (c *cluster) hang(t *testing.T, n *node) {
	before := c.restarts(n)
	_, err := n.Script(within(t, 10*time.Second), "until mkfifo /run/relevo/lease.new 2>/dev/null; do :; done")
	ok(t, err)
	ok(t, hosts.Until(within(t, 30*time.Second), "the watchdog to end the agent", func(context.Context) error {
		if c.restarts(n) == before {
			return errors.New("it has not")
		}
		return nil
	}))
	_, err = n.Script(within(t, 10*time.Second), "rm -f /run/relevo/lease.new")
	ok(t, err)
}

// rest lets a fault last. It is the fault's length, not a wait for something.
func (c *cluster) rest(t *testing.T, d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func (c *cluster) any(r *rand.Rand) *node { return c.nodes[r.IntN(len(c.nodes))] }

func (c *cluster) mustMaster() *node {
	c.t.Helper()
	s := c.waitMaster(2*time.Minute, "", 0)
	return c.node(s.Master.Node)
}

func (c *cluster) powerCut(t *testing.T, n *node, r *rand.Rand) {
	ok(t, n.PowerCut(within(t, 30*time.Second)))
	c.rest(t, time.Duration(r.IntN(15))*time.Second)
	ok(t, n.Boot(within(t, time.Minute)))
}

func (c *cluster) signal(t *testing.T, n *node, unit, signal string) {
	_, err := n.Run(within(t, 10*time.Second), "systemctl", "kill", "--kill-whom=main", "--signal="+signal, unit)
	ok(t, err)
	c.rest(t, 3*time.Second)
}

// someFaults: NEMESIS=N and SEED=S choose, FAULT= only those with that in their name;
// without them the short list.
func someFaults(t *testing.T) {
	seed := uint64(time.Now().Unix())
	if s, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = s
	}
	r := rand.New(rand.NewPCG(seed, 0))
	var list []nemesis
	if n, err := strconv.Atoi(os.Getenv("NEMESIS")); err == nil {
		from := slices.DeleteFunc(slices.Clone(nemeses), func(f nemesis) bool { return !strings.Contains(f.name, os.Getenv("FAULT")) })
		if len(from) == 0 {
			t.Fatalf("FAULT=%q is in the name of no fault", os.Getenv("FAULT"))
		}
		for range n {
			list = append(list, from[r.IntN(len(from))])
		}
		t.Logf("%d faults, SEED=%d", n, seed)
	} else {
		list = nemeses[:shortList]
	}
	var c *cluster
	if os.Getenv("NEMESIS") == "" {
		c = standing(t, common)
	} else {
		c = newCluster(t, options{extra: "max_failovers: 100\n"})
	}
	c.waitSteady(time.Minute)
	start := c.footprints(t)
	var acked int
	term := uint64(0)
	for i, f := range list {
		good := true
		c.run(fmt.Sprintf("%03d %s", i+1, f.name), func(t *testing.T) {
			good = false
			w := c.startWriter(c.nodes[3], fmt.Sprintf("nemesis%d", i))
			w.waitFor(t, 30, time.Minute)
			before, err := c.nodes[3].status(within(t, 10*time.Second))
			ok(t, err)
			f.do(t, c, r)
			ok(t, c.lab.Heal(within(t, 10*time.Second)))
			ended := time.Now()
			c.waitReady(4*time.Minute, "", 0)
			if !c.nodes[3].On() {
				t.Fatal("n4 is off")
			}
			w.end()
			term = c.auditAll(t, w, term, before, f.apart())
			acked += w.count()
			t.Logf("in order again %.1f s after the fault; term %d", time.Since(ended).Seconds(), term)
			good = true
		})
		if !good {
			t.Fatalf("after %d faults (SEED=%d)", i+1, seed)
		}
		c.acknowledge(t)
	}
	c.waitSteady(time.Minute)
	end := c.footprints(t)
	t.Logf("files and goroutines: %v at the start, %v at the end", start, end)
	for name, n := range end {
		if n.files > start[name].files+30 || n.goroutines > start[name].goroutines+40 {
			t.Errorf("the agent of %s has %d file descriptors and %d goroutines, %d and %d at the start", name, n.files, n.goroutines, start[name].files, start[name].goroutines)
		}
	}
	t.Logf("%d faults, %d acknowledged writes, term %d", len(list), acked, term)
}

// auditAll looks at everything that must hold after any fault; who ran the control
// plane when is audited all the time. It returns the term. At is how it was before the
// fault, apart what the fault says of itself.
func (c *cluster) auditAll(t *testing.T, w *writer, before uint64, at api.Status, apart bool) uint64 {
	t.Helper()
	n4 := c.nodes[3]
	s, err := n4.status(within(t, 10*time.Second))
	ok(t, err)
	if s.Term < before {
		t.Errorf("the term went back from %d to %d", before, s.Term)
	}
	// What was acknowledged is there, but for what was on its way in a crash, and what a
	// master took that was cut off together with its clients, as long as its lease lasted.
	// The old master lists each. No revision went back (check).
	switch missing := c.check(w, n4); {
	case len(missing) > 0 && s.Term == at.Term:
		t.Errorf("%d acknowledged writes are lost without a change of term", len(missing))
	case len(missing) > 20 && !apart:
		t.Errorf("%d acknowledged writes are lost", len(missing))
	case len(missing) > 20:
		c.ofOneLease(t, at, w, missing)
	}
	for _, n := range c.nodes[:3] {
		is := n.Name == s.Master.Node
		for _, u := range hosts.Units {
			state, err := n.UnitState(within(t, 10*time.Second), u)
			if err != nil || (state == "active") != is {
				t.Errorf("%s on %s is %s (%v); the master is %s", u, n.Name, state, err, s.Master.Node)
			}
		}
	}
	owner(t, c, n4, s.Master.Node)
	c.neighbours(t, s.Master.Node)
	if got := c.audit.Running(); len(got) != 1 || got[0] != s.Master.Node {
		t.Errorf("%v run the control plane; the master is %s", got, s.Master.Node)
	}
	var h api.History
	ok(t, n4.ask(within(t, 10*time.Second), &h, "history"))
	for i := 1; i < len(h.Changes); i++ {
		if h.Changes[i].Term != h.Changes[i-1].Term-1 {
			t.Errorf("the history jumps: term %d after %d", h.Changes[i-1].Term, h.Changes[i].Term)
		}
	}
	return s.Term
}

// ofOneLease: a master that was cut off together with a client took its writes as long as its
// lease lasted; when it is back it lists each of them.
func (c *cluster) ofOneLease(t *testing.T, at api.Status, w *writer, missing []write) {
	t.Helper()
	const lease = 6 * time.Second // as long as it is where nothing is configured
	if d := missing[len(missing)-1].at.Sub(missing[0].at); d > lease {
		t.Errorf("%d acknowledged writes are lost, of %v", len(missing), d)
	}
	prefix, _, _ := strings.Cut(missing[0].name, "-")
	diffLost(t, c, c.node(at.Master.Node), at.Term+1, prefix+"-", writers{w}, missing)
}

// aloneWithClient pulls the master's cable while a client on that host writes.
func (c *cluster) aloneWithClient(t *testing.T) {
	m := c.mustMaster()
	at, err := m.status(within(t, 10*time.Second))
	ok(t, err)
	w := c.startWriter(m, fmt.Sprintf("alone%d", at.Term))
	w.waitFor(t, 30, time.Minute)
	ok(t, m.LinkDown(within(t, 10*time.Second)))
	next := c.waitMasterOf(time.Minute, c.nodes[3], at.Term+1)
	ok(t, m.LinkUp(within(t, 10*time.Second)))
	c.waitReady(2*time.Minute, next, at.Term+1)
	c.waitStandby(2*time.Minute, m.Name)
	w.end()
	missing := c.check(w, c.nodes[3])
	t.Logf("of a client on the master %d acknowledged writes are lost", len(missing))
	if len(missing) == 0 {
		t.Error("nothing is lost: the client was not cut off with the master")
		return
	}
	c.ofOneLease(t, at, w, missing)
}

// footprint is what must not grow.
type footprint struct{ files, goroutines int }

// footprints counts what each agent has open, and its goroutines.
func (c *cluster) footprints(t *testing.T) map[string]footprint {
	out := map[string]footprint{}
	for _, n := range c.nodes {
		if !n.On() {
			continue
		}
		text, err := n.Script(within(t, 10*time.Second), `ls /proc/"$(systemctl show --property=MainPID --value relevo.service)"/fd | wc -l
curl -sf http://127.0.0.1:7948/metrics | grep '^go_goroutines ' | cut -d' ' -f2`)
		ok(t, err)
		var f footprint
		if _, err := fmt.Sscan(text, &f.files, &f.goroutines); err != nil {
			t.Fatalf("%s tells of itself %q: %v", n.Name, text, err)
		}
		out[n.Name] = f
	}
	return out
}

// neighbours: whoever knows the virtual IP knows it at the master.
func (c *cluster) neighbours(t *testing.T, master string) {
	t.Helper()
	text, err := c.node(master).Run(within(t, 10*time.Second), "ip", "-o", "link", "show", "eth0")
	ok(t, err)
	for _, n := range c.nodes {
		if n.Name == master {
			continue
		}
		ok(t, hosts.Until(within(t, 20*time.Second), "the tables of the neighbours to be right", func(ctx context.Context) error {
			out, err := n.Run(ctx, "ip", "neighbour", "show", hosts.VIP)
			f := strings.Fields(out)
			for i := range f {
				if err == nil && f[i] == "lladdr" && i+1 < len(f) && !strings.Contains(text, f[i+1]) && !strings.Contains(out, "FAILED") {
					err = fmt.Errorf("%s has %s at %s, the master %s is %s", n.Name, hosts.VIP, f[i+1], master, strings.TrimSpace(text))
				}
			}
			return err
		}))
	}
}
