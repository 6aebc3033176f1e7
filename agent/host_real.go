package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/controlplane"
	"relevo.dev/relevo/agent/kube"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/leasefile"
	"relevo.dev/relevo/agent/replica"
	"relevo.dev/relevo/agent/vip"
	"relevo.dev/relevo/systemd"
)

// Unit is the agent's own.
const Unit = "relevo.service"

// Names of PID 1's timers that stop the control plane: the fence arms one when the
// agent is gone, the agent another while it stops units itself. They are two, since
// one that has gone off runs while the other is armed.
const (
	FenceTimer = "relevo-fence"
	guardTimer = "relevo-guard"
)

// realHost is this host as it is: systemd, kine, kube-apiserver, netlink.
func realHost(h HostConfig) (*Host, error) {
	c := h.Config.Candidate
	m := systemd.NewManager()
	units := controlplane.New(controlplane.Config{
		Units: c.ControlPlane.Units, StandbyUnits: c.ControlPlane.StandbyUnits, StandbyIfThere: c.ControlPlane.Kind == config.KindK3s, Manager: m,
		LeaseCommand: "/usr/bin/relevo lease held", DropInDir: "/etc/systemd/system", Log: h.Log,
	})
	source, follower, data := DataParts(h)
	api := &kubeAPI{cfg: c.ControlPlane.API, node: h.Node, kubeNode: cmp.Or(h.Config.Kubernetes.Node, h.Node)}
	host := &Host{
		ControlPlane: units, Data: data, Follower: follower, Source: source, Copy: follower,
		Rehearse:  &hostRehearsal{cfg: h.Config, copy: follower.CopyPath(), id: follower.MirrorDir(), m: m},
		Inspector: inspector(c, m), Identity: &identity{source.Identity(), follower.Identity()},
		API: api, Cluster: &kubeCluster{api, c.ControlPlane.Units, time.Now},
		LeaseNote:  &LeaseNoteFile{Path: leasefile.DefaultPath, Node: h.Node, TTL: h.Config.LeaseTTL, Units: c.ControlPlane.Units},
		Restarting: func(ctx context.Context) bool { return m.Restarting(ctx, Unit) },
		Guard:      &timerGuard{m},
		Blocked:    systemd.Blockers,
		Shutdowns: func(ctx context.Context, tell func(time.Duration), before func(context.Context)) error {
			return systemd.Shutdowns(ctx, "relevo", shutdownWhy, tell, before)
		},
		Prepare: func(ctx context.Context) error {
			if err := units.Check(ctx); err != nil {
				h.Log.Error("the control plane's units", "err", err)
			}
			if err := units.InstallDropIns(ctx); err != nil {
				return err
			}
			// A timer that the fence armed while this agent was away stays until the first
			// renewal: it is still right.
			return nil
		},
	}
	if c.VIP != nil {
		host.LeaseNote.(*LeaseNoteFile).VIP = c.VIP.Address.Addr()
		a, err := vip.New(vip.Config{Prefix: c.VIP.Address, Interface: orElse(c.VIP.Interface, h.Interface), Service: vip.SocketPath, Log: h.Log})
		if err != nil {
			return nil, err
		}
		host.Address = a
	}
	return host, nil
}

