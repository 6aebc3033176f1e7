package quorum

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Config says who this node is and what it may use.
type Config struct {
	Node      string           // name of this node: its raft ID and its address at once
	Cluster   string           // name of the cluster
	Dir       string           // where the vote is kept, this package's alone; "" = in memory, for tests
	Bootstrap bool             // first node of a new cluster; has no effect where a state exists already
	Voter     bool             // this node may vote; Bootstrap needs it
	Stream    raft.StreamLayer // Dial gets a node's name; Open takes it over and closes it in any case
	TTL       time.Duration    // lease TTL, 3 s to 60 s; 0 = DefaultTTL
	Log       *slog.Logger     // nil = slog.Default

	// For tests and measurements.
	times   timings
	applied func() // called in raft's goroutine after each applied command
}

// Errors that callers tell apart.
var (
	// ErrNotLeader is in the error of everything that only the arbiter can do;
	// see NotLeader for its name.
	ErrNotLeader = errors.New("this node is not the arbiter")
	// ErrClosed means that the quorum part was stopped.
	ErrClosed = errors.New("the quorum is closed")
)

// NotLeader names the arbiter, as far as this node knows. It matches ErrNotLeader.
type NotLeader struct{ Leader string } // "" = unknown

// Error says who is the arbiter.
func (e *NotLeader) Error() string {
	if e.Leader == "" {
		return ErrNotLeader.Error() + ", and knows none: are a majority of the voters up?"
	}
	return ErrNotLeader.Error() + ", " + e.Leader + " is"
}

// Is makes errors.Is(err, ErrNotLeader) true.
func (e *NotLeader) Is(target error) bool { return target == ErrNotLeader }

// Server is one member of the Raft configuration.
type Server struct {
	Node  string `json:"node"`
	Voter bool   `json:"voter"`
}

// Quorum is this node's part in the vote. Its methods may be called from any
// goroutine, between Open and the end of Run or Close.
type Quorum struct {
	cfg     Config
	times   timings
	log     *slog.Logger
	raft    *raft.Raft
	fsm     *fsm
	store   *store
	trans   *transport
	changes chan struct{}
	events  chan raft.Observation
	fatal   chan error // the disk does not keep promises any more

	ready atomic.Uint64 // raft term whose barrier was applied here as leader

	mu      sync.Mutex
	closed  bool
	failed  map[string]time.Time // transfers to each node: when one failed last
	workers sync.WaitGroup
	once    sync.Once
	closing chan struct{}
	closeEr error
}

// Open starts this node's part in the vote with what it finds in cfg.Dir. A
// directory that is damaged, of another node, or in use is refused, with the way
// out in the error. Call Run next, or Close.
func Open(cfg Config) (*Quorum, error) {
	if cfg.Stream == nil {
		return nil, errors.New("starting the quorum: no stream layer")
	}
	q, err := open(cfg)
	if err != nil {
		_ = cfg.Stream.Close()
		return nil, fmt.Errorf("starting the quorum of %s: %w", cfg.Node, err)
	}
	return q, nil
}

