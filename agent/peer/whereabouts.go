package peer

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// Gossip tells where a node is; when a node gets another address, it takes seconds until it
// does, and a lease may be over before. But the node itself connects to the others at once,
// from there, and proves who it is. So where it came from last is tried too.

// secondTry is how long the address that gossip tells is tried alone.
const secondTry = 250 * time.Millisecond

// whereabouts is where nodes came from last.
type whereabouts struct {
	mu sync.Mutex
	ip map[string]string // by node
}

// came notes that node showed its certificate from an address; true = it is another one than before.
func (w *whereabouts) came(node string, from net.Addr) bool {
	ip := hostOf(from)
	w.mu.Lock()
	defer w.mu.Unlock()
	before, known := w.ip[node]
	if before == ip || !known && len(w.ip) >= maxCallers {
		return false
	}
	if w.ip == nil {
		w.ip = map[string]string{}
	}
	w.ip[node] = ip
	return known
}

// besides is where to look for node besides addr, host:port; "" = nowhere.
func (w *whereabouts) besides(node, addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if ip := w.ip[node]; ip != "" && ip != host {
		return net.JoinHostPort(ip, port)
	}
	return ""
}

// arrived notes where a node that showed its certificate is. Connections to where it was
// lead nowhere now, or soon: those that nothing is asked on are not used again.
func (p *Port) arrived(node string, from net.Addr) {
	if p.where.came(node, from) {
		p.dropIdle(node)
	}
}

// dialEither connects to node at the first of two addresses where it is; the second is
// tried when the first has failed, or said nothing for a while.
func (p *Port) dialEither(ctx context.Context, first, second, node, proto string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		c   net.Conn
		err error
	}
	results := make(chan result, 2)
	try := func(addr string) {
		c, err := p.dialAt(ctx, addr, node, proto)
		results <- result{c, err}
	}
	wait := time.NewTimer(secondTry)
	defer wait.Stop()
	next := wait.C
	go try(first)
	var errs []error
	for open := 1; open > 0; {
		var r result
		select {
		case <-next:
			open, next = open+1, nil
			go try(second)
			continue
		case r = <-results:
			open--
		}
		if r.err == nil {
			cancel() // the other one
			for ; open > 0; open-- {
				if late := <-results; late.err == nil {
					late.c.Close()
				}
			}
			return r.c, nil
		}
		errs = append(errs, r.err)
		if next != nil && ctx.Err() == nil {
			open, next = open+1, nil
			go try(second)
		}
	}
	if len(errs) == 2 {
		return nil, fmt.Errorf("%w; nor where it came from last: %w", errs[0], errs[1])
	}
	return nil, errs[0]
}

// Moved ends the connections from an address that this host has no longer: nothing arrives
// there, and nobody would be told.
func (p *Port) Moved(from string) {
	var gone []net.Conn
	p.mu.Lock()
	for c := range p.open {
		if hostOf(c.LocalAddr()) == from {
			gone = append(gone, c)
		}
	}
	p.mu.Unlock()
	for _, c := range gone {
		c.Close()
	}
}
