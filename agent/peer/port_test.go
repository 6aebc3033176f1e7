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
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

var errClosed = errors.New("closed without a word")

func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/who", func(w http.ResponseWriter, r *http.Request) { json.NewEncoder(w).Encode(NodeOf(r)) })
	mux.HandleFunc("/fail", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "not\ttoday\n\x1b[31m", http.StatusTeapot)
	})
	mux.HandleFunc("/none", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("/take", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		}
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := w.Write(bytes.Repeat([]byte(" "), 10000)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/long", func(w http.ResponseWriter, r *http.Request) { w.Write(bytes.Repeat([]byte("9"), 1<<20)) })
	mux.HandleFunc("/hang", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	return mux
}

func TestCalls(t *testing.T) {
	ids := cluster(t, "n1", "n2")
	synctest.Test(t, func(t *testing.T) {
		nw := newLab()
		a, stopA := nw.port(t, ids["n1"], "n1", nil)
		_, stopB := nw.port(t, ids["n2"], "n2", handler())
		ctx := t.Context()
		var who string
		for range 5 {
			if err := a.PostJSON(ctx, "n2", "/who", nil, &who); err != nil || who != "n1" {
				t.Errorf("n2 saw %q, %v", who, err)
			}
			if err := a.GetJSON(ctx, "n2", "/who?x=1", &who); err != nil || who != "n1" {
				t.Errorf("n2 saw %q, %v", who, err)
			}
			if err := a.PostJSON(ctx, "n2", "/none", 1, nil); err != nil {
				t.Error(err)
			}
			err := a.PostJSON(ctx, "n2", "/fail", nil, &who)
			var se *StatusError
			if !errors.As(err, &se) || *se != (StatusError{"n2", "/fail", http.StatusTeapot, "not today  [31m"}) {
				t.Errorf("%+v", err)
			}
		}
		if n := nw.count(); n != 1 {
			t.Errorf("%d connections were made for 20 calls", n)
		}
		err := a.GetJSON(ctx, "n2", "/endless", &who)
		wants(t, err, "/endless on n2", "more than 1048576 bytes")
		err = a.PostJSON(ctx, "n2", "/long", nil, new(uint64))
		wants(t, err, "/long on n2: its answer: json: cannot unmarshal number 999")
		if err != nil && len(err.Error()) > 2*maxErrorText {
			t.Errorf("the error has %d bytes", len(err.Error()))
		}
		err = a.PostJSON(ctx, "n2", "/take", strings.Repeat("a", MaxBody), nil)
		wants(t, err, "/take on n2", "1048576 are allowed")
		if err := a.PostJSON(ctx, "n2", "/take", strings.Repeat("a", MaxBody-2), nil); err != nil {
			t.Error(err)
		}
		// Whoever does not keep to it is stopped by the other side.
		req, _ := http.NewRequestWithContext(ctx, "POST", "/take", strings.NewReader(strings.Repeat("a", MaxBody+1)))
		if res, err := a.Do("n2", req); err == nil {
			if res.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("an oversized body: %s", res.Status)
			}
			res.Body.Close()
		}
		if req.URL.Host != "" {
			t.Error("the caller's request was changed")
		}
		wants(t, a.PostJSON(ctx, "../n2", "/who", nil, &who), "only a-z")
		wants(t, a.PostJSON(ctx, "n9", "/who", nil, &who), "connect to n9", "refused")
		stopB()
		stopA()
		if err := a.PostJSON(ctx, "n2", "/who", nil, &who); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestSilentPeer(t *testing.T) {
	ids := cluster(t, "n1", "n2")
	synctest.Test(t, func(t *testing.T) {
		nw := newLab()
		a, stopA := nw.port(t, ids["n1"], "n1", nil)
		_, stopB := nw.port(t, ids["n2"], "n2", handler())
		var who string
		// A request that hangs is given up, and holds up nobody.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		hung := make(chan error, 1)
		go func() { hung <- a.PostJSON(ctx, "n2", "/hang", nil, &who) }()
		synctest.Wait()
		if err := a.PostJSON(t.Context(), "n2", "/who", nil, &who); err != nil {
			t.Errorf("beside one that hangs: %v", err)
		}
		if err := <-hung; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hang: %v", err)
		}
		cancel()
		// Several idle connections, and the peer loses its power.
		var reqs []*http.Response
		for range 3 {
			req, _ := http.NewRequestWithContext(t.Context(), "GET", "/who", nil)
			res, err := a.Do("n2", req)
			if err != nil {
				t.Fatal(err)
			}
			reqs = append(reqs, res)
		}
		for _, res := range reqs {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
		synctest.Wait()
		nw.powerCut()
		before := nw.count()
		try := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return a.PostJSON(ctx, "n2", "/who", nil, &who)
		}
		if err := try(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("into the void: %v", err)
		}
		// It is back, with new connections: the second try must not take an old one.
		if err := try(); err != nil {
			t.Errorf("after the peer's return: %v", err)
		}
		if n := nw.count() - before; n != 1 {
			t.Errorf("%d connections after the cut", n)
		}
		stopA()
		stopB()
	})
}

func TestEndsWithEverythingOpen(t *testing.T) {
	ids := cluster(t, "n1", "n2")
	synctest.Test(t, func(t *testing.T) {
		nw := newLab()
		a, stopA := nw.port(t, ids["n1"], "n1", nil)
		b, stopB := nw.port(t, ids["n2"], "n2", handler())
		ended := make(chan error, 2)
		go func() { ended <- a.PostJSON(t.Context(), "n2", "/hang", nil, nil) }()
		go func() { ended <- a.GetJSON(t.Context(), "n2", "/endless", nil) }()
		c, err := a.RaftLayer().Dial("n2", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		s, err := b.RaftLayer().Accept()
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		begin := time.Now()
		stopB()
		if d := time.Since(begin); d > time.Second {
			t.Errorf("the port took %s to end", d)
		}
		for range 2 {
			if err := <-ended; err == nil {
				t.Error("a request outlived the port")
			}
		}
		for _, c := range []net.Conn{c, s} {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("a raft connection outlived the port")
			}
		}
		if _, err := b.RaftLayer().Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after the end: %v", err)
		}
		stopA()
	})
}

func TestRaftLayer(t *testing.T) {
	ids := cluster(t, "n1", "n2")
	synctest.Test(t, func(t *testing.T) {
		nw := newLab()
		a, stopA := nw.port(t, ids["n1"], "n1", nil)
		b, stopB := nw.port(t, ids["n2"], "n2", nil)
		if s := b.RaftLayer().Addr().String(); s != "n2" {
			t.Errorf("address %q", s)
		}
		go func() {
			c, err := b.RaftLayer().Accept()
			if err == nil {
				io.Copy(c, c)
				c.Close()
			}
		}()
		c, err := a.RaftLayer().Dial("n2", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, "hello")
		buf := make([]byte, 5)
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
			t.Errorf("%q, %v", buf, err)
		}
		c.Close()
		// Nobody accepts: the connection is not kept for ever.
		c, err = a.RaftLayer().Dial("n2", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(buf); err == nil {
			t.Error("read something")
		}
		c.Close()
		if _, err := a.RaftLayer().Dial("n9", time.Second); err == nil {
			t.Error("dialled a node that is not there")
		}
		stopA()
		stopB()
	})
}

// TestStrangers: nobody without a certificate of this cluster is served, and none
// of them is kept.
func TestStrangers(t *testing.T) {
	ids := cluster(t, "n1", "n2")
	_, foreign := found(t, "n3")
	// Also where its time has not come: whose it is matters more.
	if leaf, err := x509.ParseCertificate(foreign.own.Load().chain.Certificate[0]); err != nil {
		t.Fatal(err)
	} else if _, err := ids["n1"].nodeAt(leaf, time.Unix(0, 0), nil); err == nil || !strings.Contains(err.Error(), "not a certificate of the cluster") {
		t.Errorf("a stranger's certificate of the future: %v", err)
	}
	pub := ids["n2"].own.Load().chain
	synctest.Test(t, func(t *testing.T) {
		nw := newLab()
		served := 0
		a, stopA := nw.port(t, ids["n1"], "n1", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
		s, stopS := nw.port(t, foreign, "n3", handler())
		wants(t, s.PostJSON(t.Context(), "n1", "/", nil, nil), "another cluster") // we refuse the server
		wants(t, a.PostJSON(t.Context(), "n3", "/who", nil, nil), "another cluster")
		// The right cluster, but not who it should be.
		_, stopW := nw.port(t, ids["n2"], "n4", handler())
		wants(t, a.PostJSON(t.Context(), "n4", "/who", nil, nil), "n2 answered instead of n4")

		client := func(mod func(*tls.Config)) func(net.Conn) error {
			return func(c net.Conn) error {
				cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{ProtoHTTP}, Certificates: []tls.Certificate{pub}}
				mod(cfg)
				tc := tls.Client(c, cfg)
				if err := tc.Handshake(); err != nil {
					return err
				}
				// TLS 1.3: what the server thinks of us comes after our Finished.
				go fmt.Fprint(tc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				if answer, err := io.ReadAll(tc); err != nil || len(answer) > 0 {
					return err
				}
				return errClosed
			}
		}
		for name, f := range map[string]func(net.Conn) error{
			"plain HTTP": func(c net.Conn) error {
				go fmt.Fprint(c, "GET / HTTP/1.1\r\n\r\n")
				_, err := io.ReadAll(c)
				return errors.Join(err, errClosed)
			},
			"garbage": func(c net.Conn) error {
				go c.Write(bytes.Repeat([]byte{0x16, 3, 1, 0xff, 0xff}, 5000))
				_, err := io.ReadAll(c)
				return errors.Join(err, errClosed)
			},
			"silence": func(c net.Conn) error {
				_, err := io.ReadAll(c)
				return errors.Join(err, errClosed)
			},
			"a byte a second": func(c net.Conn) error {
				for {
					if _, err := c.Write([]byte{0x16}); err != nil {
						return err
					}
					time.Sleep(time.Second)
				}
			},
			"no certificate":     client(func(c *tls.Config) { c.Certificates = nil }),
			"foreign":            client(func(c *tls.Config) { c.Certificates = []tls.Certificate{foreign.own.Load().chain} }),
			"TLS 1.2":            client(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }),
			"no protocol":        client(func(c *tls.Config) { c.NextProtos = nil }),
			"another's protocol": client(func(c *tls.Config) { c.NextProtos = []string{"h2"} }),
		} {
			c, err := nw.dialer("z")(t.Context(), "tcp", "n1:1")
			if err != nil {
				t.Fatal(err)
			}
			c.SetDeadline(time.Now().Add(time.Minute))
			begin := time.Now()
			if err := f(c); err == nil {
				t.Errorf("%s: no error", name)
			}
			if d := time.Since(begin); d > 2*handshakeTimeout {
				t.Errorf("%s: the connection was kept for %s", name, d)
			}
			c.Close()
		}
		if served != 0 {
			t.Errorf("%d requests of strangers were served", served)
		}
		// The control: the same client with a member's certificate is served.
		c, err := nw.dialer("z")(t.Context(), "tcp", "n1:1")
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		client(func(*tls.Config) {})(c)
		if served != 1 {
			t.Errorf("%d requests of a member were served", served)
		}
		c.Close()
		stopA()
		stopS()
		stopW()
		if a.limits.waiting != 0 || a.limits.named != 0 || len(a.limits.nodes)+len(a.limits.pending)+len(a.open) != 0 {
			t.Errorf("places were not given back: %+v", a.limits)
		}
	})
}

// TestFlood: neither a thousand strangers nor a member gone wild keep others out,
// not even for a moment.
func TestFlood(t *testing.T) {
	ids := cluster(t, "n1", "n2", "n3")
	synctest.Test(t, func(t *testing.T) {
		nw := newLab()
		a, stopA := nw.port(t, ids["n1"], "n1", handler())
		b, stopB := nw.port(t, ids["n2"], "n2", nil)
		c, stopC := nw.port(t, ids["n3"], "n3", nil)
		var idle []net.Conn
		for range 1000 { // they never shake hands
			c, err := nw.dialer("z")(t.Context(), "tcp", "n1:1")
			if err != nil {
				t.Fatal(err)
			}
			idle = append(idle, c)
		}
		synctest.Wait()
		if n := a.limits.strangers(); n != maxPendingPerIP {
			t.Errorf("%d handshakes are pending", n)
		}
		var who string
		if err := b.PostJSON(t.Context(), "n1", "/who", nil, &who); err != nil {
			t.Errorf("during the flood: %v", err)
		}
		// A member that opens more and more.
		refused := 0
		for range 100 {
			c, err := b.dial(t.Context(), "n1", ProtoHTTP)
			if err != nil {
				t.Fatal(err)
			}
			idle = append(idle, c)
			synctest.Wait()
			c.SetReadDeadline(time.Now().Add(time.Nanosecond))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				refused++
			}
		}
		if want := 100 - maxPerNode + 1; refused != want {
			t.Errorf("%d of 100 connections were refused, want %d", refused, want)
		}
		if err := c.PostJSON(t.Context(), "n1", "/who", nil, &who); err != nil {
			t.Errorf("another member during the flood: %v", err)
		}
		time.Sleep(2 * handshakeTimeout)
		if n := a.limits.strangers(); n != 0 {
			t.Errorf("%d handshakes are still pending", n)
		}
		for _, c := range idle {
			c.Close()
		}
		stopB()
		stopC()
		stopA()
	})
}

// TestSlowHeader: an authenticated connection that sends no request is closed.
func TestSlowHeader(t *testing.T) {
	ids := cluster(t, "n1", "n2")
	synctest.Test(t, func(t *testing.T) {
		nw := newLab()
		_, stopA := nw.port(t, ids["n1"], "n1", handler())
		b, stopB := nw.port(t, ids["n2"], "n2", nil)
		c, err := b.dial(t.Context(), "n1", ProtoHTTP)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, "GET / HTTP/1.1\r\nX: ")
		c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v", err)
		}
		c.Close()
		stopB()
		stopA()
	})
}

