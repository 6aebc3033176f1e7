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

	"relevo.dev/relevo/agent/api"
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
	lab := newLab(t, hosts.Options{})
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
	begin := time.Now()
	c.initTogether()
	n1, n4 := c.nodes[0], c.nodes[3]
	t.Logf("two inits at once: %.1f s", time.Since(begin).Seconds())
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
		out, err := n.typed(ctx, "relevo join --leave-old "+strings.ToLower(token))
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
	c.run("a second init on the same network", func(t *testing.T) { c.secondInit(n1, n4) })
	c.run("a board that is removed says so, and joins again", func(t *testing.T) { c.removedBoard(n1, c.nodes[2]) })
	c.run("another board takes the name of one that is dead", func(t *testing.T) { c.deadBoard(n1, c.nodes[1], n4) })
}

// initTogether types init on two hosts at the same moment. One founds a cluster, the other
// nothing, and says what to do instead. Should they not hear of each other in time, both say
// that there are two, and the same of which to keep. The first of the hosts has a cluster then.
func (c *cluster) initTogether() {
	c.t.Helper()
	ctx := within(c.t, 2*time.Minute)
	both := c.nodes[:2]
	said, errs := make([]string, 2), make([]error, 2)
	var g errgroup.Group
	for i, n := range both {
		g.Go(func() error {
			said[i], errs[i] = n.typed(ctx, "relevo init --cluster home")
			return nil
		})
	}
	g.Wait()
	keep := map[string]int{}
	for i, n := range both {
		c.t.Logf("%s: %v\n%s", n.Name, errs[i], said[i])
		text := strings.Join(strings.Fields(said[i]), " ")
		switch {
		case errs[i] != nil:
			if !strings.Contains(text, "nothing was founded") || !strings.Contains(text, "relevo join TOKEN") || errs[1-i] != nil {
				c.t.Errorf("%s founds nothing, and not for the other: %v", n.Name, errs[i])
			}
		case errs[1-i] == nil && !strings.Contains(text, "At the same moment the cluster home"):
			c.t.Errorf("%s does not say that there is another cluster", n.Name)
		case strings.Contains(text, "keep this one"):
			keep["this one"]++
		case strings.Contains(text, "keep the other"):
			keep["the other"]++
		}
	}
	if errs[0] == nil && errs[1] == nil && (keep["this one"] != 1 || keep["the other"] != 1) {
		c.t.Errorf("the two do not say the same of which to keep: %v", keep)
	}
	if errs[0] != nil {
		both[0], both[1] = both[1], both[0]
	}
}

// newToken makes a token, for which there is one more argument or none.
func (c *cluster) newToken(on *node, args ...string) string {
	c.t.Helper()
	var token string
	// An arbiter that has just been elected may be asked in vain once.
	ok(c.t, hosts.Until(within(c.t, time.Minute), "a token", func(ctx context.Context) error {
		out, err := on.Run(ctx, append([]string{"relevo", "token", "create"}, args...)...)
		if m := joinLine.FindStringSubmatch(out); m != nil {
			token = m[1]
		} else if err == nil {
			err = fmt.Errorf("no token in %q", out)
		}
		return err
	}))
	return token
}

// removed waits until a host says that it was removed, to who asks it and to who asks systemd,
// by whom, and that its agent is up and was not started again and again.
func (c *cluster) removed(n *node, by string) {
	c.t.Helper()
	ok(c.t, hosts.Until(within(c.t, time.Minute), n.Name+" to say that it was removed", func(ctx context.Context) error {
		s, err := n.status(ctx)
		if err == nil && s.Removed == nil {
			err = fmt.Errorf("it says %+v", s.Problems)
		}
		return err
	}))
	ctx := within(c.t, 20*time.Second)
	shown, err := n.Run(ctx, "systemctl", "show", "-p", "ActiveState,NRestarts,StatusText", "relevo.service")
	ok(c.t, err)
	c.t.Log(shown)
	for _, want := range []string{"ActiveState=active", "NRestarts=0", "this host was removed from the cluster home by " + by + " on 20", "relevo join TOKEN"} {
		if !strings.Contains(shown, want) {
			c.t.Errorf("systemd shows no %q: %s", want, shown)
		}
	}
}

// members waits until all of some hosts see so many that are alive.
func (c *cluster) members(alive int, on ...*node) {
	c.t.Helper()
	for _, n := range on {
		ok(c.t, hosts.Until(within(c.t, time.Minute), fmt.Sprintf("%d members", alive), func(ctx context.Context) error {
			var m api.Members
			if err := n.ask(ctx, &m, "members"); err != nil {
				return err
			}
			got := 0
			for _, x := range m.Members {
				if x.Status == "alive" {
					got++
				}
			}
			if got != alive {
				return fmt.Errorf("%s: %+v", n.Name, m.Members)
			}
			return nil
		}))
	}
}

