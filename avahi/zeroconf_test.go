package avahi

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// plain runs a test against a board without D-Bus, on a fake library.
func plain(t *testing.T, f func(t *testing.T, m *fakeMDNS, l *testLinks, b *Board)) {
	t.Helper()
	m, l := &fakeMDNS{}, &testLinks{}
	l.set("10.0.0.1")
	fake(t, "zeroconf", func(t *testing.T, _ *fakeAvahi, b *Board) { f(t, m, l, b) },
		func(c *Config) { c.mdns, c.links = m, l.look })
	wantList(t, "everything is withdrawn at the end", m.now())
	if n := len(m.log); n > 0 && strings.HasPrefix(m.log[n-1], "=") {
		t.Errorf("the last of all was %q: others go on believing in it", m.log[n-1])
	}
}

func TestPublishByZeroconf(t *testing.T) {
	plain(t, func(t *testing.T, m *fakeMDNS, l *testLinks, b *Board) {
		b.Publish(map[string]Service{"x": web("X", 80, "a=1"), "dots": web("v1.2...", 81),
			"vip": {Name: "V", Type: "_http._tcp", Port: 82, Host: "Home-VIP", Addr: netip.MustParseAddr("10.0.0.50")}})
		after(2 * time.Second)
		wantList(t, "registered", m.now(), "V _http._tcp Home-VIP[10.0.0.50]:82", "X _http._tcp pi1-relevo[10.0.0.1]:80 a=1", "v1.2 _http._tcp pi1-relevo[10.0.0.1]:81")
		wantList(t, "stands", stands(b), "dots announced v1.2", "vip announced V", "x announced X")
		if got := fmt.Sprint(m.hosts); got != "map[home-vip:[10.0.0.50] pi1-relevo:[10.0.0.1]]" {
			t.Errorf("hosts that are answered for: %s", got)
		}
		m.set(func() { m.log = nil; m.asked = nil })
		after(time.Hour)
		if len(m.log) > 0 || len(m.asked) > 0 {
			t.Errorf("nothing changed for an hour, and %q was sent, %v asked", m.log, m.asked)
		}
		// The virtual IP on our own interface is not this host's address.
		l.set("10.0.0.1", "10.0.0.50")
		after(linksEvery + time.Second)
		if len(m.log) > 0 {
			t.Errorf("the virtual IP was taken for a new address: %q", m.log)
		}
		was := m.announced
		b.Publish(map[string]Service{"x": web("X", 80, "a=2")})
		after(time.Second)
		wantList(t, "texts", m.now(), "X _http._tcp pi1-relevo[10.0.0.1 10.0.0.50]:80 a=2")
		if m.asked != nil {
			t.Errorf("asked %v for a name that was ours", m.asked)
		}
		l.set("10.0.0.2")
		after(linksEvery + time.Second)
		if l := m.log[len(m.log)-1]; l != "=X" {
			t.Errorf("the last of all was %q, not to keep the service alive", l)
		}
		wantList(t, "another address", m.now(), "X _http._tcp pi1-relevo[10.0.0.2]:80 a=2")
		l.set()
		after(linksEvery + time.Second)
		wantList(t, "no address", append(m.now(), stands(b)...), "x waiting X")
		l.set("10.0.0.3")
		after(linksEvery + time.Second)
		b.Publish(map[string]Service{"x": web("X", 80, "a=3")})
		after(time.Second)
		wantList(t, "stands", stands(b), "x announced X")
		// A withdrawn service takes the addresses of its host label along.
		if m.announced == was {
			t.Error("the host's address was not announced again")
		}
	})
}

