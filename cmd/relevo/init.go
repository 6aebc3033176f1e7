package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"relevo.dev/relevo/agent"
	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/onboard"
	"relevo.dev/relevo/agent/peer"
)

// initFlags are how a cluster is founded.
type initFlags struct {
	trustFlags
	cluster, node, vip     string
	voteOnly, yes, noStart bool
	another                bool   // though there is a cluster on this network
	backend                string // that was looked with; "" = none
	near                   []api.Neighbour
	neighbours             func(ctx context.Context, backend string) []api.Neighbour // until ctx ends
	again                  time.Duration                                             // see lookAgain
	begin                  func(ctx context.Context, backend, node, init string) founding
	look                   func(root string) onboard.Found
	survey                 func(ifname string) (onboard.Network, error)
	whoHas                 func(ctx context.Context, ifname string, ip netip.Addr) (string, error)
	systemd                func() bool
	ask                    *bufio.Reader // the person; nil = nobody is asked
	out                    io.Writer
}

func newInitCommand(a *app) *cobra.Command {
	return initCommand(a, initFlags{neighbours: agent.Neighbours, again: lookAgain, begin: beginFounding, look: onboard.Look, survey: agent.Survey, whoHas: agent.WhoHas, systemd: systemdRuns})
}

func initCommand(a *app, f initFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Found a cluster on this host",
		Long: "Found a cluster on this host. It looks at what is there (k3s, kubeadm, units, nothing;\n" +
			"the network), proposes whether this host can be the master and which virtual IP is\n" +
			"free, makes the cluster's certificate authority, this host's certificate and the\n" +
			"gossip key, writes a configuration if there is none, and starts the agent. A control\n" +
			"plane that runs is adopted and goes on running.\n\n" +
			"On a terminal it asks what it cannot know. Nothing that exists is overwritten.\n\n" +
			"If a cluster is announced on this network already, most people want to join that one:\n" +
			"then nothing is founded, unless somebody says yes, or --another does. --yes does not.",
		Example: "  sudo relevo init\n  sudo relevo init --yes --cluster home --vip 192.168.1.250",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.out = cmd.OutOrStdout()
			if !f.yes {
				f.ask = person(cmd.InOrStdin())
			}
			return asRoot(f.run(cmd.Context(), a))
		},
	}
	cmd.Flags().StringVar(&f.cluster, "cluster", "", "`name` of the cluster: a-z, 0-9 and - (default: as configured, else home)")
	cmd.Flags().StringVar(&f.node, "node", "", "`name` of this host in it (default: as configured, else the host name)")
	cmd.Flags().StringVar(&f.vip, "vip", "", "virtual IP, the `address` that follows the master, or none (default: one that is free)")
	cmd.Flags().BoolVar(&f.voteOnly, "vote-only", false, "this host votes, and never runs the control plane")
	cmd.Flags().BoolVar(&f.another, "another", false, "found a cluster though there is one on this network")
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "ask nothing, take what is proposed")
	cmd.Flags().BoolVar(&f.noStart, "no-start", false, "do not start the agent")
	f.add(cmd, true)
	return cmd
}

