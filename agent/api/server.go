package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Limits on everybody who connects.
const (
	maxSocketConns = 64
	maxTCPConns    = 32
	maxRemoteConns = 32
	maxHeader      = 8 << 10
	askTimeout     = 5 * time.Second // one answer of the Source
	orderTimeout   = 5 * time.Minute // one order: a master that leaves stops its control plane first
	closeTimeout   = 2 * time.Second // for answers under way when the agent stops
	tcpRetry       = 5 * time.Second
)

// Config of a Server.
type Config struct {
	// Socket is the path of the unix socket; "" = none.
	Socket string
	// Group owns the socket beside root: its members are operators. A group that the
	// host does not have is passed over. "" = none.
	Group string
	// Others is what local users may that are neither root nor in Group: NoAccess or
	// StatusOnly; "" = NoAccess.
	Others AccessRole
	// Event is told what somebody changed, or wanted to; nil: nobody is. Audit knows all of
	// it; nil: nobody does.
	Event func(Event)
	Audit func(context.Context) (Audit, error)
	// Doctor has the host tried by the others; nil: it is not.
	Doctor func(context.Context) (Doctor, error)
	// Listen is ip:port of the read-only listener; "" = off.
	Listen string
	// Node is a host name, besides addresses and localhost, under which the
	// listener may be asked.
	Node   string
	Source Source
	// Remote gives connections whose owner showed the certificate of an access, and
	// Grants says what that may; nil: there is no access from outside.
	Remote net.Listener
	Grants Grants
	Log    *slog.Logger
}

// Server answers on the socket and on TCP.
type Server struct {
	cfg    Config
	socket net.Listener

	mu     sync.Mutex
	tcpErr error
	tcp    net.Addr
}

// Listen takes the socket: after it, people reach the agent. It fails if another
// agent has the socket. [Server.Run] must be called then, or [Server.Close].
func Listen(cfg Config) (*Server, error) {
	if cfg.Socket == "" {
		return &Server{cfg: cfg}, nil
	}
	l, err := listenSocket(cfg.Socket, cfg.Group, rank[cfg.Others] > rank[NoAccess], cfg.Log)
	if err != nil {
		return nil, fmt.Errorf("listen on the socket %s: %w", cfg.Socket, err)
	}
	return &Server{cfg: cfg, socket: l}, nil
}

// Close gives the socket back, if Run is never called.
func (s *Server) Close() error {
	if s.socket == nil {
		return nil
	}
	return s.socket.Close()
}

// TCPErr says why the TCP listener is not there at the moment; nil if it is, or is
// off.
func (s *Server) TCPErr() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tcpErr
}

// Addr is the address of the TCP listener; nil while there is none.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tcp
}

// Run answers until ctx ends. A TCP port that cannot be had is no reason for the
// agent to stop (its address may come with DHCP later): it is tried again.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if s.socket != nil {
		g.Go(func() error { return s.serve(ctx, limit(s.socket, maxSocketConns), s.socketHandler(), withCaller) })
	}
	if s.cfg.Remote != nil {
		g.Go(func() error {
			return s.serve(ctx, limit(s.cfg.Remote, maxRemoteConns), bounded(s.guard(s.questions(), s.remote)), withRemote)
		})
	}
	if s.cfg.Listen != "" {
		g.Go(func() error { return s.runTCP(ctx) })
	}
	return g.Wait()
}

func (s *Server) runTCP(ctx context.Context) error {
	for {
		l, err := net.Listen("tcp", s.cfg.Listen)
		s.mu.Lock()
		before := s.tcpErr
		s.tcpErr = err
		if err == nil {
			s.tcp = l.Addr()
		}
		s.mu.Unlock()
		if err == nil {
			if before != nil {
				s.cfg.Log.Info("listening for metrics", "address", s.cfg.Listen)
			}
			return s.serve(ctx, limit(l, maxTCPConns), s.tcpHandler(), nil)
		}
		if before == nil {
			s.cfg.Log.Warn("no metrics yet: cannot listen", "address", s.cfg.Listen, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tcpRetry):
		}
	}
}

// serve answers on l until ctx ends, and returns when no answer is under way.
func (s *Server) serve(ctx context.Context, l net.Listener, h http.Handler, connContext func(context.Context, net.Conn) context.Context) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      orderTimeout + 5*time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       connContext,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("answer on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	shut, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if srv.Shutdown(shut) != nil {
		srv.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answer on %s: %w", l.Addr(), err)
	}
	return nil
}

// limit closes connections beyond max at once: waiting ones would hide behind
// those that do nothing.
func limit(l net.Listener, max int) net.Listener {
	return &limited{Listener: l, free: make(chan struct{}, max)}
}

type limited struct {
	net.Listener
	free chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.free <- struct{}{}:
			return &limitedConn{Conn: c, free: sync.OnceFunc(func() { <-l.free })}, nil
		default:
			c.Close()
		}
	}
}

type limitedConn struct {
	net.Conn
	free func()
}

func (c *limitedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
