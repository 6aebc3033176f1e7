package member

import (
	"net"
	"sync"

	"github.com/hashicorp/memberlist"
)

// Limits on the streams that others open to the gossip port. A member opens one a minute,
// for some milliseconds; memberlist alone would keep as many as anybody opens, for
// TCPTimeout each.
const (
	maxStreams      = 64
	maxStreamsPerIP = 16 // a whole cluster may sit behind one address (loopback)
)

// bounded is a transport that takes so many streams at a time and closes the others.
type bounded struct {
	memberlist.NodeAwareTransport
	streams chan net.Conn
	ending  chan struct{} // what comes is closed
	end     chan struct{}
	once    sync.Once
	wg      sync.WaitGroup
	first   func() // before memberlist begins; nil afterwards

	mu   sync.Mutex
	open map[string]int // by IP
	all  int
}

func bound(t memberlist.NodeAwareTransport) *bounded {
	b := &bounded{NodeAwareTransport: t, streams: make(chan net.Conn), ending: make(chan struct{}), end: make(chan struct{}), open: map[string]int{}}
	b.wg.Go(func() {
		for {
			select {
			case c := <-t.StreamCh():
				b.take(c)
			case <-b.end:
				return
			}
		}
	})
	return b
}

func (b *bounded) take(c net.Conn) {
	ip, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	b.mu.Lock()
	full := b.all >= maxStreams || b.open[ip] >= maxStreamsPerIP
	if !full {
		b.all++
		b.open[ip]++
	}
	b.mu.Unlock()
	if full {
		c.Close() // a member tries again
		return
	}
	s := &stream{Conn: c, closed: sync.OnceFunc(func() { b.leave(ip) })}
	select {
	case b.streams <- s:
	case <-b.ending:
		s.Close()
	}
}

func (b *bounded) leave(ip string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all--
	if b.open[ip]--; b.open[ip] == 0 {
		delete(b.open, ip)
	}
}

// FinalAdvertiseAddr is the first that memberlist asks, before anything of it runs.
func (b *bounded) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	if b.first != nil {
		b.first()
		b.first = nil
	}
	return b.NodeAwareTransport.FinalAdvertiseAddr(ip, port)
}

// StreamCh gives the streams that were taken.
func (b *bounded) StreamCh() <-chan net.Conn { return b.streams }

// Shutdown ends it. What is below waits until somebody has taken the stream that it has just
// accepted, so this goes on taking until that has ended.
func (b *bounded) Shutdown() (err error) {
	b.once.Do(func() {
		close(b.ending)
		err = b.NodeAwareTransport.Shutdown()
		close(b.end)
		b.wg.Wait()
	})
	return err
}

// stream gives its place back when it is closed.
type stream struct {
	net.Conn
	closed func()
}

func (s *stream) Close() error {
	defer s.closed()
	return s.Conn.Close()
}
