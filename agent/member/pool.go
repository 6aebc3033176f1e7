package member

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// Status of a member.
type Status string

// The statuses. Serf tells nobody whom it suspects, so there is none for it.
const (
	Alive  Status = "alive"
	Failed Status = "failed" // gone without a word
	Left   Status = "left"   // gone on purpose, or about to
)

// Member is a host in the pool.
type Member struct {
	Node   string
	Addr   string // IP address; of one that is gone, the last known
	Port   int    // gossip port
	Status Status
	Tags   map[string]string
	// SeenAt is when this host last knew it to be alive: now for those that are.
	SeenAt time.Time
}

// MaxTags is what all tags of a member may weigh together, encoded: memberlist's
// limit for a node's metadata, 512 bytes.
const MaxTags = memberlist.MetaMaxSize

// Config of a [Pool].
type Config struct {
	Node          string // name; must be unique
	BindAddr      string // IP address to listen on, or 0.0.0.0
	Port          int    // tcp and udp
	AdvertiseAddr string // IP address for the others; "" = BindAddr
	// Keys: gossip is always encrypted, with the first; others are read with as well while
	// the key is changed. 16, 24 or 32 bytes each.
	Keys      [][]byte
	Tags      map[string]string
	PeersFile string // where members were; "" = remember nothing
	// Join lists addresses (host:port) that may be members: configured, discovered.
	// It is called in every round of joining, seconds apart while this host is
	// alone, else once a minute, and should end with ctx at the latest. This
	// host's own address may be among them.
	Join func(ctx context.Context) []string
	// Transport opens the network; nil = the real one. It is called again by
	// Restart. (memberlist.MockNetwork will not do where members fail: sending to a
	// transport that was shut down blocks for ever.)
	Transport func(bindAddr string, port int) (memberlist.NodeAwareTransport, error)
	Log       *slog.Logger
}

// Pool is this host's part in the gossip.
type Pool struct {
	cfg     Config
	log     *slog.Logger
	changes chan struct{} // all of these are buffered by one
	newTags chan struct{}
	restart chan string
	names   *conflicts
	ring    *memberlist.Keyring

	leaving sync.WaitGroup // calls of Serf's Leave; Run waits for them

	mu      sync.Mutex
	serf    *serf.Serf // of the newest session, nil before the first
	running bool       // serf is not shut down
	tags    map[string]string
	seen    map[string]time.Time // last alive, of those that are not
	ready   bool
	left    bool
	peers   *peersFile
	cursor  int // in peers, for the next round

	watchers []chan struct{}
}

// New makes a pool; [Pool.Run] enters it.
func New(cfg Config) (*Pool, error) {
	if len(cfg.Keys) == 0 {
		return nil, errors.New("enter the gossip pool: a key is needed: `relevo init` or `relevo join` makes one")
	}
	ring, err := memberlist.NewKeyring(cfg.Keys, cfg.Keys[0])
	if err != nil {
		return nil, fmt.Errorf("enter the gossip pool: a key of 16, 24 or 32 bytes is needed: %w: `relevo init` or `relevo join` makes one", err)
	}
	if cfg.Node == "" || cfg.Log == nil {
		return nil, errors.New("enter the gossip pool: node and log are needed")
	}
	if err := checkTags(cfg.Tags); err != nil {
		return nil, err
	}
	peers, err := readPeers(cfg.PeersFile)
	if err != nil {
		return nil, err
	}
	return &Pool{cfg: cfg, log: cfg.Log, ring: ring,
		changes: make(chan struct{}, 1), newTags: make(chan struct{}, 1), restart: make(chan string, 1),
		names: newConflicts(cfg.Node, cfg.Log), tags: maps.Clone(cfg.Tags), seen: map[string]time.Time{}, peers: peers}, nil
}

// tagsSize is what Serf makes of tags: a byte of its own, then MessagePack in its
// old form.
func tagsSize(tags map[string]string) int {
	head := func(n, small int) int {
		if n < small {
			return 1
		}
		return 3
	}
	size := 1 + head(len(tags), 16)
	for k, v := range tags {
		size += head(len(k), 32) + len(k) + head(len(v), 32) + len(v)
	}
	return size
}

