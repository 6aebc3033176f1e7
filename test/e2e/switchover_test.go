//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/test/hosts"
)

// standbyReady waits until a host is a ready standby.
func (c *cluster) standbyReady(name string) {
	c.t.Helper()
	ok(c.t, hosts.Until(within(c.t, 2*time.Minute), name+" to be a ready standby", func(ctx context.Context) error {
		s, err := c.nodes[3].status(ctx)
		if err != nil {
			return err
		}
		for _, b := range s.Standbys {
			if b.Node == name && b.Ready && b.LagRevisions != nil && *b.LagRevisions < 1000 {
				return nil
			}
		}
		return fmt.Errorf("the standbys are %+v", s.Standbys)
	}))
}

// switchovers: planned changes of every kind lose nothing.
func switchovers(t *testing.T, c *cluster) {
	to, n4 := c.nodes[1], c.nodes[3]
	c.waitSteady(time.Minute)
	inf := c.startInformer(n4)

	c.run("dry run", func(t *testing.T) {
		var out string
		ok(t, hosts.Until(within(t, 2*time.Minute), "what the master runs to be known everywhere", func(ctx context.Context) (err error) {
			out, err = n4.Run(ctx, "relevo", "switchover", "--dry-run", "--to", to.Name)
			if err == nil && strings.Contains(out, "unknown programs") {
				err = errors.New("it is not: " + out)
			}
			return err
		}))
		t.Logf("%s", out)
		for _, check := range []string{"quorum", "pause", "master", "standby", "data", "identity", "version", "programs", "units", "space", "certificates", "health", "virtual IP", "inhibitors"} {
			if !slices.ContainsFunc(strings.Split(out, "\n"), func(l string) bool {
				return strings.HasPrefix(l, "ok      "+check) || check == "health" && strings.Contains(l, check)
			}) {
				t.Errorf("the check %q is not ok", check)
			}
		}
		// Those that are built for the tests have no versions; k3s's stand-in has.
		if !strings.Contains(out, "kine of an unknown version on both, kube-apiserver of an unknown version on both") {
			t.Error("it does not tell what runs here and there")
		}
		// And what speaks against it is found.
		_, err := to.Run(within(t, 10*time.Second), "systemctl", "mask", "kine.service")
		if err != nil { // the unit is a file in /etc
			_, err = to.Script(within(t, 10*time.Second), "mv /etc/systemd/system/kine.service /root; systemctl daemon-reload")
			ok(t, err)
		}
		var p api.Done
		out, err = n4.Run(within(t, time.Minute), "relevo", "switchover", "--dry-run", "--to", to.Name)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(out, "kine.service is not-found") {
			t.Errorf("without a unit on %s: %v\n%s%+v", to.Name, err, out, p)
		}
		if _, err := n4.Run(within(t, time.Minute), "relevo", "switchover", "--to", to.Name); err == nil || !strings.Contains(err.Error(), "not switched over: units") {
			t.Errorf("and it would be done: %v", err)
		}
		_, err = to.Script(within(t, 10*time.Second), "mv /root/kine.service /etc/systemd/system/; systemctl daemon-reload")
		ok(t, err)
	})

	c.run("under writes", func(t *testing.T) {
		ws := c.startWriters(n4, "switch")
		begin := time.Now()
		ws[0].waitFor(t, 300, time.Minute)
		t.Logf("%.0f writes/s before", float64(ws.count())/time.Since(begin).Seconds())
		out, err := n4.Run(within(t, 2*time.Minute), "relevo", "switchover", "--to", to.Name, "--why", "test")
		ok(t, err)
		t.Log(strings.TrimSpace(out))
		c.waitMaster(time.Minute, to.Name, c.term+1)
		ws[0].waitFor(t, 50, time.Minute)
		if missing := ws.check(c, n4); len(missing) > 0 {
			t.Errorf("a switchover lost %d writes: %v", len(missing), missing)
		}
		c.sameAsList(inf, n4)
		out, err = n4.Run(within(t, 10*time.Second), "relevo", "history")
		ok(t, err)
		t.Log(out)
		if !strings.Contains(out, "switchover asked for by root@n4: test; "+to.Name+" has everything: revision") || !strings.Contains(out, "equal checksum") {
			t.Error("the history does not prove it")
		}
	})

	c.run("reboot of the master", func(t *testing.T) {
		c.waitSteady(time.Minute)
		ws := c.startWriters(n4, "reboot")
		ws[0].waitFor(t, 200, time.Minute)
		_, err := to.Run(within(t, 30*time.Second), "systemctl", "reboot")
		ok(t, err)
		m := c.waitMasterOf(time.Minute, n4, c.term+2)
		ws[0].waitFor(t, 50, time.Minute)
		if missing := ws.check(c, n4); len(missing) > 0 {
			t.Errorf("a reboot lost %d writes: %v", len(missing), missing)
		}
		c.standbyReady(to.Name)
		c.waitReady(2*time.Minute, m, c.term+2)
		c.sameAsList(inf, n4)
		var h api.History
		ok(t, n4.ask(within(t, 10*time.Second), &h, "history"))
		t.Logf("the history says: %s", h.Changes[0].Reason)
		if h.Changes[0].Automatic || !strings.Contains(h.Changes[0].Reason, "has everything: revision") {
			t.Errorf("a reboot was no planned change: %+v", h.Changes[0])
		}
	})
}
