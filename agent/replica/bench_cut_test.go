package replica

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// cable carries the connections of a master, and is pulled for all of them in one instant:
// what it had not delivered is lost.
type cable struct {
	mu       sync.Mutex
	pulled   bool
	conns    map[*net.TCPConn]bool
	carriers sync.WaitGroup
}

// lead listens, and carries what comes to an address of the master; it returns where.
func (c *cable) lead(b *testing.B, to string) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var accepts sync.WaitGroup
	b.Cleanup(func() { l.Close(); accepts.Wait(); c.pull(); c.carriers.Wait() })
	accepts.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil || !c.plug(near.(*net.TCPConn), far.(*net.TCPConn)) {
				near.Close()
			}
		}
	})
	return l.Addr().String()
}

func (c *cable) plug(near, far *net.TCPConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pulled {
		far.Close()
		return false
	}
	c.conns[near], c.conns[far] = true, true
	for _, x := range [][2]*net.TCPConn{{near, far}, {far, near}} {
		c.carriers.Go(func() {
			c.carry(x[0], x[1])
			c.mu.Lock()
			defer c.mu.Unlock()
			x[1].Close()
			delete(c.conns, x[1])
		})
	}
	return true
}

func (c *cable) carry(from, to *net.TCPConn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		c.mu.Lock()
		if !c.pulled && n > 0 {
			_, err = to.Write(buf[:n])
		}
		gone := c.pulled
		c.mu.Unlock()
		if err != nil || gone {
			return
		}
	}
}

// pull returns the instant. What the other side has received stays there.
func (c *cable) pull() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pulled = true
	at := time.Now()
	for conn := range c.conns {
		_, _ = conn.CloseWrite(), conn.SetReadDeadline(at) // it may be closed already
	}
	return at
}

func (c *cable) mend() {
	c.mu.Lock()
	c.pulled = false
	c.mu.Unlock()
}

// BenchmarkCut is how old the oldest acknowledged write is that the standby never gets if
// the master's cable is pulled, for clients and standby in one instant, while eight
// clients write 1 KiB 50 times a second each to a real kine: 0 if none is lost.
func BenchmarkCut(b *testing.B) {
	program, err := filepath.Abs(kinetest.Program(b))
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(onDisk(b), "state.db")
	k := kinetest.Start(b, program, path, "--compact-interval", "1h")
	k.Put("/registry/first", "1")
	src := NewSource(SourceConfig{Path: path, Cluster: "home", Term: func() (uint64, bool) { return 1, true }})
	run(b, src.Run)
	srv := httptest.NewServer(src)
	b.Cleanup(srv.Close)
	b.Cleanup(srv.CloseClientConnections)

	c := &cable{conns: map[*net.TCPConn]bool{}}
	var at atomic.Value
	at.Store("http://" + c.lead(b, srv.Listener.Addr().String()))
	kineAt := c.lead(b, k.Address)
	f := NewFollower(FollowerConfig{Dir: onDisk(b), Cluster: "home", Term: func() uint64 { return 1 }, Get: getter(&at), RetryMin: 10 * time.Millisecond, RetryMax: 50 * time.Millisecond})
	run(b, f.Run)

	const rounds = 300
	reach := func(cond func(Position) bool) Position {
		b.Helper()
		ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
		defer cancel()
		if err := f.Wait(ctx, cond); err != nil {
			b.Fatalf("%v: %+v", err, f.Position())
		}
		return f.Position()
	}
	for b.Loop() {
		var ages []float64
		acked, lost, none, wrote := 0, 0, 0, time.Duration(0)
		head := int64(1)
		for i := range rounds {
			reach(func(p Position) bool { return p.Complete && p.Err == "" && p.Revision >= head })
			begin := time.Now()
			client := kinetest.NewClient(kineAt, nil)
			acks := eightClients(b, client, fmt.Sprintf("/registry/things/%d-", i))
			time.Sleep(200*time.Millisecond + time.Duration(rand.Int64N(int64(200*time.Millisecond)))) // so long they write
			cut := c.pull()
			wrote += cut.Sub(begin)
			got := reach(func(p Position) bool { return p.Err != "" }).Revision
			age, n := 0.0, 0
			for _, a := range acks() {
				head = max(head, a.rev)
				acked++
				if a.rev > got {
					n++
					age = max(age, float64(cut.Sub(a.at).Microseconds())/1000)
				}
			}
			client.Close()
			if lost += n; n == 0 {
				none++
			}
			ages = append(ages, age)
			c.mend()
		}
		slices.Sort(ages)
		for name, q := range map[string]float64{"ms-median": 0.5, "ms-p90": 0.9, "ms-p99": 0.99, "ms-most": 1} {
			b.ReportMetric(ages[min(rounds-1, int(q*rounds))], name)
		}
		b.ReportMetric(float64(acked)/wrote.Seconds(), "writes/s")
		b.ReportMetric(float64(acked), "acked")
		b.ReportMetric(float64(lost), "lost")
		b.ReportMetric(float64(none), "rounds-without")
		b.ReportMetric(rounds, "rounds")
	}
}

type ack struct {
	rev int64
	at  time.Time
}

// eightClients write until they get no answer; the function that it returns waits for
// that, and returns what was acknowledged.
func eightClients(b *testing.B, c *kinetest.Client, prefix string) (acks func() []ack) {
	value := strings.Repeat("x", 1024)
	var mu sync.Mutex
	var list []ack
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			pace := time.NewTicker(20 * time.Millisecond)
			defer pace.Stop()
			for n := 0; ; n++ {
				rev, err := c.Put(b.Context(), fmt.Sprintf("%s%d-%d", prefix, i, n), value, 0)
				at := time.Now()
				if err != nil {
					return
				}
				mu.Lock()
				list = append(list, ack{rev, at})
				mu.Unlock()
				<-pace.C
			}
		})
	}
	return func() []ack { wg.Wait(); return list }
}