// inspector looks at what a candidate is to run.
func inspector(c *config.Candidate, m controlplane.Looker) *controlplane.Inspector {
	cp := c.ControlPlane
	in := controlplane.InspectorConfig{Kind: string(cp.Kind), Units: cp.Units, StandbyUnits: cp.StandbyUnits, StandbyIfThere: cp.Kind == config.KindK3s,
		Systemd: m, Port: portOf(cp.API.URL), DataDir: cp.DataDir}
	if c.VIP != nil {
		in.VIP, in.Port = c.VIP.Address.Addr(), c.VIP.Port
	}
	return controlplane.NewInspector(in)
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// DataParts are the datastore's: what it gives to others, what it takes from the
// master, and what a takeover does with both.
func DataParts(h HostConfig) (*replica.Source, *replica.Follower, Data) {
	cp := h.Config.Candidate.ControlPlane
	source := replica.NewSource(replica.SourceConfig{
		Path: cp.Datastore.Path, Cluster: h.ClusterID, Term: h.Serving, Identity: cp.Identity, MayMiss: cp.MayMiss(), Needed: cp.Needed(), Log: h.Log,
	})
	follower := replica.NewFollower(replica.FollowerConfig{
		Dir: filepath.Join(h.Config.DataDir, "replica"), Cluster: h.ClusterID, Term: h.Term, Get: h.Follow,
		Identity: cp.Identity, MayMiss: cp.MayMiss(), Needed: cp.Needed(), Clock: h.Clock, Log: h.Log, SyncEvery: h.Config.Candidate.Replica.SyncInterval,
	})
	return source, follower, &dataset{path: cp.Datastore.Path, base: cp.DataDir, copy: follower.CopyPath(), mirror: follower.MirrorDir(), identity: cp.Identity, ca: cp.API.CAFile, source: source}
}

// timerGuard is PID 1.
type timerGuard struct{ m *systemd.Manager }

func (g *timerGuard) Arm(ctx context.Context, in time.Duration) error {
	return g.m.After(ctx, guardTimer, in, "/usr/bin/relevo", "fence", "--now")
}

func (g *timerGuard) Disarm(ctx context.Context) error {
	return errors.Join(g.m.Disarm(ctx, guardTimer), g.m.Disarm(ctx, FenceTimer))
}

// LeaseNoteFile is the note of the lease as a file.
type LeaseNoteFile struct {
	Path, Node string
	TTL        time.Duration
	Units      []string
	VIP        netip.Addr // zero = none
}

// Write notes the lease.
func (n *LeaseNoteFile) Write(term uint64, deadline lease.Time, mayStart bool) error {
	return leasefile.Write(n.Path, leasefile.Lease{Node: n.Node, Term: term, Deadline: deadline, TTL: n.TTL, Units: n.Units, VIP: n.VIP, Start: mayStart})
}

// Remove removes the note.
func (n *LeaseNoteFile) Remove() error { return leasefile.Remove(n.Path) }

// Read reads the note; none is the zero lease.
func (n *LeaseNoteFile) Read() (lease.Lease, error) {
	l, err := leasefile.Read(n.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return lease.Lease{}, nil
	}
	if err != nil {
		return lease.Lease{}, err
	}
	if l.Node != n.Node {
		return lease.Lease{}, fmt.Errorf("the note of the lease names %s: this host was renamed while it was the master", l.Node)
	}
	return lease.Lease{Term: l.Term, Deadline: l.Deadline}, nil
}

// kubeAPI is the control plane's API. The client is made when it is needed: on a
// standby its credentials may not be there yet.
type kubeAPI struct {
	cfg      config.API
	node     string
	kubeNode string // what Kubernetes calls this host; "" = nobody knows

	mu     sync.Mutex
	client *kube.Client
}

// NewAPI speaks with the API at cfg.
func NewAPI(cfg config.API, node string) API { return &kubeAPI{cfg: cfg, node: node} }

func (k *kubeAPI) make(fresh bool) (*kube.Client, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.client != nil && !fresh {
		return k.client, nil
	}
	if k.client != nil {
		k.client.Close()
	}
	var err error
	k.client, err = kube.New(kube.Config{URL: k.cfg.URL, CAFile: k.cfg.CAFile, TokenFile: k.cfg.TokenFile,
		ClientCertFile: k.cfg.ClientCertFile, ClientKeyFile: k.cfg.ClientKeyFile, Node: k.kubeNode})
	return k.client, err
}

func (k *kubeAPI) WaitReady(ctx context.Context) error {
	c, err := k.make(true)
	if err != nil {
		return err
	}
	return c.WaitReady(ctx)
}

func (k *kubeAPI) Canary(ctx context.Context, term uint64) error {
	c, err := k.make(false)
	if err != nil {
		return err
	}
	_, err = c.Canary(ctx, k.node, term)
	return err
}

func (k *kubeAPI) Healthy(ctx context.Context) error {
	c, err := k.make(false)
	if err != nil {
		return err
	}
	r, err := c.Ready(ctx)
	if err == nil && !r.OK {
		err = errors.New("not ready: " + r.Failed())
	}
	return err
}

// portOf is the port of an https URL.
func portOf(raw string) int {
	u, err := url.Parse(raw)
	if err != nil {
		return 443
	}
	if p, err := strconv.Atoi(u.Port()); err == nil {
		return p
	}
	return 443
}
