//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/test/hosts"
)

// refused: a failover is refused for a reason. An arbiter that has just been elected
// asks to try again first.
func refused(t *testing.T, n *node, why string, args ...string) {
	t.Helper()
	ok(t, hosts.Until(within(t, 30*time.Second), "the failover to be refused", func(ctx context.Context) error {
		out, err := n.Run(ctx, append([]string{"relevo", "failover", "--wait", "0"}, args...)...)
		if err == nil {
			t.Errorf("the failover was accepted: %s", out)
			return nil
		}
		if !strings.Contains(err.Error(), why) {
			return err
		}
		return nil
	}))
}

// TestOrders is what a person does to the mastership, from any host.
func TestOrders(t *testing.T) {
	c := newCluster(t, options{extra: "max_failovers: 1\n"})
	c.waitSteady(time.Minute)
	n1, n3, n4 := c.nodes[0], c.nodes[2], c.nodes[3]
	explain := func(t *testing.T, n *node) string {
		out, err := n.Run(within(t, 20*time.Second), "relevo", "explain")
		ok(t, err)
		return out
	}

	c.run("only who has the role", func(t *testing.T) {
		_, err := n4.Run(within(t, 10*time.Second), "useradd", "--groups", "relevo", "ann")
		ok(t, err)
		if out, err := n4.Run(within(t, 10*time.Second), "setpriv", "--reuid=ann", "--init-groups", "--regid=ann", "relevo", "members"); err != nil {
			t.Errorf("a member of the group may not ask: %v %s", err, out)
		}
		_, err = n4.Run(within(t, 10*time.Second), "setpriv", "--reuid=ann", "--init-groups", "--regid=ann", "relevo", "leave")
		if err == nil || !strings.Contains(err.Error(), "needs the role admin") {
			t.Errorf("a member of the group may take the host out: %v", err)
		}
	})

	c.run("a living master is not failed over", func(t *testing.T) {
		refused(t, n4, "alive and renews", "--to", "n2", "--force")
	})

	c.run("step-down to a wish, without loss", func(t *testing.T) {
		w := c.startWriter(n4, "step")
		w.waitFor(t, 50, time.Minute)
		out, err := n4.Run(within(t, 2*time.Minute), "relevo", "step-down", "--to", "n3", "--why", "rehearsal")
		ok(t, err)
		t.Log(strings.TrimSpace(out))
		c.waitMaster(time.Minute, "n3", 2)
		w.waitFor(t, 50, time.Minute)
		w.end()
		if missing := c.check(w, n4); len(missing) > 0 {
			t.Errorf("a planned change lost %d writes: %v", len(missing), missing)
		}
		if out := explain(t, n4); !strings.Contains(out, "rehearsal") || !strings.Contains(out, "root@n4") {
			t.Errorf("explain does not say who asked and why:\n%s", out)
		}
	})

	c.run("paused, a master without the others keeps running, and nobody follows", func(t *testing.T) {
		c.waitSteady(time.Minute)
		_, err := n1.Run(within(t, 20*time.Second), "relevo", "pause", "--why", "new switch")
		ok(t, err)
		// The holder has to know before its lease counts for nothing.
		ok(t, hosts.Until(within(t, 20*time.Second), "the master to know", func(ctx context.Context) error {
			note, err := n3.ReadFile(ctx, "/run/relevo/lease")
			if err == nil && !strings.Contains(string(note), fmt.Sprintf("deadline=%d\n", int64(1<<63-1))) {
				err = fmt.Errorf("its lease is %q", note)
			}
			return err
		}))
		ok(t, n3.LinkDown(within(t, 10*time.Second)))
		ok(t, hosts.Until(within(t, time.Minute), "the arbiter to see that the term is over", func(ctx context.Context) error {
			var e api.Explanation
			if err := n4.ask(ctx, &e, "explain"); err != nil {
				return err
			}
			if !e.Over || e.Possible || !slices.ContainsFunc(e.Why, func(s string) bool { return strings.Contains(s, "paused") }) {
				return fmt.Errorf("it says %+v", e)
			}
			return nil
		}))
		if got := c.audit.Running(); len(got) != 1 || got[0] != "n3" {
			t.Errorf("paused, %v run the control plane", got)
		}
		refused(t, n4, "paused")
		ok(t, n3.LinkUp(within(t, 10*time.Second)))
		_, err = n4.Run(within(t, 20*time.Second), "relevo", "resume")
		ok(t, err)
		c.waitReady(time.Minute, "n3", 2)
		s, err := n4.status(within(t, 10*time.Second))
		ok(t, err)
		if s.Pause != nil {
			t.Errorf("still %+v", s.Pause)
		}
	})

	c.run("too many failovers wait for a person", func(t *testing.T) {
		c.waitSteady(time.Minute)
		ok(t, n3.PowerCut(within(t, 30*time.Second))) // the first is automatic
		m := c.node(c.waitMasterOf(time.Minute, n4, 3))
		ok(t, n3.Boot(within(t, time.Minute)))
		c.wait(2*time.Minute, m.Name, 3, false)
		ok(t, m.PowerCut(within(t, 30*time.Second)))
		ok(t, hosts.Until(within(t, time.Minute), "the arbiter to refuse another", func(ctx context.Context) error {
			out, err := n4.Run(ctx, "relevo", "explain")
			if err == nil && !strings.Contains(out, "automatic failovers within an hour") {
				err = fmt.Errorf("it says %s", out)
			}
			return err
		}))
		t.Log(explain(t, n4))
		if got := c.audit.Running(); len(got) > 0 {
			t.Errorf("%v run the control plane", got)
		}
		_, err := n4.Run(within(t, 20*time.Second), "relevo", "acknowledge")
		ok(t, err)
		c.waitMasterOf(time.Minute, n4, 4)
	})

	c.run("a lost host is removed", func(t *testing.T) {
		s, err := n4.status(within(t, 10*time.Second))
		ok(t, err)
		var lost *node
		for _, n := range c.nodes {
			if !n.On() {
				lost = n
			}
		}
		if _, err := n4.Run(within(t, 10*time.Second), "relevo", "remove", s.Master.Node); err == nil || !strings.Contains(err.Error(), "is the master, and it is alive: `relevo switchover` hands over") {
			t.Errorf("remove of the living master: %v", err)
		}
		ok(t, hosts.Until(within(t, time.Minute), "the failure to be known", func(ctx context.Context) error {
			_, err := n4.Run(ctx, "relevo", "remove", lost.Name)
			return err
		}))
		ok(t, hosts.Until(within(t, time.Minute), "three voters that are there", func(ctx context.Context) error {
			s, err := n4.status(ctx)
			if err == nil && (s.Quorum.Voters != 3 || s.Quorum.Online != 3) {
				err = fmt.Errorf("%d of %d voters are online", s.Quorum.Online, s.Quorum.Voters)
			}
			return err
		}))
		_, err = n4.Run(within(t, 20*time.Second), "relevo", "acknowledge")
		ok(t, err)
		// When it is back it is refused, with the certificate that it had, and the others are
		// not disturbed. (Its own agent never becomes ready, so its boot does not end.)
		ok(t, lost.PowerOn(within(t, time.Minute)))
		ok(t, hosts.Until(within(t, time.Minute), "the host that was removed to be refused", func(ctx context.Context) error {
			out, err := n4.Journal(ctx, "relevo.service")
			if err == nil && !strings.Contains(out, "removed from the cluster: "+lost.Name) {
				err = errors.New("n4 has not refused it yet")
			}
			return err
		}))
		c.removed(lost, "root@n4")
		// It may have gossiped before it knew, if the gossip key was not changed yet.
		ok(t, hosts.Until(within(t, 30*time.Second), "it to be no member", func(ctx context.Context) error {
			var ms api.Members
			err := n4.ask(ctx, &ms, "members")
			for _, m := range ms.Members {
				if err == nil && m.Node == lost.Name && m.Status == "alive" {
					err = fmt.Errorf("%s was removed, and is a member: %+v", lost.Name, m)
				}
			}
			return err
		}))
		if now, err := n4.status(within(t, 10*time.Second)); err != nil || now.Master == nil || now.Master.Node != s.Master.Node {
			t.Errorf("the master is not %s any more: %+v, %v", s.Master.Node, now.Master, err)
		}
	})
}