func open(cfg Config) (*Quorum, error) {
	if err := errors.Join(checkName("node", cfg.Node), checkName("cluster", cfg.Cluster)); err != nil {
		return nil, err
	}
	if cfg.Bootstrap && !cfg.Voter {
		return nil, fmt.Errorf("it cannot begin the cluster %s without a vote: set voter: true", cfg.Cluster)
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	times := cfg.times
	if times == (timings{}) {
		var err error
		if times, err = timingsFor(cfg.TTL); err != nil {
			return nil, err
		}
	}
	q := &Quorum{
		cfg: cfg, times: times, log: cfg.Log,
		changes: make(chan struct{}, 1),
		events:  make(chan raft.Observation, 64),
		fatal:   make(chan error, 1),
		closing: make(chan struct{}),
	}
	q.fsm = newFSM(cfg.Cluster, func() {
		q.notify()
		if cfg.applied != nil {
			cfg.applied()
		}
	})
	if err := q.start(); err != nil {
		return nil, err
	}
	return q, nil
}

func (q *Quorum) start() (err error) {
	chatter := newLogger(q.log)
	q.store = memoryStore()
	if q.cfg.Dir != "" {
		if q.store, err = openStore(q.cfg.Dir, q.cfg.Node, q.cfg.Cluster, q.fail, chatter); err != nil {
			return err
		}
	}
	q.trans = newTransport(q.cfg.Node, q.cfg.Stream, q.times, chatter)
	defer func() {
		if err != nil {
			_ = q.trans.Close()
			_ = q.store.Close()
		}
	}()
	conf := q.times.config(q.cfg.Node)
	conf.Logger = chatter
	s := q.store
	if q.cfg.Bootstrap {
		known, err := raft.HasExistingState(s.logs, s.stable, s.snaps)
		if err != nil {
			return err
		}
		if !known {
			first := raft.Configuration{Servers: []raft.Server{q.server(q.cfg.Node)}}
			if err := raft.BootstrapCluster(conf, s.logs, s.stable, s.snaps, q.trans, first); err != nil {
				return fmt.Errorf("beginning the cluster %s on %s: %w", q.cfg.Cluster, q.cfg.Node, err)
			}
		}
	}
	if q.raft, err = raft.NewRaft(conf, q.fsm, s.logs, s.stable, s.snaps, q.trans); err != nil {
		return errors.Join(err, q.fsm.stopped())
	}
	q.trans.raft.Store(q.raft)
	q.raft.RegisterObserver(raft.NewObserver(q.events, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.RaftState, raft.LeaderObservation, raft.PeerObservation:
			return true
		}
		return false
	}))
	return nil
}

func (q *Quorum) server(node string) raft.Server {
	return raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(node), Address: raft.ServerAddress(node)}
}

// fail is told by the store that it cannot go on.
func (q *Quorum) fail(err error) {
	select {
	case q.fatal <- err:
	default:
	}
}

func (q *Quorum) notify() {
	select {
	case q.changes <- struct{}{}:
	default:
	}
}

// spawn runs f in a goroutine that Close waits for. False: it is too late.
func (q *Quorum) spawn(f func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.workers.Go(f)
	return true
}

// State returns what the voters agreed on, as far as this node knows. On a
// follower it may be behind; the arbiter's is complete when IsLeader is true.
func (q *Quorum) State() State { return *q.fsm.state.Load() }

// Changes receives after the state, the leadership or the servers have changed.
// Several changes may come as one. It is never closed.
func (q *Quorum) Changes() <-chan struct{} { return q.changes }

// Leader returns the node that leads as far as this one knows, "" if it knows none.
func (q *Quorum) Leader() string {
	_, id := q.raft.LeaderWithID()
	return string(id)
}

// IsLeader says whether this node is the arbiter and knows all that was agreed
// on before its election. It may have been replaced without knowing: what must
// be sure of that asks Confirm.
func (q *Quorum) IsLeader() bool { return q.leads(q.raft.CurrentTerm()) }

// RaftTerm returns raft's own term on this node, not the mastership term. It is
// on the disk before this node votes in it, and never goes back.
func (q *Quorum) RaftTerm() uint64 { return q.raft.CurrentTerm() }

// Servers returns the newest configuration that this node has, sorted by name.
func (q *Quorum) Servers() ([]Server, error) {
	f := q.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, fmt.Errorf("reading the list of voters: %w", err)
	}
	var out []Server
	for _, s := range f.Configuration().Servers {
		out = append(out, Server{Node: string(s.ID), Voter: s.Suffrage == raft.Voter})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Node < out[j].Node })
	return out, nil
}

func (q *Quorum) notLeader() error {
	leader := q.Leader()
	if leader == q.cfg.Node {
		leader = "" // elected, not ready yet; or on its way out
	}
	return &NotLeader{Leader: leader}
}

