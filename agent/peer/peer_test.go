package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relevo.dev/relevo/test/memnet"
)

// hosts founds a cluster on the first name and invites the others.
func hosts(t *testing.T, names ...string) map[string]*Identity {
	t.Helper()
	ids := map[string]*Identity{}
	var dir string
	for i, n := range names {
		d := filepath.Join(t.TempDir(), n)
		key := filepath.Join(d, "gossip.key")
		var err error
		if i == 0 {
			dir = d
			ids[n], err = Init(d, key, "home", n)
		} else {
			var inv []byte
			if inv, err = Invite(dir, filepath.Join(dir, "gossip.key"), n); err == nil {
				ids[n], err = Accept(inv, d, key)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

func port(t *testing.T, nw *memnet.Network, id *Identity, listen string, resolve func(string) string, h http.Handler) *Port {
	l, err := nw.Listen(listen + ":1")
	if err != nil {
		t.Fatal(err)
	}
	return Listen(PortConfig{Identity: id, Listener: l, Handler: h, Dial: nw.Dialer(listen),
		Resolve: func(node string) (string, error) { return resolve(node) + ":1", nil }, Log: slog.New(slog.DiscardHandler)})
}

func same(node string) string { return node }

func whoami() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/who", func(w http.ResponseWriter, r *http.Request) { json.NewEncoder(w).Encode(NodeOf(r)) })
	mux.HandleFunc("/fail", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "not today", http.StatusTeapot) })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for b := []byte(`"`); ; b = bytes.Repeat([]byte("a"), 1000) {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/hang", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	return mux
}

func TestPortNamesThePeer(t *testing.T) {
	ids := hosts(t, "n1", "n2")
	synctest.Test(t, func(t *testing.T) {
		nw := memnet.New()
		a, b := port(t, nw, ids["n1"], "n1", same, whoami()), port(t, nw, ids["n2"], "n2", same, whoami())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 2)
		go func() { done <- a.Run(ctx) }()
		go func() { done <- b.Run(ctx) }()

		var who string
		for range 3 { // the same connection serves again
			if err := a.PostJSON(ctx, "n2", "/who", nil, &who); err != nil || who != "n1" {
				t.Errorf("n2 saw %q, %v", who, err)
			}
		}
		if err := a.PostJSON(ctx, "n2", "/fail", nil, &who); err == nil || !strings.Contains(err.Error(), "not today") {
			t.Errorf("the server's message is lost: %v", err)
		}
		if err := a.PostJSON(ctx, "n2", "/endless", nil, &who); err == nil {
			t.Error("an endless answer was accepted")
		}
		// Whoever hangs is given up, and does not hold up the next.
		hctx, hcancel := context.WithTimeout(ctx, time.Second)
		if err := a.PostJSON(hctx, "n2", "/hang", nil, &who); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hang: %v", err)
		}
		hcancel()
		if err := a.PostJSON(ctx, "n2", "/who", nil, &who); err != nil {
			t.Errorf("after a hang: %v", err)
		}

		// raft's own connections
		go func() {
			c, err := b.Raft().Accept()
			if err != nil {
				return
			}
			io.Copy(c, c)
			c.Close()
		}()
		c, err := a.Raft().DialNode("n2", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, "hello")
		buf := make([]byte, 5)
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
			t.Errorf("raft echo %q, %v", buf, err)
		}
		c.Close()
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestStrangersAreRefused(t *testing.T) {
	ids, others := hosts(t, "n1", "n2"), hosts(t, "n1", "n2")
	synctest.Test(t, func(t *testing.T) {
		nw := memnet.New()
		served := 0
		a := port(t, nw, ids["n1"], "n1", same, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()

		var out string
		stranger := port(t, nw, others["n2"], "x", same, nil)
		if err := stranger.PostJSON(ctx, "n1", "/", nil, &out); err == nil || !strings.Contains(err.Error(), "cluster") {
			t.Errorf("another cluster's certificate: %v", err)
		}
		// The right cluster, but not who it should be.
		wrong := port(t, nw, ids["n2"], "y", func(string) string { return "n1" }, nil)
		if err := wrong.PostJSON(ctx, "n2", "/", nil, &out); err == nil || !strings.Contains(err.Error(), "n1 answered instead of n2") {
			t.Errorf("n1 in n2's place: %v", err)
		}
		raw := func(f func(net.Conn)) {
			c, err := nw.Dialer("z")(ctx, "tcp", "n1:1")
			if err != nil {
				t.Fatal(err)
			}
			f(c)
			c.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection was left open")
			}
			c.Close()
		}
		raw(func(c net.Conn) { go fmt.Fprint(c, "GET / HTTP/1.1\r\n\r\n") })
		raw(func(net.Conn) {}) // says nothing: slow loris
		raw(func(c net.Conn) {
			go func() { // no certificate; TLS 1.3 tells the client only after its Finished
				tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{ProtoHTTP}})
				if tc.Handshake() == nil {
					fmt.Fprint(tc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				}
			}()
			time.Sleep(10 * time.Second)
		})
		if served != 0 {
			t.Errorf("%d requests of strangers were served", served)
		}
		cancel()
		<-done
		a.trans.CloseIdleConnections()
		stranger.trans.CloseIdleConnections()
	})
}

func TestFloodIsBounded(t *testing.T) {
	ids := hosts(t, "n1", "n2")
	synctest.Test(t, func(t *testing.T) {
		nw := memnet.New()
		a := port(t, nw, ids["n1"], "n1", same, whoami())
		b := port(t, nw, ids["n2"], "n2", same, whoami())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		var idle []net.Conn
		for range 1000 { // they never shake hands
			c, err := nw.Dialer("z")(ctx, "tcp", "n1:1")
			if err != nil {
				t.Fatal(err)
			}
			idle = append(idle, c)
		}
		if n := len(a.conns); n > defaultMaxConns {
			t.Errorf("%d connections are kept", n)
		}
		time.Sleep(2 * time.Minute) // the clock of the bubble: handshakes time out
		var who string
		if err := b.PostJSON(ctx, "n1", "/who", nil, &who); err != nil {
			t.Errorf("after the flood: %v", err)
		}
		for _, c := range idle {
			c.Close()
		}
		b.trans.CloseIdleConnections()
		cancel()
		<-done
	})
}

func TestInitRefusesToOverwrite(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "gossip.key")
	id, err := Init(dir, key, "home", "n1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(dir, key, "home", "n1"); !errors.Is(err, ErrExists) {
		t.Errorf("second init: %v", err)
	}
	other := t.TempDir()
	if _, err := Init(other, filepath.Join(other, "g"), "home", "n2"); err != nil {
		t.Fatal(err)
	}
	inv, err := Invite(other, filepath.Join(other, "g"), "n1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Accept(inv, dir, key); !errors.Is(err, ErrExists) {
		t.Errorf("another cluster's invitation: %v", err)
	}
	if again, err := Load(dir); err != nil || again.ClusterID() != id.ClusterID() {
		t.Errorf("the identity changed: %v", err)
	}
	for _, f := range []string{caKeyFile, nodeKeyFile, "gossip.key"} {
		if st, err := os.Stat(filepath.Join(dir, f)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, st.Mode(), err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, nodeKeyFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("a readable key: %v", err)
	}
	if _, err := Load(filepath.Join(dir, "nothing")); err == nil || !strings.Contains(err.Error(), "relevo init") {
		t.Errorf("no cluster: %v", err)
	}
}

func TestNodeNames(t *testing.T) {
	for name, ok := range map[string]bool{"n1": true, "pi-zero": true, "": false, "-a": false, "a-": false, "A": false, "a.b": false, "../x": false, strings.Repeat("a", 64): false} {
		if err := ValidNode(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func FuzzInvitation(f *testing.F) {
	dir := f.TempDir()
	if _, err := Init(dir, filepath.Join(dir, "g"), "home", "n1"); err != nil {
		f.Fatal(err)
	}
	inv, err := Invite(dir, filepath.Join(dir, "g"), "n2")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(inv)
	f.Add([]byte("-----BEGIN RELEVO INVITATION-----\ne30=\n-----END RELEVO INVITATION-----\n"))
	f.Add(inv[:len(inv)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		if bundle, id, err := parseInvitation(b); err == nil && (bundle == nil || id == nil || ValidNode(id.Node()) != nil) {
			t.Errorf("accepted %+v", bundle)
		}
	})
}
