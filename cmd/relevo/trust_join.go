package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/onboard"
	"relevo.dev/relevo/agent/peer"
	"relevo.dev/relevo/avahi"
)

// joinFlags are how a host joins by a token.
type joinFlags struct {
	node    string
	address []string
	wait    time.Duration
	noStart bool
	leave   bool // the cluster that this host is in, or was
	old     leaving
	// find looks for members; the tests put another in its place.
	find func(ctx context.Context, cfg *config.Config, t peer.Token) []string
}

func newJoinCommand() *cobra.Command {
	var f trustFlags
	j := joinFlags{find: findMembers, old: newLeaving()}
	cmd := &cobra.Command{
		Use:   "join TOKEN | FILE | -",
		Short: "Enter a cluster with this host",
		Long: "Enter a cluster with this host, by a token that `relevo token create` made on a\n" +
			"member. The members are found by mDNS, or named with --address. This host makes its\n" +
			"own key, which never leaves it; and it goes on only with the cluster that the token\n" +
			"is for. TOKEN may be typed in any case, with or without hyphens.\n\n" +
			"A FILE is an invitation that `relevo invite` made; - reads a token or an invitation\n" +
			"from the standard input. The membership in another cluster is never overwritten:\n" +
			"--leave-old tells that cluster, and moves what this host has of it (keys, state,\n" +
			"configuration) into a folder beside, once the new one has let it in; never a master's.",
		Example: "  sudo relevo join 1K3Q9ZXW-…\n  sudo relevo join --address 192.168.1.10 1K3Q9ZXW-…",
		Args:    cobra.MinimumNArgs(1), // somebody may leave blanks in a token
		RunE: func(cmd *cobra.Command, args []string) error {
			return asRoot(j.run(cmd, f, args))
		},
	}
	cmd.Flags().StringVar(&j.node, "node", "", "`name` of this host in the cluster (default: as configured, else the host name)")
	cmd.Flags().StringArrayVar(&j.address, "address", nil, "`host[:port]` of a member, where mDNS does not reach; may be repeated")
	cmd.Flags().DurationVar(&j.wait, "wait", 20*time.Second, "how long to look for members by mDNS")
	cmd.Flags().BoolVar(&j.leave, "leave-old", false, "leave the cluster that this host is in, or was; its files are kept aside")
	cmd.Flags().BoolVar(&j.noStart, "no-start", false, "do not start the agent")
	f.add(cmd, true)
	return cmd
}

func (j joinFlags) run(cmd *cobra.Command, f trustFlags, args []string) error {
	p, err := f.settle()
	if err != nil {
		return err
	}
	if j.leave {
		if err := j.old.free(cmd.Context(), p); err != nil {
			return err
		}
	}
	from := args[0]
	text := strings.Join(args, " ")
	if !peer.LooksLikeToken(text) {
		if len(args) > 1 {
			return fmt.Errorf("%q is no token, and only one file can be read", text)
		}
		b, err := readInvitation(cmd.InOrStdin(), from)
		if err != nil {
			return err
		}
		if text = string(b); !peer.LooksLikeToken(text) {
			if j.leave {
				if err := j.leaveFor(cmd.Context(), cmd.OutOrStdout(), p, b); err != nil {
					return err
				}
			}
			if err := p.join(cmd.OutOrStdout(), b); err != nil {
				return err
			}
			if from != "-" {
				fmt.Fprintf(cmd.OutOrStdout(), "  2. Remove %s: it is a secret that nobody needs any more.\n", from)
			}
			return nil
		}
	}
	t, err := peer.ParseToken(text)
	if err != nil {
		return err
	}
	return j.byToken(cmd.Context(), cmd.OutOrStdout(), p, t)
}