// person is who can answer questions: somebody at a terminal.
func person(in io.Reader) *bufio.Reader {
	f, ok := in.(*os.File)
	if !ok {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	return bufio.NewReader(f)
}

func (f *initFlags) say(format string, args ...any) { fmt.Fprintf(f.out, format+"\n", args...) }

// question asks, and takes the proposal for an empty answer, or if there is nobody.
func (f *initFlags) question(text, proposal string, check func(string) error) (string, error) {
	if f.ask == nil {
		return proposal, check(proposal)
	}
	for range 5 {
		fmt.Fprintf(f.out, "%s [%s]: ", text, proposal)
		line, err := f.ask.ReadString('\n')
		if err != nil && line == "" {
			return "", fmt.Errorf("no answer: %w; --yes asks nothing", err)
		}
		answer := cmp.Or(strings.TrimSpace(line), proposal)
		err = check(answer)
		if err == nil {
			return answer, nil
		}
		f.say("  %s", clean(err.Error()))
	}
	return "", errors.New("no answer was of use: nothing was changed")
}

func (f *initFlags) run(ctx context.Context, a *app) error {
	if ctx == nil {
		ctx = context.Background()
	}
	p, err := f.settle()
	if err != nil {
		return err
	}
	if id, err := peer.Load(p.pki); err == nil && f.cluster == "" {
		return fmt.Errorf("%w: %s in %s, by %s; `sudo relevo token create` lets others join", peer.ErrExists, id.Node(), id.Cluster(), p.pki)
	}
	race := f.enter(ctx, p)
	defer race.End()
	if err := f.lookAround(ctx, p); err != nil {
		return err
	}
	meanwhile := f.looking(ctx)
	if p.existing == nil {
		err = f.propose(ctx, p)
	}
	if now := meanwhile(); err == nil {
		err = f.overtaken(now)
	}
	if err == nil {
		err = f.decide(race)
	}
	if err != nil {
		return err
	}
	if err := p.found(f.out, f.cluster, f.node); err != nil {
		return err
	}
	// The service reads the default configuration, not another.
	if f.noStart || p.config != config.DefaultPath || !f.systemd() {
		f.say("Next:")
		if p.existing == nil && p.candidate == "" && !f.voteOnly {
			f.say("  - Can this host run the control plane? Then say so in %s, under `candidate:`.", p.config)
		}
		f.say("  - sudo systemctl enable --now relevo")
		f.say("  - sudo relevo token create, which prints the line to type on the other hosts")
		return nil
	}
	if err := startAgent(ctx); err != nil {
		return err
	}
	return f.welcome(ctx, a)
}

// propose looks around, and asks what cannot be seen.
func (f *initFlags) propose(ctx context.Context, p *place) error {
	found := f.look("/")
	f.say("This host: %s.", found.What)
	if found.Problem != "" {
		f.say("  %s: %s.", found.Problem, found.Do)
	}
	if found.VoteOnly != "" {
		f.say("  It can vote and never be the master: %s.", found.VoteOnly)
	}
	if f.cluster == "" && (f.yes || f.ask != nil) {
		var err error
		if f.cluster, err = f.question("Name of the cluster", f.freeName("home"), f.nameFits); err != nil {
			return err
		}
	}
	if !found.Candidate() || f.voteOnly {
		if found.Candidate() {
			f.say("It votes only, as you wish.")
		}
		return nil
	}
	vip, err := f.chooseVIP(ctx, found)
	if err != nil {
		return err
	}
	text, complete := found.CandidateYAML(vip)
	p.candidate = text
	if !complete {
		f.say("What the agent needs to ask the API server was not found: complete `candidate:` in %s.", p.config)
		return nil
	}
	f.say("It can be the master.")
	if found.Kind == onboard.K3sServer && vip.IsValid() && found.VIP != vip.Addr() {
		f.say("k3s does not know %s yet. Its certificate must name it, and its agents must be told it:", vip.Addr())
		f.say("  in /etc/rancher/k3s/config.yaml `tls-san: [%s]` and `advertise-address: %[1]s`, then restart k3s.", vip.Addr())
	}
	return nil
}

// chooseVIP is the address that follows the master; the zero Prefix = none.
func (f *initFlags) chooseVIP(ctx context.Context, found onboard.Found) (netip.Prefix, error) {
	var none netip.Prefix
	if f.vip == "none" {
		return none, nil
	}
	n, err := f.survey("")
	if err != nil || !n.Own.IsValid() {
		if f.vip != "" {
			return none, fmt.Errorf("--vip %s: the network of this host is not known: %w", f.vip, err)
		}
		f.say("No virtual IP: the network of this host is not known (%v).", err)
		return none, nil
	}
	f.say("Network: %s on %s.", n.Own, n.Interface)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	check := func(s string) error {
		if s == "none" {
			return nil
		}
		a, err := netip.ParseAddr(strings.TrimSuffix(s, fmt.Sprintf("/%d", n.Own.Bits())))
		if err != nil {
			return fmt.Errorf("%q is no IPv4 address of this network", s)
		}
		if why := n.Fits(a); why != "" {
			return fmt.Errorf("%s: %s", a, why)
		}
		if who := f.othersVIP(a); who != "" {
			return fmt.Errorf("%s is taken: %s", a, who)
		}
		who, err := f.whoHas(ctx, n.Interface, a)
		if err != nil {
			return fmt.Errorf("%s: whether it is free cannot be seen: %w", a, err)
		}
		if who != "" {
			return fmt.Errorf("%s is taken: %s answers for it", a, who)
		}
		return nil
	}
	proposal := f.vip
	if proposal == "" && found.VIP.IsValid() && n.Fits(found.VIP) == "" {
		proposal = found.VIP.String()
		f.say("Agents and clients are told %s already.", proposal)
	}
	if proposal == "" {
		free, err := n.Free(ctx, func(ctx context.Context, a netip.Addr) (string, error) {
			if who := f.othersVIP(a); who != "" {
				return who, nil
			}
			return f.whoHas(ctx, n.Interface, a)
		})
		if err != nil {
			f.say("No virtual IP: %v.", err)
			return none, nil
		}
		proposal = free.String()
	}
	answer := proposal
	if f.vip != "" {
		err = check(answer)
	} else {
		answer, err = f.question("Virtual IP, an unused address that follows the master, or none", proposal, check)
	}
	if err != nil {
		return none, fmt.Errorf("%w; give another with --vip, or --vip none", err)
	}
	if answer == "none" {
		return none, nil
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(answer, fmt.Sprintf("/%d", n.Own.Bits())))
	if err != nil {
		return none, err
	}
	if n.InDHCP(addr) {
		f.say("  %s may be in what the DHCP server gives away: reserve it in the router.", addr)
	}
	return netip.PrefixFrom(addr, n.Own.Bits()), nil
}

const (
	welcomeWait  = 30 * time.Second // for the agent and its first master
	welcomeHosts = 8                // may join with the first token
)

// welcome waits until the agent is there, shows how the cluster is, and says how others join.
func (f *initFlags) welcome(ctx context.Context, a *app) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	f.say("The agent is started, now and at every boot.\n")
	wait, cancel := context.WithTimeout(ctx, welcomeWait)
	defer cancel()
	others := f.looking(ctx)
	defer others() // also where it ends before
	s, err := settled(wait, c)
	if err != nil {
		return fmt.Errorf("the cluster is founded, but its agent does not answer: %w; `journalctl -u relevo -n 50` tells why", err)
	}
	page := &page{now: a.now(), colour: a.screen != nil && a.env("NO_COLOR") == ""}
	showStatus(page, s)
	fmt.Fprint(f.out, page.b.String())
	done, err := a.order(ctx, api.Order{Verb: api.VerbTokenCreate, Token: &api.TokenSpec{Uses: welcomeHosts, TTL: time.Hour.Seconds()}})
	if err != nil {
		return fmt.Errorf("the cluster is founded, but there is no token for the other hosts: %w; `sudo relevo token create` makes one", err)
	}
	f.say("\nOn every other host, within the hour:\n\n  sudo relevo join %s", clean(done.Token))
	if f.backend != "" {
		select {
		case <-ctx.Done():
		case <-time.After(f.again):
		}
	}
	f.alsoFounded(others(), s.ClusterID)
	return nil
}

