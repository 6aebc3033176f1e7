package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/peer"
	"relevo.dev/relevo/avahi"
)

// testLAN carries announcements between the hosts of a world: what is announced is seen by
// all whom a packet reaches, a second later.
type testLAN struct {
	w      *world
	mu     sync.Mutex
	boards []*testBoard
}

const multicast = time.Second

// board is Net.Board for a host.
func (l *testLAN) board(h *testHost) func(avahi.Config) board {
	if l == nil {
		return nil
	}
	return func(avahi.Config) board { return &testBoard{lan: l, ip: h.ip, changes: make(chan struct{}, 1)} }
}

// seen is what a host at an address sees.
func (l *testLAN) seen(ip string) (out []avahi.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.boards {
		if b.ip != ip && l.w.net.IsCut(b.ip, ip) || time.Since(b.at) < multicast {
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(b.want)) {
			s := b.want[key]
			e := avahi.Entry{Name: s.Name, Type: s.Type, Host: s.Host, Addr: s.Addr, Port: s.Port, TXT: s.TXT, Local: b.ip == ip}
			if !e.Addr.IsValid() {
				e.Addr = netip.MustParseAddr(b.ip)
			}
			out = append(out, e)
		}
	}
	return out
}

// testBoard is a host's side of it, as avahi.Board is on a network.
type testBoard struct {
	lan     *testLAN
	ip      string
	changes chan struct{}
	at      time.Time // since when it announces
	want    map[string]avahi.Service
}

func (b *testBoard) Run(ctx context.Context) error {
	b.lan.mu.Lock()
	b.at = time.Now()
	b.lan.boards = append(b.lan.boards, b)
	b.lan.mu.Unlock()
	t := time.NewTicker(multicast)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			b.lan.mu.Lock()
			defer b.lan.mu.Unlock()
			b.lan.boards = slices.DeleteFunc(b.lan.boards, func(o *testBoard) bool { return o == b })
			return nil
		case <-t.C:
			kick(b.changes)
		}
	}
}

func (b *testBoard) Publish(want map[string]avahi.Service) {
	b.lan.mu.Lock()
	defer b.lan.mu.Unlock()
	b.want = maps.Clone(want)
}

func (b *testBoard) Published() (out []avahi.Published) {
	b.lan.mu.Lock()
	defer b.lan.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(b.want)) {
		out = append(out, avahi.Published{Key: key, Service: b.want[key], ActualName: b.want[key].Name, State: avahi.Announced})
	}
	return out
}

func (b *testBoard) Browse(...string) func()  { return func() {} }
func (b *testBoard) Found() []avahi.Entry     { return b.lan.seen(b.ip) }
func (b *testBoard) Changes() <-chan struct{} { return b.changes }
func (b *testBoard) Backend() string          { return "memory" }

// founds makes a host the founder of a cluster of its own, as `relevo init` does.
func (h *testHost) founds(cluster string) {
	h.w.t.Helper()
	_, err := peer.Init(h.cfg.Peer.PKIDir, h.cfg.Gossip.KeyFile, cluster, h.name)
	if err == nil {
		err = os.WriteFile(filepath.Join(h.dir, "bootstrap"), nil, 0o600)
	}
	if err != nil {
		h.w.t.Fatal(err)
	}
	h.cfg.Cluster = cluster
}

// invited makes a host a member of another's cluster.
func (h *testHost) invited(by *testHost) {
	h.w.t.Helper()
	text, err := peer.Invite(by.cfg.Peer.PKIDir, by.cfg.Gossip.KeyFile, h.name)
	if err == nil {
		_, err = peer.Accept(text, h.cfg.Peer.PKIDir, h.cfg.Gossip.KeyFile)
	}
	if err != nil {
		h.w.t.Fatal(err)
	}
	h.cfg.Cluster = by.cfg.Cluster
}

