package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// lan is members whose tags reach each other after a while, as gossip has it.
type lan struct {
	mu      sync.Mutex
	delay   func() time.Duration
	nodes   []*peer
	asked   int // questions
	bytes   int // of answers
	refuse  func(from, to string) error
	cancel  context.CancelFunc
	stopped sync.WaitGroup
}

type peer struct {
	l    *lan
	c    *Catalog
	name string
	seen map[string]Member // as this one knows the others
}

func newLAN(n int, delay func() time.Duration) *lan {
	l := &lan{delay: delay}
	for i := range n {
		l.add(fmt.Sprintf("n%03d", i))
	}
	return l
}

func (l *lan) add(name string) *peer {
	p := &peer{l: l, name: name, seen: map[string]Member{}}
	p.c = New(Config{Node: name, Members: p.members, Fetch: p.fetch, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	l.mu.Lock()
	l.nodes = append(l.nodes, p)
	l.mu.Unlock()
	return p
}

func (l *lan) start() {
	var ctx context.Context
	ctx, l.cancel = context.WithCancel(context.Background())
	for _, p := range l.nodes {
		l.stopped.Go(func() { p.c.Run(ctx) })
		l.stopped.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-p.c.Changes():
				}
				l.gossip(p.name, Member{Node: p.name, Alive: true, Tag: p.c.Tag()})
			}
		})
		l.gossip(p.name, Member{Node: p.name, Alive: true, Tag: p.c.Tag()})
	}
}

func (l *lan) stop() {
	l.cancel()
	l.stopped.Wait()
}

// gossip tells everybody about a member, some at a time.
func (l *lan) gossip(about string, m Member) {
	order := rand.Perm(len(l.nodes))
	for len(order) > 0 {
		some := order[:min(len(order), 1+len(l.nodes)/8)]
		order = order[len(some):]
		time.AfterFunc(l.delay(), func() {
			for _, i := range some {
				if l.nodes[i].name != about {
					l.nodes[i].hears(about, m)
				}
			}
		})
	}
}

func (p *peer) hears(about string, m Member) {
	p.l.mu.Lock()
	was := p.seen[about]
	if a, err := parseTag(was.Tag); err == nil {
		if b, err := parseTag(m.Tag); err == nil && a.Epoch == b.Epoch && a.Version > b.Version {
			m.Tag = was.Tag // the newer word was here first
		}
	}
	p.seen[about] = m
	p.l.mu.Unlock()
	if was != m {
		p.c.Wake()
	}
}

func (p *peer) members() (out []Member) {
	p.l.mu.Lock()
	defer p.l.mu.Unlock()
	for _, m := range p.seen {
		out = append(out, m)
	}
	return out
}

func (p *peer) fetch(ctx context.Context, node string, have Have) (Answer, error) {
	time.Sleep(time.Duration(rand.N(20)) * time.Millisecond)
	p.l.mu.Lock()
	p.l.asked++
	refuse := p.l.refuse
	var to *peer
	for _, q := range p.l.nodes {
		if q.name == node {
			to = q
		}
	}
	p.l.mu.Unlock()
	if refuse != nil {
		if err := refuse(p.name, node); err != nil {
			return Answer{}, err
		}
	}
	if to == nil {
		return Answer{}, errors.New("no such node")
	}
	a := to.c.Answer(have)
	p.l.mu.Lock()
	p.l.bytes += len(a.Entries)
	p.l.mu.Unlock()
	return a, nil
}

func (l *lan) questions() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

// known counts, over all members, the entries for which ok holds.
func (l *lan) known(ok func(Entry) bool) (n int) {
	for _, p := range l.nodes {
		for _, e := range p.c.All() {
			if ok(e) {
				n++
			}
		}
	}
	return n
}

func web(n int) Entry {
	return Entry{ID: fmt.Sprint(n), Name: fmt.Sprintf("Web %d", n), Type: "_http._tcp", Port: 8000 + n, TXT: []string{"path=/", fmt.Sprintf("n=%d", n)}}
}

func webs(n int) (out []Entry) {
	for i := range n {
		out = append(out, web(i))
	}
	return out
}

