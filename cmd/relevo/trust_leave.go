package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"relevo.dev/relevo/agent"
	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/leasefile"
	"relevo.dev/relevo/agent/peer"
	"relevo.dev/relevo/systemd"
)

// leaving is how a host leaves a cluster that it was in, for one that has let it in. What it
// had of that is kept aside. The parts are the host's own; the tests put others in their place.
type leaving struct {
	lease string // the note of the lease
	clock func() time.Duration
	// runs are those of the units that are not inactive.
	runs func(ctx context.Context, units []string) ([]string, error)
	// The agent with this configuration is the host's own: it is ended, in good order, and
	// begins again if the host is not free then.
	config      string
	stop, start func(ctx context.Context) error
	goodbye     func(ctx context.Context) error // what `relevo leave` does
}

func newLeaving() leaving {
	return leaving{lease: leasefile.DefaultPath, clock: leasefile.Boottime, runs: unitsThatRun, config: config.DefaultPath,
		stop:    func(ctx context.Context) error { return agentUnit(ctx, "stop") },
		start:   func(ctx context.Context) error { return agentUnit(ctx, "start") },
		goodbye: func(ctx context.Context) error { return sayGoodbye(ctx, api.NewClient(config.DefaultSocket)) }}
}

// goodbyeLimit bounds how long a cluster that is left is asked: it may be long gone.
const goodbyeLimit = 20 * time.Second

func sayGoodbye(ctx context.Context, c *api.Client) error {
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, goodbyeLimit)
	defer cancel()
	_, err := c.Do(ctx, api.Order{Verb: api.VerbLeave, Why: "it joins another cluster"})
	return err
}

func unitsThatRun(ctx context.Context, units []string) (out []string, err error) {
	if !systemdRuns() {
		return nil, nil
	}
	m := systemd.NewManager()
	defer m.Close()
	for _, u := range units {
		s, err := m.State(ctx, u)
		if err != nil {
			return nil, err
		}
		if s.Active != "inactive" && s.Active != "failed" {
			out = append(out, u)
		}
	}
	return out, nil
}

func agentUnit(ctx context.Context, verb string) error {
	if !systemdRuns() {
		return nil
	}
	if b, err := exec.CommandContext(ctx, "systemctl", verb, "relevo.service").CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl %s relevo.service: %w: %s", verb, err, strings.TrimSpace(string(b)))
	}
	return nil
}

// free refuses while this host runs a control plane, or may: it is the master, or was a moment
// ago, or its control plane goes on with the data of the cluster that it is to leave.
func (l leaving) free(ctx context.Context, p *place) error {
	const nothing = "nothing was changed: this host"
	n, err := leasefile.Read(l.lease)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("%s may be the master: %w", nothing, err)
	case n.Deadline == leasefile.Forever:
		return fmt.Errorf("%s is the master of a cluster that is paused, in term %d: `sudo relevo resume`, and give the term to another with `sudo relevo switchover`", nothing, n.Term)
	case l.clock() < n.Deadline:
		return fmt.Errorf("%s is the master, in term %d: `sudo relevo switchover` gives the term to another; if there is no other, `sudo systemctl stop relevo` stops the control plane and gives it back", nothing, n.Term)
	}
	if p.existing == nil || p.existing.Candidate == nil {
		return nil
	}
	units, err := l.runs(ctx, p.existing.Candidate.ControlPlane.Units)
	if err != nil {
		return fmt.Errorf("%s may run a control plane: %w", nothing, err)
	}
	if len(units) > 0 {
		s := strings.Join(units, " ")
		return fmt.Errorf("%s runs %s, with the data of the cluster that it is to leave: stop that first with `sudo systemctl stop %[2]s`", nothing, s)
	}
	return nil
}

// leaveFor makes place for an invitation. Nobody is asked whether it is still good: it is for
// hosts that can reach nobody.
func (j joinFlags) leaveFor(ctx context.Context, out io.Writer, p *place, text []byte) error {
	next, err := peer.ReadInvitation(text)
	if err != nil {
		return err
	}
	return j.old.leave(ctx, out, p, next, peer.MayAccept(text, p.pki, p.gossip) != nil)
}

