// Package agent is the node agent: it builds the parts from the configuration,
// joins them, runs them and stops them.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/catalog"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/hooks"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/leasefile"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/peer"
	"relevo.dev/relevo/agent/quorum"
	"relevo.dev/relevo/agent/takeover"
	"relevo.dev/relevo/avahi"
	"relevo.dev/relevo/health"
	"relevo.dev/relevo/systemd"
)

// Options are what the command line knows and the configuration does not, and what
// the demo and the tests put in the place of the real host.
type Options struct {
	Version    string
	Log        *slog.Logger
	ConfigPath string
	// Reload asks for the configuration to be read again (SIGHUP); nil: never. Level is
	// changed by it.
	Reload <-chan os.Signal
	Level  *slog.LevelVar

	Host  func(h HostConfig) (*Host, error) // nil = the real one
	Net   *Net                              // nil = the real one
	Clock Clock                             // nil = CLOCK_BOOTTIME
	// Journal takes an entry of the audit with fields; nil, or an error: it is logged.
	Journal func(message string, fields map[string]string) error
	Health  health.Thresholds // the zero value = the configured ones
	// HealthRoot is measured in place of /; "" = this machine. Agents that share a machine
	// with others, and a clock of their own, must not judge each other by its disk.
	HealthRoot string
	Units      health.UnitLister // nil = systemd's, unless Host is given
	// Hooks runs hooks of HooksDir, that HooksOwner owns; nil = as services of systemd,
	// those of root, and none if Host is given.
	Hooks      hooks.Program
	HooksDir   string
	HooksOwner int
	// Exit ends the process of an agent that hangs; nil = os.Exit.
	Exit func(code int)
	// Machine tells this machine from any other; 0 = what the hardware says.
	Machine uint64
	// Probe asks the API at address:port through the network; nil = https.
	Probe func(ctx context.Context, target string) error
	// Services follows the Services of Kubernetes, and gives what ends it; nil = client-go.
	Services func(cfg config.Kubernetes, api config.KubernetesAPI) (serviceSource, func(), error)
	// Fence asks a device to switch a host off; nil = fence.command.
	Fence func(ctx context.Context, o fenceOrder) error
}

// Net is a network.
type Net struct {
	Listen func(addr string) (net.Listener, error)
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	Gossip func(ip string, port int) (memberlist.NodeAwareTransport, error)
	// Board is where hosts see each other's announcements; nil = DNS-SD.
	Board func(avahi.Config) board
}

// HostConfig is what a [Host] is made from.
type HostConfig struct {
	Config    *config.Config
	ClusterID string
	Node      string
	Interface string
	Clock     Clock
	// Term is the newest term that this host knows; Serving the one whose datastore
	// it gives to standbys, as long as it may.
	Term    func() uint64
	Serving func() (term uint64, serving bool)
	// Follow asks the present master.
	Follow replicaGetter
	Log    *slog.Logger
}