func TestZeroconfNameTaken(t *testing.T) {
	plain(t, func(t *testing.T, m *fakeMDNS, l *testLinks, b *Board) {
		other := netip.MustParseAddr("10.0.0.9")
		m.set(func() {
			m.lan = []Entry{{Name: "web", Type: "_http._tcp", Host: "pi9", Addr: other, Port: 80},
				{Name: "Mine", Type: "_http._tcp", Host: "pi1-relevo", Addr: other, Port: 80}} // an earlier process of ours
			for name, i := "All", 0; i < 50; i++ {
				m.lan = append(m.lan, Entry{Name: name, Type: "_http._tcp", Host: "evil", Addr: other, Port: 80})
				name = alternative(name)
			}
		})
		b.Publish(map[string]Service{"a": web("All", 1), "m": web("Mine", 80), "w": web("Web", 80), "w2": web("Web #2", 81)})
		after(2 * time.Second)
		// Which of "Web" and "Web #2" gets the name is settled by their keys.
		wantList(t, "stands", stands(b), "a refused All", "m announced Mine", "w announced Web #2", "w2 announced Web #3")
		m.set(func() { m.lan = nil; m.asked = nil })
		after(offerRetry + linksEvery + 2*time.Second)
		wantList(t, "stands", stands(b), "a announced All", "m announced Mine", "w announced Web #2", "w2 announced Web #3")
		if n := m.asked["_http._tcp"]; n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestZeroconfLimit(t *testing.T) {
	plain(t, func(t *testing.T, m *fakeMDNS, l *testLinks, b *Board) {
		want := map[string]Service{}
		for i := range maxServers + 2 {
			want[fmt.Sprintf("%03d", i)] = web(fmt.Sprint(i), 80)
		}
		b.Publish(want)
		after(3 * time.Second)
		if n := len(m.now()); n != maxServers {
			t.Errorf("%d are announced", n)
		}
		if p := b.Published()[maxServers]; p.State != Refused || !strings.Contains(p.Reason, "install avahi-daemon") {
			t.Errorf("the one too many: %+v", p)
		}
		delete(want, "000")
		b.Publish(want)
		after(offerRetry + linksEvery + 2*time.Second)
		if n := len(m.now()); n != maxServers {
			t.Errorf("%d are announced when there is room again", n)
		}
	})
}

func TestZeroconfBroken(t *testing.T) {
	plain(t, func(t *testing.T, m *fakeMDNS, l *testLinks, b *Board) {
		m.set(func() { m.broken = errBroken })
		defer b.Browse("_http._tcp")()
		b.Publish(map[string]Service{"x": web("X", 80)})
		after(time.Minute)
		if p := b.Published()[0]; p.State != Refused || !strings.Contains(p.Reason, errBroken.Error()) {
			t.Errorf("%+v", p)
		}
		m.set(func() { m.broken = nil })
		after(offerRetry + linksEvery + 2*time.Second)
		wantList(t, "registered", m.now(), "X _http._tcp pi1-relevo[10.0.0.1]:80")
	})
}

func TestRounds(t *testing.T) {
	plain(t, func(t *testing.T, m *fakeMDNS, l *testLinks, b *Board) {
		e := Entry{Name: "Web", Type: "_http._tcp", Host: "pi9", Addr: netip.MustParseAddr("10.0.0.9"), Port: 80, TXT: []string{"a=1"}}
		own := Entry{Name: "Own", Type: "_http._tcp", Host: "pi1-relevo", Addr: netip.MustParseAddr("10.0.0.1"), Port: 80}
		m.set(func() { m.lan = []Entry{e, own} })
		b.Publish(map[string]Service{"own": web("Own", 80)})
		stop := b.Browse("_http._tcp")
		after(2 * time.Second)
		wantList(t, "found", list(b), "Own _http._tcp pi1-relevo 10.0.0.1:80", "Web _http._tcp pi9 10.0.0.9:80 a=1")
		if es := b.Found(); !es[0].Local || es[1].Local {
			t.Error("it does not know which is its own")
		}
		after(time.Hour)
		changed(b)
		m.set(func() { m.asked = nil })
		after(time.Hour)
		if n := m.asked["_http._tcp"]; n > int(time.Hour/longRound)+1 {
			t.Errorf("%d questions an hour where nothing changes", n)
		}
		if changed(b) {
			t.Error("word of nothing")
		}
		e.TXT = []string{"a=2"}
		m.set(func() { m.lan = []Entry{e, own} })
		after(longRound + time.Second)
		wantList(t, "texts", list(b)[1:], "Web _http._tcp pi9 10.0.0.9:80 a=2")
		// One lost answer is no removal.
		m.set(func() { m.lan = []Entry{own} })
		after(longRound)
		m.set(func() { m.lan = []Entry{e, own} })
		after(longRound)
		m.set(func() { m.lan = []Entry{own} })
		for range 20 {
			after(time.Second)
			if len(b.Found()) != 2 {
				t.Fatal("lost after one round without an answer")
			}
		}
		after(2*longRound + missedMax*shortRound)
		wantList(t, "gone", list(b), "Own _http._tcp pi1-relevo 10.0.0.1:80")
		m.set(func() { m.broken = errBroken })
		after(10 * longRound)
		wantList(t, "a question that cannot be asked is no answer", list(b), "Own _http._tcp pi1-relevo 10.0.0.1:80")
		stop()
		after(time.Second)
		wantList(t, "nobody looks", list(b))
	})
}

func TestRoundsOfAllTypes(t *testing.T) {
	plain(t, func(t *testing.T, m *fakeMDNS, l *testLinks, b *Board) {
		addr := netip.MustParseAddr("10.0.0.9")
		m.set(func() {
			m.lan = []Entry{{Name: "S", Type: "_ssh._tcp", Host: "pi9", Addr: addr, Port: 22}, {Name: "P", Type: "_ipp._tcp", Host: "pi9", Addr: addr, Port: 631},
				{Name: "evil", Type: "no type", Host: "pi9", Addr: addr, Port: 631}}
		})
		defer b.Browse("_ssh._tcp")()
		stop := b.Browse(AllTypes)
		after(20 * time.Second)
		wantList(t, "found", list(b), "P _ipp._tcp pi9 10.0.0.9:631", "S _ssh._tcp pi9 10.0.0.9:22")
		stop()
		after(5 * time.Second)
		wantList(t, "one type again", list(b), "S _ssh._tcp pi9 10.0.0.9:22")
	})
}

// Services stay announced while avahi-daemon comes and goes, by one at a time, and
// keep the names that they had.
func TestBackendsTakeTurns(t *testing.T) {
	m, l := &fakeMDNS{}, &testLinks{}
	l.set("10.0.0.1")
	fake(t, "auto", func(t *testing.T, av *fakeAvahi, b *Board) {
		e := Entry{Name: "X", Type: "_http._tcp", Host: "pi9", Addr: netip.MustParseAddr("10.0.0.9"), Port: 80}
		av.others(fakeService{name: "X", typ: "_http._tcp", host: "pi9", addr: "10.0.0.9", port: 80})
		m.set(func() { m.lan = []Entry{e} })
		defer b.Browse("_http._tcp")()
		b.Publish(map[string]Service{"x": web("X", 80)})
		after(5 * time.Second)
		for range 3 {
			wantList(t, "without avahi-daemon", append(m.now(), stands(b)...), "X #2 _http._tcp pi1-relevo[10.0.0.1]:80", "x announced X #2")
			if b.Backend() != "zeroconf" {
				t.Errorf("backend %q", b.Backend())
			}
			av.start()
			for i := range 50 { // ten a second
				after(100 * time.Millisecond)
				if n := len(m.now()) + len(av.announced()); n > 1 {
					t.Fatalf("both announce it: %q, %q", m.now(), av.announced())
				}
				if i < 8 && len(m.now()) != 1 {
					t.Fatal("zeroconf stopped before avahi-daemon ran")
				}
				if len(b.Found()) == 0 {
					t.Fatal("what was found is lost over the switch")
				}
			}
			wantList(t, "with avahi-daemon", append(av.announced(), stands(b)...), "X #2 _http._tcp 80 ", "x announced X #2")
			if b.Backend() != "avahi" {
				t.Errorf("backend %q", b.Backend())
			}
			if l := m.log[len(m.log)-1]; l != "=X #2" {
				t.Errorf("the last of zeroconf was %q, not to keep the service alive", l)
			}
			av.stop()
			after(100 * time.Millisecond) // it does not look up again what was its own
			wantList(t, "at once", m.now(), "X #2 _http._tcp pi1-relevo[10.0.0.1]:80")
			if len(b.Found()) == 0 {
				t.Fatal("what was found is lost over the switch")
			}
		}
		av.bus.down()
		after(time.Minute)
		wantList(t, "without D-Bus", m.now(), "X #2 _http._tcp pi1-relevo[10.0.0.1]:80")
		av.bus.up()
		av.start()
		after(busRetry + 3*time.Second)
		wantList(t, "D-Bus is back", append(m.now(), av.announced()...), "X #2 _http._tcp 80 ")
	}, func(c *Config) { c.mdns, c.links = m, l.look })
	wantList(t, "everything is withdrawn at the end", m.now())
}
