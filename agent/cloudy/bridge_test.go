package cloudy

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"

	"relevo.dev/relevo/test/memnet"
)

// node is a member of Cloudy's ring as Cloudy runs it: `serf agent -protocol 4
// -profile wan`, no key.
type node struct {
	*serf.Serf
	mu      sync.Mutex
	updates int // of other members' tags
	stop    func()
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// startNode runs one; key is nil in Cloudy.
func startNode(t *testing.T, name, bind string, port int, tr memberlist.NodeAwareTransport, tags map[string]string, key []byte) *node {
	t.Helper()
	events := make(chan serf.Event, 64)
	c := serf.DefaultConfig()
	c.Init()
	c.NodeName, c.ProtocolVersion, c.Tags, c.EventCh = name, 4, tags, events
	c.MemberlistConfig = memberlist.DefaultWANConfig()
	c.MemberlistConfig.BindAddr, c.MemberlistConfig.BindPort, c.MemberlistConfig.AdvertisePort = bind, port, port
	c.MemberlistConfig.AdvertiseAddr = bind
	c.MemberlistConfig.SecretKey = key
	c.MemberlistConfig.TCPTimeout = 5 * time.Second
	if tr != nil {
		c.MemberlistConfig.Transport = tr
	}
	c.MemberlistConfig.Logger = log.New(discard{}, "", 0)
	c.Logger, c.LogOutput = c.MemberlistConfig.Logger, nil
	s, err := serf.Create(c)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Serf: s}
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case ev := <-events:
				if ev.EventType() == serf.EventMemberUpdate {
					n.mu.Lock()
					n.updates++
					n.mu.Unlock()
				}
			case <-end:
				return
			}
		}
	}()
	n.stop = sync.OnceFunc(func() {
		s.Shutdown()
		close(end)
		<-done
	})
	return n
}

func (n *node) counted() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.updates
}

// tagsOf is what n knows of another member; nil = it is not alive.
func (n *node) tagsOf(name string) map[string]string {
	for _, m := range n.Members() {
		if m.Name == name && m.Status == serf.StatusAlive {
			return m.Tags
		}
	}
	return nil
}

// inBubble runs f in fake time, and then lets memberlist end: a probe that was under
// way goes on for its time, and fake time ends with f.
func inBubble(t *testing.T, f func(t *testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		f(t)
		time.Sleep(5 * time.Minute)
	})
}

type lab struct {
	t       *testing.T
	nw      *memnet.Network
	written *atomic.Int32 // how often a bridge has written its tag, changed or not
}

// written counts what the bridge logs when it writes; other members see a changed
// tag only.
type written struct {
	slog.Handler
	n *atomic.Int32
}

func (h written) Enabled(context.Context, slog.Level) bool { return true }

func (h written) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "written") {
		h.n.Add(1)
	}
	return nil
}

func ip(n int) string { return fmt.Sprint("10.139.40.", n) }

func (l lab) node(name string, n int, tags map[string]string) *node {
	l.t.Helper()
	tr, err := l.nw.NewGossip(ip(n), DefaultPort)
	if err != nil {
		l.t.Fatal(err)
	}
	return startNode(l.t, name, ip(n), DefaultPort, tr, tags, nil)
}

// bridge runs one on host n; stop ends it and waits.
func (l lab) bridge(n int, join ...string) (b *Bridge, stop func()) {
	l.t.Helper()
	at := netip.MustParseAddr(ip(n))
	return l.run(BridgeConfig{Node: NodeName("pi", netip.AddrPortFrom(at, DefaultPort)), BindAddr: ip(n), Join: join,
		Here:      Here{Node: "pi", MicroCloud: "home", Addr: at},
		Ours:      func(node string) bool { return node == "relevo-pi-10.139.40.99-5000" },
		Transport: func(bind string, port int) (memberlist.NodeAwareTransport, error) { return l.nw.NewGossip(bind, port) },
		Log:       slog.New(written{slog.DiscardHandler, l.written})})
}

func (l lab) run(cfg BridgeConfig) (b *Bridge, stop func()) {
	l.t.Helper()
	b, err := NewBridge(cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	return b, l.enter(b)
}

func (l lab) enter(b *Bridge) (stop func()) {
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Run(ctx)
	}()
	return sync.OnceFunc(func() { cancel(); <-done })
}

