//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/test/hosts"
)

// renames: a standby gets another name by one command, typed, under writes. It keeps its copy,
// takes over under the new name, and gets its old name back in the same way.
func renames(t *testing.T, c *cluster) {
	c.waitSteady(time.Minute)
	m, n, n4 := c.nodes[0], c.nodes[1], c.nodes[3]
	ws := c.startWriters(n4, "rename")
	ws[0].waitFor(t, 100, time.Minute)
	refused := func(on *node, name, want string) {
		t.Helper()
		if out, err := on.typed(within(t, 30*time.Second), "relevo rename "+name); err == nil || !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
			t.Errorf("rename %s on %s: %v, want %q", name, on.Name, err, want)
		}
	}
	refused(m, "kitchen", "is the master")
	refused(n, m.Name, "there is a member called "+m.Name+" already")
	refused(n, n.Name, "is called "+n.Name+" already")
	copies := func() string {
		t.Helper()
		out, err := n.Script(within(t, 10*time.Second), "stat -c '%i %n' /var/lib/relevo/replica/*.db")
		ok(t, err)
		return out
	}
	called := func(name, was string) {
		t.Helper()
		begin, before := time.Now(), copies()
		out, err := n.typed(within(t, 2*time.Minute), "relevo rename "+name)
		ok(t, err)
		t.Logf("%.1f s: %s", time.Since(begin).Seconds(), out)
		c.standbyReady(name)
		ok(t, hosts.Until(within(t, time.Minute), "all to know "+name+" alone", func(ctx context.Context) error {
			for _, on := range c.nodes {
				var v api.Members
				if err := on.ask(ctx, &v, "members"); err != nil {
					return err
				}
				votes := 0
				for _, x := range v.Members {
					if x.Voter {
						votes++
					}
					if x.Node == was {
						return fmt.Errorf("%s shows %s, which is %s", on.Name, was, x.Status)
					}
				}
				s, err := on.status(ctx)
				if err != nil || votes != 3 || s.Quorum.Online != 3 || len(s.Problems) > 0 || !slices.ContainsFunc(v.Members, func(x api.Member) bool { return x.Node == name && x.Status == "alive" && x.Candidate }) {
					return fmt.Errorf("%s knows %+v, and says %+v, %+v; %w", on.Name, v.Members, s.Quorum, s.Problems, err)
				}
			}
			return nil
		}))
		t.Logf("all in order after %.1f s", time.Since(begin).Seconds())
		if after := copies(); after != before {
			t.Errorf("the copy of before was %s, and is %s", before, after)
		}
	}
	called("kitchen", n.Name)
	conf, err := n.Run(within(t, 10*time.Second), "cat", "/etc/relevo/relevo.yaml")
	ok(t, err)
	if !strings.Contains(conf, "\nnode: kitchen\n") || !strings.Contains(conf, "\n  node: "+n.Name+"\n") {
		t.Errorf("the configuration is\n%s", conf)
	}
	for _, to := range []string{"kitchen", m.Name} {
		// Who gave the term back a moment ago does not get it again at once.
		ok(t, hosts.Until(within(t, 2*time.Minute), "the term to go to "+to, func(ctx context.Context) error {
			_, err := n4.Run(ctx, "relevo", "switchover", "--to", to)
			return err
		}))
		c.term++
		c.waitReady(2*time.Minute, to, c.term)
		if to == "kitchen" {
			refused(n, n.Name, "is the master")
			c.standbyReady(m.Name)
		}
	}
	c.standbyReady("kitchen")
	called(n.Name, "kitchen")
	ws[0].waitFor(t, 50, time.Minute)
	if missing := ws.check(c, n4); len(missing) > 0 {
		t.Errorf("%d writes are lost: %v", len(missing), missing)
	}
	// As it was: the tests that follow have the configuration that they made.
	conf = strings.Split(conf, "\n\n# What Kubernetes calls this host")[0] + "\n"
	ok(t, n.WriteFile(within(t, 10*time.Second), "/etc/relevo/relevo.yaml", []byte(strings.Replace(conf, "node: kitchen", "node: "+n.Name, 1)), 0o640))
}
