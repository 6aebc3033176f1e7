package peer

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Limits of the port. A cluster has at most some 50 members; each keeps a raft, a
// control and a replication connection, and some more for a moment after a cut.
const (
	defaultMaxConns  = 256
	maxPerNode       = 32              // of one authenticated node
	maxPending       = 64              // unfinished handshakes; some 20 KiB each
	maxPendingPerIP  = 16              // a whole cluster may sit behind one address (loopback)
	handshakeTimeout = 5 * time.Second // a handshake takes under 0.1 s on ARMv6
	// Of all strangers together; a member whose address is not known yet is one.
	strangersPerSecond = 10
	strangersAtOnce    = 200 // a whole cluster that comes up, several times
)

// admission counts connections. Strangers and members have separate shares, so
// that those who never shake hands cannot take a member's place, and one address
// cannot take those of all other addresses.
type admission struct {
	mu      sync.Mutex
	max     int
	friend  func(ip string) bool
	pending map[string]int // by IP
	nodes   map[string]int // by node
	joining map[string]int // by IP
	waiting int            // sum of pending, without
	friends int            // those from members' addresses
	named   int            // sum of nodes, without clients
	clients int            // of them accesses, see clients.go
	joiners int            // sum of joining
	// Handshakes that strangers may still begin, and when that was reckoned: each costs a
	// signature.
	credit   float64
	credited time.Time
}

func newAdmission(most int, friend func(ip string) bool) *admission {
	if friend == nil {
		friend = func(string) bool { return false }
	}
	return &admission{max: most, friend: friend, pending: map[string]int{}, nodes: map[string]int{}, joining: map[string]int{}, credit: strangersAtOnce}
}

// afford takes one handshake from the strangers' credit.
func (a *admission) afford(now time.Time) bool {
	if !a.credited.IsZero() {
		a.credit = min(strangersAtOnce, a.credit+now.Sub(a.credited).Seconds()*strangersPerSecond)
	}
	a.credited = now
	if a.credit < 1 {
		return false
	}
	a.credit--
	return true
}

// place is one connection's place in the count.
type place struct {
	a        *admission
	ip, node string
	client   bool
	friend   bool
	joins    bool
	gone     bool
}

// enter takes a stranger's place.
func (a *admission) enter(from net.Addr) (*place, error) {
	ip := hostOf(from)
	friend := a.friend(ip)
	a.mu.Lock()
	defer a.mu.Unlock()
	n := &a.waiting
	if friend {
		n = &a.friends
	}
	if a.pending[ip] >= maxPendingPerIP {
		return nil, fmt.Errorf("%d handshakes from %s are unfinished", maxPendingPerIP, ip)
	}
	if *n >= maxPending {
		return nil, fmt.Errorf("%d handshakes are unfinished", maxPending)
	}
	if !friend && !a.afford(time.Now()) {
		return nil, fmt.Errorf("strangers begin more than %d handshakes a second", strangersPerSecond)
	}
	a.pending[ip]++
	*n++
	return &place{a: a, ip: ip, friend: friend}, nil
}

// promote turns a stranger's place into a node's.
func (p *place) promote(node string) error {
	a := p.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.nodes[node] >= maxPerNode {
		return fmt.Errorf("%s has %d connections already", node, maxPerNode)
	}
	if a.named >= a.max {
		return fmt.Errorf("%d connections are open already", a.max)
	}
	p.free()
	p.node, p.gone = node, false
	a.nodes[node]++
	a.named++
	return nil
}

// leave gives the place back; more than once does no harm.
func (p *place) leave() {
	p.a.mu.Lock()
	defer p.a.mu.Unlock()
	p.free()
}

// free is leave with the lock held.
func (p *place) free() {
	if p.gone {
		return
	}
	p.gone = true
	if p.node != "" {
		if p.client {
			p.a.clients--
		} else {
			p.a.named--
		}
		count(p.a.nodes, p.node)
		return
	}
	if p.joins {
		p.a.joiners--
		count(p.a.joining, p.ip)
		return
	}
	if p.friend {
		p.a.friends--
	} else {
		p.a.waiting--
	}
	count(p.a.pending, p.ip)
}

// count takes one off and forgets who has none left.
func count(m map[string]int, key string) {
	if m[key]--; m[key] <= 0 {
		delete(m, key)
	}
}

func hostOf(a net.Addr) string {
	if a == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

// complaints logs refusals, each kind and address once a minute: whoever floods
// the port shall not flood the journal as well.
type complaints struct {
	mu   sync.Mutex
	seen map[string]time.Time
}

const (
	complainEvery = time.Minute
	maxComplaints = 64
)

func (c *complaints) warn(log *slog.Logger, msg string, from net.Addr, err error) {
	now, key := time.Now(), msg+hostOf(from)
	c.mu.Lock()
	last, known := c.seen[key]
	say := !known || now.Sub(last) >= complainEvery
	if say {
		if c.seen == nil || len(c.seen) >= maxComplaints {
			c.seen = map[string]time.Time{} // rather say one twice than grow
		}
		c.seen[key] = now
	}
	c.mu.Unlock()
	level := slog.LevelDebug
	if say {
		level = slog.LevelWarn
	}
	log.Log(context.Background(), level, msg, "from", hostOf(from), "err", err)
}
