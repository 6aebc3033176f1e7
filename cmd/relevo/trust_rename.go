package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"relevo.dev/relevo/agent"
	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/durable"
	"relevo.dev/relevo/agent/peer"
)

// A name is bound to a key and to the vote, and a certificate names it. So a host that gets
// another name is let in under it, on a new key, before it leaves under the old one; what else
// it has of the cluster stays, the copy of the datastore first of all.

const (
	renameTTL  = 5 * time.Minute // of the token
	renameWait = time.Minute     // for the agent to be a member again
)

// renaming is one host's; the tests put other parts in place of the host's own.
type renaming struct {
	app     *app
	old     leaving
	address []string
}

func newRenameCommand(a *app) *cobra.Command {
	var f trustFlags
	r := renaming{app: a, old: newLeaving()}
	cmd := &cobra.Command{
		Use:   "rename NAME",
		Short: "Give this host another name in the cluster",
		Long: "Give this host another name in the cluster. It is let in under the new name, leaves\n" +
			"under the old one, which is refused from then on, and writes the new one into the\n" +
			"configuration. Its copy of the datastore stays; its vote goes to whom the cluster\n" +
			"chooses, so to itself as a rule. What Linux and Kubernetes call it does not change.\n\n" +
			"The master is not renamed, and no host whose vote cannot be replaced just now.",
		Example: "  sudo relevo rename kitchen",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.settle()
			if err != nil {
				return asRoot(err)
			}
			return asRoot(r.run(cmd.Context(), cmd.OutOrStdout(), p, args[0]))
		},
	}
	cmd.Flags().StringArrayVar(&r.address, "address", nil, "`host[:port]` of a member (default: those that this host knows); may be repeated")
	f.add(cmd, true)
	return cmd
}

func (r renaming) run(ctx context.Context, out io.Writer, p *place, name string) error {
	if err := peer.ValidNode(name); err != nil {
		return err
	}
	if r.app.context != "" {
		return errors.New("a host is renamed on itself, as root: without --context")
	}
	id, err := peer.Load(p.pki)
	if err != nil {
		return fmt.Errorf("this host is no member, so it has no name to change: %w; if it was cut off while it got one, %s", err, joinAs(name))
	}
	if p.existing == nil {
		return fmt.Errorf("rename %s: there is no %s", id.Node(), p.config)
	}
	was := id.Node()
	if was == name {
		if p.existing.Node == name {
			return fmt.Errorf("this host is called %s already; if it was cut off while it got that name: `sudo systemctl start relevo`, and if `relevo members` shows the earlier one then, `relevo remove` takes it out", name)
		}
		// It was cut off before its end.
		return r.finish(ctx, out, p, p.existing.Node, name)
	}
	if err := p.agree(id.Cluster(), was); err != nil {
		return err
	}
	if _, err := readRenamed(p, was, name); err != nil { // before anything is done
		return err
	}
	if err := r.old.free(ctx, p); err != nil {
		return err
	}
	if _, err := r.app.order(ctx, api.Order{Verb: api.VerbLeave, DryRun: true}); err != nil {
		if m, _ := peer.Earlier(p.pki, p.gossip); len(m.Key) > 0 {
			if left, _ := agent.Departed(p.data, m); left {
				return fmt.Errorf("this host has left the cluster as %s: %s", was, joinAs(name))
			}
		}
		return fmt.Errorf("nothing was changed: %w", err)
	}
	addrs, err := r.others(ctx, p, was)
	if err != nil {
		return err
	}
	why := was + " is called " + name + " from now on"
	done, err := r.app.order(ctx, api.Order{Verb: api.VerbTokenCreate, Why: why, Token: &api.TokenSpec{TTL: renameTTL.Seconds(), Uses: 1, Node: name}})
	if err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	t, err := peer.ParseToken(done.Token)
	if err != nil {
		return fmt.Errorf("the token of this host's agent is none: %w", err)
	}
	in, err := peer.Join(ctx, peer.JoinConfig{Token: t, Node: name, Addresses: addrs, Dir: p.pki, Gossip: p.gossip, Leave: true})
	if err != nil {
		_, rerr := r.app.order(ctx, api.Order{Verb: api.VerbTokenRevoke, To: t.ID(), Why: name + " was not let in"})
		return errors.Join(fmt.Errorf("nothing was changed on this host: %w", err), rerr)
	}
	if _, err := r.app.order(ctx, api.Order{Verb: api.VerbLeave, Why: why}); err != nil {
		return fmt.Errorf("this host is %s as before, and %s is known to the others: `relevo remove %[2]s` forgets that: %w", was, name, err)
	}
	if err := r.old.stop(ctx); err != nil {
		return fmt.Errorf("stop the agent of this host: %w", err)
	}
	if err := r.old.free(ctx, p); err != nil { // it became the master meanwhile
		return errors.Join(err, r.old.start(ctx))
	}
	earlier, _ := peer.Earlier(p.pki, p.gossip)
	folders, err := p.setAside(earlier, func(name string) bool { return name == agent.QuorumDir }, false)
	if err != nil {
		return fmt.Errorf("keep the keys of %s aside: %w; nothing is lost: they are in %s and %s", was, err, p.pki, strings.Join(folders, " and "))
	}
	if _, err := in.Install(p.pki, p.gossip); err != nil {
		return fmt.Errorf("%w; the keys of %s are in %s", err, was, strings.Join(folders, " and "))
	}
	fmt.Fprintf(out, "The keys and the vote of %s are kept in %s, for root alone: remove it when nobody needs it.\n", was, strings.Join(folders, " and "))
	return r.finish(ctx, out, p, was, name)
}

