//go:build e2e

package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/test/hosts"
)

// TestFence loses the agent of the master in every way, and not the host: the control
// plane must stop in time when the lease is lost, and must not be disturbed when it
// is not. The audit of the whole cluster says whether two ever ran at once.
func TestFence(t *testing.T) {
	c := newCluster(t, options{extra: "max_failovers: 100\n", hosts: leaveChildren})
	n1, n2, n4 := c.nodes[0], c.nodes[1], c.nodes[3]
	c.waitSteady(time.Minute)

	c.run("a standby's unit is refused", func(t *testing.T) {
		for _, u := range hosts.Units {
			// A failed condition is no failed start; the unit just does not run, and says why.
			_, _ = n2.Run(within(t, 30*time.Second), "systemctl", "start", u)
			if state, err := n2.UnitState(within(t, 10*time.Second), u); err != nil || state == "active" {
				t.Errorf("%s on a standby is %s (%v)", u, state, err)
			}
			// By which a promotion knows that it may be otherwise in a moment.
			result, err := n2.Run(within(t, 10*time.Second), "systemctl", "show", "--property=Result", "--value", u)
			if err != nil || strings.TrimSpace(result) != "success" {
				t.Errorf("the result of %s is %q (%v)", u, result, err)
			}
			out, err := n2.Journal(within(t, 10*time.Second), u)
			ok(t, err)
			if !strings.Contains(out, "does not hold the master lease") {
				t.Errorf("the journal of %s does not say why:\n%s", u, out)
			}
		}
	})

	c.run("the agent is killed", func(t *testing.T) {
		before := c.apiServer(n1)
		for range 3 {
			n := c.restarts(n1)
			_, err := n1.Run(within(t, 10*time.Second), "systemctl", "kill", "--kill-whom=main", "--signal=KILL", "relevo.service")
			ok(t, err)
			c.waitRestarted(n1, n)
			c.waitReady(time.Minute, "n1", 1)
		}
		c.undisturbed(t, n1, before)
	})

	c.run("the agent is stopped by SIGSTOP", func(t *testing.T) {
		before, n := c.apiServer(n1), c.restarts(n1)
		_, err := n1.Run(within(t, 10*time.Second), "systemctl", "kill", "--kill-whom=main", "--signal=STOP", "relevo.service")
		ok(t, err)
		c.waitRestarted(n1, n)
		c.waitReady(time.Minute, "n1", 1)
		c.undisturbed(t, n1, before)
	})

	c.run("the agent's loop hangs", func(t *testing.T) {
		c.waitSteady(time.Minute)
		c.hang(t, n1)
		s := c.waitMaster(time.Minute, "", 0)
		t.Logf("%s is the master in term %d", s.Master.Node, s.Master.Term)
		out, err := n1.Journal(within(t, 10*time.Second), "relevo.service")
		ok(t, err)
		if !strings.Contains(out, "Watchdog timeout") {
			t.Error("it was not the watchdog that ended the agent")
		}
		c.waitReady(time.Minute, "n1", 1)
	})

	c.run("systemd executes itself anew", func(t *testing.T) {
		before := c.apiServer(n1)
		_, err := n1.Run(within(t, 30*time.Second), "systemctl", "daemon-reexec")
		ok(t, err)
		c.waitReady(time.Minute, "n1", 1)
		c.undisturbed(t, n1, before)
	})

	c.run("the cable is pulled", func(t *testing.T) {
		ok(t, n1.LinkDown(within(t, 10*time.Second)))
		pulled := c.audit.Since()
		// Only the others can be asked what they think; n1 is asked through its own host.
		s := c.waitMasterOf(2*time.Minute, n4, 2)
		for _, u := range hosts.Units {
			ok(t, c.waitDown(n1, u))
		}
		out, err := n1.Run(within(t, 10*time.Second), "relevo", "status")
		t.Logf("n1 without a network says (%v):\n%s", err, out)
		if !strings.Contains(out, "quorum") {
			t.Error("n1 does not say that it has no quorum")
		}
		ok(t, n1.LinkUp(within(t, 10*time.Second)))
		c.waitReady(2*time.Minute, s, 2)
		c.noChildren(t, s)
		t.Logf("the cable was pulled at %.3f s\n%s", pulled.Seconds(), c.audit)
	})

	c.run("the cable is pulled, and the units ignore SIGTERM", func(t *testing.T) {
		c.waitSteady(time.Minute)
		s, err := n4.status(within(t, 10*time.Second))
		ok(t, err)
		m := c.node(s.Master.Node)
		for _, u := range hosts.Units {
			ok(t, m.WriteFile(within(t, 10*time.Second), "/etc/systemd/system/"+u+".d/90-deaf.conf", []byte("[Service]\nKillSignal=SIGCONT\nTimeoutStopSec=300s\n"), 0o644))
		}
		_, err = m.Run(within(t, 30*time.Second), "systemctl", "daemon-reload")
		ok(t, err)
		ok(t, m.LinkDown(within(t, 10*time.Second)))
		next := c.waitMasterOf(2*time.Minute, n4, s.Term+1)
		for _, u := range hosts.Units {
			ok(t, c.waitDown(m, u))
		}
		ok(t, m.LinkUp(within(t, 10*time.Second)))
		_, err = m.Script(within(t, 30*time.Second), "rm /etc/systemd/system/*.d/90-deaf.conf; systemctl daemon-reload")
		ok(t, err)
		c.waitReady(2*time.Minute, next, s.Term+1)
		c.noChildren(t, next)
	})

	c.run("the agent has no file descriptors left", func(t *testing.T) {
		c.waitSteady(time.Minute)
		s, err := n4.status(within(t, 10*time.Second))
		ok(t, err)
		m := c.node(s.Master.Node)
		// No new connection, no new file: whatever becomes of the lease, the audit watches.
		pid, err := m.Run(within(t, 10*time.Second), "systemctl", "show", "--property=MainPID", "--value", "relevo.service")
		ok(t, err)
		_, err = m.Run(within(t, 10*time.Second), "prlimit", "--pid="+strings.TrimSpace(pid), "--nofile=8:8")
		ok(t, err)
		_, err = m.Run(within(t, 30*time.Second), "sleep", "15")
		ok(t, err)
		_, err = m.Run(within(t, 30*time.Second), "systemctl", "kill", "--kill-whom=main", "--signal=KILL", "relevo.service")
		ok(t, err)
		c.waitReady(2*time.Minute, "", 0)
	})

	c.run("the agent is stopped in an orderly way", func(t *testing.T) {
		s, err := n4.status(within(t, 10*time.Second))
		ok(t, err)
		m := c.node(s.Master.Node)
		w := c.startWriter(n4, "stop")
		w.waitFor(t, 50, time.Minute)
		begin := time.Now()
		_, err = m.Run(within(t, time.Minute), "systemctl", "stop", "relevo.service")
		ok(t, err)
		t.Logf("systemctl stop relevo took %.1f s", time.Since(begin).Seconds())
		for _, u := range hosts.Units {
			if state, err := m.UnitState(within(t, 10*time.Second), u); err != nil || state == "active" {
				t.Errorf("after systemctl stop relevo, %s is %s (%v)", u, state, err)
			}
		}
		c.waitMasterOf(time.Minute, n4, s.Term+1)
		w.waitFor(t, 50, time.Minute)
		w.end()
		if missing := c.check(w, n4); len(missing) > 0 {
			t.Errorf("an orderly stop lost %d acknowledged writes: %v", len(missing), missing)
		}
		_, err = m.Run(within(t, time.Minute), "systemctl", "start", "relevo.service")
		ok(t, err)
		c.waitReady(time.Minute, "", s.Term+1)
		c.noChildren(t, c.mustMaster().Name)
	})
}

