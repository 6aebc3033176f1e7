package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

// Limits of those who are no members yet. They have shares of their own: whatever they
// do, a member finds its place.
const (
	maxJoining      = 8 // exchanges at a time
	maxJoiningPerIP = 2
)

// joinTLS is the configuration towards a host that has no certificate yet.
func (i *Identity) joinTLS() *tls.Config {
	own := i.own.Load()
	cert := own.chain
	if cert.Certificate = [][]byte{own.chain.Leaf.Raw}; own.issuer.Raw != nil {
		cert.Certificate = append(cert.Certificate, own.issuer.Raw)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.NoClientCert,
		NextProtos: []string{ProtoJoin}, SessionTicketsDisabled: true,
	}
}

// greeting is the configuration of the accepting side. Who asks to join, and for nothing
// else, needs no certificate; who asks why it is refused, none that is believed.
func (p *Port) greeting() *tls.Config {
	c := p.cfg.Identity.ServerTLS(ProtoHTTP, ProtoRaft, ProtoClient)
	c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		switch {
		case p.cfg.Join != nil && asksOnly(h, ProtoJoin):
			return p.cfg.Identity.joinTLS(), nil
		case p.cfg.Why != nil && asksOnly(h, ProtoWhy):
			return p.cfg.Identity.whyTLS(), nil
		}
		return nil, nil
	}
	return c
}

// letIn does one exchange with a host that wants to join. Its stranger's place is given
// back by the caller.
func (p *Port) letIn(ctx context.Context, c *tls.Conn, at *place) error {
	if err := at.join(); err != nil {
		c.SetDeadline(time.Now().Add(time.Second))
		// What it asks is read, and thrown away: a connection that is closed with something
		// unread in it is reset, and takes the answer with it.
		readFrame(c, maxJoinRequest, &JoinRequest{})
		writeFrame(c, &JoinReply{Code: JoinBusy, Error: "too many hosts ask to join: try again in a minute"})
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	// A slow one has as long as a handshake may take.
	c.SetDeadline(time.Now().Add(handshakeTimeout))
	var r JoinRequest
	if err := readFrame(c, maxJoinRequest, &r); err != nil {
		return fmt.Errorf("a request to join: %w", err)
	}
	s := c.ConnectionState()
	exporter, err := s.ExportKeyingMaterial(exporterLabel, nil, 32)
	if err != nil {
		return err
	}
	r.exporter, r.from = exporter, c.RemoteAddr()
	a := JoinReply{Code: JoinNotUs}
	if err = r.check(); err != nil {
		a.Error = "the request to join is not understood: " + err.Error()
	} else {
		a = p.cfg.Join(ctx, &r)
	}
	c.SetDeadline(time.Now().Add(handshakeTimeout))
	if err := writeFrame(c, &a); err != nil {
		return fmt.Errorf("answer %s, which asked to join: %w", r.Node, err)
	}
	c.CloseWrite()
	if a.Error != "" {
		return fmt.Errorf("%s asked to join with the token %s: %s", r.Node, oneLine([]byte(r.Token), groupSize), a.Error)
	}
	return nil
}

// join turns a stranger's place into a joiner's.
func (p *place) join() error {
	a := p.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.joiners >= maxJoining || a.joining[p.ip] >= maxJoiningPerIP {
		return fmt.Errorf("%d hosts ask to join already, %d of them from %s", a.joiners, a.joining[p.ip], p.ip)
	}
	p.free()
	p.gone, p.joins = false, true
	a.joiners++
	a.joining[p.ip]++
	return nil
}

// DropNode closes all connections with node, in both directions: it is not believed any
// more, or has to be asked anew who it is.
func (p *Port) DropNode(node string) {
	p.mu.Lock()
	var conns []net.Conn
	for c, with := range p.open {
		if with.node == node {
			conns = append(conns, c)
		}
	}
	t := p.callers[node]
	p.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	if t != nil {
		t.CloseIdleConnections()
	}
}

// Recheck closes the connections of those who would not be let in any more, after the rules
// have changed. A member is known by its key: by which CA its certificate was is a question
// of the next connection.
func (p *Port) Recheck() {
	id := p.cfg.Identity
	keys := map[string][]byte{}
	if r := id.rules.Load(); r != nil {
		keys = r.Keys
	}
	p.mu.Lock()
	var bad []net.Conn
	for c, with := range p.open {
		if with.cert == nil || bytes.Equal(keys[with.node], KeySum(with.cert)) {
			continue
		}
		if _, err := id.nodeOf(with.cert, time.Now()); err != nil {
			bad = append(bad, c)
		}
	}
	p.mu.Unlock()
	for _, c := range bad {
		c.Close()
	}
}
