//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"relevo.dev/relevo/test/hosts"
)

// typed runs a line as a person does who sits at the host: in a shell on a
// pseudo-terminal. It returns what the screen shows.
func (n *node) typed(ctx context.Context, line string) (string, error) {
	cmd, release, err := n.Command(ctx, "script", "-qec", "bash --norc", "/dev/null")
	if err != nil {
		return "", err
	}
	defer release()
	cmd.Stdin = strings.NewReader(line + "; exit $?\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %s: %w: %s", n.Name, line, err, out)
	}
	return string(out), nil
}

var joinLine = regexp.MustCompile(`relevo join ([0-9A-Z-]{53})`)

// TestJoin: from bare hosts to a cluster by the commands of the README, typed; the others
// find the first by mDNS. And what does not let a host in.
func TestJoin(t *testing.T) {
	deb := debFile(t, version)
	lab := hosts.NewLab(t, hosts.Options{})
	hs, err := lab.AddHosts(t.Context(), "n1", "n2", "n3", "n4")
	ok(t, err)
	c := &cluster{t: t, lab: lab}
	for _, h := range hs {
		c.nodes = append(c.nodes, &node{h})
	}
	ok(t, lab.Boot(within(t, 2*time.Minute)))
	ctx := within(t, 3*time.Minute)
	g, gctx := errgroup.WithContext(ctx)
	for _, n := range c.nodes {
		g.Go(func() error { return c.installDeb(gctx, n, deb) })
	}
	ok(t, g.Wait())
	n1, n4 := c.nodes[0], c.nodes[3]
	begin := time.Now()
	_, err = n1.typed(ctx, "relevo init --cluster home")
	ok(t, err)
	_, err = n1.Run(ctx, "systemctl", "start", "relevo.service") // where init did not
	ok(t, err)
	var token string
	ok(t, hosts.Until(ctx, "a token", func(ctx context.Context) error {
		out, err := n1.typed(ctx, "relevo token create --uses 2")
		if m := joinLine.FindStringSubmatch(out); m != nil {
			token = m[1]
		} else if err == nil {
			err = fmt.Errorf("no token in %q", out)
		}
		return err
	}))
	for _, n := range c.nodes[1:3] {
		out, err := n.typed(ctx, "relevo join "+strings.ToLower(token))
		ok(t, err)
		t.Logf("%s:\n%s", n.Name, out)
	}
	for _, n := range c.nodes[:3] {
		ok(t, hosts.Until(ctx, "three voters", func(ctx context.Context) error {
			s, err := n.status(ctx)
			if err == nil && (s.Quorum.Voters != 3 || s.Quorum.Online != 3) {
				err = fmt.Errorf("%s: %d of %d voters are online", n.Name, s.Quorum.Online, s.Quorum.Voters)
			}
			return err
		}))
	}
	t.Logf("from the first command to three voters: %.1f s", time.Since(begin).Seconds())

	refused := func(want, line string) {
		t.Helper()
		if out, err := n4.typed(ctx, line); err == nil || !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
			t.Errorf("%s: %v, want %q: %s", line, err, want, out)
		}
	}
	refused("as often as it may", "relevo join "+token)
	slip := "0" + token[1:]
	if token[0] == '0' {
		slip = "1" + token[1:]
	}
	refused("character 1 of group 1", "relevo join "+slip)
	// The file systems of hosts that are members: keys are nobody else's.
	for _, n := range c.nodes[:3] {
		out, err := n.Run(ctx, "find", "/etc/relevo/pki", "/etc/relevo/gossip.key", "/var/lib/relevo/trust.json", "-type", "f", "!", "-perm", "600")
		var exit *exec.ExitError
		if err != nil && exit == nil || strings.TrimSpace(out) != "" {
			t.Errorf("%s: others may read %s (%v)", n.Name, out, err)
		}
	}
	// One of them is not in our hands any more.
	_, err = n1.Run(ctx, "relevo", "remove", "n3", "--force")
	ok(t, err)
	ok(t, hosts.Until(ctx, "n3 to be refused", func(ctx context.Context) error {
		out, err := n1.Run(ctx, "journalctl", "-u", "relevo", "--no-pager", "-o", "cat")
		if err == nil && !strings.Contains(out, "removed from the cluster: n3") {
			err = fmt.Errorf("n1 has not refused it yet")
		}
		return err
	}))
}
