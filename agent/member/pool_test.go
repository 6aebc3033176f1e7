package member

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"relevo.dev/relevo/test/memnet"
)

// lab is a LAN; hosts are IP addresses 10.0.0.x.
type lab struct {
	t   *testing.T
	nw  *memnet.Network
	dir string
	log *slog.Logger
}

func newLab(t *testing.T, dir string) *lab {
	return &lab{t: t, nw: memnet.New(), dir: dir, log: slog.New(slog.DiscardHandler)}
}

func ip(n int) string   { return fmt.Sprintf("10.0.0.%d", n) }
func addr(n int) string { return ip(n) + ":7946" }

type host struct {
	*Pool
	stop func()
}

// start runs a member on host n; its peers file is kept over restarts.
func (l *lab) start(node string, n int, join ...string) *host { return l.startKey(node, n, 1, join...) }

func (l *lab) startKey(node string, n int, key byte, join ...string) *host {
	l.t.Helper()
	p, err := New(Config{Node: node, BindAddr: ip(n), Port: 7946, Keys: [][]byte{bytes.Repeat([]byte{key}, 32)},
		Tags: map[string]string{"v": "1"}, PeersFile: filepath.Join(l.dir, node),
		Join:      func(context.Context) []string { return join },
		Transport: func(bind string, port int) (memberlist.NodeAwareTransport, error) { return l.nw.NewGossip(bind, port) },
		Log:       l.log})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	synctest.Wait()
	return &host{p, func() {
		l.t.Helper()
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	}}
}

func (h *host) sees(node string) Status {
	for _, m := range h.Members() {
		if m.Node == node {
			return m.Status
		}
	}
	return ""
}

// until waits until f holds and returns how long that took; 0 = it never did.
func until(limit time.Duration, f func() bool) time.Duration {
	for begin := time.Now(); time.Since(begin) < limit; time.Sleep(100 * time.Millisecond) {
		if f() {
			return time.Since(begin) + 1
		}
	}
	return 0
}

func (l *lab) eventually(what string, limit time.Duration, f func() bool) {
	l.t.Helper()
	if d := until(limit, f); d == 0 {
		l.t.Errorf("%s: not within %s", what, limit)
	} else {
		l.t.Logf("%s: after %s", what, d.Round(100*time.Millisecond))
	}
}

func allSee(hosts ...*host) func() bool {
	return func() bool {
		for _, a := range hosts {
			for _, b := range hosts {
				if a.sees(b.cfg.Node) != Alive {
					return false
				}
			}
		}
		return true
	}
}

func stopAll(hosts ...*host) {
	for _, h := range hosts {
		h.stop()
	}
	time.Sleep(time.Minute) // memberlist waits for no probe that is under way
}

func TestJoinTagsFailReturn(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, dir)
		a := l.start("a", 1)
		b := l.start("b", 2, addr(1), addr(2))
		c := l.start("c", 3, addr(2))
		l.eventually("three joined", time.Minute, allSee(a, b, c))
		if !a.Ready() || !b.Ready() || !c.Ready() {
			t.Error("joined, and not ready")
		}
		select {
		case <-a.Changes():
		default:
			t.Error("no change was signalled")
		}
		before, err := os.Stat(filepath.Join(dir, "a"))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.SetTags(map[string]string{"v": "2", "role": "master"}); err != nil {
			t.Fatal(err)
		}
		tag := func(h *host, node, key string) string {
			for _, m := range h.Members() {
				if m.Node == node {
					return m.Tags[key]
				}
			}
			return ""
		}
		l.eventually("tags travelled", time.Minute, func() bool { return tag(a, "b", "role") == "master" && tag(c, "b", "v") == "2" })
		if b.SetTags(map[string]string{"role": "master", "v": "2"}); len(b.newTags) != 0 {
			t.Error("unchanged tags are gossiped again")
		}
		err = b.SetTags(map[string]string{"x": strings.Repeat("a", MaxTags)})
		if err == nil || !strings.Contains(err.Error(), "519 bytes") {
			t.Errorf("tags over the limit: %v", err)
		}

		time.Sleep(10 * time.Minute)
		if after, err := os.Stat(filepath.Join(dir, "a")); err != nil || !os.SameFile(before, after) {
			t.Errorf("the peers file was written while nothing changed: %v", err)
		}
		l.t.Log("b loses its power")
		b.stop()
		l.eventually("failure seen by both", 2*time.Minute, func() bool { return a.sees("b") == Failed && c.sees("b") == Failed })
		if m := a.Members()[1]; m.Node != "b" || time.Since(m.SeenAt) > time.Minute || m.SeenAt.IsZero() {
			t.Errorf("b was seen %s", m.SeenAt)
		}
		time.Sleep(20 * time.Minute)
		// Back at another address, with nothing but its file of peers.
		b = l.start("b", 22)
		l.eventually("b is back", time.Minute, allSee(a, b, c))
		if at, ok := a.Lookup("b"); !ok || at != ip(22) {
			t.Errorf("b is looked for at %q", at)
		}
		if b.Err() != nil || a.Err() != nil {
			t.Errorf("%v, %v", a.Err(), b.Err())
		}
		stopAll(a, b, c)
		if at, ok := a.Lookup("b"); !ok || at != ip(22) {
			t.Errorf("b was forgotten: %q", at)
		}
	})
	if data, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(data) != "10.0.0.3:7946 c\n10.0.0.22:7946 b\n" {
		t.Errorf("peers file %q, %v", data, err)
	}
}