func (l lab) eventually(what string, limit time.Duration, f func() bool) {
	l.t.Helper()
	for begin := time.Now(); time.Since(begin) < limit; time.Sleep(100 * time.Millisecond) {
		if f() {
			l.t.Logf("%s: after %s", what, time.Since(begin).Round(100*time.Millisecond))
			return
		}
	}
	l.t.Errorf("%s: not within %s", what, limit)
}

func names(list []Entry) string {
	var out []string
	for _, e := range list {
		out = append(out, e.Node+"/"+e.Name)
	}
	return strings.Join(out, " ")
}

const us = "relevo-pi-10.139.40.1-5000"

func TestBridge(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := lab{t, memnet.New(), new(atomic.Int32)}
		theirs := map[string]string{tagName: tagOf(`[{"s":"owp","d":"Panel","m":"c1.guifi.local","i":"10.139.40.11","p":"3000","e":"barn","t":""}]`), "extraInfo": "x", "ipfssvc": "y"}
		c1 := l.node("c1", 11, theirs)
		c2 := l.node("c2", 12, nil)
		if _, err := c2.Join([]string{ip(11) + ":5000"}, true); err != nil {
			t.Fatal(err)
		}
		b, stop := l.bridge(1, ip(11)+":5000")
		list := ordinary(3)
		b.Publish(list)
		l.eventually("our list is everywhere", time.Minute, func() bool { return c1.tagsOf(us)[tagName] != "" && c2.tagsOf(us)[tagName] != "" })
		l.eventually("their list is here", time.Minute, func() bool { return names(b.Entries()) == "c1/Panel" })
		if e := b.Entries()[0]; e.Origin != OriginCloudy || e.MicroCloud != "barn" || e.Since.IsZero() {
			t.Errorf("%+v", e)
		}
		if got, err := Decode(c2.tagsOf(us)[tagName], Limits{}); err != nil || len(got) != 3 || got[0].MicroCloud != "home" {
			t.Errorf("%+v, %v", got, err)
		}
		if got := c2.tagsOf(us); len(got) != 1 {
			t.Errorf("more than the list: %v", got)
		}

		// What did not change is not written.
		before, writes := c2.counted(), l.written.Load()
		for range 10 {
			list[0], list[2] = list[2], list[0]
			b.Publish(list)
			b.Publish(append(b.Entries(), list...))
			time.Sleep(time.Minute)
		}
		if n, m := c2.counted()-before, l.written.Load()-writes; n != 0 || m != 0 || writes > 1 {
			t.Errorf("an unchanged list was written %d times, %d of them seen, and %d times before", m, n, writes)
		}
		// What changes all the time is written now and then, and the last word counts.
		for i := range 40 {
			list[0].Port = 4000 + i
			b.Publish(list)
			time.Sleep(500 * time.Millisecond)
		}
		time.Sleep(20 * time.Second)
		if n := c2.counted() - before; n < 2 || n > 6 {
			t.Errorf("40 changes in 20 s were written %d times", n)
		}
		if want := b.wanted(); c1.tagsOf(us)[tagName] != want || c2.tagsOf(us)[tagName] != want {
			t.Error("the last change did not arrive")
		}
		if !maps.Equal(c2.tagsOf("c1"), theirs) {
			t.Errorf("another node's tags were touched: %v", c2.tagsOf("c1"))
		}

		// Their changes; what stays is known since before.
		first := b.Entries()[0].Since
		theirs[tagName] = tagOf(`[{"s":"ssh","d":"Shell","i":"10.139.40.11","p":"22"},{"s":"owp","d":"Panel","i":"10.139.40.11","p":"3000"}]`)
		if err := c1.SetTags(theirs); err != nil {
			t.Error(err)
		}
		l.eventually("changed", time.Minute, func() bool { return names(b.Entries()) == "c1/Panel c1/Shell" })
		if got := b.Entries(); !got[0].Since.Equal(first) || !got[1].Since.After(first) {
			t.Errorf("since %s and %s; the first is known since %s", got[0].Since, got[1].Since, first)
		}
		// More than Serf has room for.
		left := b.Publish(ordinary(40))
		l.eventually("as many as fit", time.Minute, func() bool {
			got, err := Decode(c2.tagsOf(us)[tagName], Limits{})
			return err == nil && len(got) > 10 && len(got)+len(left) == 40 && len(b.Status().Left) == len(left)
		})
		// Nothing left to publish: the tag goes.
		b.Publish(nil)
		l.eventually("our list is empty", time.Minute, func() bool { got := c2.tagsOf(us); return got != nil && len(got) == 0 })

		c1.stop() // a power cut
		l.eventually("gone with its host", 5*time.Minute, func() bool { return len(b.Entries()) == 0 })
		if s := b.Status(); s.Members != 1 || s.Err != nil {
			t.Errorf("%+v", s)
		}
		stop()
		l.eventually("we have left", 5*time.Second, func() bool { return c2.tagsOf(us) == nil })
		if n := len(b.Entries()); n != 0 || b.Status().Members != 0 {
			t.Errorf("%d entries after the end", n)
		}
		c2.stop()
	})
}

