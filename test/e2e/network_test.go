//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/test/hosts"
)

// TestNetwork: no address is configured anywhere, one host has no avahi-daemon, and
// another gets a new address from DHCP.
func TestNetwork(t *testing.T) {
	c := newCluster(t, options{hosts: func(c *cluster) {
		_, err := c.nodes[2].Run(within(t, 30*time.Second), "systemctl", "disable", "--now", "avahi-daemon.service", "avahi-daemon.socket")
		ok(t, err)
	}})
	n2, n3, n4 := c.nodes[1], c.nodes[2], c.nodes[3]

	c.run("a host without avahi-daemon announces itself", func(t *testing.T) {
		ok(t, hosts.Until(within(t, 30*time.Second), "avahi-browse on n4 to see n3", func(ctx context.Context) error {
			out, err := n4.Run(ctx, "avahi-browse", "-rpt", "_relevo._tcp")
			if err == nil && !strings.Contains(out, ";n3;_relevo._tcp;local;") {
				err = fmt.Errorf("it shows %s", out)
			}
			return err
		}))
		out, err := n3.Run(within(t, 10*time.Second), "relevo", "services")
		ok(t, err)
		for _, name := range []string{"n1", "n2", "n4", "home"} {
			if !strings.Contains(out, "\n"+name+" ") {
				t.Errorf("n3 does not see %s:\n%s", name, out)
			}
		}
	})

	c.run("a new address", func(t *testing.T) {
		ok(t, n2.Readdress(within(t, 10*time.Second), netip.MustParseAddr("10.77.0.42")))
		ok(t, hosts.Until(within(t, 2*time.Minute), "n4 to know n2's new address", func(ctx context.Context) error {
			out, err := n4.Run(ctx, "relevo", "members")
			if err == nil && !strings.Contains(out, "10.77.0.42:7946") {
				err = fmt.Errorf("it says %s", out)
			}
			return err
		}))
		c.waitReady(2*time.Minute, "n1", 1)
		ok(t, hosts.Until(within(t, time.Minute), "n2 to be a ready standby again", func(ctx context.Context) error {
			s, err := n4.status(ctx)
			if err != nil {
				return err
			}
			for _, st := range s.Standbys {
				if st.Node == "n2" && st.Ready && st.LagSeconds != nil && *st.LagSeconds < 5 {
					return nil
				}
			}
			return fmt.Errorf("the standbys are %+v", s.Standbys)
		}))
	})

	c.run("it takes over from there", func(t *testing.T) {
		c.waitSteady(time.Minute)
		_, err := n4.Run(within(t, 2*time.Minute), "relevo", "step-down", "--to", "n2")
		ok(t, err)
		c.waitReady(time.Minute, "n2", 2)
	})
}
