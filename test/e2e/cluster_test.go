//go:build e2e || bench

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/test/hosts"
)

const version = "0.1.0"

// node is a host with relevo on it.
type node struct{ *hosts.Host }

// cluster is what the README sets up: n1, n2 and n3 are candidates, n4 only votes,
// and n1 ran the control plane before relevo came.
type cluster struct {
	t     *testing.T
	lab   *hosts.Lab
	kube  *hosts.Kube
	audit *hosts.Audit
	nodes []*node // the one that is the master when the test begins is the first
	term  uint64  // its term
}

type options struct {
	ttl   time.Duration  // of the lease; 0 = default
	grace time.Duration  // for a master without an API; 0 = default
	bin   string         // program to run instead of the package's; "" = that
	card  int            // size of each host's card in MB; 0 = large
	extra string         // more lines of configuration, for all
	sync  string         // candidate.replica.sync_interval; "" = default
	kine  bool           // kine answers on the LAN, too: see startKineWriters
	hosts func(*cluster) // called when the hosts have booted
	k3s   string         // version of k3s that is the control plane; "" = kine and kube-apiserver
	bare  func(*node)    // called with n1 when its control plane runs and relevo is not there yet
}

// within is the time that one step may take at most; nothing asserts what it took.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newLab is a lab of the test's own.
func newLab(t *testing.T, o hosts.Options) *hosts.Lab {
	t.Helper()
	ok(t, closeKept())
	return hosts.NewLab(t, o)
}

// newCluster sets it up by the commands of the README, and waits until a failover is
// possible.
func newCluster(t *testing.T, o options) *cluster {
	t.Helper()
	deb := debFile(t, version)
	c := &cluster{t: t, lab: newLab(t, hosts.Options{CardMB: o.card, Kube: o.k3s == ""})}
	c.setUp(o, deb)
	return c
}

// watched audits who runs the control plane, until the test ends.
func (c *cluster) watched(units ...string) {
	c.audit = c.lab.Audit(units...)
	t := c.t
	t.Cleanup(func() {
		if _, err := c.audit.Stop(); err != nil {
			t.Error(err)
		}
		t.Log(c.audit)
	})
}

func (c *cluster) setUp(o options, deb string) {
	t, lab := c.t, c.lab
	t.Helper()
	begin, last := time.Now(), time.Now()
	var took []string
	step := func(what string) {
		took = append(took, fmt.Sprintf("%s %.1f", what, time.Since(last).Seconds()))
		last = time.Now()
	}
	hs, err := lab.AddHosts(t.Context(), "n1", "n2", "n3", "n4")
	ok(t, err)
	for _, h := range hs {
		c.nodes = append(c.nodes, &node{h})
	}
	ok(t, lab.Boot(within(t, 2*time.Minute)))
	step("boot")
	if o.hosts != nil {
		o.hosts(c)
	}
	var g errgroup.Group
	ctx := within(t, 20*time.Minute)
	install := func() error { return c.install(ctx, o, deb) }
	if o.bare == nil {
		g.Go(install) // while the API server starts
	}
	units := hosts.Units
	if o.k3s != "" {
		units = []string{hosts.K3sUnit}
		c.kube, err = lab.InstallK3s(ctx, o.k3s, hs[:3]...)
	} else {
		if o.kine {
			for _, h := range hs[:3] {
				ok(t, h.WriteFile(ctx, "/etc/systemd/system/kine.service.d/50-lan.conf", []byte(hosts.KineOnLAN), 0o644))
			}
		}
		c.kube, err = lab.InstallKube(ctx, hs[:3]...)
	}
	ok(t, err)
	ok(t, hs[0].WaitUnit(within(t, time.Minute), units[len(units)-1], "active"))
	step("control plane")
	if o.bare != nil {
		o.bare(c.nodes[0])
		g.Go(install)
	}
	c.watched(units...)
	ok(t, g.Wait())
	for _, n := range c.nodes {
		_, err := n.Run(ctx, "systemctl", "start", "--no-block", "relevo.service")
		ok(t, err)
	}
	step("the rest of the package")
	c.waitReady(2*time.Minute, "n1", 1)
	step("ready")
	t.Logf("set up in %.1f s: %s", time.Since(begin).Seconds(), strings.Join(took, ", "))
	c.term = 1
	if o.k3s == "" {
		adopted(t, c.nodes[0])
	}
}

