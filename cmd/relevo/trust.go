package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent"
	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/peer"
)

// bootstrapMarker in the data directory tells the agent that it founds the
// cluster's vote instead of waiting to be taken in.
const bootstrapMarker = "bootstrap"

// trustFlags are where things lie. What no flag says comes from the configuration
// if there is one, else from its defaults.
type trustFlags struct{ config, pki, gossip, data string }

func (f *trustFlags) add(cmd *cobra.Command, withData bool) {
	cmd.Flags().StringVar(&f.config, "config", config.DefaultPath, "configuration `file`")
	cmd.Flags().StringVar(&f.pki, "pki-dir", "", "`directory` of the certificates (default: as configured, /etc/relevo/pki)")
	cmd.Flags().StringVar(&f.gossip, "gossip-key-file", "", "`file` of the gossip key (default: as configured, /etc/relevo/gossip.key)")
	if withData {
		cmd.Flags().StringVar(&f.data, "data-dir", "", "`directory` of the agent's state (default: as configured, /var/lib/relevo)")
	}
}

// place is the flags, settled.
type place struct {
	trustFlags
	existing *config.Config // nil: there is no configuration yet
	written  bool           // by this command
	joinList []string       // gossip addresses of members, for a configuration that is written
	// candidate is the section for what was found on this host; "" = an example.
	candidate string
}

func (f trustFlags) settle() (*place, error) {
	p := &place{trustFlags: f}
	for _, path := range []*string{&p.config, &p.pki, &p.gossip, &p.data} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return nil, err
		}
		*path = abs
	}
	c, err := config.Load(p.config)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// The defaults, from the one place where they stand.
		if c, err = config.Parse(strings.NewReader("cluster: x\nnode: x\n"), ""); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		p.existing = c
	}
	p.pki, p.gossip, p.data = cmp.Or(p.pki, c.Peer.PKIDir), cmp.Or(p.gossip, c.Gossip.KeyFile), cmp.Or(p.data, c.DataDir)
	return p, nil
}

// agree makes sure that an existing configuration does not contradict.
func (p *place) agree(cluster, node string) error {
	if c := p.existing; c != nil {
		if c.Cluster != cluster {
			return fmt.Errorf("%s says `cluster: %s`, and this is about %s: change it there, or remove the file to have one written", p.config, c.Cluster, cluster)
		}
		if c.Node != node {
			return fmt.Errorf("%s makes this host %s, and this is about %s: write `node: %[3]s` there, or remove the file to have one written", p.config, c.Node, node)
		}
		for _, d := range []struct{ key, have, want string }{{"peer.pki_dir", c.Peer.PKIDir, p.pki}, {"gossip.key_file", c.Gossip.KeyFile, p.gossip}, {"data_dir", c.DataDir, p.data}} {
			if d.have != d.want {
				return fmt.Errorf("%s says `%s: %s`, and the command line %s: the agent would not find it", p.config, d.key, d.have, d.want)
			}
		}
	}
	return nil
}

func (p *place) found(out io.Writer, cluster, node string) error {
	if p.existing != nil {
		cluster, node = cmp.Or(cluster, p.existing.Cluster), cmp.Or(node, p.existing.Node)
	}
	if cluster == "" {
		return errors.New("the cluster needs a name: relevo init --cluster home, for instance")
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
	if err := p.agree(cluster, node); err != nil {
		return err
	}
	if id, err := peer.Load(p.pki); err == nil {
		return fmt.Errorf("%w: %s in %s, by %s", peer.ErrExists, id.Node(), id.Cluster(), p.pki)
	}
	// The certificates come last: where they are, everything is.
	var undo []func()
	fail := func(err error) error {
		for _, f := range undo {
			f()
		}
		return err
	}
	if err := p.writeConfig(cluster, node); err != nil {
		return err
	}
	if p.written {
		undo = append(undo, func() { os.Remove(p.config) })
	}
	marker := filepath.Join(p.data, bootstrapMarker)
	if err := os.MkdirAll(p.data, 0o700); err != nil {
		return fail(fmt.Errorf("make the data directory: %w", err))
	}
	if _, err := os.Lstat(marker); err != nil {
		undo = append(undo, func() { os.Remove(marker) })
		if err := writeNew(marker, "The agent on this host founds the vote of cluster "+cluster+".\n", 0o600); err != nil {
			return fail(fmt.Errorf("mark this host as the first: %w", err))
		}
	}
	id, err := peer.Init(p.pki, p.gossip, cluster, node)
	if err != nil {
		return fail(err)
	}
	fmt.Fprintf(out, "The cluster %s is founded (%.8s…). This host is %s, its first member.\n\n", id.Cluster(), id.ClusterID(), id.Node())
	fmt.Fprintf(out, "  trust          %s and %s\n", p.pki, p.gossip)
	fmt.Fprintf(out, "                 Keep a copy of both in a safe place: with it others can be let in.\n")
	fmt.Fprintf(out, "  configuration  %s (%s)\n\n", p.config, p.wasWritten())
	return nil
}

func newInviteCommand(a *app) *cobra.Command {
	var f trustFlags
	var to string
	var replace bool
	cmd := &cobra.Command{
		Use:   "invite NODE",
		Short: "Make an invitation for another host",
		Long: "Make an invitation: one text with everything that the host NODE needs to join,\n" +
			"also where no member can be reached, in an image for instance. It holds NODE's\n" +
			"key, so handle it like a password. Only voters can invite. Where a member can be\n" +
			"reached, `relevo token create` is the better way: no key travels.\n\n" +
			"A member's name is bound to its key: for a board that takes the place of a dead one,\n" +
			"--replace has the members expect the invited one, and refuse the other.",
		Example: "  sudo relevo invite n2 | ssh n2 sudo relevo join -\n  sudo relevo invite n3 -o n3.invitation",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.settle()
			if err != nil {
				return asRoot(err)
			}
			inv, err := peer.Invite(p.pki, p.gossip, args[0])
			if err != nil {
				return asRoot(err)
			}
			if err := agent.MayInvite(p.data, args[0]); err != nil && !replace {
				return asRoot(err)
			}
			if replace {
				invited, err := peer.ReadInvitation(inv)
				if err != nil {
					return err
				}
				if _, err := a.order(cmd.Context(), api.Order{Verb: api.VerbReplace, To: args[0], Key: invited.Key}); err != nil {
					return err
				}
			}
			if to == "-" {
				_, err = cmd.OutOrStdout().Write(inv)
				return err
			}
			if err := writeNew(to, string(inv), 0o600); err != nil {
				return asRoot(fmt.Errorf("write the invitation: %w", err))
			}
			fmt.Fprintf(cmd.OutOrStdout(), "The invitation for %s is in %s. It is a secret: bring it to %[1]s, run\n  sudo relevo join %s\nthere, and remove it here.\n", args[0], to, filepath.Base(to))
			return nil
		},
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "let the invited host take the place of the member NODE, which is dead, or was removed")
	cmd.Flags().StringVarP(&to, "output", "o", "-", "`file` to write; - is the standard output")
	f.add(cmd, false)
	return cmd
}