// onOneLAN makes two clusters of n1 v3 and n2 v4 that see each other's announcements, and try
// each other's addresses, too.
func onOneLAN(t *testing.T, first, second string, f func(t *testing.T, w *world)) {
	whole(t, "n1 n2 v3 v4", func(t *testing.T, w *world) {
		w.lan, w.bad = &testLAN{w: w}, true // two masters, of two clusters
		n1, n2, v3, v4 := w.host("n1"), w.host("n2"), w.host("v3"), w.host("v4")
		for _, h := range w.hosts {
			h.forget()
			h.cfg.MDNS.Backend = config.BackendAuto
			if got := neighbours(w.lan.seen(h.ip), "", func(netip.Addr) bool { return false }); len(got) > 0 {
				t.Fatalf("somebody is there already: %+v", got)
			}
		}
		// Both have looked, and seen nobody.
		n1.founds(first)
		n2.founds(second)
		v3.invited(n1)
		v4.invited(n2)
		for _, h := range []*testHost{n1, n2} {
			h.cfg.Candidate.VIP = &config.VIP{Address: netip.MustParsePrefix("10.0.0.250/24"), Port: 6443}
			h.adopt(7)
		}
		w.start()
		masters := func() bool {
			return n1.agent.phase() == lease.Master && n2.agent.phase() == lease.Master
		}
		w.until(time.Minute, "both are masters, each of its own", masters)
		w.until(time.Minute, "each cluster has two members", func() bool {
			return len(n1.agent.roll().Members) == 2 && len(n2.agent.roll().Members) == 2
		})
		f(t, w)
	})
}

// bothServe makes sure that nothing was disturbed: each cluster has its first master.
func (w *world) bothServe() {
	w.t.Helper()
	for _, name := range []string{"n1", "n2"} {
		if a := w.host(name).agent; a.phase() != lease.Master || a.term.Load() != 1 {
			w.t.Errorf("%s is %s in term %d", name, a.phase(), a.term.Load())
		}
	}
}

// tellsOf waits until a host tells of one other cluster, and returns the problems with that.
func (h *testHost) tellsOf(of *testHost) (critical, warning string) {
	h.w.t.Helper()
	var s api.Status
	h.w.until(time.Minute, h.name+" tells of the other cluster", func() bool {
		var err error
		s, err = h.agent.Status(h.w.t.Context())
		return err == nil && len(s.Neighbours) == 1 && s.Neighbours[0].ClusterID == of.agent.id.ClusterID() && len(s.Neighbours[0].Nodes) == 2
	})
	for _, p := range s.Problems {
		if !strings.HasPrefix(p.What, "the cluster ") {
			continue
		}
		if p.Severity == api.Critical {
			critical = p.What + "; " + p.Do
		} else {
			warning = p.What + "; " + p.Do
		}
	}
	return critical, warning
}