// joinAs is the way for a host that has no other name to go back to.
func joinAs(name string) string {
	return fmt.Sprintf("write `node: %[1]s` into its configuration, and `sudo relevo join --leave-old TOKEN` here, with what `relevo token create --node %[1]s` says on a member", name)
}

// finish writes the new name down, starts the agent, and has the cluster forget the old one.
func (r renaming) finish(ctx context.Context, out io.Writer, p *place, was, name string) error {
	text, err := readRenamed(p, was, name)
	if err != nil {
		return err
	}
	if err := rewrite(p.config, text); err != nil {
		return fmt.Errorf("write the new name into the configuration: %w", err)
	}
	fmt.Fprintf(out, "%s has the new name.\n", p.config)
	if err := r.old.start(ctx); err != nil {
		return fmt.Errorf("this host is %s now, but its agent does not start: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, renameWait)
	defer cancel()
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		_, err := r.app.order(ctx, api.Order{Verb: api.VerbRemove, To: was, Why: "it is called " + name + " now"})
		if err == nil || r.forgotten(ctx, was, name) {
			break
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("this host is %s now, and the cluster still knows it as %s, too: `relevo remove %[2]s` ends that: %w", name, was, err)
		}
	}
	fmt.Fprintf(out, "This host is %s now; %s is no member any more.\n\nNext: `relevo status`\n", name, was)
	return nil
}

// forgotten says whether the cluster knows the host by its new name alone: it was cut off when
// it had that removed.
func (r renaming) forgotten(ctx context.Context, was, name string) bool {
	c, err := r.app.client()
	if err != nil {
		return false
	}
	defer c.Close()
	v, err := c.Members(ctx)
	is := func(node string) bool {
		return slices.ContainsFunc(v.Members, func(m api.Member) bool { return m.Node == node })
	}
	return err == nil && is(name) && !is(was)
}

// rewrite replaces a file, and leaves it to whom it belongs.
func rewrite(path string, text []byte) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := durable.Replace(path, text, st.Mode().Perm()); err != nil {
		return err
	}
	if own, ok := st.Sys().(*syscall.Stat_t); ok {
		return os.Chown(path, int(own.Uid), int(own.Gid))
	}
	return nil
}

// others are the peer ports of members that are there, those that vote first.
func (r renaming) others(ctx context.Context, p *place, own string) (addrs []string, err error) {
	if len(r.address) > 0 {
		return withPort(r.address, p.existing.Peer.Port), nil
	}
	c, err := r.app.client()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	v, err := c.Members(ctx)
	if err != nil {
		return nil, err
	}
	for _, voter := range []bool{true, false} {
		for _, m := range v.Members {
			host, _, err := net.SplitHostPort(m.Address)
			if err == nil && m.Node != own && m.Status == "alive" && m.Voter == voter {
				addrs = append(addrs, net.JoinHostPort(host, strconv.Itoa(p.existing.Peer.Port)))
			}
		}
	}
	if len(addrs) == 0 {
		return nil, errors.New("nothing was changed: no other member is there that could let this host in under its new name")
	}
	return addrs, nil
}

// readRenamed is the configuration with another name for this host, and otherwise as it is.
func readRenamed(p *place, was, name string) ([]byte, error) {
	text, err := os.ReadFile(p.config)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	text, err = renamed(text, was, name, p.existing.Candidate != nil)
	if err == nil {
		var c *config.Config
		if c, err = config.Parse(bytes.NewReader(text), p.config); err == nil && (c.Node != name || c.Candidate != nil && c.Kubernetes.Node == "") {
			err = errors.New("its text is out of the ordinary")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("nothing was changed: the new name cannot be written into %s (%w); write `node: %s` there in a line of its own", p.config, err, was)
	}
	return text, nil
}

// renamed changes `node:` in a configuration, and nothing else of its text. On a candidate
// what Kubernetes calls the host stays what it was: the old name, if nothing else is said.
func renamed(text []byte, was, name string, candidate bool) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("it is no list of settings")
	}
	root := doc.Content[0]
	lines := strings.SplitAfter(string(text), "\n")
	var adds []string // lines at the end
	switch v := valueOf(root, "node"); {
	case v == nil:
		adds = append(adds, "node: "+name)
	default:
		l, col := v.Line-1, v.Column-1
		raw := v.Value
		if v.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
			raw = lines[l][col:col+1] + raw + lines[l][col:col+1]
		}
		rest, ok := strings.CutPrefix(lines[l][col:], raw)
		if !ok {
			return nil, fmt.Errorf("line %d has the name in another form", v.Line)
		}
		lines[l] = lines[l][:col] + name + rest
	}
	if k := valueOf(root, "kubernetes"); candidate {
		switch {
		case k == nil:
			adds = append(adds, "# What Kubernetes calls this host, if another name than the one above.", "kubernetes:", "  node: "+was)
		case k.Kind != yaml.MappingNode || len(k.Content) == 0 || k.Style&yaml.FlowStyle != 0:
			return nil, fmt.Errorf("`kubernetes:` in line %d would have to say `node: %s`, what Kubernetes calls this host", k.Line, was)
		case valueOf(k, "node") == nil:
			first := k.Content[0]
			l := first.Line - 1
			lines[l] = strings.Repeat(" ", first.Column-1) + "node: " + was + "\n" + lines[l]
		}
	}
	out := strings.Join(lines, "")
	if len(adds) > 0 {
		out = strings.TrimRight(out, "\n") + "\n\n" + strings.Join(adds, "\n") + "\n"
	}
	return []byte(out), nil
}

// valueOf a key of a mapping, nil if it is not there.
func valueOf(m *yaml.Node, key string) *yaml.Node {
	for i := 0; m.Kind == yaml.MappingNode && i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}
