package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// What is spoken on the port, by ALPN.
const (
	ProtoRaft = "relevo-raft/1" // raft's own, see RaftLayer
	ProtoHTTP = "relevo-http/1" // HTTP/1.1: control and replication
)

// MaxBody bounds the body of a request, and of a JSON answer, in bytes. Answers
// that stream are their reader's to bound.
const MaxBody = 1 << 20

// PortConfig says how to build a [Port].
type PortConfig struct {
	Identity *Identity
	// Listener takes the connections; nil = listen on Address (host:port, TCP).
	Listener net.Listener
	Address  string
	// Handler serves requests; it sees only authenticated peers, and [NodeOf] tells
	// which. Request bodies end with an error after MaxBody. nil = nothing is found.
	Handler http.Handler
	// Dial opens a plain connection; nil = TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Resolve tells where a node's port is now, as host:port. It must be quick.
	Resolve func(node string) (hostport string, err error)
	// Join answers a host that asks to be let in, which has proved nothing yet; nil = nobody
	// can ask.
	Join func(ctx context.Context, r *JoinRequest) JoinReply
	// Why says what there is to say to a node about the removal of that node, with the key
	// it shows, as [KeySum]; nil = nobody can ask.
	Why func(node string, key []byte) Verdict
	// Friend says whether an IP address is a member's: its handshakes have places of their
	// own, that no stranger can take. It must be quick. nil = nobody's is.
	Friend func(ip string) bool
	// MaxConns bounds the accepted connections of all nodes together; 0 = 256.
	MaxConns int
	Log      *slog.Logger
}

// Port is the one port of an agent: what others reach it by, and what it reaches
// others by.
type Port struct {
	cfg     PortConfig
	raft    *RaftLayer
	clients *clientListener
	server  *http.Server
	limits  *admission
	where   whereabouts
	refused complaints
	// refusing is who refused this host, see Refusing.
	refusing atomic.Pointer[string]
	// unknownCA is when a host of this cluster showed a CA that is not known here, see [Port.MissedCA].
	unknownCA atomic.Pointer[time.Time]

	mu      sync.Mutex
	closed  bool
	open    map[net.Conn]party         // plain connections below all TLS ones, either direction; with whom, once known
	callers map[string]*http.Transport // by node
}

// Listen opens the port. Nothing is accepted before [Port.Run], which must follow,
// or [Port.Close].
func Listen(cfg PortConfig) (*Port, error) {
	if cfg.Identity == nil || cfg.Log == nil || cfg.Resolve == nil {
		return nil, errors.New("open the peer port: identity, log and resolve are needed")
	}
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = defaultMaxConns
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	if cfg.Handler == nil {
		cfg.Handler = http.NotFoundHandler()
	}
	if cfg.Listener == nil {
		l, err := net.Listen("tcp", cfg.Address)
		if err != nil {
			return nil, fmt.Errorf("open the peer port %s: %w; is another agent running, or is the address not of this host?", cfg.Address, err)
		}
		cfg.Listener = l
	}
	p := &Port{cfg: cfg, limits: newAdmission(cfg.MaxConns, cfg.Friend), open: map[net.Conn]party{}, callers: map[string]*http.Transport{}}
	p.raft = &RaftLayer{port: p, accepted: make(chan net.Conn), done: make(chan struct{})}
	p.clients = &clientListener{chanListener: chanListener{addr: cfg.Listener.Addr(), conns: make(chan net.Conn), done: make(chan struct{})}}
	p.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
			cfg.Handler.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: handshakeTimeout,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			pc := c.(*peerConn)
			return context.WithValue(WithNode(ctx, pc.node), certKey{}, pc.cert)
		},
	}
	return p, nil
}

// Addr is where the port listens.
func (p *Port) Addr() net.Addr { return p.cfg.Listener.Addr() }

// Run accepts connections until ctx ends. It returns after every connection of the
// port is closed, raft's included, and every handler has returned; handlers see
// their request's context end. An error means that the port cannot go on.
func (p *Port) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var all, serving sync.WaitGroup
	defer all.Wait()
	defer cancel()
	web := &chanListener{addr: p.Addr(), conns: make(chan net.Conn), done: make(chan struct{})}
	// Requests end with the port, also those whose client will never say so. But
	// first their connections: a handler that gives up must not look like one that
	// is done.
	requests, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	p.server.BaseContext = func(net.Listener) context.Context { return requests }
	p.server.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			serving.Add(1)
		case http.StateClosed, http.StateHijacked:
			serving.Done()
		}
	}
	all.Go(func() {
		p.server.Serve(web)
		serving.Wait() // after Serve there are no new ones
	})
	all.Go(func() {
		<-ctx.Done()
		close(web.done)
		p.Close()
		endRequests()
	})
	for pause := time.Duration(0); ; {
		c, err := p.cfg.Listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept on the peer port %s: %w", p.Addr(), err)
		case err != nil:
			// Out of file descriptors, most likely: it passes.
			if pause == 0 {
				p.cfg.Log.Error("accept on the peer port", "err", err)
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		at, err := p.limits.enter(c.RemoteAddr())
		if err != nil {
			c.Close() // a peer tries again
			p.refused.warn(p.cfg.Log, "refused a connection to the peer port", c.RemoteAddr(), err)
			continue
		}
		all.Go(func() { p.greet(ctx, c, at, web) })
	}
}

