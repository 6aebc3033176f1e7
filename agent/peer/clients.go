package peer

import (
	"fmt"
	"net"
	"sync"
)

// Clients have a share of the connections of their own: however many there are, they take
// no member's place.
const (
	maxClients   = 32
	maxPerClient = 8
)

// clientConn is a connection of an access.
type clientConn struct {
	*peerConn
	access Access
}

// Access says whose it is, by its certificate.
func (c *clientConn) Access() (name, serial string) { return c.access.Name, c.access.Serial }

// clientListener hands on the connections of accesses.
type clientListener struct {
	chanListener
	once sync.Once
}

// Close makes Accept return; the port takes no more clients.
func (l *clientListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Clients are the connections of people's programs; each has a method
// Access() (name, serial string).
func (p *Port) Clients() net.Listener { return p.clients }

// promoteClient turns a stranger's place into an access's.
func (p *place) promoteClient(x Access) error {
	a, key := p.a, "access "+x.Name // no node is called so
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.nodes[key] >= maxPerClient {
		return fmt.Errorf("the access %s has %d connections already", x.Name, maxPerClient)
	}
	if a.clients >= maxClients {
		return fmt.Errorf("%d clients are connected already", maxClients)
	}
	p.free()
	p.node, p.client, p.gone = key, true, false
	a.nodes[key]++
	a.clients++
	return nil
}