// leaveChildren makes kine a unit that leaves a process behind when it is stopped, one that
// ignores SIGTERM. It is called kine, so that the audit takes it for the control plane.
func leaveChildren(c *cluster) {
	for _, n := range c.nodes[:3] {
		_, err := n.Script(within(c.t, 20*time.Second), "mkdir -p /usr/local/lib/child && ln -s /bin/sleep /usr/local/lib/child/kine")
		ok(c.t, err)
		ok(c.t, n.WriteFile(within(c.t, 20*time.Second), "/etc/systemd/system/kine.service.d/10-child.conf", []byte(hosts.KineWithChild), 0o644))
	}
}

// noChildren: whoever is not the master has none of them.
func (c *cluster) noChildren(t *testing.T, master string) {
	t.Helper()
	for _, n := range c.nodes[:3] {
		out, err := n.Script(within(t, 10*time.Second), "pgrep -af '^/usr/local/lib/child/kine' || true")
		ok(t, err)
		if is := strings.TrimSpace(out) != ""; is != (n.Name == master) {
			t.Errorf("%s is the master, and on %s there is: %q", master, n.Name, out)
		}
	}
}

// waitDown waits until a unit runs no more: "failed" is what systemd calls one that
// was killed.
func (c *cluster) waitDown(n *node, unit string) error {
	return hosts.Until(within(c.t, time.Minute), unit+" on "+n.Name+" to be down", func(ctx context.Context) error {
		state, err := n.UnitState(ctx, unit)
		if err == nil && state != "inactive" && state != "failed" {
			err = errors.New("it is " + state)
		}
		return err
	})
}

// apiServer is the process of the API server: it changes if that is disturbed.
func (c *cluster) apiServer(n *node) string {
	c.t.Helper()
	out, err := n.Run(within(c.t, 10*time.Second), "systemctl", "show", "--property=MainPID,NRestarts,ActiveState", "kube-apiserver.service", "kine.service")
	ok(c.t, err)
	return out
}

func (c *cluster) undisturbed(t *testing.T, n *node, before string) {
	t.Helper()
	if now := c.apiServer(n); now != before {
		t.Errorf("the control plane was disturbed:\n%s\nbefore:\n%s", now, before)
	}
}

func (c *cluster) restarts(n *node) string {
	c.t.Helper()
	out, err := n.Run(within(c.t, 10*time.Second), "systemctl", "show", "--property=NRestarts", "--value", "relevo.service")
	ok(c.t, err)
	return strings.TrimSpace(out)
}

func (c *cluster) waitRestarted(n *node, before string) {
	c.t.Helper()
	ok(c.t, hosts.Until(within(c.t, time.Minute), "systemd to restart relevo on "+n.Name, func(context.Context) error {
		if c.restarts(n) == before {
			return errors.New("not yet")
		}
		return nil
	}))
	ok(c.t, n.WaitUnit(within(c.t, time.Minute), "relevo.service", "active"))
}