// Close closes the listener and every connection.
func (p *Port) Close() error {
	p.mu.Lock()
	p.closed = true
	conns := p.open
	p.open = map[net.Conn]party{}
	callers := p.callers
	p.callers = map[string]*http.Transport{}
	p.mu.Unlock()
	err := p.cfg.Listener.Close()
	p.raft.Close()
	p.clients.Close()
	// The plain ones first: TLS would say goodbye, for up to 5 s on a full socket.
	for c := range conns {
		c.Close()
	}
	p.server.Close()
	for _, t := range callers {
		t.CloseIdleConnections()
	}
	return err
}

// own remembers a plain connection until it is closed; false = the port is closed.
func (p *Port) own(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.open[c] = party{}
	return true
}

// party is who is at the other end of a connection, and what it showed.
type party struct {
	node string
	cert *x509.Certificate
}

// with notes who is at the other end; false = the port is closed.
func (p *Port) with(c net.Conn, node string, cert *x509.Certificate) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.open[c]; !ok {
		return false
	}
	p.open[c] = party{node, cert}
	return true
}

func (p *Port) disown(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}

// greet does the handshake and hands the connection to whom it is for.
func (p *Port) greet(ctx context.Context, c net.Conn, at *place, web *chanListener) {
	if !p.own(c) {
		c.Close()
		at.leave()
		return
	}
	tune(c)
	tc := tls.Server(c, p.greeting())
	pc := &peerConn{Conn: tc, closed: sync.OnceFunc(func() { p.disown(c); at.leave() })}
	// The same 5 s hold for the handshake and for being taken.
	hctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	err := p.admit(hctx, tc, pc, at)
	if err == nil && tc.ConnectionState().NegotiatedProtocol == ProtoJoin {
		if err := p.letIn(ctx, tc, at); err != nil && ctx.Err() == nil {
			p.refused.warn(p.cfg.Log, "a host was not let in", c.RemoteAddr(), err)
		}
		pc.Close()
		return
	}
	if err == nil && tc.ConnectionState().NegotiatedProtocol == ProtoWhy {
		if err := p.tellWhy(tc, at); err != nil && ctx.Err() == nil {
			p.refused.warn(p.cfg.Log, "a node was not told why it is refused", c.RemoteAddr(), err)
		}
		pc.Close()
		return
	}
	if err == nil && !p.with(c, pc.node, pc.cert) {
		err = net.ErrClosed
	}
	if err != nil {
		c.Close()
		pc.closed()
		if ctx.Err() == nil {
			p.noteTurnedAway(err)
			p.refused.warn(p.cfg.Log, "refused a connection to the peer port", c.RemoteAddr(), err)
		}
		return
	}
	to, done := web.conns, web.done
	var conn net.Conn = pc
	switch tc.ConnectionState().NegotiatedProtocol {
	case ProtoRaft:
		to, done = p.raft.accepted, p.raft.done
	case ProtoClient:
		to, done = p.clients.conns, p.clients.done
		conn = &clientConn{pc, pc.access}
	}
	select {
	case to <- conn:
	case <-done:
		pc.Close()
	case <-hctx.Done(): // raft does not run
		pc.Close()
	}
}

// admit finds out who is there and whether there is room.
func (p *Port) admit(ctx context.Context, tc *tls.Conn, pc *peerConn, at *place) error {
	if err := tc.HandshakeContext(ctx); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("no handshake within %s", handshakeTimeout)
		}
		return err
	}
	s := tc.ConnectionState()
	if s.NegotiatedProtocol == "" {
		return errors.New("it speaks none of our protocols")
	}
	if s.NegotiatedProtocol == ProtoClient {
		x, err := p.cfg.Identity.client(s)
		if err != nil {
			return err
		}
		pc.access = x
		return at.promoteClient(x)
	}
	if s.NegotiatedProtocol == ProtoJoin || s.NegotiatedProtocol == ProtoWhy {
		return nil
	}
	node, err := p.cfg.Identity.peer(s)
	if err != nil {
		return err
	}
	pc.node, pc.cert = node, s.PeerCertificates[0]
	p.arrived(node, tc.RemoteAddr())
	return at.promote(node)
}

// peerConn is a connection with a name.
type peerConn struct {
	net.Conn
	node   string
	access Access            // of a client, which is no node
	cert   *x509.Certificate // that it showed
	closed func()
}

func (c *peerConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

type nodeKey struct{}
type certKey struct{}

// CertOf is the certificate that the sender of a request showed; nil outside the port.
func CertOf(ctx context.Context) *x509.Certificate {
	c, _ := ctx.Value(certKey{}).(*x509.Certificate)
	return c
}

// NodeOf is the node that sent a request, as its certificate says; "" outside the
// peer port.
func NodeOf(r *http.Request) string {
	n, _ := r.Context().Value(nodeKey{}).(string)
	return n
}

// WithNode is what the port does to a request's context; for tests of handlers.
func WithNode(ctx context.Context, node string) context.Context {
	return context.WithValue(ctx, nodeKey{}, node)
}

// chanListener gives the HTTP server connections that were accepted elsewhere.
type chanListener struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
}

func (l *chanListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *chanListener) Close() error   { return nil }
func (l *chanListener) Addr() net.Addr { return l.addr }