// TestConverges: what one of 100 members with 20 services each changes is known to all
// within 2 s, if gossip needs up to 1.5 s; and it costs one question a member.
func TestConverges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, each := 100, 20
		if testing.Short() {
			nodes = 30
		}
		l := newLAN(nodes, func() time.Duration { return 100*time.Millisecond + rand.N(1400*time.Millisecond) })
		for _, p := range l.nodes {
			p.c.Set(File, webs(each), nil)
		}
		l.start()
		defer l.stop()
		time.Sleep(20 * time.Second)
		if n := l.known(func(Entry) bool { return true }); n != nodes*nodes*each {
			t.Fatalf("%d entries are known in all, want %d", n, nodes*nodes*each)
		}
		if q := l.questions(); q > nodes*(nodes-1)*5/4 {
			t.Errorf("%d questions to get to know each other, want about %d", q, nodes*(nodes-1))
		}
		for _, change := range []func(p *peer){
			func(p *peer) {
				p.c.Set(File, append(webs(each), Entry{ID: "new", Name: "new", Type: "_ssh._tcp", Port: 22}), nil)
			},
			func(p *peer) { p.c.Set(File, webs(each-1), nil) },
			func(p *peer) {
				p.c.Set(Kubernetes, []Entry{{ID: "k", Name: "k", Type: "_http._tcp", Port: 30000}}, nil)
			},
		} {
			before := l.questions()
			p := l.nodes[rand.IntN(nodes)]
			change(p)
			want := len(p.c.Own()) * nodes
			time.Sleep(2 * time.Second)
			if n := l.known(func(e Entry) bool { return e.Owner == p.name }); n != want {
				t.Errorf("2 s after a change %d of its entries are known, want %d", n, want)
			}
			if q := l.questions() - before; q < nodes-1 || q > nodes+5 {
				t.Errorf("a change cost %d questions, want %d", q, nodes-1)
			}
		}
		// Nothing is asked while nothing changes, but for the comparing.
		before, sent := l.questions(), l.bytes
		time.Sleep(time.Hour)
		if per := float64(l.questions()-before) / float64(nodes); per > 20 {
			t.Errorf("%.1f questions an hour and member while nothing changed", per)
		}
		if l.bytes != sent {
			t.Errorf("%d bytes of lists were sent while nothing changed", l.bytes-sent)
		}
	})
}

// TestLost: a tag that gossip never delivered is made good by comparing.
func TestLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(3, func() time.Duration { return 10 * time.Millisecond })
		l.start()
		defer l.stop()
		time.Sleep(time.Second)
		l.mu.Lock()
		l.delay = func() time.Duration { return 1000 * time.Hour }
		l.mu.Unlock()
		l.nodes[0].c.Set(File, webs(1), nil)
		time.Sleep(time.Hour)
		if n := l.known(func(e Entry) bool { return e.Owner == "n000" }); n != 3 {
			t.Errorf("%d members know it", n)
		}
	})
}

// TestGone: a member that failed takes its services with it, and brings them back
// without being asked if they are still the same; one that left is forgotten.
func TestGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(3, func() time.Duration { return 10 * time.Millisecond })
		for _, p := range l.nodes {
			p.c.Set(File, webs(2), []Problem{{Text: "x.yaml:1:1: bad"}})
		}
		l.start()
		defer l.stop()
		time.Sleep(5 * time.Second)
		at := l.nodes[1].c
		count := func() (n int) {
			for _, e := range at.All() {
				if e.Owner == "n000" {
					n++
				}
			}
			return n
		}
		if count() != 2 || len(at.Problems()) != 3 {
			t.Fatalf("%d entries, problems %v", count(), at.Problems())
		}
		tag := l.nodes[0].c.Tag()
		before := l.questions()
		l.gossip("n000", Member{Node: "n000", Tag: tag})
		time.Sleep(time.Second)
		if count() != 0 || len(at.Problems()) != 2 {
			t.Errorf("the failed one offers %d, problems %v", count(), at.Problems())
		}
		l.gossip("n000", Member{Node: "n000", Alive: true, Tag: tag})
		time.Sleep(time.Second)
		if count() != 2 || l.questions() != before {
			t.Errorf("back it offers %d; %d questions", count(), l.questions()-before)
		}
		l.gossip("n000", Member{Node: "n000", Left: true, Tag: tag})
		time.Sleep(time.Second)
		if count() != 0 || len(at.remotes) != 1 {
			t.Errorf("the one that left offers %d, %d are remembered", count(), len(at.remotes))
		}
	})
}

// TestSilent: who does not answer is asked again, more and more seldom; its list
// stays as long as it is alive.
func TestSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(2, func() time.Duration { return 10 * time.Millisecond })
		l.nodes[0].c.Set(File, webs(1), nil)
		l.start()
		defer l.stop()
		time.Sleep(5 * time.Second)
		l.mu.Lock()
		l.refuse = func(_, to string) error { return errors.New("no") }
		l.mu.Unlock()
		before := l.questions()
		l.nodes[0].c.Set(File, webs(5), nil)
		time.Sleep(time.Hour)
		if n := len(l.nodes[1].c.All()); n != 1 {
			t.Errorf("%d entries", n)
		}
		if q := l.questions() - before; q < 30 || q > 200 {
			t.Errorf("%d questions in an hour", q)
		}
		l.mu.Lock()
		l.refuse = nil
		l.mu.Unlock()
		time.Sleep(2 * time.Minute)
		if n := len(l.nodes[1].c.All()); n != 5 {
			t.Errorf("%d entries afterwards", n)
		}
	})
}

// TestWrongTag: a member whose list is never the one of its tag is asked once a tag.
func TestWrongTag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(2, func() time.Duration { return 10 * time.Millisecond })
		l.start()
		defer l.stop()
		time.Sleep(time.Second)
		for i := range 3 {
			l.gossip("n000", Member{Node: "n000", Alive: true, Tag: Have{"AAAA", uint64(i), "AAAAAAAAAAA"}.tag()})
			for range 50 { // other members change, too
				time.Sleep(200 * time.Millisecond)
				l.nodes[1].c.Wake()
			}
		}
		if q := l.questions(); q > 6 {
			t.Errorf("%d questions", q)
		}
	})
}

