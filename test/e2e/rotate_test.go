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

// rotated waits until nothing is being changed any more, as one host sees it.
func (c *cluster) rotated(n *node, what string) {
	c.t.Helper()
	begin := time.Now()
	ok(c.t, hosts.Until(within(c.t, time.Minute), what+" to be changed", func(ctx context.Context) error {
		var r api.Rotation
		if err := n.ask(ctx, &r, "rotate", "status"); err != nil {
			return err
		}
		if r.GossipKey.Stage != 0 || r.CA.Stage != 0 {
			return fmt.Errorf("it says %+v", r)
		}
		return nil
	}))
	c.t.Logf("%s: done after %.1f s", what, time.Since(begin).Seconds())
}

// onAll is what a command says on each host.
func (c *cluster) onAll(line string) (out []string) {
	c.t.Helper()
	for _, n := range c.nodes {
		text, err := n.Script(within(c.t, 10*time.Second), line)
		ok(c.t, err)
		out = append(out, strings.TrimSpace(text))
	}
	return out
}

// rotate: everything that the members share is changed under writes, one of them away
// meanwhile; no write is lost, and the mastership notices nothing.
func rotate(t *testing.T, c *cluster) {
	c.waitSteady(time.Minute)
	m, away, n4 := c.nodes[0], c.nodes[1], c.nodes[3]
	ws := c.startWriters(n4, "rotate")
	ws[0].waitFor(t, 100, time.Minute)
	order := func(args ...string) string {
		t.Helper()
		var out string
		ok(t, hosts.Until(within(t, 30*time.Second), strings.Join(args, " "), func(ctx context.Context) (err error) {
			if out, err = m.Run(ctx, append([]string{"relevo"}, args...)...); err != nil && !strings.Contains(err.Error(), "try again") {
				t.Fatal(err)
			}
			return err
		}))
		t.Logf("%s: %s", strings.Join(args, " "), out)
		return out
	}
	token := func() string {
		t.Helper()
		var l api.Tokens
		order("token", "create")
		ok(t, m.ask(within(t, 10*time.Second), &l, "token", "list"))
		return l.Tokens[0].ID
	}
	state := func(id string) string {
		t.Helper()
		var l api.Tokens
		ok(t, m.ask(within(t, 10*time.Second), &l, "token", "list"))
		for _, k := range l.Tokens {
			if k.ID == id {
				return k.State
			}
		}
		return "unknown"
	}

	id := token()
	order("rotate", "tokens")
	if s := state(id); s != "revoked" {
		t.Errorf("after tokens were rotated one is %s", s)
	}
	before := c.onAll("cat /etc/relevo/gossip.key")
	order("rotate", "gossip-key")
	c.rotated(m, "the gossip key")
	// Each drops the old one a moment after that was agreed on.
	ok(t, hosts.Until(within(t, 30*time.Second), "the old gossip key to be gone", func(context.Context) (err error) {
		for i, now := range c.onAll("cat /etc/relevo/gossip.key") {
			if strings.Contains(now, before[i]) {
				err = fmt.Errorf("%s has it", c.nodes[i].Name)
			}
		}
		return err
	}))

	id = token()
	order("access", "create", "laptop", "--file", "/root/laptop.relevo")
	lets := func(file string) {
		t.Helper()
		ok(t, hosts.Until(within(t, 20*time.Second), "who is asked to have heard of "+file, func(ctx context.Context) error {
			_, err := m.Run(ctx, "relevo", "--context", file, "members")
			return err
		}))
	}
	lets("/root/laptop.relevo")
	_, err := away.Run(within(t, 30*time.Second), "systemctl", "stop", "relevo.service")
	ok(t, err)
	cas := "sha256sum </etc/relevo/pki/ca.crt; test ! -e /etc/relevo/pki/ca.key || sha256sum </etc/relevo/pki/ca.key"
	old := c.onAll(cas)
	begin := time.Now()
	out := order("rotate", "ca")
	for _, want := range []string{id, "laptop"} {
		if !strings.Contains(out, want) {
			t.Errorf("the answer says nothing of %s", want)
		}
	}
	ok(t, hosts.Until(within(t, time.Minute), "only "+away.Name+" to be missing", func(ctx context.Context) error {
		var r api.Rotation
		err := n4.ask(ctx, &r, "rotate", "status")
		if err == nil && (r.CA.Stage != 2 || !slices.Equal(r.CA.Missing, []string{away.Name})) {
			err = fmt.Errorf("it says %+v", r)
		}
		return err
	}))
	t.Logf("all who are there have new certificates after %.1f s", time.Since(begin).Seconds())
	_, err = away.Run(within(t, 30*time.Second), "systemctl", "start", "relevo.service")
	ok(t, err)
	c.rotated(away, "the CA, with "+away.Name+" back")
	for i, now := range c.onAll(cas) {
		was, lines := strings.Split(old[i], "\n"), strings.Split(now, "\n")
		for j := range min(len(was), len(lines)) {
			if was[j] == lines[j] {
				t.Errorf("%s has the old CA, or its key", c.nodes[i].Name)
			}
		}
	}
	if s := state(id); s != "revoked" {
		t.Errorf("a token of the old CA is %s", s)
	}
	// It is refused at once; that the CA was changed is known where that has arrived.
	ok(t, hosts.Until(within(t, 10*time.Second), "who is asked to say that the CA was changed", func(ctx context.Context) error {
		out, err := m.Run(ctx, "relevo", "--context", "/root/laptop.relevo", "members")
		if err == nil {
			t.Fatalf("an access by the old CA is let in:\n%s", out)
		}
		if !strings.Contains(err.Error()+out, "the cluster's CA was changed") {
			return err
		}
		return nil
	}))
	order("access", "create", "laptop", "--file", "/root/new.relevo")
	lets("/root/new.relevo")

	ws[0].waitFor(t, 50, time.Minute)
	if missing := ws.check(c, n4); len(missing) > 0 {
		t.Errorf("%d writes are lost: %v", len(missing), missing)
	}
	c.waitReady(time.Minute, m.Name, c.term)
	var h api.History
	ok(t, n4.ask(within(t, 10*time.Second), &h, "history"))
	if h.Changes[0].Term != c.term {
		t.Errorf("the master was changed by it: %+v", h.Changes)
	}
}
