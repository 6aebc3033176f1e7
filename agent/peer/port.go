package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// What is spoken on the port, by ALPN.
const (
	ProtoRaft = "relevo-raft/1"
	ProtoHTTP = "relevo-http/1"
)

// Limits of the port. A cluster has at most some 50 members, each with a raft, a
// control and a replication connection.
const (
	defaultMaxConns  = 512
	maxHandshakes    = 32 // unfinished ones at a time: each costs 34 ms on ARMv6
	handshakeTimeout = 5 * time.Second
	maxReply         = 1 << 20
	maxErrorText     = 1 << 10
)

// PortConfig says how to build a [Port].
type PortConfig struct {
	Identity *Identity
	Listener net.Listener
	Handler  http.Handler // sees only authenticated peers; NodeOf tells which
	// Dial opens a plain connection; nil = TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Resolve tells where a node is now, as host:port.
	Resolve  func(node string) (string, error)
	MaxConns int // 0 = 512
	Log      *slog.Logger
}

// Port is the one port of an agent.
type Port struct {
	cfg    PortConfig
	raft   *RaftLayer
	server *http.Server
	client *http.Client
	trans  *http.Transport
	conns  chan struct{}
	shakes chan struct{}
}

// Listen makes the port; [Port.Run] opens it.
func Listen(cfg PortConfig) *Port {
	if cfg.MaxConns == 0 {
		cfg.MaxConns = defaultMaxConns
	}
	if cfg.Dial == nil {
		d := &net.Dialer{Timeout: handshakeTimeout, KeepAliveConfig: keepAlive}
		cfg.Dial = d.DialContext
	}
	p := &Port{cfg: cfg, conns: make(chan struct{}, cfg.MaxConns), shakes: make(chan struct{}, maxHandshakes)}
	p.raft = &RaftLayer{port: p, accepted: make(chan net.Conn), done: make(chan struct{})}
	p.server = &http.Server{
		Handler:           cfg.Handler,
		ReadHeaderTimeout: handshakeTimeout,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, nodeKey{}, c.(*peerConn).node)
		},
	}
	p.trans = &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			node, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return p.dial(ctx, node, ProtoHTTP)
		},
		MaxIdleConnsPerHost:   2,
		IdleConnTimeout:       4 * time.Minute, // before the server closes it
		ResponseHeaderTimeout: 30 * time.Second,
		DisableCompression:    true,
	}
	p.client = &http.Client{Transport: p.trans, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return p
}

// keepAlive finds a peer that lost its power within 15 s: no FIN ever comes from it.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 6 * time.Second, Interval: 3 * time.Second, Count: 3}

// tls is the configuration of both sides. want is the node that must answer, ""
// for any.
func (p *Port) tls(want string, protos ...string) *tls.Config {
	id := p.cfg.Identity
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{id.cert},
		ClientAuth:   tls.RequireAnyClientCert,
		NextProtos:   protos,
		// Names and times are checked by verify, against the pinned CA alone.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			node, err := id.peer(s)
			if err == nil && want != "" && node != want {
				err = fmt.Errorf("%s answered instead of %s", node, want)
			}
			return err
		},
		SessionTicketsDisabled: true,
	}
}

func (i *Identity) peer(s tls.ConnectionState) (string, error) {
	if len(s.PeerCertificates) == 0 {
		return "", errors.New("the peer has no certificate")
	}
	return i.nodeIn(s.PeerCertificates[0])
}

// Run accepts connections until ctx ends, and returns when all are closed.
func (p *Port) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	httpConns := &chanListener{addr: p.cfg.Listener.Addr(), conns: make(chan net.Conn), done: make(chan struct{})}
	// Requests end with the port, also those whose client will never say so.
	p.server.BaseContext = func(net.Listener) context.Context { return ctx }
	wg.Go(func() { p.server.Serve(httpConns) })
	stop := context.AfterFunc(ctx, func() {
		p.cfg.Listener.Close()
		close(httpConns.done)
		p.raft.Close()
		p.server.Close()
		p.trans.CloseIdleConnections()
	})
	defer wg.Wait()
	defer stop()
	for {
		c, err := p.cfg.Listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if err != nil {
			// Out of file descriptors, most likely: it passes.
			p.cfg.Log.Error("accept on the peer port", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			if errors.Is(err, net.ErrClosed) {
				<-ctx.Done()
				return nil
			}
			continue
		}
		select {
		case p.conns <- struct{}{}:
		default:
			c.Close() // full: a peer tries again
			continue
		}
		wg.Go(func() { p.greet(ctx, c, httpConns) })
	}
}

