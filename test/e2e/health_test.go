//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/health"
	"relevo.dev/relevo/test/hosts"
)

// TestHealth: faults of real hosts become conditions that every host knows, hooks are told
// of them, a standby is not ready for them, and a master leaves for them. The slow disk is
// not here: this kernel has no dm-delay, so it is a fixture in package health.
func TestHealth(t *testing.T) {
	card := 0
	if os.Getenv("NEMESIS") != "" {
		card = 1500
	}
	c := newCluster(t, options{card: card, extra: "health: {unsynced_for: 0s, disk_free_mb: 16}\n", hosts: func(c *cluster) {
		for _, n := range c.nodes { // there is no timesyncd: its mark alone
			_, err := n.Script(within(t, 10*time.Second), "mkdir -p /run/systemd/timesync && touch /run/systemd/timesync/synchronized")
			ok(t, err)
		}
		_, err := c.nodes[2].Script(within(t, 10*time.Second), "mkdir -p /var/lib/relevo && mount -t tmpfs -o size=96m,mode=700 tmpfs /var/lib/relevo")
		ok(t, err)
	}})
	n2, n3, n4 := c.nodes[1], c.nodes[2], c.nodes[3]
	known := func(t *testing.T, what string, about *node, cond health.Type, want bool) {
		t.Helper()
		begin := time.Now()
		ok(t, hosts.Until(within(t, 2*time.Minute), what, func(ctx context.Context) error {
			for _, n := range c.nodes {
				var m api.Members
				if err := n.ask(ctx, &m, "members"); err != nil {
					return err
				}
				if !slices.ContainsFunc(m.Members, func(m api.Member) bool {
					return m.Node == about.Name && slices.Contains(m.Conditions, cond) == want
				}) {
					return fmt.Errorf("not on %s: %+v", n.Name, m.Members)
				}
			}
			return nil
		}))
		t.Logf("%s: on every host after %.1f s", what, time.Since(begin).Seconds())
	}

	c.run("hooks are there", func(t *testing.T) {
		const note, sleepy, broken, loud = `#!/bin/sh
echo "$RELEVO_EVENT $RELEVO_NODE $RELEVO_CONDITION$RELEVO_ROLE $RELEVO_STATUS $(cat | wc -l) $(id -u)" >>/root/told
`, `#!/bin/sh
[ -e /root/slept ] || { touch /root/slept; setsid sleep 7777 & sleep 7777; }
until [ -e /root/well ]; do sleep 0.1; done
`, "#!/bin/sh\nexit 3\n", "#!/bin/sh\nyes 'as loud as it can be' | head -c 5000000; sleep 3\n"
		ctx := within(t, 30*time.Second)
		for name, text := range map[string]string{"note": note, "sleepy": sleepy, "broken": broken, "loud": loud, "strangers": note} {
			ok(t, n4.WriteFile(ctx, "/etc/relevo/hooks.d/"+name, []byte(text), 0o755))
		}
		_, err := n4.Run(ctx, "chown", "nobody", "/etc/relevo/hooks.d/strangers")
		ok(t, err)
	})

	c.run("a unit that fails", func(t *testing.T) {
		_, err := n2.Script(within(t, 10*time.Second), "systemd-run --quiet --unit=lamp false")
		ok(t, err)
		known(t, "the failed unit of n2", n2, health.UnitFailed, true)
		out, _ := n4.Run(within(t, 10*time.Second), "relevo", "health", n2.Name) // exit code 3
		if !strings.Contains(out, "lamp.service") || !strings.Contains(out, "do:") {
			t.Errorf("relevo health n2 says:\n%s", out)
		}
	})

	c.run("a clock that follows nobody any more, and a small disk that is full", func(t *testing.T) {
		_, err := n3.Script(within(t, 10*time.Second), "fallocate -l $(($(df --output=avail -B1 /var/lib/relevo | tail -1) - 4000000)) /var/lib/relevo/fill")
		ok(t, err)
		_, err = n2.Script(within(t, 10*time.Second), "rm /run/systemd/timesync/synchronized")
		ok(t, err)
		known(t, "the clock of n2", n2, health.ClockNotSynchronized, true)
		known(t, "the full disk of n3", n3, health.DiskFull, true)
		ok(t, hosts.Until(within(t, time.Minute), "n3 not to be ready, and explain to say why", func(ctx context.Context) error {
			out, err := n4.Run(ctx, "relevo", "explain")
			if err != nil {
				return err
			}
			if !strings.Contains(out, "/var/lib/relevo has ") || !strings.Contains(out, "finds of itself: ") {
				return fmt.Errorf("explain says:\n%s", out)
			}
			s, err := n4.status(ctx)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(s.Standbys, func(s api.Standby) bool { return s.Node == n3.Name })
			if i < 0 || s.Standbys[i].Ready || !strings.Contains(s.Standbys[i].Why, "MB left") {
				return fmt.Errorf("%+v", s.Standbys)
			}
			t.Logf("%s is not ready: %s", n3.Name, s.Standbys[i].Why)
			return nil
		}))
		_, err = n3.Run(within(t, 10*time.Second), "rm", "/var/lib/relevo/fill")
		ok(t, err)
	})

	c.run("what hooks were told, and what became of them", func(t *testing.T) {
		want := map[string]string{"sleepy": "killed after 30s", "broken": "it failed", "strangers": "root does not own it"}
		ok(t, hosts.Until(within(t, 90*time.Second), "every bad hook to be told of", func(ctx context.Context) error {
			s, err := n4.status(ctx)
			if err != nil {
				return err
			}
			for name, why := range want {
				if !slices.ContainsFunc(s.Problems, func(p api.Problem) bool {
					return strings.Contains(p.What, "/hooks.d/"+name) && strings.Contains(p.Why, why)
				}) {
					return fmt.Errorf("%s is not told of: %+v", name, s.Problems)
				}
			}
			return nil
		}))
		told, err := n4.ReadFile(within(t, 10*time.Second), "/root/told")
		ok(t, err)
		for _, line := range []string{"condition n2 UnitFailed true 1 0\n", "condition n2 ClockNotSynchronized true 1 0\n", "condition n3 DiskFull true 1 0\n"} {
			if !strings.Contains(string(told), line) {
				t.Errorf("the hook was not told %q:\n%s", line, told)
			}
		}
		ok(t, n4.WriteFile(within(t, 10*time.Second), "/root/well", nil, 0o644)) // it hangs no more
		ok(t, hosts.Until(within(t, 90*time.Second), "nothing of a hook that hung to be left", func(ctx context.Context) error {
			out, err := n4.Script(ctx, "pgrep -fc 'sleep [7]777' || true")
			if err == nil && strings.TrimSpace(out) != "0" {
				err = fmt.Errorf("%s processes", strings.TrimSpace(out))
			}
			return err
		}))
		out, err := n4.Script(within(t, 20*time.Second), "journalctl -t relevo-hook --output=cat | wc -c; journalctl --output=cat | grep -c 'Suppressed.*relevo-hook' || true")
		ok(t, err)
		t.Logf("of the loud hook's megabytes the journal kept, in bytes, and how often it says that it dropped some: %s", strings.Join(strings.Fields(out), ", "))
		var kept int
		fmt.Sscan(out, &kept)
		if kept == 0 || kept > 1_000_000 {
			t.Errorf("the journal kept %d bytes of the hooks' output", kept)
		}
	})

	c.run("metrics of every host", func(t *testing.T) {
		tool, err := exec.LookPath("promtool")
		if err != nil {
			dir, err := hosts.Unpacked(t.Context(), os.Stderr, "promtool", "prometheus")
			if tool = dir + "/promtool"; err != nil {
				tool = ""
				t.Log("WITHOUT promtool: ", err)
			}
		}
		for _, n := range c.nodes {
			out, err := n.Run(within(t, 10*time.Second), "curl", "-fsS", "http://127.0.0.1:7948/metrics")
			ok(t, err)
			for line := range strings.Lines(out) {
				f := strings.Fields(line)
				if len(f) > 2 && f[1] == "TYPE" && !slices.ContainsFunc(api.Families(), func(k api.Family) bool { return k.Name == f[2] && string(k.Type) == f[3] }) {
					t.Errorf("%s shows what docs/metrics.md does not have: %s", n.Name, line)
				}
			}
			if tool == "" {
				continue
			}
			check := exec.CommandContext(within(t, time.Minute), tool, "check", "metrics")
			check.Stdin = bytes.NewReader([]byte(out))
			if text, err := check.CombinedOutput(); err != nil || len(text) > 0 {
				t.Errorf("promtool on %s: %v\n%s", n.Name, err, text)
			}
		}
	})

	if card == 0 { // takes more than a minute, see TestCard
		return
	}
	c.run("the card of the master fails", func(t *testing.T) {
		_, err := n2.Script(within(t, 10*time.Second), "touch /run/systemd/timesync/synchronized; systemctl reset-failed lamp")
		ok(t, err)
		known(t, "n3 well again", n3, health.DiskFull, false)
		c.waitSteady(time.Minute)
		m := c.mustMaster()
		s, err := n4.status(within(t, 10*time.Second))
		ok(t, err)
		ok(t, m.CardFails(within(t, 10*time.Second)))
		begin := time.Now()
		next := c.waitMasterOf(2*time.Minute, n4, s.Term+1)
		var h api.History
		ok(t, n4.ask(within(t, 10*time.Second), &h, "history"))
		t.Logf("%s is the master %.1f s after the card of %s failed: %s", next, time.Since(begin).Seconds(), m.Name, h.Changes[0].Reason)
		if why := h.Changes[0].Reason; next == m.Name || !strings.Contains(why, "stepped down") && !strings.Contains(why, "disk") && !strings.Contains(why, "file system") {
			t.Errorf("%s follows because %q", next, why)
		}
		out, err := n4.Run(within(t, 20*time.Second), "relevo", "explain")
		ok(t, err)
		if !strings.Contains(out, m.Name+" ") || !strings.Contains(out, "should not stay the master") {
			t.Errorf("explain does not tell why:\n%s", out)
		}
	})
}
