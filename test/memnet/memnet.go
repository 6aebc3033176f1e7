// Package memnet is a network in memory for tests under testing/synctest: hosts
// listen and dial by "host:port", links can be cut and healed while connections
// stand. A cut link loses nothing but time: like TCP, what was written arrives
// after the link is healed, unless somebody gave up first.
package memnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// Network is a set of hosts that can reach each other.
type Network struct {
	mu     sync.Mutex
	hosts  map[string]*listener
	cut    map[[2]string]bool
	conns  map[*conn]struct{}
	gossip map[string]*Gossip
}

// New makes an empty network.
func New() *Network {
	return &Network{hosts: map[string]*listener{}, cut: map[[2]string]bool{}, conns: map[*conn]struct{}{}}
}

func hostOf(addr string) string {
	h, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return h
}

// Listen opens addr, as host:port.
func (n *Network) Listen(addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts[addr] != nil {
		return nil, fmt.Errorf("listen %s: in use", addr)
	}
	l := &listener{n: n, addr: addr, conns: make(chan net.Conn, 64), done: make(chan struct{})}
	n.hosts[addr] = l
	return l, nil
}

// Dialer dials from a host; the function fits net.Dialer.DialContext.
func (n *Network) Dialer(from string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		n.mu.Lock()
		l, down := n.hosts[addr], n.cut[[2]string{from, hostOf(addr)}] || n.cut[[2]string{hostOf(addr), from}]
		n.mu.Unlock()
		if down {
			<-ctx.Done() // a SYN that nobody answers
			return nil, fmt.Errorf("dial %s: %w", addr, ctx.Err())
		}
		if l == nil {
			return nil, fmt.Errorf("dial %s: connection refused", addr)
		}
		a, b := n.pair(from, hostOf(addr))
		select {
		case l.conns <- b:
			return a, nil
		case <-l.done:
			return nil, fmt.Errorf("dial %s: connection refused", addr)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Cut stops everything from host a to host b, in this direction.
func (n *Network) Cut(a, b string) { n.set(a, b, true) }

// Heal undoes Cut.
func (n *Network) Heal(a, b string) { n.set(a, b, false) }

func (n *Network) set(a, b string, down bool) {
	n.mu.Lock()
	n.cut[[2]string{a, b}] = down
	conns := slices.Collect(maps.Keys(n.conns))
	n.mu.Unlock()
	for _, c := range conns { // a queue asks the network while it is locked: not the other way round, too
		c.in.wake()
	}
}

// Drop closes every connection of a host, as its reset or its kernel's end does.
func (n *Network) Drop(host string) {
	n.mu.Lock()
	var gone []*conn
	for c := range n.conns {
		if c.from == host || c.to == host {
			gone = append(gone, c)
		}
	}
	n.mu.Unlock()
	for _, c := range gone {
		c.Close()
	}
}

// IsCut says whether the way from a to b is cut.
func (n *Network) IsCut(a, b string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut[[2]string{a, b}]
}

func (n *Network) pair(a, b string) (net.Conn, net.Conn) {
	ab, ba := newQueue(func() bool { return n.IsCut(a, b) }), newQueue(func() bool { return n.IsCut(b, a) })
	x := &conn{n: n, from: a, to: b, in: ba, out: ab}
	y := &conn{n: n, from: b, to: a, in: ab, out: ba}
	n.mu.Lock()
	n.conns[x], n.conns[y] = struct{}{}, struct{}{}
	n.mu.Unlock()
	return x, y
}

type listener struct {
	n     *Network
	addr  string
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.n.mu.Lock()
		delete(l.n.hosts, l.addr)
		l.n.mu.Unlock()
	})
	return nil
}

func (l *listener) Addr() net.Addr { return address(l.addr) }

type address string

func (address) Network() string  { return "mem" }
func (a address) String() string { return string(a) }

// queue is one direction of a connection.
type queue struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
	buf     []byte
	closed  bool
	isCut   func() bool
}

// maxQueued is how much may lie in a direction, like a socket's buffers.
const maxQueued = 256 << 10

func newQueue(isCut func() bool) *queue { return &queue{changed: make(chan struct{}), isCut: isCut} }

func (q *queue) wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wakeLocked()
}

func (q *queue) wakeLocked() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// wait blocks until ready says so, the connection is closed, or the deadline of
// the side that waits.
func (q *queue) wait(deadline func() time.Time, ready func() bool) error {
	for {
		q.mu.Lock()
		if ready() {
			return nil // locked
		}
		ch, d := q.changed, deadline()
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return io.EOF
		}
		var timeout <-chan time.Time
		if !d.IsZero() {
			left := time.Until(d)
			if left <= 0 {
				return os.ErrDeadlineExceeded
			}
			t := time.NewTimer(left)
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-ch:
		case <-timeout:
		}
	}
}

type conn struct {
	n        *Network
	from, to string
	in, out  *queue
	mu       sync.Mutex
	rd, wd   time.Time
}

func (c *conn) Read(p []byte) (int, error) {
	err := c.in.wait(func() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.rd },
		func() bool { return len(c.in.buf) > 0 && !c.in.isCut() })
	if err != nil {
		return 0, err
	}
	n := copy(p, c.in.buf)
	c.in.buf = c.in.buf[n:]
	c.in.wakeLocked()
	c.in.mu.Unlock()
	return n, nil
}

func (c *conn) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		err := c.out.wait(func() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.wd },
			func() bool { return len(c.out.buf) < maxQueued && !c.out.closed })
		if errors.Is(err, io.EOF) {
			return total, io.ErrClosedPipe
		}
		if err != nil {
			return total, err
		}
		n := min(len(p), maxQueued-len(c.out.buf))
		c.out.buf = append(c.out.buf, p[:n]...)
		c.out.wakeLocked()
		c.out.mu.Unlock()
		p, total = p[n:], total+n
	}
	return total, nil
}

func (c *conn) Close() error {
	for _, q := range []*queue{c.in, c.out} {
		q.mu.Lock()
		if !q.closed {
			q.closed = true
			q.wakeLocked()
		}
		q.mu.Unlock()
	}
	c.n.mu.Lock()
	delete(c.n.conns, c)
	c.n.mu.Unlock()
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return address(c.from) }
func (c *conn) RemoteAddr() net.Addr { return address(c.to) }

func (c *conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.rd = t
	c.mu.Unlock()
	c.in.wake()
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	c.wd = t
	c.mu.Unlock()
	c.out.wake()
	return nil
}