// pools are the members that a host's gossip has.
func (h *testHost) pools() string {
	var names []string
	for _, m := range h.agent.pool.Members() {
		names = append(names, m.Node)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// TestWholeTwoInits: two people run `relevo init` within the same second, so that neither is
// told of the other. What there is then are two clusters of one name and one virtual IP. All
// four hosts say so, nothing is merged, though each knows the other's addresses; and one of
// them gives up and joins, as docs/headless.md has it.
func TestWholeTwoInits(t *testing.T) {
	onOneLAN(t, "home", "home", func(t *testing.T, w *world) {
		n1, n2, v3, v4 := w.host("n1"), w.host("n2"), w.host("v3"), w.host("v4")
		for _, x := range []struct{ h, other *testHost }{{n1, n2}, {v3, n2}, {n2, n1}, {v4, n1}} {
			critical, warning := x.h.tellsOf(x.other)
			if x.h.cfg.Candidate != nil && (!strings.Contains(critical, "has the same virtual IP, 10.0.0.250") || !strings.Contains(critical, "give one of them another")) {
				t.Errorf("%s: %s", x.h.name, critical)
			}
			if x.h.cfg.Candidate == nil && (!strings.Contains(warning, "has the same name, and is another") || !strings.Contains(warning, "Two clusters")) {
				t.Errorf("%s: %s", x.h.name, warning)
			}
			d, err := x.h.agent.Doctor(t.Context())
			if err != nil || !slices.ContainsFunc(d.Findings, func(f api.Finding) bool {
				return f.Check == "other clusters" && f.Result != api.FindingOK && strings.Contains(f.What, x.other.agent.id.ClusterID()[:8])
			}) {
				t.Errorf("%s: %+v, %v", x.h.name, d, err)
			}
		}
		time.Sleep(10 * time.Minute)
		for h, want := range map[*testHost]string{n1: "n1 v3", v3: "n1 v3", n2: "n2 v4", v4: "n2 v4"} {
			if got := h.pools(); got != want {
				t.Errorf("the pool of %s: %s, want %s", h.name, got, want)
			}
			if n := len(h.agent.roll().Members); n != 2 {
				t.Errorf("%s knows %d members", h.name, n)
			}
		}
		w.bothServe()
		if err := n2.knocks(n1); err == nil {
			t.Error("n1 lets a host of the other cluster in")
		}

		// The one that was a mistake is given up.
		back := v4
		for _, h := range []*testHost{v4, n2} {
			h.shutdown()
			h.forget()
		}
		back.cfg.Cluster = "home"
		back.enters(w.token("n1", api.TokenSpec{}), "n1")
		w.until(2*time.Minute, "it is a member of the other, which is alone now", func() bool {
			m, ok := n1.agent.member("v4")
			return ok && m.Status == member.Alive && len(n1.agent.nearby()) == 0 && back.pools() == "n1 v3 v4"
		})
		n2.cfg.Cluster = "home"
		n2.enters(w.token("n1", api.TokenSpec{}), "n1")
		w.until(2*time.Minute, "all four are one", func() bool { return n1.pools() == "n1 n2 v3 v4" && n2.pools() == "n1 n2 v3 v4" })
	})
}

// TestWholeTwoVIPs: two clusters that are meant to be two, with one virtual IP by mistake. Both
// masters say so, and neither is disturbed; when one has been given another address nothing
// is wrong any more.
func TestWholeTwoVIPs(t *testing.T) {
	onOneLAN(t, "home", "shed", func(t *testing.T, w *world) {
		n1, n2, v3 := w.host("n1"), w.host("n2"), w.host("v3")
		for _, x := range [][2]*testHost{{n1, n2}, {n2, n1}} {
			critical, warning := x[0].tellsOf(x[1])
			if want := fmt.Sprintf("the cluster %s (%.8s…) on this network has the same virtual IP, 10.0.0.250", x[1].cfg.Cluster, x[1].agent.id.ClusterID()); !strings.Contains(critical, want) || warning != "" {
				t.Errorf("%s: %q, %q", x[0].name, critical, warning)
			}
		}
		if critical, warning := v3.tellsOf(n2); critical+warning != "" {
			t.Errorf("a neighbour of another name is a problem: %s%s", critical, warning)
		}
		time.Sleep(10 * time.Minute)
		w.bothServe()
		w.isolate(n2, true) // who is not seen any more is no neighbour
		w.cut(n2, w.host("v4"), false)
		w.until(time.Minute, "the rest of it is still told, without an address", func() bool {
			near := n1.agent.nearby()
			return len(near) == 1 && slices.Equal(near[0].Nodes, []string{"v4"}) && near[0].VIP == ""
		})
		w.isolate(n2, false)
		n1.tellsOf(n2)

		n2.shutdown()
		n2.cfg.Candidate.VIP = &config.VIP{Address: netip.MustParsePrefix("10.0.0.251/24"), Port: 6443}
		n2.boot()
		w.until(2*time.Minute, "n2 is a master again", func() bool { return n2.agent.phase() == lease.Master })
		w.until(time.Minute, "nothing is wrong any more", func() bool {
			near := n1.agent.nearby()
			return len(near) == 1 && near[0].VIP == "10.0.0.251" && len(tellNeighbours(near, "home", n1.agent.vip())) == 0
		})
	})
}
