//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/test/hosts"
)

const k3sVersion = "v1.37.2+k3s1"

// TestK3s: a k3s server on SQLite with two agents that can take over, adopted with three
// lines of configuration. The server loses its power; a standby is the server, with the
// data, and the old one comes back as an agent. k3s is the stand-in of test/k3s.
func TestK3s(t *testing.T) {
	c := newCluster(t, options{k3s: k3sVersion})
	n1, n4 := c.nodes[0], c.nodes[3]
	w := c.startWriter(n4, "a")
	inf := c.startInformer(n4)
	for _, n := range c.nodes[1:3] {
		c.isAgent(n)
	}
	pods := map[string]string{}
	for _, n := range c.nodes[1:3] {
		pods[n.Name] = shimOf(t, n)
	}
	w.waitFor(t, 300, time.Minute)
	inf.waitHas(t, w.newest().name, 30*time.Second)
	before := w.newest()
	st, err := n4.status(within(t, 10*time.Second))
	ok(t, err)
	if st.Degraded() {
		t.Errorf("before anything happened there are problems: %+v", st.Problems)
	}

	ok(t, n1.LinkDown(within(t, 30*time.Second)))
	cut := time.Now()
	ok(t, n1.PowerCut(within(t, 30*time.Second)))
	s := c.waitMaster(2*time.Minute, "", 2)
	if s.Master.Node == "n1" {
		t.Fatal("n1 is without power and the master")
	}
	w.waitFor(t, 50, time.Minute)
	t.Logf("power cut to master known to all: %.1f s", time.Since(cut).Seconds())
	m := c.node(s.Master.Node)
	c.isServer(m)
	inf.waitHas(t, w.newest().name, time.Minute)
	expired(t, c, before.rv)
	w.end()
	report(t, c.check(w, n4), cut)
	for _, n := range c.nodes[1:3] {
		if got := shimOf(t, n); got != pods[n.Name] {
			t.Errorf("the pods of %s did not outlive the change: shim %s, before %s", n.Name, got, pods[n.Name])
		}
	}

	ok(t, n1.Boot(within(t, time.Minute)))
	c.waitStandby(2*time.Minute, "n1")
	c.isAgent(n1)
	// The other one has never been anything but an agent.
	for _, n := range c.nodes[1:3] {
		if n != m {
			c.isAgent(n)
		}
	}
	// Upgrades in the wrong order: what would be a downgrade of the API is not ready.
	c.installK3s(n1, "v1.36.4+k3s1")
	ok(t, hosts.Until(within(t, 90*time.Second), "n1 to be found too old", func(ctx context.Context) error {
		st, err := n4.status(ctx)
		if err != nil {
			return err
		}
		for _, b := range st.Standbys {
			if b.Node == "n1" && !b.Ready && strings.Contains(b.Why, "k3s v1.36.4+k3s1 here, "+k3sVersion+" on the master") {
				t.Logf("n1: %s", b.Why)
				return nil
			}
		}
		return fmt.Errorf("the standbys are %+v", st.Standbys)
	}))
	c.installK3s(n1, k3sVersion)
	c.waitStandby(2*time.Minute, "n1")
	c.noProblems()
}

// installK3s puts another version of k3s on a host, as its installer does; what runs goes
// on as it is.
func (c *cluster) installK3s(n *node, version string) {
	c.t.Helper()
	bin, err := hosts.BuildK3s(within(c.t, 5*time.Minute), io.Discard, version)
	ok(c.t, err)
	ok(c.t, n.CopyIn(within(c.t, time.Minute), bin, hosts.K3sProgram+".new", 0o755))
	_, err = n.Run(within(c.t, 10*time.Second), "mv", hosts.K3sProgram+".new", hosts.K3sProgram)
	ok(c.t, err)
}

// isServer: k3s runs, the agent does not, and its node goes on under its own name.
func (c *cluster) isServer(n *node) {
	c.t.Helper()
	c.states(n, "active", "inactive")
}

// isAgent: the other way round, and the agent goes by the virtual IP, wherever it joined.
func (c *cluster) isAgent(n *node) {
	c.t.Helper()
	c.states(n, "inactive", "active")
	ok(c.t, hosts.Until(within(c.t, 30*time.Second), n.Name+" to follow the virtual IP", func(ctx context.Context) error {
		text, err := n.Run(ctx, "cat", hosts.K3sDir+"/agent/etc/k3s-agent-load-balancer.json")
		if err == nil && !strings.Contains(text, fmt.Sprintf("%q", fmt.Sprintf("%s:%d", hosts.VIP, hosts.APIPort))) {
			err = fmt.Errorf("it follows %s", text)
		}
		return err
	}))
}

func (c *cluster) states(n *node, server, agent string) {
	c.t.Helper()
	ok(c.t, hosts.Until(within(c.t, 30*time.Second), "the units of "+n.Name, func(ctx context.Context) error {
		a, err := n.UnitState(ctx, hosts.K3sUnit)
		b, err2 := n.UnitState(ctx, hosts.K3sAgentUnit)
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		if a != server || b != agent {
			return fmt.Errorf("%s is %s, %s is %s", hosts.K3sUnit, a, hosts.K3sAgentUnit, b)
		}
		return nil
	}))
}

// shimOf is the process that stands for the pods of a node; it must be alive.
func shimOf(t *testing.T, n *node) string {
	t.Helper()
	pid, err := n.Script(within(t, 10*time.Second), `p=$(cat `+hosts.K3sDir+`/agent/shim.pid) && grep -q containerd-shim /proc/$p/comm && echo $p`)
	ok(t, err)
	return strings.TrimSpace(pid)
}
