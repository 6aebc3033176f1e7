//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/test/hosts"
)

// as runs a command as another user of the host.
func (n *node) as(ctx context.Context, user string, args ...string) (string, error) {
	return n.Run(ctx, append([]string{"setpriv", "--reuid=" + user, "--init-groups", "--regid=" + user}, args...)...)
}

// denied: a command is refused for want of a role, or cannot even ask.
func denied(t *testing.T, err error, why string, what ...string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("%v: %v, want %q", what, err, why)
	}
}

// TestOnboard is first contact on bare hosts, as people do it: init typed at a terminal, a
// card with a token on its boot partition, and who may do what then.
func TestOnboard(t *testing.T) {
	deb := debFile(t, version)
	lab := newLab(t, hosts.Options{})
	c := &cluster{t: t, lab: lab}
	hs, err := lab.AddHosts(t.Context(), "n1", "n2", "laptop")
	ok(t, err)
	for _, h := range hs {
		c.nodes = append(c.nodes, &node{h})
	}
	ok(t, lab.Boot(within(t, 2*time.Minute)))
	g, ctx := errgroup.WithContext(within(t, time.Minute))
	for _, n := range c.nodes {
		g.Go(func() error { return c.installDeb(ctx, n, deb) })
	}
	ok(t, g.Wait())
	n1, n2, laptop := c.nodes[0], c.nodes[1], c.nodes[2]
	var token string

	c.run("init, typed at a terminal", func(t *testing.T) {
		begin := time.Now()
		// An empty line for the name that is proposed.
		out, err := n1.Script(within(t, time.Minute), `echo | script -qec 'relevo init' /dev/null`)
		ok(t, err)
		t.Logf("after %.1f s:\n%s", time.Since(begin).Seconds(), out)
		m := regexp.MustCompile(`sudo relevo join ([0-9A-Z-]{30,})`).FindStringSubmatch(out)
		if m == nil || !strings.Contains(out, "Name of the cluster [home]") || !strings.Contains(out, "no Kubernetes") {
			t.Fatal("no token is told, or nothing was asked")
		}
		token = m[1]
		_, err = n1.Run(within(t, 10*time.Second), "relevo", "init")
		denied(t, err, "already belongs", "a second init")
	})

	c.run("a card with a token", func(t *testing.T) {
		_, err := n2.Script(within(t, 10*time.Second), "mkdir -p /boot/firmware")
		ok(t, err)
		ok(t, n2.WriteFile(within(t, 10*time.Second), "/boot/firmware/relevo-join.txt", []byte("# for the shed\r\n"+token+"\r\n"), 0o644))
		_, err = n2.Run(within(t, time.Minute), "systemctl", "start", "relevo-firstboot.service")
		ok(t, err)
		ok(t, n2.WaitUnit(within(t, time.Minute), "relevo.service", "active"))
		if _, err := n2.ReadFile(within(t, 10*time.Second), "/boot/firmware/relevo-join.txt"); err == nil {
			t.Error("the secret is still on the card")
		}
		log, err := n2.ReadFile(within(t, 10*time.Second), "/boot/firmware/relevo-join.log")
		ok(t, err)
		journal, err := n2.Journal(within(t, 10*time.Second), "relevo-firstboot.service", "relevo.service")
		ok(t, err)
		if !strings.Contains(string(log), "joined") || strings.Contains(string(log)+journal, token) {
			t.Errorf("the log says %q, or the token is told", log)
		}
		ok(t, hosts.Until(within(t, time.Minute), "two members", func(ctx context.Context) error {
			var m api.Members
			if err := n2.ask(ctx, &m, "members"); err != nil {
				return err
			}
			if len(m.Members) != 2 {
				return fmt.Errorf("there are %+v", m.Members)
			}
			return nil
		}))
	})

	c.run("roles on a host", func(t *testing.T) {
		for _, add := range [][]string{{"useradd", "--groups", "relevo", "ann"}, {"useradd", "bob"}} {
			_, err := n1.Run(within(t, 10*time.Second), add...)
			ok(t, err)
		}
		run := func(user string, args ...string) error {
			_, err := n1.as(within(t, 20*time.Second), user, append([]string{"relevo"}, args...)...)
			return err
		}
		for _, args := range [][]string{{"members"}, {"history"}, {"history", "--audit"}, {"pause", "--why", "new switch"}, {"resume"}, {"acknowledge"}} {
			if err := run("ann", args...); err != nil && !strings.Contains(err.Error(), "exit status 3") {
				t.Errorf("an operator cannot %v: %v", args, err)
			}
		}
		for _, args := range [][]string{{"leave"}, {"remove", "n2"}, {"resume", "--force"}, {"step-down", "--force", "--wait", "0"}, {"failover", "--force", "--wait", "0"},
			{"access", "list"}, {"access", "create", "x", "-f", "/tmp/x"}, {"access", "revoke", "x"}, {"token", "create"}, {"token", "list"}} {
			denied(t, run("ann", args...), "needs the role admin", args...)
		}
		for _, args := range [][]string{{"status"}, {"members"}, {"pause"}, {"leave"}} {
			denied(t, run("bob", args...), "permission denied", args...)
		}
		// Others may be let see the status, and nothing else.
		_, err := n1.Script(within(t, 30*time.Second), "echo 'access: {others: status}' >>/etc/relevo/relevo.yaml; systemctl restart relevo")
		ok(t, err)
		ok(t, hosts.Until(within(t, 30*time.Second), "others to see the status", func(ctx context.Context) error {
			_, err := n1.as(ctx, "bob", "relevo", "status")
			if err != nil && strings.Contains(err.Error(), "exit status 3") {
				return nil
			}
			return err
		}))
		for _, args := range [][]string{{"members"}, {"services"}, {"health"}, {"history"}, {"history", "--audit"}, {"explain"}} {
			denied(t, run("bob", args...), "needs the role viewer", args...)
		}
		for _, args := range [][]string{{"pause"}, {"resume"}, {"step-down", "--wait", "0"}, {"failover", "--wait", "0"}, {"acknowledge"}} {
			denied(t, run("bob", args...), "needs the role operator", args...)
		}
		for _, args := range [][]string{{"leave"}, {"remove", "n2"}, {"access", "list"}, {"token", "create"}} {
			denied(t, run("bob", args...), "needs the role admin", args...)
		}
	})

	c.run("access from a host that is no member", func(t *testing.T) {
		for _, role := range []string{"viewer", "operator"} {
			_, err := n1.Run(within(t, 30*time.Second), "relevo", "access", "create", role, "--role", role, "--ttl", "1h", "-f", "/root/"+role)
			ok(t, err)
			file, err := n1.ReadFile(within(t, 10*time.Second), "/root/"+role)
			ok(t, err)
			ok(t, laptop.WriteFile(within(t, 10*time.Second), "/root/"+role, file, 0o600))
		}
		run := func(role string, args ...string) error {
			_, err := laptop.Run(within(t, 20*time.Second), append([]string{"relevo", "--context", "/root/" + role}, args...)...)
			if err != nil && strings.Contains(err.Error(), "exit status 3") {
				err = nil
			}
			return err
		}
		ok(t, run("viewer", "status"))
		ok(t, run("viewer", "members"))
		for _, args := range [][]string{{"pause"}, {"resume"}, {"acknowledge"}, {"step-down", "--wait", "0"}} {
			denied(t, run("viewer", args...), "needs the role operator", args...)
		}
		ok(t, run("operator", "pause", "--why", "from the sofa"))
		ok(t, run("operator", "resume"))
		for _, args := range [][]string{{"leave"}, {"remove", "n2"}, {"failover", "--force", "--wait", "0"}, {"access", "list"}, {"token", "create"}} {
			denied(t, run("operator", args...), "needs the role admin", args...)
		}
		_, err := n1.Run(within(t, 20*time.Second), "relevo", "access", "revoke", "operator")
		ok(t, err)
		denied(t, run("operator", "status"), "was revoked", "status")
		if out, err := n1.Run(within(t, 20*time.Second), "journalctl", "-q", "--no-pager", "RELEVO_BY=ann", "RELEVO_OUTCOME=denied"); err != nil || !strings.Contains(out, "needs the role admin") {
			t.Errorf("the journal has no such fields: %v %s", err, out)
		}
		var v api.Audit
		ok(t, n2.ask(within(t, 20*time.Second), &v, "history", "--audit"))
		b, _ := json.Marshal(v)
		for _, want := range []string{`"by":"ann"`, "from the sofa", `"outcome":"denied"`, `"action":"access revoke","target":"operator","outcome":"done"`} {
			if !strings.Contains(string(b), want) {
				t.Errorf("the audit has no %s: %s", want, b)
			}
		}
	})

	c.run("the doctor, and a firewall", func(t *testing.T) {
		firewall := func(rules string) {
			t.Helper()
			ok(t, n1.pipe(within(t, 10*time.Second), strings.NewReader(rules), "nft", "-f", "-"))
		}
		ports := func(what string, is func(f api.Finding) bool) {
			t.Helper()
			ok(t, hosts.Until(within(t, time.Minute), what, func(ctx context.Context) error {
				var found []api.Finding
				if err := n1.ask(ctx, &found, "doctor"); err != nil {
					return err
				}
				for _, f := range found {
					if f.Check == "ports" && is(f) {
						t.Logf("%s: %+v", what, f)
						return nil
					}
				}
				return fmt.Errorf("it found %+v", found)
			}))
		}
		ports("all ports open", func(f api.Finding) bool { return f.Result == api.FindingOK })
		// What is established goes on, as with ufw.
		firewall(`table inet fw {
	chain input {
		type filter hook input priority 0; policy accept;
		udp dport 7946 drop
		ct state established,related accept
		tcp dport 7947 drop
	}
}`)
		ports("a firewall before two of them", func(f api.Finding) bool {
			return f.Result == api.FindingWrong && strings.Contains(f.What, "n2 does not get in at tcp 7947") && strings.Contains(f.What, "udp 7946") &&
				!strings.Contains(f.What, "tcp 7946") && strings.Contains(f.Do, "ufw allow 7947/tcp")
		})
		firewall("delete table inet fw\n")
		ports("all ports open again", func(f api.Finding) bool { return f.Result == api.FindingOK })
	})

	c.run("the doctor", func(t *testing.T) {
		var found []api.Finding
		// An announcement takes its time after the agent began anew.
		ok(t, hosts.Until(within(t, time.Minute), "the others to see all that they should", func(ctx context.Context) error {
			found = nil
			if err := n1.ask(ctx, &found, "doctor"); err != nil {
				return err
			}
			results := map[string]api.Finding{}
			for _, f := range found {
				results[f.Check] = f
			}
			for _, check := range []string{"ports", "MTU", "clocks", "versions", "mDNS", "address", "card"} {
				if results[check].Result != api.FindingOK {
					return fmt.Errorf("%s: %+v", check, results[check])
				}
			}
			return nil
		}))
		for _, f := range found {
			t.Logf("%-8s %-14s %s", f.Result, f.Check, f.What)
		}
	})

	c.run("a card that was copied after its first start", func(t *testing.T) {
		own, err := n2.Run(within(t, 10*time.Second), "cat", "/etc/machine-id")
		ok(t, err)
		theirs, err := n1.Run(within(t, 10*time.Second), "cat", "/etc/machine-id")
		ok(t, err)
		told := func() string {
			t.Helper()
			s, err := n1.status(within(t, 10*time.Second))
			ok(t, err)
			for _, p := range s.Problems {
				if strings.Contains(p.What, "machine-id") {
					return p.What
				}
			}
			return ""
		}
		ok(t, n2.WriteFile(within(t, 10*time.Second), "/etc/machine-id", []byte(theirs), 0o444))
		if got := told(); got != "n1 and n2 have one machine-id: a card was copied after its first start" {
			t.Errorf("it says %q", got)
		}
		ok(t, n2.WriteFile(within(t, 10*time.Second), "/etc/machine-id", []byte(own), 0o444))
		if got := told(); got != "" {
			t.Errorf("it says %q", got)
		}
	})
}