// agent is the parts of one.
type agent struct {
	cfg     *config.Config                // as of the start
	live    atomic.Pointer[config.Config] // what may change meanwhile, see config.Reload
	opts    Options
	log     *slog.Logger
	id      *peer.Identity
	clock   Clock
	addr    atomic.Pointer[netip.Addr] // where the others reach this host now
	founder bool
	machine uint64
	started time.Time

	port    *peer.Port
	pool    *member.Pool
	quorum  *quorum.Quorum
	board   board
	monitor *health.Monitor
	hooks   *hooks.Runner // nil where none may run
	notify  *systemd.Notifier
	host    *Host
	loop    *loop
	worker  *worker
	journal *takeover.Journal
	api     *api.Server
	audit   *auditor
	wanting atomic.Pointer[[]api.Finding] // see examines
	catalog *catalog.Catalog
	phased  chan struct{}          // kicked when the holder machine moved
	onDuty  chan struct{}          // the same, for who shows the Services of Kubernetes
	condErr atomic.Pointer[string] // why conditions are not written to Kubernetes; nil, "" = they are
	bridge  atomic.Pointer[string] // where this host is in Cloudy's ring; nil = it is not
	curious chan struct{}          // kicked when somebody asks what the LAN offers
	offered chan struct{}          // kicked when the catalog changed
	tagMu   sync.Mutex

	turned    atomic.Int64  // when the loop turned last, on clock
	term      atomic.Uint64 // newest known
	serving   atomic.Uint64 // term whose datastore this host gives away; 0 = none
	ownRev    atomic.Uint64 // newest revision at the control plane's own path
	apiErr    atomic.Pointer[string]
	steps     atomic.Pointer[[]takeover.StepRecord]
	lost      atomic.Pointer[[]string] // hosts whose Node objects this master marked as lost
	seen      seenMembers
	changes   changeCount
	noticed   notices
	news      chan struct{}           // a condition of this host changed; buffered by one
	trouble   atomic.Pointer[trouble] // of this master's API; nil = none
	seenHere  observed
	trust     trust
	strangers strangers
	gone      atomic.Pointer[removal] // this host was removed; nil = not that it knows
	near      atomic.Pointer[[]api.Neighbour]
	handover  handover
	failures  failures
	handing   handOverTimer
	inspected inspected // what this candidate found when it looked at its control plane
	checks    checks
	factMu    sync.Mutex
	fact      chan struct{} // closed and forgotten at every change of the replicated state
}

// Run runs the agent until ctx ends.
func Run(ctx context.Context, cfg *config.Config, opts Options) error {
	a := newAgent(cfg, opts)
	gone, err := a.wasRemoved()
	if err != nil {
		return err
	}
	if gone != nil {
		return a.stayOut(ctx, *gone)
	}
	if err := a.build(ctx); err != nil {
		return err
	}
	return a.run(ctx)
}

func newAgent(cfg *config.Config, opts Options) *agent {
	a := &agent{cfg: cfg, opts: opts, log: opts.Log, clock: opts.Clock, started: time.Now(), notify: systemd.NewNotifier(), news: make(chan struct{}, 1)}
	if a.clock == nil {
		a.clock = leasefile.Boottime
	}
	a.seenHere.clock, a.seenHere.term = a.clock, a.term.Load
	a.live.Store(cfg)
	return a
}

