package peer

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"relevo.dev/relevo/test/memnet"
)

// labNet is a network in memory that counts connections and can lose the power of
// all hosts: every connection there is falls silent, and nobody is told.
type labNet struct {
	*memnet.Network
	mu    sync.Mutex
	conns []*labConn
}

func newLab() *labNet { return &labNet{Network: memnet.New()} }

type labConn struct {
	net.Conn
	muted atomic.Bool
}

func (c *labConn) Write(b []byte) (int, error) {
	if c.muted.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (n *labNet) dialer(from string) func(context.Context, string, string) (net.Conn, error) {
	dial := n.Dialer(from)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		lc := &labConn{Conn: c}
		n.mu.Lock()
		n.conns = append(n.conns, lc)
		n.mu.Unlock()
		return lc, nil
	}
}

func (n *labNet) powerCut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		c.muted.Store(true)
	}
}

func (n *labNet) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns)
}

// port opens and runs one; at is the host it sits on. stop closes it and waits.
func (n *labNet) port(t *testing.T, id *Identity, at string, h http.Handler) (p *Port, stop func()) {
	t.Helper()
	l, err := n.Listen(at + ":1")
	if err != nil {
		t.Fatal(err)
	}
	p, err = Listen(PortConfig{Identity: id, Listener: l, Handler: h, Dial: n.dialer(at),
		Resolve: func(node string) (string, error) { return node + ":1", nil }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return p, func() {
		t.Helper()
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the port does not end")
		}
	}
}

func (a *admission) strangers() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.waiting
}
