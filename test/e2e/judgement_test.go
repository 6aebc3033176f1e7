//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/test/hosts"
)

// plug is the fence.command of the tests: it asks the test, by a file, to pull the plug of
// a host, and waits for the answer.
const plug = `#!/bin/sh
echo "$RELEVO_NODE $RELEVO_ADDRESS $RELEVO_TERM" >/run/plug.new && mv /run/plug.new /run/plug.asked
for i in $(seq 50); do
	[ -e /run/plug.done ] && exit 0
	sleep 0.1
done
echo "the plug does not answer" >&2
exit 1
`

// TestJudgement: who is fit to be the master, besides that it renews its lease.
func TestJudgement(t *testing.T) {
	var spare *hosts.Host
	c := newCluster(t, options{grace: 10 * time.Second, extra: "max_failovers: 100\nfence: {command: [/usr/local/sbin/plug], timeout: 6s}\n", hosts: func(c *cluster) {
		for _, n := range c.nodes {
			ok(t, n.WriteFile(within(t, 10*time.Second), "/usr/local/sbin/plug", []byte(plug), 0o755))
		}
		// A fifth board, that no cluster knows.
		added, err := c.lab.AddHosts(within(t, time.Minute), "spare")
		ok(t, err)
		spare = added[0]
	}})
	n4 := c.nodes[3]

	c.run("a copy of the master's card in another board", func(t *testing.T) {
		c.waitSteady(time.Minute)
		m := c.mustMaster()
		w := c.startWriter(n4, "card")
		w.waitFor(t, 30, time.Minute)
		ok(t, spare.CopyCard(within(t, time.Minute), m.Host))
		ok(t, spare.PowerOn(within(t, time.Minute))) // its boot does not end: the agent waits
		copied := &node{spare}
		ok(t, hosts.Until(within(t, time.Minute), "the copy to say what is wrong", func(ctx context.Context) error {
			out, err := copied.Journal(ctx, "relevo.service")
			if err == nil && !strings.Contains(out, "another machine with the name and the keys of this host is a member") {
				err = fmt.Errorf("its journal ends with %s", out[max(0, len(out)-2000):])
			}
			return err
		}))
		c.rest(t, 20*time.Second) // it has every reason to try
		// Told to stop, it must not give back a term that is not its own.
		_, err := copied.Run(within(t, time.Minute), "systemctl", "stop", "relevo.service")
		ok(t, err)
		ok(t, spare.PowerCut(within(t, 30*time.Second)))
		c.waitReady(2*time.Minute, m.Name, 1)
		w.end()
		if lost := c.check(w, n4); len(lost) > 0 {
			t.Errorf("%d acknowledged writes are lost", len(lost))
		}
	})

	c.run("nobody else reaches the API", func(t *testing.T) {
		c.waitSteady(time.Minute)
		m := c.mustMaster()
		w := c.startWriter(n4, "wall")
		w.waitFor(t, 30, time.Minute)
		_, err := m.Script(within(t, 10*time.Second), fmt.Sprintf("nft add table inet wall; nft add chain inet wall in '{ type filter hook input priority 0; }'; nft add rule inet wall in iifname eth0 tcp dport %d drop", hosts.APIPort))
		ok(t, err)
		begin := time.Now()
		s := c.waitMasterOf(3*time.Minute, n4, 2)
		t.Logf("%s is the master %.1f s after nobody reached %s any more", s, time.Since(begin).Seconds(), m.Name)
		w.waitFor(t, 30, time.Minute)
		w.end()
		if lost := c.check(w, n4); len(lost) > 0 {
			t.Errorf("%d acknowledged writes are lost", len(lost))
		}
		_, err = m.Run(within(t, 10*time.Second), "nft", "delete", "table", "inet", "wall")
		ok(t, err)
		c.waitReady(2*time.Minute, s, 2)
		out, err := n4.Run(within(t, 10*time.Second), "relevo", "explain", "--term", "2")
		t.Logf("(%v)\n%s", err, out)
		for _, part := range []string{"not reached through the network", "does not reach the API of " + m.Name, "gives term 2 to " + s} {
			if !strings.Contains(out, part) {
				t.Errorf("explain does not tell %q", part)
			}
		}
	})

	c.run("a host that hangs is switched off", func(t *testing.T) {
		c.waitSteady(time.Minute)
		m := c.mustMaster()
		s, err := n4.status(within(t, 10*time.Second))
		ok(t, err)
		w := c.startWriter(n4, "fence")
		w.waitFor(t, 30, time.Minute)
		ok(t, m.Freeze(within(t, 10*time.Second)))
		begin := time.Now()
		asked := ""
		ok(t, hosts.Until(within(t, 30*time.Second), "the fence to be asked", func(ctx context.Context) error {
			for _, n := range c.nodes {
				if n == m {
					continue
				}
				if b, err := n.ReadFile(ctx, "/run/plug.asked"); err == nil {
					asked = string(b)
					ok(t, m.PowerCut(within(t, 30*time.Second)))
					return n.WriteFile(ctx, "/run/plug.done", nil, 0o644)
				}
			}
			return fmt.Errorf("nobody asks")
		}))
		if want := fmt.Sprintf("%s %s %d\n", m.Name, m.IP, s.Term); asked != want {
			t.Errorf("it was asked for %q, not %q", asked, want)
		}
		next := c.waitMasterOf(2*time.Minute, n4, s.Term+1)
		w.waitFor(t, 30, time.Minute)
		t.Logf("%.1f s from the freeze to the next write but 30", time.Since(begin).Seconds())
		w.end()
		if lost := c.check(w, n4); len(lost) > 20 {
			t.Errorf("%d acknowledged writes are lost", len(lost))
		}
		out, err := n4.Run(within(t, 10*time.Second), "relevo", "explain")
		t.Logf("(%v)\n%s", err, out)
		if !strings.Contains(out, "the fence confirmed that it is off") {
			t.Error("explain does not tell of the fence")
		}
		ok(t, m.Boot(within(t, time.Minute)))
		c.waitReady(2*time.Minute, next, s.Term+1)
		for _, n := range c.nodes {
			_, err := n.Run(within(t, 10*time.Second), "rm", "-f", "/run/plug.asked", "/run/plug.done")
			ok(t, err)
		}
	})

	c.run("a fence that does not answer", func(t *testing.T) {
		c.waitSteady(time.Minute)
		m := c.mustMaster()
		s, err := n4.status(within(t, 10*time.Second))
		ok(t, err)
		ok(t, m.PowerCut(within(t, 10*time.Second)))
		next := c.waitMasterOf(2*time.Minute, n4, s.Term+1)
		var h api.History
		ok(t, n4.ask(within(t, 10*time.Second), &h, "history"))
		if r := h.Changes[0].Reason; strings.Contains(r, "fence") {
			t.Errorf("the reason is %q", r)
		}
		ok(t, m.Boot(within(t, time.Minute)))
		c.waitReady(2*time.Minute, next, s.Term+1)
	})
}
