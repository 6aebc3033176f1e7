package peer

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// RaftLayer carries raft's connections; nodes are their own addresses in it. It is
// all that raft.StreamLayer asks for but for the type of Dial's address.
type RaftLayer struct {
	port     *Port
	accepted chan net.Conn
	once     sync.Once
	done     chan struct{}
}

// RaftLayer is the port's layer for raft. It ends with the port.
func (p *Port) RaftLayer() *RaftLayer { return p.raft }

// Accept waits for a connection; [net.ErrClosed] after Close. Who dialled is an
// authenticated node of the cluster, not necessarily a voter.
func (l *RaftLayer) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept, and turns away those who come after.
func (l *RaftLayer) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr is this node's name.
func (l *RaftLayer) Addr() net.Addr { return nodeAddr(l.port.cfg.Identity.node) }

// Dial connects to node, and to nobody else.
func (l *RaftLayer) Dial(node string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := l.port.dial(ctx, node, ProtoRaft)
	if err != nil {
		return nil, fmt.Errorf("raft: %w", err)
	}
	return c, nil
}

type nodeAddr string

func (nodeAddr) Network() string  { return "relevo" }
func (a nodeAddr) String() string { return string(a) }