// build makes every part; nothing runs yet.
func (a *agent) build(ctx context.Context) (err error) {
	cfg := a.cfg
	if a.id, err = peer.Load(cfg.Peer.PKIDir); err != nil {
		return err
	}
	if a.id.Cluster() != cfg.Cluster {
		return fmt.Errorf("the configuration is for the cluster %s, this host belongs to %s: correct cluster:, or accept an invitation to %s", cfg.Cluster, a.id.Cluster(), cfg.Cluster)
	}
	if a.id.Node() != cfg.Node {
		return fmt.Errorf("the configuration names this host %s, its certificate %s: set `node: %s` and start again; `sudo relevo rename %s` gives it another name then", cfg.Node, a.id.Node(), a.id.Node(), cfg.Node)
	}
	keys, err := peer.ReadGossipKeys(cfg.Gossip.KeyFile)
	if err != nil {
		return err
	}
	ifname, addr, err := a.address()
	if err != nil {
		return err
	}
	a.addr.Store(&addr)
	if a.machine = a.opts.Machine; a.machine == 0 {
		if a.machine, err = machineOf("/", macOf(ifname, addr)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	if err := errors.Join(a.comesBack(), a.readRoll()); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(cfg.DataDir, "bootstrap")); err == nil {
		a.founder = true
	}
	if a.journal, err = takeover.OpenJournal(filepath.Join(cfg.DataDir, "takeover.json")); err != nil {
		return err
	}
	a.audit = newAuditor(cfg.DataDir)
	a.monitor = health.New(a.healthConfig())
	a.hooks = a.newHooks()
	a.board = a.newBoard(avahi.Config{Backend: string(cfg.MDNS.Backend), Browse: []string{relevoType, kubernetesType}, Host: cfg.Node, Log: a.log})
	a.buildCatalog()
	if err := a.buildHost(ifname); err != nil {
		return err
	}
	if err := a.buildLoop(); err != nil {
		return err
	}
	if err := a.buildNet(ctx, keys); err != nil {
		return err
	}
	a.api, err = api.Listen(api.Config{Socket: cfg.Socket, Group: "relevo", Others: api.AccessRole(cfg.Access.Others), Event: a.asked, Audit: a.Audit, Doctor: a.Doctor, Listen: cfg.HTTP.Listen, Node: cfg.Node, Source: a, Remote: a.port.Clients(), Grants: a, Log: a.log})
	return err
}

// address is where the others reach this host.
func (a *agent) address() (ifname string, addr netip.Addr, err error) {
	if a.cfg.Advertise.IsValid() {
		return a.cfg.Interface, a.cfg.Advertise, nil
	}
	return chooseInterface(a.cfg.Interface, a.vip())
}

func (a *agent) vip() netip.Addr {
	if c := a.cfg.Candidate; c != nil && c.VIP != nil {
		return c.VIP.Address.Addr()
	}
	return netip.Addr{}
}

func (a *agent) buildHost(ifname string) (err error) {
	if a.cfg.Candidate == nil {
		return nil
	}
	mk := a.opts.Host
	if mk == nil {
		mk = realHost
	}
	a.host, err = mk(HostConfig{
		Config: a.cfg, ClusterID: a.id.ClusterID(), Node: a.cfg.Node, Interface: ifname, Clock: a.clock, Log: a.log,
		Term:    a.term.Load,
		Serving: func() (uint64, bool) { t := a.serving.Load(); return t, t != 0 },
		Follow:  a.follow,
	})
	return err
}

func (a *agent) buildLoop() error {
	tm := lease.Timings{TTL: a.cfg.LeaseTTL}
	a.loop = &loop{
		node: a.cfg.Node, tm: tm, clock: a.clock, log: a.log, host: a.host, journal: a.journal,
		events: make(chan lease.Event, 256), calls: make(chan func()), asks: map[uint64]chan answer{},
		arbiter: lease.NewArbiter(a.cfg.Node, tm, policy(a.cfg)),
		machine: a.machine,
		pulse: func(next time.Duration) {
			a.turned.Store(int64(a.clock()))
			a.notify.Pulse(next)
		},
		seek: a.seekArbiter, saw: a.seenHere.note, fence: a.switchOff, fenceLimit: func() time.Duration { return a.cfg.LeaseTTL/3 + a.live.Load().Fence.Timeout + 2*time.Second },
		trouble: a.troubles, onFact: a.onFact, onPhase: a.onPhase, report: a.candidate, holds: a.handover.holds, drain: a.drain, ownRevision: a.ownRev.Load,
	}
	known, err := readKnown(a.knownPath())
	if err != nil {
		return err
	}
	a.term.Store(known.Term)
	a.changes.newest = known.Term
	if a.host == nil {
		return nil
	}
	a.worker = newWorker(takeover.New(takeover.Config{
		ControlPlane: a.host.ControlPlane, Data: a.host.Data, Address: a.host.Address, API: a.host.API, Cluster: a.host.Cluster,
		StartTimeout: a.cfg.Candidate.ControlPlane.API.StartTimeout, StopGrace: a.cfg.LeaseTTL / 3, Journal: a.journal, Log: a.log,
	}), a.host.Follower, a.log)
	a.worker.guard, a.worker.clock = a.host.Guard, a.clock
	a.worker.following = func(ctx context.Context) error { _, err := a.otherMaster(ctx); return err }
	a.worker.post, a.worker.finished = a.loop.post, a.finished
	a.worker.succession, a.worker.settled, a.worker.failed = a.succession, a.settled, a.promotionFailed
	a.loop.worker = a.worker
	return nil
}

func policy(c *config.Config) lease.Policy {
	return lease.Policy{MaxLag: c.MaxLag, MaxFailovers: c.MaxFailovers, Fence: len(c.Fence.Command) > 0}
}

// prepareHost finds out what runs here and what an earlier process of this boot
// left behind, and makes the holder machine from it.
func (a *agent) prepareHost(ctx context.Context) (active bool, err error) {
	if err := a.host.Prepare(ctx); err != nil {
		return false, err
	}
	if active, err = a.host.ControlPlane.AnyActive(ctx); err != nil {
		return active, err
	}
	was, err := a.host.LeaseNote.Read()
	if err != nil {
		// A damaged note is no lease; what runs is stopped as soon as the state is known.
		a.log.Error("the note of the lease cannot be read", "err", err)
	}
	if rev, err := a.host.Data.OwnRevision(ctx); err != nil {
		a.log.Warn("this host's own datastore cannot be read", "err", err)
	} else {
		a.ownRev.Store(rev)
	}
	a.loop.holder = lease.NewHolder(a.cfg.Node, a.loop.tm, was, active)
	a.loop.guarded = true // by the fence, if an earlier process ended: the first renewal takes that away
	if a.host.Address != nil && !active {
		// Left over from a crash: without the lease the address is not ours.
		if err := a.host.Address.Release(ctx); err != nil {
			a.log.Error("left-over virtual IP not removed", "err", err)
		}
	}
	known, err := readKnown(a.knownPath())
	if err != nil {
		return active, err
	}
	if known.Term > 0 {
		a.loop.known = &known
	}
	a.log.Info("candidate", "control_plane_active", active, "lease_term", was.Term, "known_term", known.Term, "own_revision", a.ownRev.Load())
	return active, nil
}

func (a *agent) buildNet(ctx context.Context, keys [][]byte) (err error) {
	nw := a.opts.Net
	var gossip func(ip string, port int) (memberlist.NodeAwareTransport, error)
	// An address may go with its DHCP lease: listen on all of them.
	bind := "0.0.0.0"
	if a.cfg.Advertise.IsValid() {
		bind = a.cfg.Advertise.String()
	}
	listen := net.JoinHostPort(bind, strconv.Itoa(a.cfg.Peer.Port))
	var l net.Listener
	var dial func(ctx context.Context, network, addr string) (net.Conn, error)
	if nw != nil {
		if l, err = nw.Listen(listen); err != nil {
			return err
		}
		gossip, dial = nw.Gossip, nw.Dial
	}
	a.pool, err = member.New(member.Config{
		Node: a.cfg.Node, BindAddr: bind, AdvertiseAddr: a.addr.Load().String(), Port: a.cfg.Gossip.Port, Keys: keys, Tags: a.tags(),
		PeersFile: filepath.Join(a.cfg.DataDir, "peers"), Join: a.joinAddrs, Transport: gossip, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.port, err = peer.Listen(peer.PortConfig{
		Identity: a.id, Listener: l, Address: listen, Handler: a.handler(),
		Dial: dial, Resolve: a.resolve, Join: a.joinAsked, Why: a.why, Friend: a.isFriend, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.loop.peers = a.port
	if err := a.awaitNoTwin(ctx); err != nil {
		a.port.Close()
		return err
	}
	a.quorum, err = quorum.Open(quorum.Config{
		Node: a.cfg.Node, Cluster: a.id.ClusterID(), Dir: filepath.Join(a.cfg.DataDir, QuorumDir), Bootstrap: a.founder, Voter: a.cfg.Voter,
		Stream: raftStream{a.port.RaftLayer()}, TTL: a.cfg.LeaseTTL, Log: a.log,
	})
	if err != nil {
		a.port.Close()
		return err
	}
	a.loop.quorum = a.quorum
	return nil
}

// raftStream fits the peer port's layer to raft's interface.
type raftStream struct{ *peer.RaftLayer }

func (s raftStream) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.RaftLayer.Dial(string(to), timeout)
}

// run starts every part and waits for all of them.
func (a *agent) run(ctx context.Context) error {
	active := false
	a.turned.Store(int64(a.clock()))
	if a.host != nil {
		var err error
		if active, err = a.prepareHost(ctx); err != nil {
			return errors.Join(err, a.port.Close(), a.quorum.Close(), a.api.Close())
		}
	}
	a.log.Info("agent starts", "node", a.cfg.Node, "cluster", a.id.Cluster(), "addr", a.addr.Load().String(), "version", a.opts.Version, "lease_ttl", a.cfg.LeaseTTL)
	// The port closes last: an arbiter hands its office on while the others stop.
	portCtx, closePort := context.WithCancel(context.WithoutCancel(ctx))
	portErr := make(chan error, 1)
	asked := ctx // ends when the agent is asked to stop; the parts go on until the term is given back
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	go func() { portErr <- a.port.Run(portCtx) }()
	defer closePort()
	g.Go(func() error {
		select {
		case err := <-portErr:
			portErr <- err
			return err
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error { return a.pool.Run(ctx) })
	g.Go(func() error { return a.quorum.Run(ctx) })
	g.Go(func() error { return a.board.Run(ctx) })
	g.Go(func() error { return a.monitor.Run(ctx, a.judged) })
	if a.hooks != nil {
		g.Go(func() error { return a.hooks.Run(ctx) })
	}
	g.Go(func() error { return a.api.Run(ctx) })
	g.Go(func() error { return a.audits(ctx) })
	g.Go(func() error { return a.examines(ctx) })
	g.Go(func() error { return a.loop.run(ctx) })
	g.Go(func() error { return a.steward(ctx) })
	g.Go(func() error { return a.readdresses(ctx) })
	g.Go(func() error { return a.adopts(ctx) })
	g.Go(func() error { return a.keepTrust(ctx) })
	g.Go(func() error { return a.watchRemoval(ctx) })
	g.Go(func() error { return a.watchNeighbours(ctx) })
	g.Go(func() error { return a.services(ctx) })
	g.Go(func() error { return a.catalog.Run(ctx) })
	g.Go(func() error { return a.fileServices(ctx) })
	g.Go(func() error { return a.looksAround(ctx) })
	g.Go(func() error { return a.cloudyBridge(ctx) })
	g.Go(func() error { return a.probes(ctx) })
	g.Go(func() error { return a.endIfHung(ctx) })
	g.Go(func() error { return a.kubernetes(ctx) })
	g.Go(func() error { return a.nodeConditions(ctx) })
	g.Go(func() error { return a.reloads(ctx) })
	if a.host != nil {
		g.Go(func() error { return a.worker.run(ctx, !active) })
		g.Go(func() error { return a.watchAPI(ctx) })
		g.Go(func() error { return a.inspect(ctx) })
		g.Go(func() error { return a.inhibit(ctx) })
		g.Go(func() error { return a.runChecks(ctx) })
		if src, ok := a.host.Source.(interface{ Run(context.Context) error }); ok {
			g.Go(func() error { return src.Run(ctx) })
		}
		if n, ok := a.host.Address.(announcer); ok {
			g.Go(func() error { return n.Run(ctx) })
		}
	}
	g.Go(func() error {
		select {
		case <-ctx.Done(): // a part failed
		case <-asked.Done():
			a.notify.Stopping()
			a.handOver(ctx, "the agent was stopped")
		}
		a.log.Info("agent stops")
		stop()
		return nil
	})
	err := g.Wait()
	closePort()
	err = errors.Join(err, <-portErr)
	if gone := a.gone.Load(); gone != nil && errors.Is(err, errRemoved) {
		return a.stayOut(asked, *gone)
	}
	return err
}