// install puts the package and its configuration on all hosts, and makes them members.
// Nothing of it runs yet.
func (c *cluster) install(ctx context.Context, o options, deb string) error {
	g, gctx := errgroup.WithContext(ctx)
	for i, n := range c.nodes {
		g.Go(func() error {
			if err := c.installDeb(gctx, n, deb); err != nil {
				return err
			}
			if o.bin != "" {
				if err := n.CopyIn(gctx, o.bin, "/usr/bin/relevo", 0o755); err != nil {
					return err
				}
			}
			return n.WriteFile(gctx, "/etc/relevo/relevo.yaml", []byte(config(n.Name, i < 3, o)), 0o640)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	n1 := c.nodes[0]
	if _, err := n1.Run(ctx, "relevo", "init", "--no-start"); err != nil {
		return err
	}
	for _, n := range c.nodes[1:] {
		invitation, err := n1.Run(ctx, "relevo", "invite", n.Name)
		if err == nil {
			err = n.pipe(ctx, strings.NewReader(invitation), "relevo", "join", "-")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// adopted: the API server that ran before relevo came is the one that runs now.
func adopted(t *testing.T, n1 *node) {
	t.Helper()
	out, err := n1.Run(within(t, 10*time.Second), "systemctl", "show", "--property=NRestarts,ActiveEnterTimestampMonotonic", "kube-apiserver.service")
	ok(t, err)
	agent, err := n1.Run(within(t, 10*time.Second), "systemctl", "show", "--property=ExecMainStartTimestampMonotonic", "--value", "relevo.service")
	ok(t, err)
	var restarts, since, relevo int64
	for _, l := range strings.Fields(out) {
		fmt.Sscanf(l, "NRestarts=%d", &restarts)
		fmt.Sscanf(l, "ActiveEnterTimestampMonotonic=%d", &since)
	}
	fmt.Sscan(agent, &relevo)
	if restarts != 0 || since == 0 || relevo == 0 || since > relevo {
		t.Errorf("adoption restarted the API server: %q, relevo started at %s", out, agent)
	}
}

func config(name string, candidate bool, o options) string {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster: home\nnode: %s\n", name)
	if o.ttl > 0 {
		fmt.Fprintf(&b, "lease_ttl: %v\n", o.ttl)
	}
	b.WriteString(o.extra)
	grace := ""
	if o.grace > 0 {
		grace = fmt.Sprintf("      grace: %v\n", o.grace)
	}
	switch {
	case candidate && o.k3s != "":
		fmt.Fprintf(&b, "candidate:\n  control_plane: {kind: k3s}\n  vip: {address: %s/%d, port: %d}\n", hosts.VIP, hosts.Prefix, hosts.APIPort)
	case candidate:
		fmt.Fprintf(&b, `candidate:
  control_plane:
    kind: units
    units: [%s]
    datastore: {kind: kine, path: %s}
    identity: [%s]
    api:
      url: https://127.0.0.1:%d
      ca_file: /etc/kubernetes/pki/ca.crt
      token_file: /etc/kubernetes/relevo.token
%[7]s  vip: {address: %[5]s/%[6]d, port: %[4]d}
`, strings.Join(hosts.Units, ", "), hosts.Datastore, strings.Join(hosts.Identity, ", "), hosts.APIPort, hosts.VIP, hosts.Prefix, grace)
	}
	if candidate && o.sync != "" {
		fmt.Fprintf(&b, "  replica: {sync_interval: %s}\n", o.sync)
	}
	return b.String()
}

// pipe runs a command with an input.
func (n *node) pipe(ctx context.Context, in io.Reader, args ...string) error {
	cmd, release, err := n.Command(ctx, args...)
	if err != nil {
		return err
	}
	defer release()
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %s: %w: %s", n.Name, strings.Join(args, " "), err, out)
	}
	return nil
}

// ask runs relevo ARGS -o json on a host and decodes the answer. A degraded cluster
// (exit 3) is an answer, too.
func (n *node) ask(ctx context.Context, v any, args ...string) error {
	out, err := n.Run(ctx, append([]string{"relevo"}, append(args, "-o", "json")...)...)
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 3) {
		return err
	}
	return json.Unmarshal([]byte(out), v)
}

func (n *node) status(ctx context.Context) (s api.Status, err error) {
	return s, n.ask(ctx, &s, "status")
}

// waitReady waits until every host that has power agrees that master holds term,
// and that its loss would be survived.
func (c *cluster) waitReady(d time.Duration, master string, term uint64) {
	c.t.Helper()
	c.wait(d, master, term, true)
}

// waitMaster is waitReady without the survival. "" is any master, 0 any term.
func (c *cluster) waitMaster(d time.Duration, master string, term uint64) api.Status {
	c.t.Helper()
	return c.wait(d, master, term, false)
}

func (c *cluster) wait(d time.Duration, master string, term uint64, ready bool) (s api.Status) {
	c.t.Helper()
	begin := time.Now()
	ok(c.t, hosts.Until(within(c.t, d), fmt.Sprintf("master %s in term %d", master, term), func(ctx context.Context) error {
		for _, n := range c.nodes {
			if !n.On() {
				continue
			}
			var err error
			if s, err = n.status(ctx); err != nil {
				return err
			}
			switch m := s.Master; {
			case m == nil:
				return fmt.Errorf("%s knows of no master: %v", n.Name, s.Problems)
			case master != "" && m.Node != master || term != 0 && m.Term != term:
				return fmt.Errorf("%s says %s is the master in term %d", n.Name, m.Node, m.Term)
			case m.API != "ok" && m.Node == n.Name:
				return fmt.Errorf("the API of %s: %q", m.Node, m.API)
			case ready && !s.Failover.Possible:
				return fmt.Errorf("%s says that no failover is possible: %v", n.Name, s.Failover.Why)
			}
		}
		return nil
	}))
	c.t.Logf("%s is the master in term %d (failover possible: %v), as all agree after %.1f s", s.Master.Node, s.Master.Term, s.Failover.Possible, time.Since(begin).Seconds())
	return s
}

// waitSteady waits until the arbiter sits on another host than the master, as it does
// a while after every change.
func (c *cluster) waitSteady(d time.Duration) {
	c.t.Helper()
	n := c.nodes[3]
	ok(c.t, hosts.Until(within(c.t, d), "the arbiter to move away from the master", func(ctx context.Context) error {
		s, err := n.status(ctx)
		if err != nil {
			return err
		}
		if s.Master == nil || s.Quorum.Leader == "" || s.Quorum.Leader == s.Master.Node || !s.Failover.Possible {
			return fmt.Errorf("the master is %+v, the arbiter %q, failover possible: %v %v", s.Master, s.Quorum.Leader, s.Failover.Possible, s.Failover.Why)
		}
		return nil
	}))
}

// waitMasterOf waits until one host says that there is a working master in a term.
func (c *cluster) waitMasterOf(d time.Duration, n *node, term uint64) (master string) {
	c.t.Helper()
	ok(c.t, hosts.Until(within(c.t, d), fmt.Sprintf("%s to see a master in term %d", n.Name, term), func(ctx context.Context) error {
		s, err := n.status(ctx)
		switch {
		case err != nil:
			return err
		case s.Master == nil || s.Master.Term != term || s.Master.API != "ok":
			return fmt.Errorf("it says %+v, %+v", s.Master, s.Problems)
		}
		master = s.Master.Node
		return nil
	}))
	return master
}

// acknowledge lets automatic failovers happen again.
func (c *cluster) acknowledge(t *testing.T) {
	_, err := c.nodes[3].Run(within(t, 20*time.Second), "relevo", "acknowledge")
	if err != nil && !strings.Contains(err.Error(), "already") {
		t.Log(err)
	}
}

// run is a subtest whose failures are its own.
func (c *cluster) run(name string, f func(t *testing.T)) {
	outer := c.t
	defer func() { c.t = outer }()
	outer.Run(name, func(t *testing.T) {
		c.t = t
		f(t)
	})
}

// node finds a host by name.
func (c *cluster) node(name string) *node {
	return c.nodes[slices.IndexFunc(c.nodes, func(n *node) bool { return n.Name == name })]
}

// raw gives the lab's hosts.
func (c *cluster) raw(nodes ...*node) []*hosts.Host {
	var out []*hosts.Host
	for _, n := range nodes {
		out = append(out, n.Host)
	}
	return out
}

func containsField(text, field string) bool { return slices.Contains(strings.Fields(text), field) }
