package quorum

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// network joins the nodes of a test through net.Pipe. A pair of nodes can be
// cut (connections break, dialling fails) and the answers that one node gets
// from another can be held back, as a socket buffer does while a process stands.
type network struct {
	mu    sync.Mutex
	nodes map[string]*stream
	cuts  map[[2]string]bool
	held  map[[2]string]*hold
	deaf  map[[2]string]int // how often the one dialled the other, which cannot be reached from there
	conns map[*testConn]struct{}

	delay func() time.Duration // of each message; nil = none. Set before the first node starts.
}

func newNetwork() *network {
	return &network{nodes: map[string]*stream{}, cuts: map[[2]string]bool{}, held: map[[2]string]*hold{}, deaf: map[[2]string]int{}, conns: map[*testConn]struct{}{}}
}

// hold keeps the first answer back until released, and lets no more requests out.
type hold struct {
	caught, release chan struct{}
	once            sync.Once
}

type stream struct {
	net    *network
	node   string
	accept chan net.Conn
	done   chan struct{}
	once   sync.Once
}

type addr string

func (addr) Network() string  { return "test" }
func (a addr) String() string { return string(a) }

func (n *network) stream(node string) *stream {
	s := &stream{net: n, node: node, accept: make(chan net.Conn), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[node] = s
	return s
}

func (s *stream) Addr() net.Addr { return addr(s.node) }
func (s *stream) Close() error   { s.once.Do(func() { close(s.done) }); return nil }

func (s *stream) Accept() (net.Conn, error) {
	select {
	case c := <-s.accept:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *stream) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	s.net.mu.Lock()
	peer := s.net.nodes[string(to)]
	pair := [2]string{s.node, string(to)}
	cut := peer == nil || s.net.cuts[pair] || s.net.cuts[[2]string{pair[1], pair[0]}]
	if tries, ok := s.net.deaf[pair]; ok {
		s.net.deaf[pair], cut = tries+1, true
	}
	s.net.mu.Unlock()
	if cut {
		return nil, fmt.Errorf("no way from %s to %s", s.node, to)
	}
	near, far := net.Pipe()
	select {
	case peer.accept <- far:
	case <-peer.done:
		return nil, errors.New("connection refused")
	case <-time.After(timeout):
		return nil, os.ErrDeadlineExceeded
	}
	c := &testConn{Conn: near, far: far, pair: pair, net: s.net}
	s.net.mu.Lock()
	s.net.conns[c] = struct{}{}
	s.net.mu.Unlock()
	return c, nil
}

// testConn is the dialling end; pair is (from, to).
type testConn struct {
	net.Conn
	far  net.Conn
	pair [2]string
	net  *network
}

func (c *testConn) hold() *hold {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	return c.net.held[c.pair]
}

func (c *testConn) Write(p []byte) (int, error) {
	if h := c.hold(); h != nil {
		select {
		case <-h.caught:
			return 0, os.ErrDeadlineExceeded // lost on the way
		default:
		}
	}
	if c.net.delay != nil {
		time.Sleep(c.net.delay())
	}
	return c.Conn.Write(p)
}

func (c *testConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if h := c.hold(); h != nil && err == nil {
		h.once.Do(func() { close(h.caught) })
		<-h.release
	}
	return n, err
}

func (c *testConn) Close() error {
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
	return c.Conn.Close()
}

// cut separates every node of as from every node of bs, or heals that.
func (n *network) cut(on bool, as, bs []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range as {
		for _, b := range bs {
			n.cuts[[2]string{a, b}] = on
			for c := range n.conns {
				if on && (c.pair == [2]string{a, b} || c.pair == [2]string{b, a}) {
					_ = c.Conn.Close()
				}
			}
		}
	}
}

// deafen makes a node unreachable from another, or ends that.
func (n *network) deafen(on bool, from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	pair := [2]string{from, to}
	if !on {
		delete(n.deaf, pair)
		return
	}
	n.deaf[pair] = 0
	for c := range n.conns {
		if c.pair == pair {
			_ = c.Conn.Close()
		}
	}
}

// tried is how often the one dialled the other since that became unreachable.
func (n *network) tried(from, to string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.deaf[[2]string{from, to}]
}

// holdBack holds the next answer that from gets from to.
func (n *network) holdBack(from, to string) *hold {
	h := &hold{caught: make(chan struct{}), release: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held[[2]string{from, to}] = h
	return h
}

// cluster is a set of running nodes.
type cluster struct {
	t     *testing.T
	net   *network
	dir   string // "" = in memory
	times timings
	nodes map[string]*node

	// While stalled, followers do not get on with applying commands.
	stalled atomic.Bool
	resume  chan struct{}
}

type node struct {
	*Quorum
	cancel context.CancelFunc
	ended  chan error
}

func newCluster(t *testing.T) *cluster {
	times, err := timingsFor(0)
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t: t, net: newNetwork(), times: times, nodes: map[string]*node{}, resume: make(chan struct{})}
}

func quiet() *slog.Logger {
	if os.Getenv("QUORUM_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

func (c *cluster) config(name string, first bool) Config {
	cfg := Config{Node: name, Cluster: "home", Bootstrap: first, Voter: true, Stream: c.net.stream(name), Log: quiet().With("node", name), times: c.times}
	cfg.applied = func() {
		if name != "n1" && c.stalled.Load() {
			<-c.resume
		}
	}
	if c.dir != "" {
		cfg.Dir = c.dir + "/" + name
	}
	return cfg
}

func (c *cluster) start(name string, first bool) *node {
	c.t.Helper()
	q, err := Open(c.config(name, first))
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	n := &node{Quorum: q, cancel: cancel, ended: make(chan error, 1)}
	go func() { n.ended <- q.Run(ctx) }()
	c.nodes[name] = n
	return n
}

// stop ends a node in good order.
func (c *cluster) stop(name string) {
	c.t.Helper()
	n := c.nodes[name]
	delete(c.nodes, name)
	n.cancel()
	if err := <-n.ended; err != nil {
		c.t.Errorf("%s: Run: %v", name, err)
	}
}

// kill cuts a node off first, so that nobody hears its farewell.
func (c *cluster) kill(name string) {
	c.net.cut(true, []string{name}, c.names(name))
	c.stop(name)
	c.net.cut(false, []string{name}, c.names(name))
}

func (c *cluster) names(but ...string) []string {
	var out []string
	for name := range c.nodes {
		if !slices.Contains(but, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (c *cluster) stopAll() {
	for _, name := range c.names() {
		c.net.cut(true, []string{name}, c.names(name))
	}
	for _, name := range c.names() {
		c.stop(name)
	}
	c.net.mu.Lock()
	clear(c.net.cuts)
	c.net.mu.Unlock()
}

// await waits, in the bubble's time, until ok is true.
func (c *cluster) await(what string, ok func() bool) time.Duration {
	c.t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > time.Minute {
			c.t.Fatalf("waited a minute for: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
	}
	took := time.Since(start)
	synctest.Wait() // all that follows from it has happened
	return took
}

// arbiter waits until exactly one of the nodes is a ready leader.
func (c *cluster) arbiter(among ...string) *node {
	c.t.Helper()
	if len(among) == 0 {
		among = c.names()
	}
	var leader *node
	c.await(fmt.Sprint("an arbiter among ", among), func() bool {
		leader = nil
		for _, name := range among {
			if c.nodes[name].IsLeader() {
				if leader != nil {
					return false
				}
				leader = c.nodes[name]
			}
		}
		return leader != nil
	})
	return leader
}

// form starts n1…n<voters> as voters and then as many non-voters.
func (c *cluster) form(voters, others int) *node {
	c.t.Helper()
	c.start("n1", true)
	first := c.arbiter()
	for i := 2; i <= voters+others; i++ {
		name := fmt.Sprintf("n%d", i)
		c.start(name, false)
		if err := first.AddNonvoter(c.t.Context(), name); err != nil {
			c.t.Fatal(err)
		}
		if i <= voters {
			if err := first.AddVoter(c.t.Context(), name); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	c.await("all to know the servers", func() bool {
		for _, n := range c.nodes {
			s, err := n.Servers()
			if err != nil || len(s) != voters+others || n.Leader() != "n1" {
				return false
			}
		}
		return true
	})
	return first
}

func (c *cluster) apply(n *node, cmd Command) {
	c.t.Helper()
	if err := n.Apply(c.t.Context(), cmd); err != nil {
		c.t.Fatalf("%s on %s: %v", cmd.Op, n.cfg.Node, err)
	}
}

// agreed waits until all nodes have the term.
func (c *cluster) agreed(term uint64) time.Duration {
	c.t.Helper()
	return c.await(fmt.Sprint("term ", term, " everywhere"), func() bool {
		for _, n := range c.nodes {
			if n.State().Term != term {
				return false
			}
		}
		return true
	})
}

// askAll answers Confirm from the nodes of the test, unless they are cut off.
func (c *cluster) ask(from string) func(context.Context, string) (uint64, error) {
	return func(ctx context.Context, to string) (uint64, error) {
		c.net.mu.Lock()
		cut := c.net.cuts[[2]string{from, to}] || c.net.cuts[[2]string{to, from}]
		c.net.mu.Unlock()
		n := c.nodes[to]
		if cut || n == nil {
			return 0, fmt.Errorf("no way to %s", to)
		}
		return n.RaftTerm(), nil
	}
}
