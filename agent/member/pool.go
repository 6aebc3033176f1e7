// Package member is the gossip pool: who is there, at which address, alive or
// failed, and the few tags that everybody should know of everybody. It wraps Serf.
//
// Serf's own snapshot file is not used: it writes while nothing changes, is not
// synced, and forgets failed members. Instead the addresses once seen are kept in
// a small file, written when the set changes, and joined again for ever.
package member

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// Status of a member.
type Status string

// The statuses of Serf that matter to others.
const (
	Alive  Status = "alive"
	Failed Status = "failed"
	Left   Status = "left"
)

// Member is a host in the pool.
type Member struct {
	Node   string
	Addr   string // IP address
	Port   int    // gossip port
	Status Status
	Tags   map[string]string
}

// MaxTags is what all tags of a member may weigh together, encoded (memberlist's
// limit for a node's metadata).
const MaxTags = memberlist.MetaMaxSize

// Config of a [Pool].
type Config struct {
	Node          string
	BindAddr      string
	Port          int
	AdvertiseAddr string // "" = BindAddr
	Key           []byte // gossip is always encrypted: 16, 24 or 32 bytes
	Tags          map[string]string
	PeersFile     string // "" = remember nothing
	// Join lists addresses (host:port) that may be members: configured, discovered.
	Join      func() []string
	Transport memberlist.NodeAwareTransport // nil = the network
	Log       *slog.Logger
}

// Pool is this host's part in the gossip.
type Pool struct {
	cfg      Config
	log      *slog.Logger
	events   chan serf.Event
	changes  chan struct{}
	conflict conflicts

	mu     sync.Mutex
	serf   *serf.Serf
	tags   map[string]string
	tried  bool // the first round of joining is over
	joined bool
	peers  *peersFile
}

// New makes a pool; [Pool.Run] enters it.
func New(cfg Config) (*Pool, error) {
	if len(cfg.Key) == 0 {
		return nil, errors.New("gossip without a key is not allowed: `relevo init` or `relevo join` makes one")
	}
	if err := checkTags(cfg.Tags); err != nil {
		return nil, err
	}
	peers, err := readPeers(cfg.PeersFile)
	if err != nil {
		return nil, err
	}
	return &Pool{cfg: cfg, log: cfg.Log, events: make(chan serf.Event, 256), changes: make(chan struct{}, 1),
		tags: maps.Clone(cfg.Tags), peers: peers}, nil
}

// checkTags estimates the encoded size: each string costs its bytes and up to
// three of framing.
func checkTags(tags map[string]string) error {
	size := 4
	for k, v := range tags {
		size += len(k) + len(v) + 6
	}
	if size > MaxTags {
		return fmt.Errorf("the tags of this member weigh %d bytes; %d is all that gossip carries", size, MaxTags)
	}
	return nil
}

// settings tunes Serf for a LAN of boards that have better things to do. Gossip
// every 500 ms and a probe every 2 s cost 35 M ARM instructions a minute instead of
// 61 M, and 20 wake-ups a second instead of 50 (measured with 4 members); a dead
// host is declared failed some seconds later for it. That is affordable because
// the lease, not the gossip, decides about a failover.
func (p *Pool) settings() *serf.Config {
	ml := memberlist.DefaultLANConfig()
	ml.Name = p.cfg.Node
	ml.BindAddr, ml.BindPort = p.cfg.BindAddr, p.cfg.Port
	ml.AdvertiseAddr, ml.AdvertisePort = cmp.Or(p.cfg.AdvertiseAddr, p.cfg.BindAddr), p.cfg.Port
	ml.SecretKey = p.cfg.Key
	ml.GossipInterval = 500 * time.Millisecond
	ml.ProbeInterval, ml.ProbeTimeout = 2*time.Second, time.Second
	ml.PushPullInterval = time.Minute
	ml.DeadNodeReclaimTime = time.Second // a host that came back with a new address is itself
	ml.TCPTimeout = 5 * time.Second
	ml.Transport = p.cfg.Transport
	ml.Logger = newLogger(p.log, &p.conflict)

	c := serf.DefaultConfig()
	c.Init()
	c.NodeName = p.cfg.Node
	c.MemberlistConfig = ml
	c.Tags = maps.Clone(p.tags)
	c.EventCh = p.events
	c.LogOutput = nil
	c.Logger = ml.Logger
	c.DisableCoordinates = true
	c.EnableNameConflictResolution = false // it would shut this agent's Serf down, silently
	c.ReconnectTimeout = 10 * 365 * 24 * time.Hour
	c.TombstoneTimeout = 24 * time.Hour
	c.LeavePropagateDelay = time.Second
	c.MsgpackUseNewTimeFormat = true
	return c
}

