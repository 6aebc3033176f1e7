//go:build e2e

package e2e

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"relevo.dev/relevo/test/hosts"
)

// freeze stops the whole master, kernel excepted, until another is the master,
// and lets it go on. Nothing on the host could act in time, so the processes run for
// a moment. What can be promised is that this ends at once, that the old master
// becomes a standby, and that the frozen kernel does not keep the virtual IP. How
// long the moment is, and whether it acknowledged a write, is measured and printed.
func freeze(t *testing.T, c *cluster) {
	c.waitSteady(time.Minute)
	was, n4 := c.nodes[0], c.nodes[3]
	before := c.startWriter(n4, "before")
	before.waitFor(t, 50, time.Minute)
	before.end()
	ok(t, was.Freeze(within(t, 10*time.Second)))
	m := c.waitMasterOf(2*time.Minute, n4, c.term+1)

	// Its kernel still answers for the address; the new master must have it.
	w := c.startWriter(n4, "new")
	w.waitFor(t, 50, time.Minute)
	// Somebody knocks at the frozen host itself all the while.
	old := c.startWriterTo(was.IP.String(), n4, "old")

	if _, err := c.audit.Stop(); err != nil {
		t.Error(err)
	}
	ran := c.lab.Audit(hosts.Units...)
	thawed := ran.Since()
	ok(t, was.Thaw(within(t, 10*time.Second)))
	for _, u := range hosts.Units {
		ok(t, c.waitDown(was, u))
	}
	c.waitStandby(time.Minute, was.Name)
	old.end()
	spans, _ := ran.Stop() // an overlap, as said above
	for _, s := range spans {
		if s.Host == was.Name {
			if s.To == 0 {
				t.Errorf("%s runs the control plane still", was.Name)
			}
			t.Logf("exposure: the thawed host ran its control plane for %.0f ms", (s.To-max(s.From, thawed)).Seconds()*1000)
		}
	}
	t.Logf("exposure: it acknowledged %d writes in that time", old.count())
	w.waitFor(t, 20, time.Minute)
	w.end()
	c.waitReady(time.Minute, m, c.term+1)
	if missing := c.check(w, n4); len(missing) > 0 {
		t.Errorf("the new master lost %d writes", len(missing))
	}
	c.check(before, n4)
	owner(t, c, n4, m)
}

// owner: the virtual IP is where the master is, in the tables of a neighbour and in
// truth.
func owner(t *testing.T, c *cluster, from *node, master string) {
	t.Helper()
	for _, n := range c.nodes[:3] {
		out, err := n.Run(within(t, 10*time.Second), "ip", "-o", "-4", "address", "show")
		ok(t, err)
		if has := containsField(out, hosts.VIP+"/32"); has != (n.Name == master) {
			t.Errorf("%s has the virtual IP: %v; the master is %s", n.Name, has, master)
		}
	}
	_, err := c.client(from, 5*time.Second).List(within(t, 10*time.Second), metav1.ListOptions{Limit: 1})
	ok(t, err)
}