// leave makes place for the membership next, if this host was let in: what it has of another
// is moved aside. Nothing is in the way of a host that joins its own cluster again.
func (l leaving) leave(ctx context.Context, out io.Writer, p *place, next peer.Membership, inTheWay bool) error {
	was, there := peer.Earlier(p.pki, p.gossip)
	same := was.ClusterID == next.ClusterID && (was.Node == "" || was.Node == next.Node)
	if there && !inTheWay {
		return nil
	}
	if same {
		// The configuration is of the same cluster, and stays.
		if err := p.agree(next.Cluster, next.Node); err != nil {
			return err
		}
	}
	own, stays := p.config == l.config, error(nil)
	if own {
		if !same { // so that its vote is replaced
			stays = l.goodbye(ctx)
		}
		if err := l.stop(ctx); err != nil {
			return fmt.Errorf("stop the agent of this host: %w", err)
		}
	}
	if err := l.free(ctx, p); err != nil { // it became the master meanwhile
		if own {
			err = errors.Join(err, l.start(ctx))
		}
		return err
	}
	left, removed := agent.Departed(p.data, was) // asked before it is moved
	folders, err := p.setAside(was, func(string) bool { return !same }, there && !same)
	if len(folders) > 0 {
		fmt.Fprintf(out, "What this host had of the cluster before is kept in %s, for root alone: remove it when nobody needs it.\n", strings.Join(folders, " and "))
	}
	if err != nil {
		return fmt.Errorf("keep what is here of another cluster aside: %w; nothing is lost, try again", err)
	}
	if !same && was.ClusterID != "" && was.Node != "" {
		switch {
		case removed != "":
			fmt.Fprintf(out, "That cluster does not count it any more: %s.\n", clean(removed))
		case own && stays == nil || left: // also if this was cut off after it, and typed again
			fmt.Fprintf(out, "It has left that cluster, %s, which lets it in with those keys until somebody says `relevo remove %s` there.\n", clean(was.Cluster), clean(was.Node))
		case own:
			fmt.Fprintf(out, "That cluster, %s, could not be told, and counts this host until somebody says `relevo remove %s` there: %s\n", clean(was.Cluster), clean(was.Node), clean(stays.Error()))
		default:
			fmt.Fprintf(out, "That cluster, %s, counts this host until somebody says `relevo remove %s` there.\n", clean(was.Cluster), clean(was.Node))
		}
	}
	return nil
}

// setAside moves the trust files into a new folder beside their own, of the agent's state what
// is of the old membership, and if so said the configuration. An agent that starts before the
// end of it finds no key.
func (p *place) setAside(was peer.Membership, old func(name string) bool, configuration bool) (folders []string, err error) {
	name := "left"
	if peer.ValidNode(was.Cluster) == nil {
		name += fmt.Sprintf("-%s-%.8s", was.Cluster, was.ClusterID)
	}
	made := map[string]string{}
	folder := func(parent string) (string, error) {
		if made[parent] == "" {
			dir := filepath.Join(parent, name)
			err := os.Mkdir(dir, 0o700)
			for n := 2; errors.Is(err, fs.ErrExist) && n < 100; n++ {
				dir = filepath.Join(parent, fmt.Sprintf("%s-%d", name, n))
				err = os.Mkdir(dir, 0o700)
			}
			if err != nil {
				return "", err
			}
			made[parent] = dir
			folders = append(folders, dir)
		}
		return made[parent], nil
	}
	move := func(path string) error {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		dir, err := folder(filepath.Dir(path))
		if err != nil {
			return err
		}
		return os.Rename(path, filepath.Join(dir, filepath.Base(path)))
	}
	if there := peer.Present(p.pki); len(there) > 0 {
		dir, err := folder(filepath.Dir(p.pki))
		if err != nil {
			return folders, err
		}
		dir = filepath.Join(dir, filepath.Base(p.pki))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return folders, err
		}
		for _, path := range there { // the node's key first
			if err := os.Rename(path, filepath.Join(dir, filepath.Base(path))); err != nil {
				return folders, err
			}
		}
	}
	if configuration {
		if err := move(p.config); err != nil {
			return folders, err
		}
		p.existing = nil
	}
	entries, err := os.ReadDir(p.data)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return folders, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "left") || !old(e.Name()) { // before
			continue
		}
		if err := move(filepath.Join(p.data, e.Name())); err != nil {
			return folders, err
		}
	}
	return folders, move(p.gossip) // the last, see peer.Earlier
}