func TestBlackout(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, dir)
		a, b, c := l.start("a", 1), l.start("b", 2, addr(1)), l.start("c", 3, addr(1))
		l.eventually("joined", time.Minute, allSee(a, b, c))
		stopAll(a, b, c)
		time.Sleep(time.Hour)
		c = l.start("c", 3)
		time.Sleep(5 * time.Minute)
		if c.Ready() {
			t.Error("ready, though it knows others and has met none")
		}
		if at, ok := c.Lookup("a"); !ok || at != ip(1) {
			t.Errorf("a is not remembered: %q", at)
		}
		a, b = l.start("a", 1), l.start("b", 2)
		l.eventually("together again", time.Minute, allSee(a, b, c))
		if !c.Ready() {
			t.Error("not ready")
		}
		stopAll(a, b, c)
	})
}

func TestHalvesMerge(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, dir)
		hosts := []*host{l.start("a", 1), l.start("b", 2, addr(1)), l.start("c", 3, addr(1)), l.start("d", 4, addr(1))}
		l.eventually("joined", time.Minute, allSee(hosts...))
		both := func(f func(a, b string)) {
			for _, x := range []int{1, 2} {
				for _, y := range []int{3, 4} {
					f(ip(x), ip(y))
					f(ip(y), ip(x))
				}
			}
		}
		both(l.nw.Cut)
		l.eventually("each half lost the other", 3*time.Minute, func() bool {
			return hosts[0].sees("c") == Failed && hosts[1].sees("d") == Failed && hosts[2].sees("a") == Failed && hosts[3].sees("b") == Failed
		})
		// Everybody begins anew: nobody's Serf knows of the other half, only the
		// files do, and nobody is alone.
		stopAll(hosts...)
		hosts = []*host{l.start("a", 1), l.start("b", 2), l.start("c", 3), l.start("d", 4)}
		l.eventually("two pools", 10*time.Minute, func() bool { return allSee(hosts[:2]...)() && allSee(hosts[2:]...)() })
		time.Sleep(20 * time.Minute)
		if n := len(hosts[0].Members()); n != 2 {
			t.Errorf("the cut leaks: %d members", n)
		}
		both(l.nw.Heal)
		l.eventually("one pool again", 3*time.Minute, allSee(hosts...))
		stopAll(hosts...)
	})
}

// TestNewAddressAtOnce: a host is back with another address before anybody noticed
// that it was gone.
func TestNewAddressAtOnce(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, dir)
		a, b, c := l.start("a", 1), l.start("b", 2, addr(1)), l.start("c", 3, addr(1))
		l.eventually("joined", time.Minute, allSee(a, b, c))
		b.stop()
		b = l.start("b", 22)
		l.eventually("found at its new address", time.Minute, func() bool {
			x, _ := a.Lookup("b")
			y, _ := c.Lookup("b")
			return x == ip(22) && y == ip(22) && allSee(a, b, c)()
		})
		if b.Err() != nil {
			t.Errorf("taken for a second host: %v", b.Err())
		}
		// And while it runs.
		b.Restart(ip(222))
		l.eventually("moved", time.Minute, func() bool {
			x, _ := a.Lookup("b")
			y, _ := c.Lookup("b")
			return x == ip(222) && y == ip(222) && allSee(a, b, c)()
		})
		time.Sleep(5 * time.Minute)
		if !allSee(a, b, c)() || b.Err() != nil || a.Err() != nil {
			t.Errorf("%v: %v, %v", a.Members(), a.Err(), b.Err())
		}
		stopAll(a, b, c)
	})
}

func TestTwoHostsOneName(t *testing.T) {
	dir, twin := t.TempDir(), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, dir)
		var log bytes.Buffer
		l.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))
		a, b := l.start("a", 1), l.start("b", 2, addr(1))
		l.eventually("joined", time.Minute, allSee(a, b))
		l.dir = twin
		b2 := l.start("b", 3, addr(1))
		l.eventually("the second knows", 5*time.Minute, func() bool { return errors.Is(b2.Err(), ErrNameConflict) })
		if err := b2.Err(); !strings.Contains(fmt.Sprint(err), "10.0.0.2:7946") {
			t.Errorf("%v does not say where the other is", err)
		}
		l.eventually("the first knows", 5*time.Minute, func() bool { return errors.Is(b.Err(), ErrNameConflict) })
		if at, _ := a.Lookup("b"); at != ip(2) {
			t.Errorf("the first was replaced by the one at %s", at)
		}
		if !allSee(a, b)() || b2.sees("a") != Alive {
			t.Errorf("somebody was shut out: %v, %v, %v", a.Members(), b.Members(), b2.Members())
		}
		b2.stop()
		l.eventually("over", 10*time.Minute, func() bool { return b.Err() == nil })
		stopAll(a, b)
		if n := strings.Count(log.String(), "two hosts have one name"); n == 0 || n > 9 {
			t.Errorf("%d complaints in the log:\n%s", n, log.String())
		}
	})
}