// greet does the handshake and hands the connection to whom it is for.
func (p *Port) greet(ctx context.Context, c net.Conn, httpConns *chanListener) {
	select {
	case p.shakes <- struct{}{}:
	case <-ctx.Done():
		c.Close()
		<-p.conns
		return
	}
	if t, ok := c.(*net.TCPConn); ok {
		t.SetKeepAliveConfig(keepAlive)
	}
	tc := tls.Server(c, p.tls("", ProtoHTTP, ProtoRaft))
	hctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	err := tc.HandshakeContext(hctx)
	cancel()
	<-p.shakes
	if err != nil {
		p.cfg.Log.Debug("refused a connection to the peer port", "from", c.RemoteAddr().String(), "err", err)
		c.Close()
		<-p.conns
		return
	}
	node, _ := p.cfg.Identity.peer(tc.ConnectionState()) // verified a moment ago
	pc := &peerConn{Conn: tc, node: node, closed: sync.OnceFunc(func() { <-p.conns })}
	to := httpConns.conns
	if tc.ConnectionState().NegotiatedProtocol == ProtoRaft {
		to = p.raft.accepted
	}
	select {
	case to <- pc:
	case <-ctx.Done():
		pc.Close()
	}
}

// peerConn is a connection with a name.
type peerConn struct {
	net.Conn
	node   string
	closed func()
}

func (c *peerConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

type nodeKey struct{}

// NodeOf is the node that sent a request; "" outside the peer port.
func NodeOf(r *http.Request) string {
	n, _ := r.Context().Value(nodeKey{}).(string)
	return n
}

// WithNode is what the port does to a request's context; for handlers' tests.
func WithNode(ctx context.Context, node string) context.Context {
	return context.WithValue(ctx, nodeKey{}, node)
}

// dial opens a connection to node and makes sure that it is node.
func (p *Port) dial(ctx context.Context, node, proto string) (net.Conn, error) {
	addr, err := p.cfg.Resolve(node)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	c, err := p.cfg.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", node, err)
	}
	tc := tls.Client(c, p.tls(node, proto))
	if err := tc.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to %s at %s: %w", node, addr, explain(err))
	}
	return tc, nil
}

// explain turns the alert that a refused certificate causes into words.
func explain(err error) error {
	if s := err.Error(); strings.Contains(s, "bad certificate") || strings.Contains(s, "unknown certificate") {
		return fmt.Errorf("%w (it does not accept our certificate: another cluster?)", err)
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("%w (it belongs to another cluster)", err)
	}
	return err
}

// Do sends a request to node; the host part of its URL is ignored. Connections are
// kept and used again.
func (p *Port) Do(node string, req *http.Request) (*http.Response, error) {
	req.URL.Scheme, req.URL.Host = "http", node+":0" // TLS is in the dialer
	req.Host = node
	return p.client.Do(req)
}

// PostJSON calls path on node with in and reads the answer into out.
func (p *Port) PostJSON(ctx context.Context, node, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := p.Do(node, req)
	if err != nil {
		return fmt.Errorf("%s on %s: %w", path, node, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		msg, _ := io.ReadAll(io.LimitReader(res.Body, maxErrorText))
		return fmt.Errorf("%s on %s: %s: %s", path, node, res.Status, strings.TrimSpace(string(msg)))
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxReply)).Decode(out); err != nil {
		return fmt.Errorf("%s on %s: its answer: %w", path, node, err)
	}
	return nil
}

// RaftLayer carries raft's connections; nodes are their own addresses in it.
type RaftLayer struct {
	port     *Port
	accepted chan net.Conn
	once     sync.Once
	done     chan struct{}
}

// Raft is the layer for raft.
func (p *Port) Raft() *RaftLayer { return p.raft }

// Accept waits for a connection.
func (l *RaftLayer) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *RaftLayer) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr is this node's name.
func (l *RaftLayer) Addr() net.Addr { return nodeAddr(l.port.cfg.Identity.node) }

// DialNode connects to node.
func (l *RaftLayer) DialNode(node string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return l.port.dial(ctx, node, ProtoRaft)
}

type nodeAddr string

func (nodeAddr) Network() string  { return "relevo" }
func (a nodeAddr) String() string { return string(a) }

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
