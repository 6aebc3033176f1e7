//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/test/hosts"
)

// packages upgrades a working cluster one host after the other, and takes the
// package off again.
func packages(t *testing.T, c *cluster) {
	newer := debFile(t, "0.1.1")
	c.waitSteady(time.Minute)
	m, other, n4 := c.nodes[0], c.nodes[2], c.nodes[3]

	c.run("what the unit may do", func(t *testing.T) {
		// 0 is the best, 10 the worst. The second is a template: its file is judged.
		for _, u := range []struct {
			unit   []string
			atMost float64
		}{{[]string{"relevo.service"}, 2.0}, {[]string{"--offline=true", "/usr/lib/systemd/system/relevo-packet@.service"}, 1.1}} {
			out, err := m.Run(within(t, 30*time.Second), append([]string{"systemd-analyze", "security", "--no-pager"}, u.unit...)...)
			ok(t, err)
			lines := strings.Split(strings.TrimSpace(out), "\n")
			last := lines[len(lines)-1]
			t.Log(last)
			_, level, _ := strings.Cut(last, ": ")
			var is float64
			if _, err := fmt.Sscan(level, &is); err != nil || is == 0 || is > u.atMost {
				t.Errorf("exposure %q of %v (%v), %.1f is wanted\n%s", last, u.unit, err, u.atMost, out)
			}
		}
		for file, want := range map[string]string{"/etc/relevo/gossip.key": "600", "/etc/relevo/pki/node.key": "600",
			"/run/relevo/lease": "600", "/var/lib/relevo": "700", "/etc/relevo": "750"} {
			if mode, err := m.Run(within(t, 10*time.Second), "stat", "-c", "%a", file); err != nil || strings.TrimSpace(mode) != want {
				t.Errorf("%s has mode %q (%v), not %s", file, strings.TrimSpace(mode), err, want)
			}
		}
		// Who votes keeps the CA's key, and nobody but root reads it.
		ok(t, hosts.Until(within(t, 30*time.Second), "the voters to keep the CA's key", func(ctx context.Context) error {
			votes, err := n4.votes(ctx)
			if err != nil {
				return err
			}
			for i, mode := range c.onAll("stat -c %a /etc/relevo/pki/ca.key 2>/dev/null || echo none") {
				if name := c.nodes[i].Name; mode != "600" && (mode != "none" || votes[name]) {
					return fmt.Errorf("%s has it with mode %s; votes: %v", name, mode, votes)
				}
			}
			return nil
		}))
	})

	c.run("packet sockets", func(t *testing.T) { packetSockets(t, c, m, n4) })

	c.run("metrics and health for machines", func(t *testing.T) {
		for path, want := range map[string]string{"metrics": "\nrelevo_is_master 1\n", "healthz": "ok\n", "readyz": "ok\n"} {
			out, err := m.Run(within(t, 10*time.Second), "curl", "-sf", "http://127.0.0.1:7948/"+path)
			if err != nil || !strings.Contains(out, want) {
				t.Errorf("/%s: %v\n%s", path, err, out)
			}
		}
		if _, err := n4.Run(within(t, 10*time.Second), "curl", "-sf", "--max-time", "3", "http://"+m.IP.String()+":7948/metrics"); err == nil {
			t.Error("the metrics of the master can be had from outside, and nobody has allowed it")
		}
		out, err := m.Run(within(t, 10*time.Second), "systemctl", "show", "--property=StatusText", "--value", "relevo.service")
		if err != nil || !strings.Contains(out, fmt.Sprintf("this host is the master in term %d", c.term)) {
			t.Errorf("systemctl status says %q (%v)", out, err)
		}
	})

	c.run("a reload takes what it can, and refuses what is wrong", func(t *testing.T) {
		good, err := m.ReadFile(within(t, 10*time.Second), "/etc/relevo/relevo.yaml")
		ok(t, err)
		before := c.apiServer(m)
		for _, step := range []struct{ text, says string }{
			{strings.Replace(string(good), "node: "+m.Name+"\n", "node: "+m.Name+"\nmax_lag: 20s\n", 1), "configuration taken over"},
			{strings.Replace(string(good), "node: "+m.Name+"\n", "node: "+m.Name+"\nlease_ttl: 7s\n", 1), "restart_for=lease_ttl"},
			{strings.Replace(string(good), "node: "+m.Name+"\n", "node: "+m.Name+"\nmax_log: 20s\n", 1), "relevo.yaml:3:1"},
			{string(good), "configuration taken over"},
		} {
			ok(t, m.WriteFile(within(t, 10*time.Second), "/etc/relevo/relevo.yaml", []byte(step.text), 0o640))
			_, err := m.Run(within(t, 30*time.Second), "systemctl", "reload", "relevo.service")
			ok(t, err)
			ok(t, hosts.Until(within(t, 20*time.Second), "the journal to say "+step.says, func(ctx context.Context) error {
				out, err := m.Run(ctx, "journalctl", "-q", "--no-pager", "-n", "12", "-u", "relevo.service")
				if err == nil && !strings.Contains(out, step.says) {
					err = errors.New(out)
				}
				return err
			}))
		}
		c.undisturbed(t, m, before)
	})

	c.run("upgrade", func(t *testing.T) {
		config, err := m.ReadFile(within(t, 10*time.Second), "/etc/relevo/relevo.yaml")
		ok(t, err)
		before := c.apiServer(m)
		w := c.startWriter(n4, "up")
		for _, n := range c.nodes {
			ok(t, c.installDeb(within(t, time.Minute), n, newer))
			ok(t, n.WaitUnit(within(t, time.Minute), "relevo.service", "active"))
			c.waitReady(time.Minute, m.Name, c.term)
		}
		w.end()
		for _, n := range c.nodes {
			if s, err := n.status(within(t, 10*time.Second)); err != nil || s.Version != "0.1.1" {
				t.Errorf("%s runs %s (%v)", n.Name, s.Version, err)
			}
		}
		c.undisturbed(t, m, before)
		if now, err := m.ReadFile(within(t, 10*time.Second), "/etc/relevo/relevo.yaml"); err != nil || string(now) != string(config) {
			t.Errorf("the upgrade changed the configuration (%v):\n%s", err, now)
		}
		if missing := c.check(w, n4); len(missing) > 0 || w.errs > 0 {
			t.Errorf("an upgrade lost %d writes and failed %d", len(missing), w.errs)
		}
	})

	c.run("purge", func(t *testing.T) {
		_, err := n4.Run(within(t, time.Minute), "apt-get", "purge", "-y", "-q", "relevo")
		ok(t, err)
		for _, p := range []string{"/etc/relevo", "/var/lib/relevo", "/run/relevo", "/usr/bin/relevo", "/usr/lib/systemd/system/relevo.service", "/usr/lib/systemd/system/relevo-packet.socket", "/etc/systemd/system/multi-user.target.wants/relevo.service", "/var/lib/systemd/deb-systemd-helper-enabled/relevo.service.dsh-also"} {
			if _, err := n4.Run(within(t, 10*time.Second), "stat", p); err == nil {
				t.Errorf("purge left %s", p)
			}
		}
		if state, err := n4.UnitState(within(t, 10*time.Second), "relevo-packet.socket"); err != nil || state == "active" {
			t.Errorf("after the purge relevo-packet.socket is %s (%v)", state, err)
		}
		if _, err := n4.Run(within(t, 10*time.Second), "getent", "group", "relevo"); err == nil {
			t.Error("purge left the group")
		}
		c.waitMasterOf(time.Minute, other, c.term)
	})

	c.run("the vote of who left is replaced", func(t *testing.T) {
		ok(t, hosts.Until(within(t, time.Minute), "three voters that are there", func(ctx context.Context) error {
			s, err := other.status(ctx)
			if err == nil && (s.Quorum.Voters != 3 || s.Quorum.Online != 3) {
				err = fmt.Errorf("%d of %d voters are online", s.Quorum.Online, s.Quorum.Voters)
			}
			return err
		}))
	})

	c.run("remove from the master", func(t *testing.T) {
		_, err := m.Run(within(t, 2*time.Minute), "apt-get", "remove", "-y", "-q", "relevo")
		ok(t, err)
		for _, u := range hosts.Units {
			ok(t, c.waitDown(m, u))
			if _, err := m.Run(within(t, 10*time.Second), "stat", "/etc/systemd/system/"+u+".d"); err == nil {
				t.Errorf("the drop-in of %s is left on %s", u, m.Name)
			}
			_, err := m.Run(within(t, 10*time.Second), "systemctl", "--quiet", "is-enabled", u)
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Errorf("%s would start at the next boot of %s (%v)", u, m.Name, err)
			}
		}
		if next := c.waitMasterOf(2*time.Minute, other, c.term+1); next == m.Name {
			t.Errorf("%s is the master", next)
		}
		if _, err := m.ReadFile(within(t, 10*time.Second), "/etc/relevo/relevo.yaml"); errors.Is(err, fs.ErrNotExist) {
			t.Error("remove took the configuration away")
		}
		ok(t, m.PowerCut(within(t, 30*time.Second)))
		ok(t, m.Boot(within(t, time.Minute)))
		for _, u := range hosts.Units {
			if state, err := m.UnitState(within(t, 10*time.Second), u); err != nil || state == "active" {
				t.Errorf("%s on %s is %s after a boot (%v)", u, m.Name, state, err)
			}
		}
	})
}