// TestBridgeHostile: members that carry anything but a list.
func TestBridgeHostile(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := lab{t, memnet.New(), new(atomic.Int32)}
		good := tagOf(`[{"s":"http","d":"ok"}]`)
		nodes := []*node{l.node("0-good", 10, map[string]string{tagName: good})}
		for i, tag := range []string{
			"garbage", "QlpoOTFBWSZTWdff3bkAHqUGAJAAAAgACCAAMMwFKacZQkq2FCSrxdyRThQkNff3bkA=",
			tagOf(`[{"s":"http","d":"half"},{"s"`), tagOf(`[{"s":"http","d":"<script>"}]`), tagOf("[]"), "",
		} {
			nodes = append(nodes, l.node(fmt.Sprint("n", i), 11+i, map[string]string{tagName: tag}))
		}
		nodes = append(nodes, l.node("\x1b[31m<b>'\u202e", 30, map[string]string{tagName: good}), l.node("relevo-pi-10.139.40.99-5000", 99, map[string]string{tagName: good}))
		for _, n := range nodes[1:] {
			if _, err := n.Join([]string{ip(10) + ":5000"}, true); err != nil {
				t.Fatal(err)
			}
		}
		b, stop := l.bridge(1, ip(10))
		l.eventually("all are met", time.Minute, func() bool { return b.Status().Members == len(nodes) })
		l.eventually("all is read", time.Minute, func() bool { return names(b.Entries()) == "[31mb'/ok 0-good/ok n2/half n3/script" })
		if s := b.Status(); fmt.Sprint(s.Unreadable) != "[n0 n1 n2]" || s.Entries != 4 {
			t.Errorf("%+v", s)
		}
		for _, e := range b.Entries() {
			harmless(t, e)
		}
		stop()
		for _, n := range nodes {
			n.stop()
		}
	})
}

// TestBridgeNeverMerges: our own pool is encrypted; neither joins the other.
func TestBridgeNeverMerges(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := lab{t, memnet.New(), new(atomic.Int32)}
		tr, err := l.nw.NewGossip(ip(11), DefaultPort)
		if err != nil {
			t.Fatal(err)
		}
		pool := startNode(t, "pool", ip(11), DefaultPort, tr, map[string]string{tagName: tagOf(`[{"s":"http","d":"secret"}]`)}, make([]byte, 32))
		b, stop := l.bridge(1, ip(11)+":5000")
		b.Publish(ordinary(2))
		pool.Join([]string{ip(1) + ":5000"}, true)
		time.Sleep(20 * time.Minute)
		if n := len(pool.Members()); n != 1 {
			t.Errorf("the pool has %d members", n)
		}
		if s := b.Status(); s.Members != 0 || s.Entries != 0 || s.Err != nil {
			t.Errorf("%+v", s)
		}
		stop()
		pool.stop()
	})
}

