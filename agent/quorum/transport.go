package quorum

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// poolSize is how many idle connections to one voter are kept: one for the
// heartbeats, one for the log.
const poolSize = 2

// transport is raft.NetworkTransport with differences, each told at its method.
type transport struct {
	*raft.NetworkTransport
	node     string
	stream   *ownedStream
	times    timings
	election *election
	back     returns
	raft     atomic.Pointer[raft.Raft] // set when raft has started
	calls    chan raft.RPC
	closed   chan struct{}
	once     sync.Once
	pumping  sync.WaitGroup
}

func newTransport(node string, stream raft.StreamLayer, times timings, log hclog.Logger) *transport {
	owned := &ownedStream{StreamLayer: stream, conns: map[*ownedConn]struct{}{}}
	t := &transport{
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: owned, MaxPool: poolSize, Timeout: times.rpc, Logger: log,
			// Pipelining would cost a connection and two goroutines for each
			// voter; there is an entry or two a day.
			MaxRPCsInFlight: 1,
		}),
		node: node, stream: owned, times: times, election: newElection(node, times.hold),
		calls: make(chan raft.RPC), closed: make(chan struct{}),
	}
	t.pumping.Go(t.pump)
	return t
}

// LocalAddr is the node's name: names are the addresses (the caller's Dial
// resolves them), so that a new DHCP lease changes no configuration.
func (t *transport) LocalAddr() raft.ServerAddress { return raft.ServerAddress(t.node) }

// SetHeartbeatHandler is left out on purpose. With it, raft 1.8.0 handles
// heartbeats beside its main loop, and both change the raft term: a term can go
// back or change under a leader's feet (hashicorp/raft issue 695, a safety
// violation; Confirm relies on terms that only grow, too). Without it heartbeats
// take the same way as every other call. The price: a voter whose disk stalls
// in an append does not answer heartbeats meanwhile.
func (t *transport) SetHeartbeatHandler(func(raft.RPC)) {}

// RequestPreVote asks when it is this node's turn, and again when it was refused;
// see election. A stale pooled connection is tried again at once.
func (t *transport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	for start := time.Now(); ; {
		for wait := t.election.turn(id); wait > 0; wait = t.election.turn(id) {
			if !t.sleep(wait) {
				return raft.ErrTransportShutdown
			}
		}
		var answer raft.RequestPreVoteResponse
		err := t.again(func() error { return t.NetworkTransport.RequestPreVote(id, target, args, &answer) })
		answer.Granted = t.election.answered(id, err == nil && answer.Granted)
		*resp = answer
		if err != nil || answer.Granted || answer.Term > args.Term || time.Since(start) > t.times.detect || !t.standing(args.Term) {
			return err
		}
		if !t.sleep(t.times.again) {
			return raft.ErrTransportShutdown
		}
	}
}

// standing says whether this node still wants to be elected in a raft term.
func (t *transport) standing(term uint64) bool {
	r := t.raft.Load()
	return r != nil && r.State() == raft.Candidate && r.CurrentTerm()+1 == term
}

func (t *transport) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.closed:
		return false
	}
}

// Consumer gives raft the calls that came in.
func (t *transport) Consumer() <-chan raft.RPC { return t.calls }

// pump hands calls on, except for questions that are out of turn.
func (t *transport) pump() {
	for {
		var call raft.RPC
		select {
		case call = <-t.NetworkTransport.Consumer():
		case <-t.closed:
			return
		}
		if q, ok := call.Command.(*raft.RequestPreVoteRequest); ok && !t.election.pass(raft.ServerID(q.ID)) {
			call.Respond(&raft.RequestPreVoteResponse{Term: q.Term}, nil)
			continue
		}
		select {
		case t.calls <- call:
		case <-t.closed:
			return
		}
	}
}

// RequestVote tries again like RequestPreVote; asking twice for the same vote is harmless.
func (t *transport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return t.again(func() error { return t.NetworkTransport.RequestVote(id, target, args, resp) })
}

// again repeats a call that failed quickly, as often as connections may be stale.
func (t *transport) again(call func() error) error {
	start := time.Now()
	var err error
	for range poolSize + 1 {
		if err = call(); err == nil || time.Since(start) > t.times.again {
			return err
		}
	}
	return err
}

// Close ends the listener, every connection, and every call that waits.
// raft.NetworkTransport alone would leave accepted connections, and the
// goroutines that read from them, to the other side.
func (t *transport) Close() error {
	t.once.Do(func() { close(t.closed) })
	err := t.NetworkTransport.Close()
	t.stream.closeConns()
	t.pumping.Wait()
	return err
}

// ownedStream knows its open connections.
type ownedStream struct {
	raft.StreamLayer
	mu     sync.Mutex
	conns  map[*ownedConn]struct{}
	closed bool
}

type ownedConn struct {
	net.Conn
	owner *ownedStream
}

func (c *ownedConn) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.conns, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}

func (s *ownedStream) own(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	c := &ownedConn{Conn: conn, owner: s}
	s.conns[c] = struct{}{}
	return c, nil
}

func (s *ownedStream) Accept() (net.Conn, error) { return s.own(s.StreamLayer.Accept()) }

func (s *ownedStream) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.own(s.StreamLayer.Dial(to, timeout))
}

func (s *ownedStream) closeConns() {
	s.mu.Lock()
	s.closed = true
	conns := s.conns
	s.conns = map[*ownedConn]struct{}{}
	s.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close()
	}
}