func checkTags(tags map[string]string) error {
	if size := tagsSize(tags); size > MaxTags {
		return fmt.Errorf("the tags of this member weigh %d bytes, and %d are all that gossip carries", size, MaxTags)
	}
	return nil
}

// settings tunes Serf for a LAN of boards that have better things to do. Gossip
// every 500 ms and a probe every 2 s cost 35 M ARM instructions a minute instead of
// 61 M, and 20 wake-ups a second instead of 50 (measured with 4 members); a dead
// host is declared failed some seconds later for it. That is affordable because
// the lease, not the gossip, decides about a failover.
func (p *Pool) settings(advertise string, events chan<- serf.Event) (*serf.Config, error) {
	bind := cmp.Or(p.cfg.BindAddr, "0.0.0.0")
	if bind == cmp.Or(p.cfg.AdvertiseAddr, bind) && bind != "0.0.0.0" && bind != "::" {
		bind = advertise // the one address of this host, which may have changed
	}
	ml := memberlist.DefaultLANConfig()
	ml.BindAddr, ml.BindPort = bind, p.cfg.Port
	ml.AdvertiseAddr, ml.AdvertisePort = advertise, p.cfg.Port
	ml.Keyring = p.ring
	ml.GossipInterval = 500 * time.Millisecond
	ml.ProbeInterval, ml.ProbeTimeout = 2*time.Second, time.Second
	ml.SuspicionMult = 3 // of slower probes: 6 s to object, where the LAN profile has 4 s
	ml.PushPullInterval = time.Minute
	ml.DeadNodeReclaimTime = time.Second // a host that came back with a new address is itself
	ml.TCPTimeout = 3 * time.Second      // on a LAN; it also bounds how long an end can take
	ml.Logger = newLogger(p.log)         // also of the transport

	c := serf.DefaultConfig()
	c.Init()
	c.NodeName = p.cfg.Node
	c.MemberlistConfig = ml
	c.EventCh = events
	c.Logger, c.LogOutput = ml.Logger, nil
	c.Merge = p.names
	c.DisableCoordinates = true
	c.EnableNameConflictResolution = false         // see the package's doc
	c.ReconnectTimeout = 10 * 365 * 24 * time.Hour // never give a failed one up
	c.TombstoneTimeout = 24 * time.Hour
	c.BroadcastTimeout = 2 * time.Second
	c.LeavePropagateDelay = time.Second
	c.MsgpackUseNewTimeFormat = true
	return c, nil
}

// Changes signals that something about the members changed, or may have; several
// changes may be one signal.
func (p *Pool) Changes() <-chan struct{} { return p.changes }

// Watch is a signal like Changes for one more who waits.
func (p *Pool) Watch() <-chan struct{} {
	w := make(chan struct{}, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchers = append(p.watchers, w)
	return w
}

// Unwatch ends a Watch.
func (p *Pool) Unwatch(w <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchers = slices.DeleteFunc(p.watchers, func(o chan struct{}) bool { return o == w })
}

func (p *Pool) changed() {
	kick(p.changes)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.watchers {
		kick(w)
	}
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Ready says whether this host is really a member: it has met another one, or a
// first round of joining is over and nobody is known at all. Once true it stays so.
func (p *Pool) Ready() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ready
}

// Err is the standing complaint about this host's membership, which goes on all
// the same: an [ErrNameConflict], or nil.
func (p *Pool) Err() error { return p.names.err() }

func (p *Pool) session() *serf.Serf {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.serf
}

// Members are all that are known, by name, this host included. Nobody is known
// before Run.
func (p *Pool) Members() []Member {
	s := p.session()
	if s == nil {
		return nil
	}
	list, now := s.Members(), time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Member, 0, len(list))
	for _, m := range list {
		st, at := status(m.Status), now
		if st != Alive {
			// Serf's word may be here before its event.
			if t, ok := p.seen[m.Name]; ok {
				at = t
			}
		}
		out = append(out, Member{m.Name, m.Addr.String(), int(m.Port), st, maps.Clone(m.Tags), at})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Node < out[j].Node })
	return out
}