func readInvitation(stdin io.Reader, from string) ([]byte, error) {
	in := stdin
	if from != "-" {
		f, err := os.Open(from)
		if err != nil {
			return nil, fmt.Errorf("read the invitation: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, peer.MaxInvitation+1))
	if err != nil {
		return nil, fmt.Errorf("read the invitation: %w", err)
	}
	if len(text) == 0 {
		return nil, errors.New("read the invitation: there is none; did `relevo invite` fail?")
	}
	return text, nil
}

func (p *place) join(out io.Writer, text []byte) error {
	inv, err := peer.ReadInvitation(text)
	if err != nil {
		return err
	}
	if err := p.agree(inv.Cluster, inv.Node); err != nil {
		return err
	}
	_, err = peer.Load(p.pki)
	newHere := errors.Is(err, fs.ErrNotExist)
	if err := p.writeConfig(inv.Cluster, inv.Node); err != nil {
		return err
	}
	if newHere {
		// Left by an `init` that was cut short: a second founding must not happen.
		if err := os.Remove(filepath.Join(p.data, bootstrapMarker)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget an earlier init: %w", err)
		}
	}
	id, err := peer.Accept(text, p.pki, p.gossip)
	if err != nil {
		if p.written {
			os.Remove(p.config)
		}
		return err
	}
	fmt.Fprintf(out, "This host is now %s in the cluster %s (%.8s…).\n\n", id.Node(), id.Cluster(), id.ClusterID())
	fmt.Fprintf(out, "  configuration  %s (%s)\n\nNext:\n", p.config, p.wasWritten())
	fmt.Fprintf(out, "  1. sudo systemctl enable --now relevo, or restart it if it runs\n")
	return nil
}

func (p *place) wasWritten() string {
	if p.written {
		return "written now: look through it"
	}
	return "left as it was"
}

// writeConfig writes a configuration if there is none.
func (p *place) writeConfig(cluster, node string) error {
	if p.existing != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(p.config), 0o755); err != nil {
		return fmt.Errorf("write a configuration: %w", err)
	}
	if err := writeNew(p.config, p.configText(cluster, node), 0o644); err != nil {
		return fmt.Errorf("write a configuration: %w", err)
	}
	p.written = true
	return nil
}

func (p *place) configText(cluster, node string) string {
	return fmt.Sprintf(`# relevo.yaml: what this host does in its cluster. After a change:
#   relevo config check && sudo systemctl restart relevo

# Names of the cluster and of this host. The certificate holds them too.
cluster: %s
node: %s

# Where the agent keeps its state.
data_dir: %q

# May this host vote on who is master? Three or five voters make a cluster that
# survives the loss of one or two.
voter: true

# Who is there (tcp and udp), and everything else between agents (tcp, TLS).
gossip:
  port: 7946
  key_file: %q
peer:
  port: 7947
  pki_dir: %q

# The others are found by mDNS. Where multicast does not reach, name some of them.
join: [%s]

%s`, cluster, node, p.data, p.gossip, p.pki, strings.Join(p.joinList, ", "), cmp.Or(p.candidate, exampleCandidate))
}

// exampleCandidate is what a person fills in where nothing was found.
const exampleCandidate = `# A host that can run the control plane is a candidate. Remove the # in front,
# and name what is yours.
#candidate:
#  priority: 0
#  control_plane:
#    kind: units
#    # in the order of their start
#    units: [kine.service, kube-apiserver.service]
#    datastore: {kind: kine, path: /var/lib/kine/state.db}
#    # everything that makes two masters the same: CA, keys, tokens
#    identity: [/etc/kubernetes/pki]
#    api:
#      url: https://127.0.0.1:6443
#      ca_file: /etc/kubernetes/pki/ca.crt
#      token_file: /etc/kubernetes/relevo.token
#  # an unused address of this network, which follows the master
#  vip: {address: 192.168.1.250/24, port: 6443}
`

// writeNew writes a file that was not there; if it fails, nothing is left. (No
// rename: that replaces, and a link is nothing that a FAT stick has.)
func writeNew(path, text string, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err = io.WriteString(f, text); err == nil {
		err = f.Sync()
	}
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err != nil {
		os.Remove(path)
	}
	return err
}

// asRoot adds what most people forget.
func asRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return fmt.Errorf("%w; try it with sudo", err)
	}
	return err
}
