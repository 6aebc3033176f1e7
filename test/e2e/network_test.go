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

// network: no address is configured anywhere, one host has no avahi-daemon, and
// another gets a new address from DHCP.
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
		c.makeArbiter(moved)
		before := c.apiServer(c.nodes[0])
		ok(t, moved.Readdress(within(t, 10*time.Second), netip.MustParseAddr("10.77.0.42")))
		ok(t, hosts.Until(within(t, 2*time.Minute), "n4 to know the new address of "+moved.Name, func(ctx context.Context) error {
			out, err := n4.Run(ctx, "relevo", "members")
			if err == nil && !strings.Contains(out, "10.77.0.42:7946") {
				err = fmt.Errorf("it says %s", out)
			}
			return err
		}))
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

	c.run("it takes over from there", func(t *testing.T) {
		c.waitSteady(time.Minute)
		_, err := n4.Run(within(t, 2*time.Minute), "relevo", "step-down", "--to", moved.Name)
		ok(t, err)
		c.waitReady(time.Minute, moved.Name, c.term+1)
	})
	avahi("enable")
}

// makeArbiter makes a host that votes, and is not the master, the arbiter: whoever else is it
// is restarted.
func (c *cluster) makeArbiter(n *node) {
	t := c.t
	t.Helper()
	for range 12 {
		c.waitSteady(time.Minute)
		s, err := n.status(within(t, 10*time.Second))
		ok(t, err)
		votes, err := n.votes(within(t, 10*time.Second))
		ok(t, err)
		switch {
		case s.Quorum.Leader == n.Name:
			t.Logf("%s is the arbiter", n.Name)
			return
		case !votes[n.Name]:
			t.Logf("%s does not vote: %v", n.Name, votes)
			return
		}
		_, err = c.node(s.Quorum.Leader).Run(within(t, time.Minute), "systemctl", "restart", "relevo.service")
		ok(t, err)
	}
	t.Errorf("%s did not become the arbiter in twelve elections", n.Name)
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