// TestOverTCP: real sockets, and what is set on them.
func TestOverTCP(t *testing.T) {
	ids := cluster(t, "n1", "n2")
	var ports [2]*Port
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	for i, n := range []string{"n1", "n2"} {
		p, err := Listen(PortConfig{Identity: ids[n], Address: "127.0.0.1:0", Handler: handler(), Log: slog.New(slog.DiscardHandler),
			Resolve: func(string) (string, error) { return ports[0].Addr().String(), nil }})
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = p
		go func() { done <- p.Run(ctx) }()
	}
	var who string
	if err := ports[1].PostJSON(ctx, "n1", "/who", nil, &who); err != nil || who != "n2" {
		t.Errorf("%q, %v", who, err)
	}
	for _, p := range ports {
		p.mu.Lock()
		if len(p.open) != 1 {
			t.Errorf("%d connections are known", len(p.open))
		}
		for c := range p.open {
			raw, err := c.(*net.TCPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			raw.Control(func(fd uintptr) {
				if ms, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); err != nil || ms != 15000 {
					t.Errorf("user timeout %d, %v", ms, err)
				}
				if s, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE); err != nil || s != 6 {
					t.Errorf("keepalive %d, %v", s, err)
				}
			})
		}
		p.mu.Unlock()
	}
	_, err := Listen(PortConfig{Identity: ids["n1"], Address: ports[0].Addr().String(), Log: slog.New(slog.DiscardHandler),
		Resolve: func(string) (string, error) { return "", nil }})
	wants(t, err, "another agent")
	cancel()
	for range ports {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// BenchmarkHandshake is what a new connection costs both sides together.
func BenchmarkHandshake(b *testing.B) {
	ids := cluster(b, "n1", "n2")
	for b.Loop() {
		x, y := net.Pipe()
		s := tls.Server(x, ids["n1"].ServerTLS(ProtoHTTP))
		go s.Handshake()
		c := tls.Client(y, ids["n2"].ClientTLS("n1", ProtoHTTP))
		if err := c.Handshake(); err != nil {
			b.Fatal(err)
		}
		x.Close()
		y.Close()
	}
}
