package memnet

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Gossip is a host's transport for memberlist: datagrams that a cut link or a full
// queue loses, and streams like any other connection. Hosts are IP addresses.
type Gossip struct {
	n       *Network
	ip      string
	port    int
	packets chan *memberlist.Packet
	streams chan net.Conn
	l       net.Listener
	once    sync.Once
	wg      sync.WaitGroup
}

// NewGossip opens the gossip port of a host.
func (n *Network) NewGossip(ip string, port int) (*Gossip, error) {
	l, err := n.Listen(net.JoinHostPort(ip, strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	g := &Gossip{n: n, ip: ip, port: port, l: l, packets: make(chan *memberlist.Packet, 1024), streams: make(chan net.Conn, 16)}
	n.mu.Lock()
	if n.gossip == nil {
		n.gossip = map[string]*Gossip{}
	}
	n.gossip[l.Addr().String()] = g
	n.mu.Unlock()
	g.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			select {
			case g.streams <- tcpLike{c}:
			default:
				c.Close()
			}
		}
	})
	return g, nil
}

// FinalAdvertiseAddr is the host's own address.
func (g *Gossip) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.ParseIP(g.ip), g.port, nil
}

// WriteTo sends a datagram.
func (g *Gossip) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	g.n.mu.Lock()
	to := g.n.gossip[addr]
	down := g.n.cut[[2]string{g.ip, hostOf(addr)}]
	g.n.mu.Unlock()
	if to == nil || down {
		return now, nil // datagrams are lost without a word
	}
	select {
	case to.packets <- &memberlist.Packet{Buf: append([]byte(nil), b...), From: udpAddr(g.ip, g.port), Timestamp: now}:
	default:
	}
	return now, nil
}

func udpAddr(ip string, port int) net.Addr { return &net.UDPAddr{IP: net.ParseIP(ip), Port: port} }

// WriteToAddress sends a datagram to a named node.
func (g *Gossip) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return g.WriteTo(b, a.Addr)
}

// PacketCh delivers datagrams.
func (g *Gossip) PacketCh() <-chan *memberlist.Packet { return g.packets }

// StreamCh delivers connections.
func (g *Gossip) StreamCh() <-chan net.Conn { return g.streams }

// DialTimeout opens a connection.
func (g *Gossip) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := g.n.Dialer(g.ip)(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	return tcpLike{c}, nil
}

// DialAddressTimeout opens a connection to a named node.
func (g *Gossip) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return g.DialTimeout(a.Addr, timeout)
}

// IngestPacket is for transports inside transports; there are none here.
func (g *Gossip) IngestPacket(net.Conn, net.Addr, time.Time, bool) error { return nil }

// IngestStream is likewise unused.
func (g *Gossip) IngestStream(net.Conn) error { return nil }

// Shutdown closes the port.
func (g *Gossip) Shutdown() error {
	g.once.Do(func() {
		g.n.mu.Lock()
		if g.n.gossip[g.l.Addr().String()] == g {
			delete(g.n.gossip, g.l.Addr().String())
		}
		g.n.mu.Unlock()
		g.l.Close()
		g.wg.Wait()
	})
	return nil
}

// tcpLike has the addresses that memberlist looks at.
type tcpLike struct{ net.Conn }

func (c tcpLike) RemoteAddr() net.Addr { return tcpAddr(c.Conn.RemoteAddr()) }
func (c tcpLike) LocalAddr() net.Addr  { return tcpAddr(c.Conn.LocalAddr()) }

func tcpAddr(a net.Addr) net.Addr { return &net.TCPAddr{IP: net.ParseIP(hostOf(a.String())), Port: 1} }
