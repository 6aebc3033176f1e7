package member

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"relevo.dev/relevo/test/memnet"
)

// TestStreams: who opens streams to the gossip port and says nothing gets a few, and others
// still get theirs; a stream that is closed makes room.
func TestStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := memnet.New()
		g, err := nw.NewGossip("10.0.0.1", 7946)
		if err != nil {
			t.Fatal(err)
		}
		b := bound(g)
		held := make(chan net.Conn, 1000)
		var taken atomic.Int32
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case c := <-b.StreamCh():
					taken.Add(1)
					held <- c
				case <-b.end:
					return
				}
			}
		}()
		dial := func(ip string, n int) int32 {
			t.Helper()
			before := taken.Load()
			for range n {
				c, err := nw.Dialer(ip)(context.Background(), "tcp", "10.0.0.1:7946")
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				synctest.Wait()
			}
			return taken.Load() - before
		}
		if n := dial("10.0.0.66", 500); n != maxStreamsPerIP {
			t.Errorf("one address has %d streams", n)
		}
		if n := dial("10.0.0.2", 2); n != 2 {
			t.Errorf("a member gets %d of 2", n)
		}
		for _, ip := range []string{"10.0.0.67", "10.0.0.68", "10.0.0.69"} {
			dial(ip, 100)
		}
		if n := taken.Load(); n != maxStreams {
			t.Errorf("%d streams in all", n)
		}
		for range maxStreams {
			(<-held).Close()
		}
		if n := dial("10.0.0.2", 2); n != 2 {
			t.Errorf("when there is room again a member gets %d of 2", n)
		}
		if err := b.Shutdown(); err != nil {
			t.Error(err)
		}
		<-done
		for len(held) > 0 {
			(<-held).Close()
		}
		if b.all != 0 || len(b.open) != 0 {
			t.Errorf("%d places, %v are not given back", b.all, b.open)
		}
	})
}
