//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/test/hosts"
)

// cloudySerf is HashiCorp's own agent, as Cloudy runs it.
const cloudySerf = "v0.10.2"

// serfBinary builds it from the module proxy.
func serfBinary(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	c := exec.CommandContext(within(t, 10*time.Minute), "go", "install", "github.com/hashicorp/serf/cmd/serf@"+cloudySerf)
	c.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := c.CombinedOutput(); err != nil {
		t.Skipf("HashiCorp's serf cannot be built: %v\n%s", err, out)
	}
	return filepath.Join(dir, "serf")
}

// piped sends text through commands of this machine; the hosts have no bzip2.
func piped(t *testing.T, text, script string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	if err != nil && text != "" {
		t.Fatalf("%s: %v", script, err)
	}
	return string(out)
}

// newMembers is a cluster of hosts that only vote: nothing of Kubernetes. n3 has no
// avahi-daemon.
func newMembers(t *testing.T, extra func(name string) string) *cluster {
	t.Helper()
	deb := debFile(t, version)
	c := &cluster{t: t, lab: newLab(t, hosts.Options{})}
	hs, err := c.lab.AddHosts(t.Context(), "n1", "n2", "n3", "n4")
	ok(t, err)
	for _, h := range hs {
		c.nodes = append(c.nodes, &node{h})
	}
	ok(t, c.lab.Boot(within(t, 2*time.Minute)))
	ctx := within(t, 2*time.Minute)
	_, err = c.nodes[2].Run(ctx, "systemctl", "disable", "--now", "avahi-daemon.service", "avahi-daemon.socket")
	ok(t, err)
	g, gctx := errgroup.WithContext(ctx)
	for _, n := range c.nodes {
		g.Go(func() error {
			if err := c.installDeb(gctx, n, deb); err != nil {
				return err
			}
			return n.WriteFile(gctx, "/etc/relevo/relevo.yaml", []byte("cluster: home\nnode: "+n.Name+"\n"+extra(n.Name)), 0o640)
		})
	}
	ok(t, g.Wait())
	_, err = c.nodes[0].Run(ctx, "relevo", "init", "--no-start")
	ok(t, err)
	for _, n := range c.nodes[1:] {
		invitation, err := c.nodes[0].Run(ctx, "relevo", "invite", n.Name)
		ok(t, err)
		ok(t, n.pipe(ctx, strings.NewReader(invitation), "relevo", "join", "-"))
	}
	for _, n := range c.nodes {
		_, err := n.Run(ctx, "systemctl", "start", "--no-block", "relevo.service")
		ok(t, err)
	}
	return c
}

// service finds one in what a host's agent lists.
func (n *node) service(ctx context.Context, name, of string) (*api.Service, *api.Services, error) {
	out, err := n.Run(ctx, "relevo", "services", "-o", "json")
	if err != nil {
		return nil, nil, err
	}
	var s api.Services
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return nil, nil, err
	}
	for i, v := range s.Services {
		if v.Name == name && (of == "" || v.Node == of) {
			return &s.Services[i], &s, nil
		}
	}
	return nil, &s, nil
}

// lists waits until hosts list a service with a health, or, if that is "gone", until
// none does.
func (c *cluster) lists(name, of, health string, on ...*node) {
	c.t.Helper()
	start := time.Now()
	for _, n := range on {
		ok(c.t, hosts.Until(within(c.t, time.Minute), fmt.Sprintf("%s lists %s of %s: %s", n.Name, name, of, health), func(ctx context.Context) error {
			v, all, err := n.service(ctx, name, of)
			if err == nil && (v == nil) != (health == "gone") || v != nil && health != "gone" && v.Health != health {
				err = fmt.Errorf("it has %+v; in all %+v", v, all)
			}
			return err
		}))
	}
	c.t.Logf("%s of %s is %s in the lists of %d hosts after %.1f s", name, of, health, len(on), time.Since(start).Seconds())
}

// browses waits until avahi-browse on a host sees a service, or not any more, and says
// how long that took.
func (c *cluster) browses(n *node, name, kind string, want bool) {
	c.t.Helper()
	start := time.Now()
	ok(c.t, hosts.Until(within(c.t, time.Minute), fmt.Sprintf("avahi-browse on %s shows %s: %v", n.Name, name, want), func(ctx context.Context) error {
		out, err := n.Run(ctx, "avahi-browse", "-pkt", kind) // -k: types, not their names
		if err == nil && strings.Contains(out, ";"+name+";"+kind+";local") != want {
			err = fmt.Errorf("it shows %s", out)
		}
		return err
	}))
	c.t.Logf("avahi-browse on %s shows %s: %v after %.1f s", n.Name, name, want, time.Since(start).Seconds())
}