// secondInit: a cluster is founded beside another only on purpose, and then both say so.
func (c *cluster) secondInit(first, second *node) {
	c.t.Helper()
	ctx := within(c.t, 2*time.Minute)
	_, err := second.typed(ctx, "relevo init --yes")
	if err == nil || !strings.Contains(err.Error(), "is on this network already, with n") || !strings.Contains(err.Error(), "nothing was founded") {
		c.t.Errorf("a second cluster is founded by mistake: %v", err)
	}
	// (The key with which it was refused before is there.)
	if there, err := second.Script(ctx, "ls -d /etc/relevo/relevo.yaml /etc/relevo/gossip.key /etc/relevo/pki/*.crt /var/lib/relevo 2>/dev/null || true"); err != nil || there != "" {
		c.t.Errorf("that left %q (%v)", there, err)
	}
	out, err := second.typed(ctx, "relevo init --yes --another --cluster shed --vote-only")
	ok(c.t, err)
	c.t.Log(out)
	for n, other := range map[*node]string{first: "shed", second: "home"} {
		ok(c.t, hosts.Until(ctx, n.Name+" to see the cluster "+other, func(ctx context.Context) error {
			s, err := n.status(ctx)
			if err == nil && (len(s.Neighbours) != 1 || s.Neighbours[0].Cluster != other) {
				err = fmt.Errorf("it sees %+v", s.Neighbours)
			}
			return err
		}))
		var found []api.Finding
		ok(c.t, n.ask(ctx, &found, "doctor"))
		for _, f := range found {
			if f.Check == "other clusters" {
				c.t.Logf("%s: %+v", n.Name, f)
			}
		}
	}
	c.members(3, first)
	c.members(1, second)
}

// removedBoard: it is alive, and not in our hands any more; then it is again.
func (c *cluster) removedBoard(on, board *node) {
	c.t.Helper()
	ctx := within(c.t, 2*time.Minute)
	_, err := on.Run(ctx, "relevo", "remove", board.Name, "--force", "--why", "lent")
	ok(c.t, err)
	c.removed(board, "root@"+on.Name)
	_, err = board.Run(ctx, "systemctl", "restart", "relevo.service") // which ends: it is ready
	ok(c.t, err)
	c.removed(board, "root@"+on.Name)
	if journal, err := board.Journal(ctx, "relevo.service"); err != nil || strings.Count(journal, "this host was removed from the cluster home by") != 2 {
		c.t.Errorf("not one line a start: %v\n%s", err, journal)
	}
	// What it had of the CA is of no use any more, and stands in nobody's way.
	c.changeCA(on)
	_, err = board.typed(ctx, "relevo join "+c.newToken(on))
	ok(c.t, err)
	c.members(3, on, board)
}

// changeCA has the CA changed, and waits for the end of it.
func (c *cluster) changeCA(on *node) {
	c.t.Helper()
	out, err := on.Run(within(c.t, 30*time.Second), "relevo", "rotate", "ca")
	ok(c.t, err)
	c.t.Log(out)
	c.rotated(on, "the CA")
}

// deadBoard: a board of another cluster leaves that, for the place of one that lost its power
// for good; should the old one be seen again, it takes no part.
func (c *cluster) deadBoard(on, dead, board *node) {
	c.t.Helper()
	ctx := within(c.t, 3*time.Minute)
	ok(c.t, dead.PowerCut(ctx))
	join := "relevo join --leave-old --node " + dead.Name + " "
	_, err := board.typed(ctx, join+c.newToken(on))
	if err == nil || !strings.Contains(err.Error(), "called "+dead.Name+" already") {
		c.t.Errorf("a name is taken with a common token: %v", err)
	}
	if s, err := board.status(ctx); err != nil || s.Cluster != "shed" {
		c.t.Errorf("who was not let in has left its cluster: %+v, %v", s, err)
	}
	token := c.newToken(on, "--replace", dead.Name)
	ok(c.t, hosts.Until(ctx, dead.Name+" to be missed", func(ctx context.Context) error {
		out, err := board.typed(ctx, join+token)
		if err == nil {
			c.t.Log(out)
			if !strings.Contains(out, "It has left that cluster, shed") {
				c.t.Error("it did not say goodbye to the cluster that it was in")
			}
		}
		return err
	}))
	if left, err := board.Script(ctx, "stat -c '%a %n' /etc/relevo/left-shed-* /var/lib/relevo/left-shed-*; cd /etc/relevo/left-shed-*; ls pki/node.key pki/ca.key gossip.key relevo.yaml; ls -d /var/lib/relevo/left-shed-*/raft"); err != nil || strings.Count(left, "700 /") != 2 {
		c.t.Errorf("what it had of its cluster before: %s (%v)", left, err)
	}
	c.members(3, on, board)
	c.changeCA(on) // so that the old one knows nothing that is believed
	ok(c.t, dead.Boot(within(c.t, time.Minute)))
	c.removed(dead, "root@"+on.Name)
	c.members(3, on, board)
}
