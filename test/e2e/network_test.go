//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/test/hosts"
)

// network: no address is configured anywhere, one host has no avahi-daemon, and the arbiter
// and the master get new addresses from DHCP.
func network(t *testing.T, c *cluster) {
	moved, plain, n4 := c.nodes[1], c.nodes[2], c.nodes[3]
	avahi := func(verb string) {
		t.Helper()
		_, err := plain.Script(within(t, time.Minute), "systemctl "+verb+" --now avahi-daemon.service avahi-daemon.socket; systemctl restart relevo.service")
		ok(t, err)
	}
	avahi("disable")

	c.run("a host without avahi-daemon announces itself", func(t *testing.T) {
		ok(t, hosts.Until(within(t, 30*time.Second), "avahi-browse on n4 to see "+plain.Name, func(ctx context.Context) error {
			out, err := n4.Run(ctx, "avahi-browse", "-rpt", "_relevo._tcp")
			if err == nil && !strings.Contains(out, ";"+plain.Name+";_relevo._tcp;local;") {
				err = fmt.Errorf("it shows %s", out)
			}
			return err
		}))
		ok(t, hosts.Until(within(t, 30*time.Second), plain.Name+" to see all others", func(ctx context.Context) error {
			out, err := plain.Run(ctx, "relevo", "services")
			for _, name := range []string{c.nodes[0].Name, moved.Name, n4.Name, "home"} {
				if err == nil && !strings.Contains(out, "\n"+name+" ") {
					err = fmt.Errorf("not %s:\n%s", name, out)
				}
			}
			return err
		}))
	})

	c.run("a new address", func(t *testing.T) {
		moved = c.candidateArbiter()
		before := c.apiServer(c.nodes[0])
		c.moves(moved, "10.77.0.42")
		c.waitReady(2*time.Minute, c.nodes[0].Name, c.term)
		ok(t, hosts.Until(within(t, time.Minute), moved.Name+" to be a ready standby again", func(ctx context.Context) error {
			s, err := n4.status(ctx)
			if err != nil {
				return err
			}
			for _, st := range s.Standbys {
				if st.Node == moved.Name && st.Ready && st.LagSeconds != nil && *st.LagSeconds < 5 {
					return nil
				}
			}
			return fmt.Errorf("the standbys are %+v", s.Standbys)
		}))
		c.undisturbed(t, c.nodes[0], before)
	})

	c.run("a new address of the master", func(t *testing.T) {
		c.waitSteady(time.Minute)
		m := c.nodes[0]
		before := c.apiServer(m)
		w := c.startWriter(n4, "moved")
		w.waitFor(t, 20, time.Minute)
		c.moves(m, "10.77.0.43")
		w.waitFor(t, 20, 30*time.Second)
		newest := w.newest().rv
		begin := time.Now()
		ok(t, hosts.Until(within(t, time.Minute), "the standbys to follow", func(ctx context.Context) error {
			s, err := n4.status(ctx)
			if err != nil {
				return err
			}
			following := 0
			for _, st := range s.Standbys {
				if st.Ready && st.Revision != nil && *st.Revision >= newest {
					following++
				}
			}
			if following < 2 {
				err = fmt.Errorf("revision %d is acknowledged, the standbys are %+v", newest, s.Standbys)
			}
			return err
		}))
		t.Logf("the standbys follow after %.1f s", time.Since(begin).Seconds())
		c.waitReady(time.Minute, m.Name, c.term)
		c.undisturbed(t, m, before)
		if missing := (writers{w}).check(c, n4); len(missing) > 0 {
			t.Errorf("%d writes are lost: %v", len(missing), missing)
		}
	})

	c.run("it takes over from there", func(t *testing.T) {
		c.waitSteady(time.Minute)
		_, err := n4.Run(within(t, 2*time.Minute), "relevo", "step-down", "--to", moved.Name)
		ok(t, err)
		c.waitReady(time.Minute, moved.Name, c.term+1)
	})
	avahi("enable")
}

// moves gives a host another address, and waits until the others know it.
func (c *cluster) moves(n *node, to string) {
	t, n4 := c.t, c.nodes[3]
	t.Helper()
	ok(t, n.Readdress(within(t, 10*time.Second), netip.MustParseAddr(to)))
	begin := time.Now()
	ok(t, hosts.Until(within(t, 2*time.Minute), "n4 to know the new address of "+n.Name, func(ctx context.Context) error {
		out, err := n4.Run(ctx, "relevo", "members")
		if err == nil && !strings.Contains(out, to+":7946") {
			err = fmt.Errorf("it says %s", out)
		}
		return err
	}))
	t.Logf("n4 knows the new address of %s after %.1f s", n.Name, time.Since(begin).Seconds())
}

// candidateArbiter sees to it that a standby is the arbiter, and returns it.
func (c *cluster) candidateArbiter() *node {
	t, m, n4 := c.t, c.nodes[0], c.nodes[3]
	t.Helper()
	c.waitSteady(time.Minute)
	s, err := m.status(within(t, 10*time.Second))
	ok(t, err)
	agent := func(verb string) {
		t.Helper()
		if s.Quorum.Leader == n4.Name {
			_, err := n4.Run(within(t, time.Minute), "systemctl", verb, "relevo.service")
			ok(t, err)
		}
	}
	// Without n4 there are two voters left at least, one of them a standby; and the office
	// moves away from the master.
	agent("stop")
	var is *node
	// A master that has just tried to give the office to n4 rests for a minute before it tries again.
	err = hosts.Until(within(t, 2*time.Minute), "a standby to be the arbiter", func(ctx context.Context) error {
		now, err := m.status(ctx)
		if err != nil {
			return err
		}
		for _, n := range c.nodes[1:3] {
			if n.Name == now.Quorum.Leader {
				is = n
				return nil
			}
		}
		return fmt.Errorf("it is %q", now.Quorum.Leader)
	})
	agent("start") // also if not: the tests that follow need it
	ok(t, err)
	// The office has moved up to three times in a moment. A lease that is nearly over for that is
	// not what the test is about.
	ok(t, hosts.Until(within(t, time.Minute), "the lease to be renewed by "+is.Name, func(ctx context.Context) error {
		now, err := m.status(ctx)
		if err == nil && (now.Quorum.Online < 3 || now.Quorum.Leader != is.Name || now.Master == nil || now.Master.LeaseRemaining == nil || *now.Master.LeaseRemaining < 4.5) {
			err = fmt.Errorf("it says %+v, %+v", now.Quorum, now.Master)
		}
		return err
	}))
	t.Logf("%s is the arbiter", is.Name)
	return is
}

// votes says who votes, as a host sees it.
func (n *node) votes(ctx context.Context) (map[string]bool, error) {
	var m api.Members
	votes := map[string]bool{}
	err := n.ask(ctx, &m, "members")
	for _, x := range m.Members {
		votes[x.Node] = x.Voter
	}
	return votes, err
}