// settled waits until there is a quorum, and, where this host can be the master, a moment
// longer for it.
func settled(ctx context.Context, c *api.Client) (api.Status, error) {
	t := time.NewTicker(300 * time.Millisecond)
	defer t.Stop()
	var last api.Status
	lastErr := errors.New("it has not started yet")
	for {
		s, err := c.Status(ctx)
		if err == nil {
			last, lastErr = s, nil
			if s.Quorum.HaveQuorum && (s.Role != api.RoleStandby && s.Role != api.RoleMaster || s.Master != nil && s.Master.API == "ok") {
				return s, nil
			}
		} else if lastErr != nil && ctx.Err() == nil {
			lastErr = err
		}
		select {
		case <-ctx.Done():
			return last, lastErr
		case <-t.C:
		}
	}
}

// candidateOf makes a host that joins a candidate, if all that takes can be seen: a k3s
// agent which could be the server, and was told the virtual IP. Else a person is told what
// there is. It asks nothing.
func (p *place) candidateOf(out io.Writer, found onboard.Found, survey func(string) (onboard.Network, error)) {
	switch {
	case p.existing != nil:
		return
	case found.VoteOnly != "":
		fmt.Fprintf(out, "This host votes and is never the master: %s.\n", found.VoteOnly)
	case found.Kind == onboard.K3sServer:
		fmt.Fprintf(out, "This host has a k3s server of its own. It is left alone, and not made a candidate: its\ndata is another cluster's. docs/k3s.md says how it becomes an agent first.\n")
	case found.Candidate() && found.Kind == onboard.K3sAgent && found.VIP.IsValid():
		n, err := survey("")
		if err != nil || n.Fits(found.VIP) != "" {
			return
		}
		p.candidate, _ = found.CandidateYAML(netip.PrefixFrom(found.VIP, n.Own.Bits()))
		fmt.Fprintf(out, "This host can be the master: %s, at %s.\n", found.What, found.VIP)
	case found.Candidate():
		fmt.Fprintf(out, "This host has %s: to let it take over, write `candidate:` as the master has it.\n", found.What)
	}
}