// TestBridgeWaits: for its port and for the ring, and comes back after a cut.
func TestBridgeWaits(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := lab{t, memnet.New(), new(atomic.Int32)}
		taken, err := l.nw.Listen(ip(1) + ":5000")
		if err != nil {
			t.Fatal(err)
		}
		b, stop := l.bridge(1, ip(12), ip(11))
		b.Publish(ordinary(1))
		l.eventually("the trouble is named", time.Minute, func() bool { return b.Status().Err != nil })
		if err := b.Status().Err; !strings.Contains(err.Error(), ip(1)+":5000") {
			t.Errorf("%v does not say where", err)
		}
		time.Sleep(time.Hour)
		taken.Close()
		l.eventually("the port is there", 2*time.Minute, func() bool { return b.Status().Err == nil })
		time.Sleep(time.Hour)
		c := l.node("c", 11, map[string]string{tagName: tagOf(`[{"s":"http","d":"x"}]`)})
		l.eventually("in the ring", 5*time.Minute, func() bool { return len(b.Entries()) == 1 && c.tagsOf(us) != nil })
		// The other one begins anew and knows nobody.
		if err := c.Leave(); err != nil {
			t.Error(err)
		}
		c.stop()
		l.eventually("it is gone", time.Minute, func() bool { return len(b.Entries()) == 0 })
		c = l.node("c", 11, map[string]string{tagName: tagOf(`[{"s":"http","d":"y"}]`)})
		l.eventually("in the ring again", 5*time.Minute, func() bool { return names(b.Entries()) == "c/y" && c.tagsOf(us) != nil })
		stop()
		c.stop()
	})
}

func TestManyMembers(t *testing.T) {
	b, err := NewBridge(BridgeConfig{Node: "a", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var ten strings.Builder
	for i := range 10 {
		fmt.Fprintf(&ten, `,{"s":"http","d":"x%d"}`, i)
	}
	tag := tagOf("[" + ten.String()[1:] + "]")
	for i := range maxPeers + 500 {
		b.heard(serf.EventMemberJoin, []serf.Member{{Name: fmt.Sprint("n", i), Tags: map[string]string{tagName: tag}}})
	}
	rounds := 0
	for b.readSome() {
		rounds++
	}
	if s := b.Status(); s.Members != maxPeers || s.Entries != maxEntries || rounds != maxPeers/perRound {
		t.Errorf("%d members, %d entries after %d rounds", s.Members, s.Entries, rounds)
	}
	for i := range maxPeers + 500 {
		b.heard(serf.EventMemberFailed, []serf.Member{{Name: fmt.Sprint("n", i)}})
	}
	b.readSome()
	if s := b.Status(); s.Members != 0 || s.Entries != 0 {
		t.Errorf("%+v", s)
	}
}

func TestBridgeConfig(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, c := range map[string]BridgeConfig{
		"no name": {Log: log},
		"no log":  {Node: "a"},
		"port":    {Node: "a", Log: log, Port: 70000},
		"bind":    {Node: "a", Log: log, BindAddr: "eth0"},
		"join":    {Node: "a", Log: log, Join: []string{"10.0.0.1:0"}},
		"join 2":  {Node: "a", Log: log, Join: []string{"a b"}},
		"join 3":  {Node: "a", Log: log, Join: []string{"a:b:c"}},
	} {
		if _, err := NewBridge(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	b, err := NewBridge(BridgeConfig{Node: "a", Log: log, Join: []string{"10.1.2.3", "host:7", "2001:db8::1", "[2001:db8::1]:8"}})
	if err != nil || fmt.Sprint(b.cfg.Join) != "[10.1.2.3:5000 host:7 [2001:db8::1]:5000 [2001:db8::1]:8]" {
		t.Errorf("%v, %v", b, err)
	}
	c, err := b.settings(nil)
	if err != nil || c.ProtocolVersion != 4 || c.MemberlistConfig.SecretKey != nil || c.MemberlistConfig.Keyring != nil || c.MemberlistConfig.ProbeInterval != 5*time.Second {
		t.Errorf("%+v, %v", c, err)
	}
	if got := NodeName("my_pi é", netip.MustParseAddrPort("[fe80::1%eth0]:5000")); got != "relevo-my-pi---fe80--1-5000" {
		t.Error(got)
	}
}