// wait waits for a future of raft, or for ctx: then the outcome is unknown.
func (q *Quorum) wait(ctx context.Context, what string, f raft.Future) error {
	done := make(chan error, 1)
	if !q.spawn(func() { done <- f.Error() }) {
		return fmt.Errorf("%s: %w", what, ErrClosed)
	}
	select {
	case err := <-done:
		switch {
		case err == nil:
			return nil
		case errors.Is(err, raft.ErrNotLeader):
			return fmt.Errorf("%s: %w", what, q.notLeader())
		case errors.Is(err, raft.ErrLeadershipLost):
			return fmt.Errorf("%s: the arbiter changed meanwhile, look whether it was done: %w", what, err)
		case errors.Is(err, raft.ErrLeadershipTransferInProgress):
			return fmt.Errorf("%s: the arbiter's office is just moving to another host, and nothing was changed: try again in some seconds (%w)", what, err)
		}
		return fmt.Errorf("%s: %w", what, err)
	case <-ctx.Done():
		return fmt.Errorf("%s: no majority of the voters agreed in time, it may still be done: %w", what, context.Cause(ctx))
	}
}

// limit is what raft gets as the time to take a request in.
func (q *Quorum) limit(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return max(time.Until(deadline), time.Millisecond)
	}
	return q.times.rpc
}

// Apply has the voters agree on c. Only the arbiter can (ErrNotLeader). A
// *Refused means that the state does not allow it and nothing was changed. Any
// other error leaves open whether it was done.
func (q *Quorum) Apply(ctx context.Context, c Command) error {
	what := fmt.Sprintf("agreeing on %s", c.Op)
	if !q.IsLeader() {
		return fmt.Errorf("%s: %w", what, q.notLeader())
	}
	c.At = time.Now().UTC().Round(0)
	raw, err := c.encode()
	if err != nil {
		return err
	}
	f := q.raft.Apply(raw, q.limit(ctx))
	if err := q.wait(ctx, what, f); err != nil {
		return err
	}
	if err, ok := f.Response().(error); ok && err != nil {
		return err
	}
	q.tell()
	return nil
}

// tell lets the followers know at once what is committed. raft would tell them
// with the next entry or after CommitTimeout, which is long here (few wake-ups).
func (q *Quorum) tell() { q.spawn(func() { q.raft.Barrier(q.times.rpc) }) }

// AddNonvoter adds node to those that get the state without a vote.
func (q *Quorum) AddNonvoter(ctx context.Context, node string) error {
	return q.change(ctx, "adding "+node, node, func(s raft.Server, t time.Duration) raft.Future {
		return q.raft.AddNonvoter(s.ID, s.Address, 0, t)
	})
}

// AddVoter gives node a vote, whether it was a server before or not.
func (q *Quorum) AddVoter(ctx context.Context, node string) error {
	return q.change(ctx, "giving a vote to "+node, node, func(s raft.Server, t time.Duration) raft.Future {
		return q.raft.AddVoter(s.ID, s.Address, 0, t)
	})
}

// Demote takes node's vote away; it still gets the state.
func (q *Quorum) Demote(ctx context.Context, node string) error {
	return q.change(ctx, "taking the vote of "+node, node, func(s raft.Server, t time.Duration) raft.Future {
		return q.raft.DemoteVoter(s.ID, 0, t)
	})
}

// Remove takes node out altogether.
func (q *Quorum) Remove(ctx context.Context, node string) error {
	return q.change(ctx, "removing "+node, node, func(s raft.Server, t time.Duration) raft.Future {
		return q.raft.RemoveServer(s.ID, 0, t)
	})
}

// Do carries out one step of a Plan.
func (q *Quorum) Do(ctx context.Context, s Step) error {
	switch s.Do {
	case AddNonvoter:
		return q.AddNonvoter(ctx, s.Node)
	case AddVoter:
		return q.AddVoter(ctx, s.Node)
	case Remove:
		return q.Remove(ctx, s.Node)
	case Demote:
		return q.Demote(ctx, s.Node)
	}
	return fmt.Errorf("unknown step %q for %s", s.Do, s.Node)
}

func (q *Quorum) change(ctx context.Context, what, node string, f func(raft.Server, time.Duration) raft.Future) error {
	if err := checkName("node", node); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if !q.IsLeader() {
		return fmt.Errorf("%s: %w", what, q.notLeader())
	}
	if err := q.wait(ctx, what, f(q.server(node), q.limit(ctx))); err != nil {
		return err
	}
	q.log.Info("servers changed", "what", what, "node", node)
	q.tell()
	q.notify()
	return nil
}