// byToken joins, and writes down what it became.
func (j joinFlags) byToken(ctx context.Context, out io.Writer, p *place, t peer.Token) error {
	node := j.node
	if p.existing != nil {
		node = cmp.Or(node, p.existing.Node)
	}
	if node == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("this host needs a name: %w; give one with --node", err)
		}
		node, _, _ = strings.Cut(strings.ToLower(name), ".")
	}
	if err := peer.ValidNode(node); err != nil {
		return fmt.Errorf("%w; give another with --node", err)
	}
	cfg := p.existing
	if cfg == nil {
		var err error
		if cfg, err = config.Parse(strings.NewReader("cluster: x\nnode: x\n"), ""); err != nil {
			return err
		}
	}
	addrs := withPort(j.address, cfg.Peer.Port)
	if len(addrs) == 0 {
		fmt.Fprintf(out, "Looking for the cluster of the token (%s…) by mDNS, for up to %s.\n", t.ClusterPrefix()[:8], j.wait)
		ctx, cancel := context.WithTimeout(ctx, j.wait)
		addrs = j.find(ctx, cfg, t)
		cancel()
		if len(addrs) == 0 {
			return fmt.Errorf("no member of the cluster of the token was found by mDNS within %s: is a member switched on, in the same network, and its agent running? Name one with --address 192.168.1.10, for instance", j.wait)
		}
	}
	in, err := peer.Join(ctx, peer.JoinConfig{Token: t, Node: node, Addresses: addrs, Dir: p.pki, Gossip: p.gossip, Leave: j.leave})
	if err != nil {
		return err
	}
	if j.leave {
		was, _ := peer.Earlier(p.pki, p.gossip)
		next := peer.Membership{Cluster: in.Cluster(), ClusterID: in.ClusterID(), Node: node}
		if err := j.old.leave(ctx, out, p, next, was.ClusterID != next.ClusterID); err != nil {
			return err
		}
	}
	if err := p.agree(in.Cluster(), node); err != nil {
		return err
	}
	if len(j.address) > 0 { // multicast does not reach them
		p.joinList = in.Peers
	}
	p.candidateOf(out, onboard.Look("/"), agent.Survey)
	if err := p.writeConfig(in.Cluster(), node); err != nil {
		return err
	}
	// Left by an `init` that was cut short: a second founding must not happen.
	if err := os.Remove(filepath.Join(p.data, bootstrapMarker)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget an earlier init: %w", err)
	}
	id, err := in.Install(p.pki, p.gossip)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "This host is now %s in the cluster %s (%.8s…).\n\n", id.Node(), id.Cluster(), id.ClusterID())
	fmt.Fprintf(out, "  configuration  %s (%s)\n", p.config, p.wasWritten())
	if !j.noStart && systemdRuns() {
		if err := startAgent(ctx); err != nil {
			return err
		}
		fmt.Fprintf(out, "  agent          started, and at every boot\n\nNext: `sudo relevo status`\n")
		return nil
	}
	fmt.Fprintf(out, "\nNext:\n  1. sudo systemctl enable --now relevo, or restart it if it runs\n")
	return nil
}

// withPort adds the port to addresses that have none.
func withPort(addrs []string, port int) (out []string) {
	for _, a := range addrs {
		if _, _, err := net.SplitHostPort(a); err != nil {
			a = net.JoinHostPort(strings.Trim(a, "[]"), strconv.Itoa(port))
		}
		out = append(out, a)
	}
	return out
}

// systemdRuns says whether there is a system to start the agent on.
func systemdRuns() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil && os.Geteuid() == 0
}

// startAgent starts the agent now and at every boot. One that runs begins anew.
func startAgent(ctx context.Context) error {
	for _, args := range [][]string{{"enable", "relevo.service"}, {"restart", "--no-block", "relevo.service"}} {
		if b, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("this host has joined, but the agent does not start: systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(b)))
		}
	}
	return nil
}

// relevoType is what members announce.
const relevoType = "_relevo._tcp"

// findMembers looks for peer ports of the token's cluster, and a moment longer once there
// is one: where one member cannot answer, another can.
func findMembers(ctx context.Context, cfg *config.Config, t peer.Token) []string {
	b := avahi.New(avahi.Config{Backend: string(cfg.MDNS.Backend), Browse: []string{relevoType}, Host: cfg.Node, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); b.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	var more <-chan time.Time
	for {
		var addrs []string
		for _, e := range b.Found() {
			// The token names the CA, which is the cluster's first one or was changed.
			if e.Type == relevoType && strings.HasPrefix(cmp.Or(e.Value("ca"), e.Value("cluster")), t.ClusterPrefix()) {
				addrs = append(addrs, net.JoinHostPort(e.Addr.String(), strconv.Itoa(e.Port)))
			}
		}
		slices.Sort(addrs)
		addrs = slices.Compact(addrs)
		if len(addrs) > 0 && more == nil {
			more = time.After(time.Second)
		}
		select {
		case <-more:
			return addrs
		case <-ctx.Done():
			return addrs
		case <-b.Changes():
		}
	}
}
