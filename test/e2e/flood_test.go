//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"relevo.dev/relevo/test/hosts"
)

// strangerIP is nobody's in the cluster.
const strangerIP = "10.77.0.66"

// floodPorts are the agents' ports that the LAN reaches: gossip, and the peer port.
var floodPorts = []int{7946, 7947}

// flood opens connections to every host's agent, as fast as the machine allows, from an address
// of n that is no member's: some say nothing and stay, others send garbage, some begin TLS in
// each way that the port knows and stop, some are gone at once. It goes on until stop, which
// says how many were opened.
func (c *cluster) flood(t *testing.T, n *node) (opened func() int64, stop func()) {
	_, err := n.Run(within(t, 10*time.Second), "ip", "address", "replace", strangerIP+"/32", "dev", "lo")
	ok(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var count atomic.Int64
	var wg sync.WaitGroup
	held := make(chan struct{}, mostHeld)
	for i := range 48 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for ctx.Err() == nil {
				to := c.nodes[r.IntN(len(c.nodes))]
				conn, err := dialFrom(ctx, n, strangerIP, net.JoinHostPort(to.IP.String(), strconv.Itoa(floodPorts[r.IntN(len(floodPorts))])))
				if err != nil {
					continue
				}
				count.Add(1)
				select {
				case held <- struct{}{}: // until the other side has had enough
					wg.Go(func() { hold(ctx, conn); <-held })
				default:
					annoy(ctx, conn, r)
					conn.Close()
				}
			}
		})
	}
	return count.Load, func() {
		cancel()
		wg.Wait()
		_, err := n.Run(within(t, 10*time.Second), "ip", "address", "del", strangerIP+"/32", "dev", "lo")
		ok(t, err)
	}
}

// dialFrom connects from one address of a host.
func dialFrom(ctx context.Context, n *node, from, to string) (c net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err = n.Do(func() error {
		d := net.Dialer{FallbackDelay: -1, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
		c, err = d.DialContext(ctx, "tcp", to)
		return err
	})
	return c, err
}

// mostHeld are the connections that say nothing at a time.
const mostHeld = 2000

func hold(ctx context.Context, c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.Read(make([]byte, 1))
}

// annoy does to a connection what strangers may.
func annoy(ctx context.Context, c net.Conn, r *rand.Rand) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	switch r.IntN(5) {
	case 0: // gone at once
	case 1: // garbage
		b := make([]byte, 64<<10)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		c.Write(b)
	case 2: // a length that is not meant: it claims a large message
		c.Write([]byte{0x16, 3, 1, 0xff, 0xff, 1, 0, 0xff, 0xfb})
		c.Read(make([]byte, 1))
	case 3, 4: // TLS, without a certificate that counts
		proto := []string{"relevo-http/1", "relevo-raft/1", "relevo-join/1", "relevo-why/1", "h2"}[r.IntN(5)]
		tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{proto}})
		if tc.HandshakeContext(ctx) == nil {
			tc.Write([]byte{0xff, 0xff, 0xff, 0xff, '{'})
			tc.Read(make([]byte, 1))
		}
	}
}

// floodedFailover: the master's power is cut in the middle of it. A standby follows all the same.
func (c *cluster) floodedFailover(t *testing.T) {
	n4 := c.nodes[3]
	m := c.mustMaster()
	s, err := n4.status(within(t, 10*time.Second))
	ok(t, err)
	opened, stop := c.flood(t, n4)
	defer func() { stop(); t.Logf("%d connections were opened", opened()) }()
	many := func(n int64) {
		ok(t, hosts.Until(within(t, time.Minute), "a flood", func(context.Context) error {
			if got := opened(); got < n {
				return fmt.Errorf("%d connections", got)
			}
			return nil
		}))
	}
	many(1000)
	ok(t, m.PowerCut(within(t, 30*time.Second)))
	before := opened()
	c.waitMasterOf(2*time.Minute, n4, s.Term+1)
	many(before + 1000) // it was one to the end
	for name, now := range c.footprints(t) {
		t.Logf("%s: %+v", name, now)
		if now.files > 600 || now.goroutines > 1000 {
			t.Errorf("the agent of %s has opened %d files, and has %d goroutines", name, now.files, now.goroutines)
		}
	}
	ok(t, m.Boot(within(t, time.Minute)))
}