func TestLeave(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, dir)
		a, b := l.start("a", 1), l.start("b", 2, addr(1))
		l.eventually("joined", time.Minute, allSee(a, b))
		if err := b.Leave(t.Context()); err != nil {
			t.Error(err)
		}
		if a.sees("b") != Left {
			t.Errorf("b is %q", a.sees("b"))
		}
		b.Restart(ip(3)) // does not bring it back
		time.Sleep(10 * time.Minute)
		if a.sees("b") != Left {
			t.Errorf("b came back by itself: %q", a.sees("b"))
		}
		b.stop()
		b = l.start("b", 2)
		l.eventually("back", time.Minute, allSee(a, b))
		// A caller in a hurry.
		ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
		defer cancel()
		if err := b.Leave(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		stopAll(a, b)
		if err := b.Leave(t.Context()); err != nil {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestAnotherKeyIsAnotherPool(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, dir)
		a := l.start("a", 1)
		b := l.startKey("b", 2, 2, addr(1))
		time.Sleep(10 * time.Minute)
		if len(a.Members()) != 1 || len(b.Members()) != 1 {
			t.Errorf("merged: %v, %v", a.Members(), b.Members())
		}
		if !a.Ready() {
			t.Error("nobody is known, and not ready")
		}
		if b.Ready() {
			t.Error("ready, though it could not join those it knows")
		}
		stopAll(a, b)
	})
}

func TestConfig(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, c := range map[string]Config{
		"no key":    {Node: "a", Log: log},
		"short key": {Node: "a", Log: log, Keys: [][]byte{make([]byte, 31)}},
		"no name":   {Log: log, Keys: [][]byte{make([]byte, 32)}},
		"tags":      {Node: "a", Log: log, Keys: [][]byte{make([]byte, 32)}, Tags: map[string]string{"x": strings.Repeat("a", 600)}},
		"peers":     {Node: "a", Log: log, Keys: [][]byte{make([]byte, 32)}, PeersFile: "/"},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// Hours of gossip take too long, even simulated.
	p, err := New(Config{Node: "a", BindAddr: "10.0.0.1", Log: log, Keys: [][]byte{make([]byte, 32)}})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := p.settings("10.0.0.9", nil); err != nil || c.ReconnectTimeout < 10000*time.Hour || c.EnableNameConflictResolution ||
		c.SnapshotPath != "" || c.MemberlistConfig.BindAddr != "10.0.0.9" || !c.MemberlistConfig.GossipVerifyIncoming {
		t.Errorf("%+v, %v", c, err)
	}
	p, err = New(Config{Node: "a", BindAddr: "127.0.0.1", Port: 1 << 20, Log: log, Keys: [][]byte{make([]byte, 32)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("an impossible port: %v", err)
	}
}

// TestTagsSize: our arithmetic is Serf's encoding.
func TestTagsSize(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, dir)
		a := l.start("a", 1)
		many := map[string]string{}
		for i := range 20 {
			many[fmt.Sprint("k", i)] = strings.Repeat("v", 2*i)
		}
		for _, tags := range []map[string]string{nil, {"a": ""}, many, {"x": strings.Repeat("a", MaxTags-7)}, {strings.Repeat("k", 31): "v", strings.Repeat("k", 32): strings.Repeat("v", 300)}} {
			if err := a.SetTags(tags); err != nil {
				t.Errorf("%v: %v", tags, err)
				continue
			}
			synctest.Wait()
			if got, want := tagsSize(tags), len(a.session().Memberlist().LocalNode().Meta); got != want {
				t.Errorf("%v: %d bytes, Serf says %d", tags, got, want)
			}
		}
		a.stop()
	})
}

// TestRealSockets: two addresses of this machine, UDP and TCP.
func TestRealSockets(t *testing.T) {
	const port = 27946
	var pools []*Pool
	done := make(chan error, 2)
	ctx, cancel := context.WithCancel(t.Context())
	for _, n := range []string{"a", "b"} {
		at := map[string]string{"a": "127.0.0.21", "b": "127.0.0.22"}[n]
		p, err := New(Config{Node: n, BindAddr: at, Port: port, Keys: [][]byte{make([]byte, 32)}, Log: slog.New(slog.DiscardHandler),
			Join: func(context.Context) []string { return []string{fmt.Sprintf("127.0.0.21:%d", port)} }})
		if err != nil {
			t.Fatal(err)
		}
		pools = append(pools, p)
		go func() { done <- p.Run(ctx) }()
		for len(p.Members()) == 0 || n == "b" && !p.Ready() {
			select {
			case <-p.Changes():
			case err := <-done:
				t.Fatal(err)
			case <-time.After(8 * time.Second):
				t.Fatal("nothing happens")
			}
		}
	}
	if at, ok := pools[1].Lookup("a"); !ok || at != "127.0.0.21" {
		t.Errorf("a is at %q", at)
	}
	cancel()
	for range pools {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