func status(s serf.MemberStatus) Status {
	switch s {
	case serf.StatusAlive:
		return Alive
	case serf.StatusLeaving, serf.StatusLeft:
		return Left
	}
	return Failed
}

// Lookup is the last known IP address of a member, gone or not, met in this life or
// an earlier one; false = never met.
func (p *Pool) Lookup(node string) (addr string, ok bool) {
	if s := p.session(); s != nil {
		for _, m := range s.Members() {
			if m.Name == node {
				return m.Addr.String(), true
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.peers.peers {
		if k.node == node {
			return k.addr.Addr().String(), true
		}
	}
	return "", false
}

// Known are the names of the members met in this life or an earlier one.
func (p *Pool) Known() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, k := range p.peers.peers {
		out = append(out, k.node)
	}
	return out
}

// Rival is the address of another host that claims this host's name, if it has done so
// for long enough to be real.
func (p *Pool) Rival() (addr string, ok bool) {
	if p.names.err() == nil {
		return "", false
	}
	return p.names.rival()
}

// SetTags replaces this member's tags. Their encoded size is bounded by [MaxTags];
// the error names it, and the old ones stay. It does not wait: the gossip is sent
// by Run, and only if something changed.
func (p *Pool) SetTags(tags map[string]string) error {
	if err := checkTags(tags); err != nil {
		return err
	}
	p.mu.Lock()
	same := maps.Equal(tags, p.tags)
	p.tags = maps.Clone(tags)
	p.mu.Unlock()
	if !same {
		kick(p.newTags)
	}
	return nil
}

// SetKeys changes the keys at once: with the first is written, the others are read with.
func (p *Pool) SetKeys(keys [][]byte) error {
	if len(keys) == 0 {
		return errors.New("change the gossip keys: there are none")
	}
	for _, k := range keys {
		if err := p.ring.AddKey(k); err != nil {
			return fmt.Errorf("change the gossip keys: %w", err)
		}
	}
	if err := p.ring.UseKey(keys[0]); err != nil {
		return fmt.Errorf("change the gossip keys: %w", err)
	}
	for _, k := range p.ring.GetKeys() {
		if !slices.ContainsFunc(keys, func(o []byte) bool { return bytes.Equal(o, k) }) {
			if err := p.ring.RemoveKey(k); err != nil {
				return fmt.Errorf("change the gossip keys: %w", err)
			}
		}
	}
	return nil
}

// Restart takes part from another address of this host, after it has lost the old
// one: it leaves and enters again, unless it has left for good. It does not wait.
func (p *Pool) Restart(advertiseAddr string) {
	for {
		select {
		case p.restart <- advertiseAddr:
			return
		case <-p.restart: // the newest counts
		}
	}
}

// Leave tells the others that this host goes on purpose, and does not join again.
// It waits until they should know, some seconds at most, or ctx ends. Run goes on
// until its own context ends.
func (p *Pool) Leave(ctx context.Context) error {
	done := make(chan error, 1)
	p.mu.Lock()
	p.left = true
	s, running := p.serf, p.running
	if running {
		p.leaving.Go(func() { done <- s.Leave() }) // 5 s at most, see settings
	}
	p.mu.Unlock()
	if !running {
		return nil
	}
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("leave the gossip pool: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("leave the gossip pool: %w; the others will see a failure instead", ctx.Err())
	}
}

// Remove declares that a member which failed has left for good. It is for a member
// that does not come back: one that is alive would be told to leave.
func (p *Pool) Remove(node string) error {
	s := p.session()
	if s == nil {
		return errors.New("this host is not in the pool")
	}
	if err := s.RemoveFailedNode(node); err != nil {
		return fmt.Errorf("remove %s from the pool: %w", node, err)
	}
	return nil
}
