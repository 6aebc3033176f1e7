package member

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"relevo.dev/relevo/test/memnet"
)

type lab struct {
	t  *testing.T
	nw *memnet.Network
	n  int
}

type member struct {
	*Pool
	stop func()
	addr string
}

func (l *lab) start(node string, key byte, peers string, join ...string) *member {
	l.t.Helper()
	l.n++
	ip, port := fmt.Sprintf("10.0.0.%d", l.n), 7946
	tr, err := l.nw.NewGossip(ip, port)
	if err != nil {
		l.t.Fatal(err)
	}
	p, err := New(Config{Node: node, BindAddr: ip, Port: port, Key: bytes.Repeat([]byte{key}, 32),
		Tags: map[string]string{"v": "1"}, PeersFile: peers, Join: func() []string { return join },
		Transport: tr, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	synctest.Wait()
	return &member{p, func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	}, fmt.Sprintf("%s:%d", ip, port)}
}

func status(p *member, node string) Status {
	m, _ := p.Lookup(node)
	return m.Status
}

func TestJoinFailRejoin(t *testing.T) {
	peers := filepath.Join(t.TempDir(), "peers")
	synctest.Test(t, func(t *testing.T) {
		l := &lab{t: t, nw: memnet.New()}
		a := l.start("a", 1, "")
		b := l.start("b", 1, peers, a.addr)
		time.Sleep(5 * time.Second)
		if status(a, "b") != Alive || status(b, "a") != Alive || !b.Ready() {
			t.Fatalf("not joined: %v, %v", a.Members(), b.Members())
		}
		if err := b.SetTags(map[string]string{"v": "2"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if m, _ := a.Lookup("b"); m.Tags["v"] != "2" {
			t.Errorf("tags did not travel: %v", m.Tags)
		}
		b.stop() // without leaving: as by a power cut
		time.Sleep(time.Minute)
		if status(a, "b") != Failed {
			t.Errorf("b is %q", status(a, "b"))
		}
		// Back, at another address, with nothing but its file of peers.
		b = l.start("b", 1, peers)
		time.Sleep(30 * time.Second)
		if status(a, "b") != Alive || status(b, "a") != Alive {
			t.Errorf("not back: %v, %v", a.Members(), b.Members())
		}
		b.stop()
		a.stop()
	})
	if data, err := os.ReadFile(peers); err != nil || strings.Count(string(data), "\n") != 1 {
		t.Errorf("peers file %q, %v", data, err)
	}
}

func TestAnotherKeyIsAnotherPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lab{t: t, nw: memnet.New()}
		a := l.start("a", 1, "")
		b := l.start("b", 2, "", a.addr)
		time.Sleep(30 * time.Second)
		if len(a.Members()) != 1 || len(b.Members()) != 1 {
			t.Errorf("merged: %v, %v", a.Members(), b.Members())
		}
		if !b.Ready() {
			t.Error("alone, and not ready after looking for others")
		}
		a.stop()
		b.stop()
	})
}

func TestLimits(t *testing.T) {
	if _, err := New(Config{Node: "a", Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("gossip without a key")
	}
	if err := checkTags(map[string]string{"x": strings.Repeat("a", 600)}); err == nil {
		t.Error("600 bytes of tags")
	}
	file := filepath.Join(t.TempDir(), "peers")
	if err := os.WriteFile(file, []byte("10.0.0.1:7946\ngarbage\n\x00\x01\n10.0.0.1:7946\n[::1]:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := readPeers(file)
	if err != nil || len(p.addrs) != 2 {
		t.Errorf("%v, %v", p, err)
	}
}