// TestNoNews: an agent that starts again with the same services, and a tag that comes
// after its list was fetched, make nobody ask.
func TestNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(2, func() time.Duration { return 10 * time.Millisecond })
		l.nodes[0].c.Set(File, webs(3), nil)
		l.start()
		defer l.stop()
		time.Sleep(5 * time.Second)
		have, err := parseTag(l.nodes[0].c.Tag())
		if err != nil {
			t.Fatal(err)
		}
		before := l.questions()
		l.gossip("n000", Member{Node: "n000", Alive: true, Tag: Have{"BBBB", 1, have.Digest}.tag()})
		time.Sleep(5 * time.Second)
		l.nodes[1].hears("n000", Member{Node: "n000", Alive: true, Tag: Have{have.Epoch, have.Version, "CCCCCCCCCCC"}.tag()})
		time.Sleep(5 * time.Second)
		if n := l.questions() - before; n != 0 {
			t.Errorf("%d questions", n)
		}
	})
}

func TestOwn(t *testing.T) {
	c := New(Config{Node: "n1"})
	tag := c.Tag()
	c.Set(File, nil, nil)
	if c.Tag() != tag {
		t.Error("nothing is another list than nothing")
	}
	c.Set(File, []Entry{web(1), web(2)}, nil)
	two := c.Tag()
	c.Set(File, []Entry{web(2), web(1)}, nil)
	if c.Tag() != two {
		t.Error("the order of a source makes another list")
	}
	if tag == two || len(two) > 32 {
		t.Errorf("tag %q", two)
	}
	// What became of them.
	c.Note(map[string]Standing{"file/1": {As: "Web 1 #2", Why: "taken"}, "file/2": {As: "Web 2", Refused: true, Why: "no port"}})
	all := c.All()
	if all[0].Shown() != "Web 1 #2" || all[0].Health != Unchecked || all[1].Health != Refused || all[1].Why != "no port" || all[1].Shown() != "Web 2" {
		t.Errorf("%+v", all)
	}
	if own := c.Own(); !own[1].Announced() {
		t.Error("what was refused is not tried again")
	}
	// Two of one ID, one without a port, and far too many.
	c.Set(File, []Entry{web(1), web(1), {ID: "x", Name: "x", Type: "_http._tcp", Port: -1}}, nil)
	if n := len(c.All()); n != 1 {
		t.Errorf("%d entries", n)
	}
	if p := c.Problems(); len(p) != 2 || p[0].Node != "n1" {
		t.Errorf("%+v", p)
	}
	c.Set(Kubernetes, webs(2000), nil)
	if n := len(c.All()); n != maxEntries-1 { // one of them is none
		t.Errorf("%d entries", n)
	}
	big := webs(1000)
	for i := range big {
		big[i].TXT = []string{strings.Repeat("x", 250), strings.Repeat("y", 250), strings.Repeat("z", 250)}
	}
	c.Set(Kubernetes, big, nil)
	a := c.Answer(Have{})
	if len(a.Entries) > maxList+2 || len(c.Problems()) != 4 {
		t.Errorf("%d bytes; %v", len(a.Entries), c.Problems())
	}
	got, err := decodeEntries(a.Entries, "n1")
	if err != nil || len(got) != len(c.All()) {
		t.Errorf("%d of %d are read, %v", len(got), len(c.All()), err)
	}
}

// TestSince: it stays while the health does.
func TestSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Node: "n1"})
		e := web(1)
		c.Set(File, []Entry{e}, nil)
		first := c.All()[0].Since
		time.Sleep(time.Minute)
		e.Port = 99
		c.Set(File, []Entry{e}, nil)
		if got := c.All()[0].Since; !got.Equal(first) {
			t.Errorf("another port: since %v, first %v", got, first)
		}
		e.Health = Failing
		c.Set(File, []Entry{e}, nil)
		if got := c.All()[0].Since; got.Sub(first) != time.Minute {
			t.Errorf("failing since %v, first %v", got, first)
		}
	})
}

// TestDouble: what several members read in Cloudy's ring is shown once.
func TestDouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(2, func() time.Duration { return 10 * time.Millisecond })
		theirs := Entry{ID: "a", Name: "syncthing", Type: "_syncthing._tcp", Node: "far", Port: 22000, Addrs: []netip.Addr{netip.MustParseAddr("10.1.2.3")}}
		for _, p := range l.nodes {
			p.c.Set(Cloudy, []Entry{theirs}, nil)
		}
		l.start()
		defer l.stop()
		time.Sleep(time.Second)
		if all := l.nodes[0].c.All(); len(all) != 1 || all[0].Node != "far" || all[0].Announced() {
			t.Errorf("%+v", all)
		}
	})
}