// TestServices: services of files on every host's list and in avahi-browse, with
// checks; what becomes of them when avahi-daemon, a host, or a file fails; and the
// community's ring.
func TestServices(t *testing.T) {
	serf := serfBinary(t)
	c := newMembers(t, func(name string) string {
		if name == "n1" {
			return "cloudy: {bridge: true, join: [10.77.0.200], micro_cloud: test}\n"
		}
		return ""
	})
	n1, n2, n3, n4 := c.nodes[0], c.nodes[1], c.nodes[2], c.nodes[3]
	put := func(n *node, file, text string) {
		t.Helper()
		ctx := within(c.t, 30*time.Second)
		_, err := n.Run(ctx, "mkdir", "-p", "/etc/relevo/services.d")
		ok(c.t, err)
		ok(c.t, n.WriteFile(ctx, "/etc/relevo/services.d/"+file, []byte(text), 0o644))
	}
	do := func(n *node, args ...string) {
		c.t.Helper()
		_, err := n.Run(within(c.t, 30*time.Second), args...)
		ok(c.t, err)
	}

	// The ring comes up while the rest is tried: a bridge that is alone looks for it more
	// and more seldom.
	ok(t, n4.CopyIn(within(t, time.Minute), serf, "/usr/local/bin/serf", 0o755))
	do(n4, "ip", "address", "add", "10.77.0.200/24", "dev", "eth0")
	radio := piped(t, `[{"s":"radio","d":"Radio_Guifi","m":"cloudy.guifi.local","i":"10.1.2.3","p":"8000","e":"elsewhere","t":""}]`, "bzip2 -c | base64 -w0")
	do(n4, "systemd-run", "--unit=ring", "/usr/local/bin/serf", "agent", "-protocol=4", "-profile=wan", "-node=cloudy", "-bind=10.77.0.200:5000", "-tag", "services="+radio)

	c.run("a file with a check", func(t *testing.T) {
		c.lists("n4", "n4", "ok", n1, n2, n3, n4)
		put(n1, "shop.yaml", "name: Shop\ntype: _http._tcp\nport: 80\ncloudy: true\ncheck: {unit: shop.service, interval: 1s, timeout: 1s}\n")
		c.lists("Shop", "n1", "failing", n2)
		do(n1, "systemd-run", "--unit=shop", "sleep", "infinity")
		c.browses(n2, "Shop", "_http._tcp", true)
		c.lists("Shop", "n1", "ok", n1, n2, n3, n4)
		do(n1, "systemctl", "stop", "shop")
		c.browses(n2, "Shop", "_http._tcp", false)
		c.lists("Shop", "n1", "failing", n4)
		do(n1, "systemd-run", "--unit=shop", "sleep", "infinity")
		c.browses(n4, "Shop", "_http._tcp", true)
	})

	c.run("a broken file is a problem, and the rest goes on", func(t *testing.T) {
		put(n1, "bad.yaml", "name: Bad\ntype: _http._tcp\nport: 99999\n")
		ok(t, hosts.Until(within(t, 30*time.Second), "n4 tells of the file on n1", func(ctx context.Context) error {
			v, all, err := n4.service(ctx, "Shop", "n1")
			if err == nil && (v == nil || len(all.Problems) != 1 || !strings.Contains(all.Problems[0].What, "n1: /etc/relevo/services.d/bad.yaml:3:7: port")) {
				err = fmt.Errorf("it has %+v", all)
			}
			return err
		}))
		do(n1, "rm", "/etc/relevo/services.d/bad.yaml")
	})

	c.run("avahi-daemon's own form, on a host without it", func(t *testing.T) {
		put(n3, "ssh.service", `<service-group><name replace-wildcards="yes">Shell of %h</name><service><type>_ssh._tcp</type><port>22</port></service></service-group>`)
		c.lists("Shell of n3", "n3", "unchecked", n1, n4)
		c.browses(n2, `Shell\032of\032n3`, "_ssh._tcp", true)
	})

	c.run("avahi-daemon restarts", func(t *testing.T) {
		do(n1, "systemctl", "restart", "avahi-daemon")
		c.browses(n2, "Shop", "_http._tcp", true)
	})

	c.run("what others announce", func(t *testing.T) {
		do(n2, "systemd-run", "--unit=printer", "avahi-publish", "-s", "Old printer", "_ipp._tcp", "631")
		g, ctx := errgroup.WithContext(within(t, time.Minute))
		for _, n := range []*node{n4, n3} { // each looks for ten seconds
			g.Go(func() error {
				out, err := n.Run(ctx, "relevo", "services", "--browse")
				if err == nil && (!strings.Contains(out, "Old printer") || strings.Contains(out, "Shop")) {
					err = fmt.Errorf("on %s:\n%s", n.Name, out)
				}
				return err
			})
		}
		ok(t, g.Wait())
	})

	c.run("Cloudy's ring", func(t *testing.T) {
		start := time.Now()
		ok(t, hosts.Until(within(t, 2*time.Minute), "the ring carries the shop", func(ctx context.Context) error {
			out, err := n4.Run(ctx, "/usr/local/bin/serf", "members", "-format=json")
			if err != nil {
				return err
			}
			var ring struct {
				Members []struct{ Tags map[string]string }
			}
			if err := json.Unmarshal([]byte(out), &ring); err != nil {
				return err
			}
			for _, m := range ring.Members {
				out += "\n" + piped(t, m.Tags["services"], "base64 -d | bunzip2")
			}
			if !strings.Contains(out, `"d":"Shop","m":"n1.guifi.local","i":"10.77.0.1","p":"80","e":"test"`) {
				return fmt.Errorf("it carries %q", out)
			}
			return nil
		}))
		t.Logf("in the ring after %.1f s", time.Since(start).Seconds())
		ok(t, hosts.Until(within(t, time.Minute), "n2 lists the community's radio", func(ctx context.Context) error {
			v, all, err := n2.service(ctx, "Radio_Guifi", "cloudy")
			if err == nil && (v == nil || v.Origin != "cloudy" || v.Port != 8000) {
				err = fmt.Errorf("it has %+v", all)
			}
			return err
		}))
	})

	c.run("a host dies", func(t *testing.T) {
		ok(t, n1.PowerCut(within(t, time.Minute)))
		c.lists("Shop", "n1", "gone", n2, n3, n4)
	})
}