// Run takes part until ctx ends. It fails only if it cannot begin.
func (p *Pool) Run(ctx context.Context) error {
	s, err := serf.Create(p.settings())
	if err != nil {
		return fmt.Errorf("enter the gossip pool at %s: %w; is another agent using the port?",
			net.JoinHostPort(p.cfg.BindAddr, strconv.Itoa(p.cfg.Port)), err)
	}
	p.mu.Lock()
	p.serf = s
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { p.rejoin(ctx) })
	defer func() {
		wg.Wait()
		s.Shutdown()
		<-s.ShutdownCh()
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.ShutdownCh():
			return errors.New("the gossip ended by itself")
		case ev := <-p.events:
			p.observe(ev)
		}
	}
}

func (p *Pool) observe(ev serf.Event) {
	me, ok := ev.(serf.MemberEvent)
	if !ok {
		return
	}
	for _, m := range me.Members {
		p.log.Info("member "+me.Type.String(), "node", m.Name, "addr", m.Addr.String())
	}
	p.mu.Lock()
	for _, m := range p.serf.Members() {
		if m.Name != p.cfg.Node && m.Status == serf.StatusAlive {
			p.joined = true
			p.peers.add(net.JoinHostPort(m.Addr.String(), strconv.Itoa(int(m.Port))))
		}
	}
	err := p.peers.save()
	p.mu.Unlock()
	if err != nil {
		p.log.Error("addresses of the members not remembered", "err", err)
	}
	p.changed()
}

func (p *Pool) changed() {
	select {
	case p.changes <- struct{}{}:
	default:
	}
}

// rejoin looks for the others for ever: quickly while alone, every minute for
// addresses that should be members and are not, so that two halves of a pool find
// each other after any break.
func (p *Pool) rejoin(ctx context.Context) {
	const most, settled = 15 * time.Second, time.Minute
	for wait := time.Second; ; {
		if missing := p.missing(); len(missing) > 0 {
			n, err := p.serf.Join(missing, true)
			p.log.Debug("joining", "tried", len(missing), "reached", n, "err", err)
		}
		p.mu.Lock()
		p.tried = true
		alone := p.alone()
		p.mu.Unlock()
		p.changed()
		pause := settled
		if alone {
			pause, wait = wait, min(2*wait, most)
		} else {
			wait = time.Second
		}
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// alone says whether no other member is alive; p.mu is held.
func (p *Pool) alone() bool {
	for _, m := range p.serf.Members() {
		if m.Name != p.cfg.Node && m.Status == serf.StatusAlive {
			return false
		}
	}
	return true
}

// missing are the known addresses at which no member is alive.
func (p *Pool) missing() []string {
	var join []string
	if p.cfg.Join != nil {
		join = p.cfg.Join()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	have := map[string]bool{net.JoinHostPort(cmp.Or(p.cfg.AdvertiseAddr, p.cfg.BindAddr), strconv.Itoa(p.cfg.Port)): true}
	for _, m := range p.serf.Members() {
		if m.Status == serf.StatusAlive {
			have[net.JoinHostPort(m.Addr.String(), strconv.Itoa(int(m.Port)))] = true
		}
	}
	all := append(join, p.peers.list()...)
	slices.Sort(all)
	all = slices.Compact(all)
	return slices.DeleteFunc(all, func(a string) bool { return have[a] })
}

// Changes signals that something about the members changed; several changes may be
// one signal.
func (p *Pool) Changes() <-chan struct{} { return p.changes }

// Ready says whether this host is really a member: it has met another one, or has
// looked for others and there are none.
func (p *Pool) Ready() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.serf != nil && (p.joined || p.tried)
}

// Members are all that are known, by name.
func (p *Pool) Members() []Member {
	p.mu.Lock()
	s := p.serf
	p.mu.Unlock()
	if s == nil {
		return nil
	}
	var out []Member
	for _, m := range s.Members() {
		st := Status(m.Status.String())
		switch m.Status {
		case serf.StatusLeaving:
			st = Left
		case serf.StatusNone:
			st = Failed
		}
		out = append(out, Member{m.Name, m.Addr.String(), int(m.Port), st, m.Tags})
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.Node, b.Node) })
	return out
}

// Lookup finds one member.
func (p *Pool) Lookup(node string) (Member, bool) {
	for _, m := range p.Members() {
		if m.Node == node {
			return m, true
		}
	}
	return Member{}, false
}

// Conflict is the newest message about another host with this host's name, "" if
// none was seen in the last minute.
func (p *Pool) Conflict() string { return p.conflict.recent() }

// SetTags gossips new tags; unchanged ones are not sent again.
func (p *Pool) SetTags(tags map[string]string) error {
	if err := checkTags(tags); err != nil {
		return err
	}
	p.mu.Lock()
	s, same := p.serf, maps.Equal(tags, p.tags)
	if !same {
		p.tags = maps.Clone(tags)
	}
	p.mu.Unlock()
	if s == nil || same {
		return nil
	}
	// Not under the lock: Serf waits until the news is on its way.
	if err := s.SetTags(maps.Clone(tags)); err != nil {
		return fmt.Errorf("gossip the tags: %w", err)
	}
	return nil
}

// Leave tells the others that this host goes on purpose.
func (p *Pool) Leave() error {
	p.mu.Lock()
	s := p.serf
	p.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.Leave()
}
