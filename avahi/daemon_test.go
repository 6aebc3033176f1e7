package avahi

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fake runs a test against a board whose D-Bus and time are the test's.
func fake(t *testing.T, backend string, f func(t *testing.T, av *fakeAvahi, b *Board), opts ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		av := newFakeAvahi(t)
		cfg := Config{Backend: backend, Host: "pi1", Log: slog.New(slog.DiscardHandler), dial: av.bus.dial,
			mdns: &fakeMDNS{}} // what works while avahi-daemon is away must not open sockets of the real time
		for _, o := range opts {
			o(&cfg)
		}
		b := New(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.Run(ctx)
		}()
		f(t, av, b)
		cancel()
		<-done
		av.bus.down()
	})
}

// after lets time pass, and everything come to rest.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func web(name string, port int, txt ...string) Service {
	return Service{Name: name, Type: "_http._tcp", Port: port, TXT: txt}
}

func wantList(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func wantCalls(t *testing.T, what string, got map[string]int, want map[string]int) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s: calls %v, want %v", what, got, want)
	}
}

// stands is each service's state and name, for comparing.
func stands(b *Board) []string {
	var out []string
	for _, p := range b.Published() {
		out = append(out, fmt.Sprintf("%s %s %s", p.Key, p.State, p.ActualName))
	}
	return out
}

func TestPublishThroughAvahi(t *testing.T) {
	fake(t, "auto", func(t *testing.T, av *fakeAvahi, b *Board) {
		av.start()
		b.Publish(map[string]Service{"a": web("A", 80, "x=1"), "p": {Name: "P", Type: "_ipp._tcp", Port: 631, Subtypes: []string{"_universal", "_print"}}})
		after(500 * time.Millisecond)
		if n := av.taken()["EntryGroupNew"]; n != 0 {
			t.Errorf("%d groups before avahi-daemon runs", n)
		}
		wantList(t, "stands", stands(b), "a waiting A", "p waiting P")
		after(1500 * time.Millisecond)
		wantList(t, "announced", av.announced(), "A _http._tcp 80 x=1", "P _ipp._tcp 631  _print._sub._ipp._tcp,_universal._sub._ipp._tcp")
		wantList(t, "stands", stands(b), "a announced A", "p announced P")
		wantCalls(t, "two new", av.taken(), map[string]int{"EntryGroupNew": 2, "AddService": 2, "AddServiceSubtype": 2, "Commit": 2})

		p := Service{Name: "P", Type: "_ipp._tcp", Port: 631, Subtypes: []string{"_universal", "_print"}}
		b.Publish(map[string]Service{"a": web("A", 80, "x=1"), "p": p})
		after(time.Hour)
		wantCalls(t, "nothing new for an hour", av.taken(), map[string]int{})

		b.Publish(map[string]Service{"a": web("A", 80, "x=2", "y"), "p": p})
		after(time.Second)
		wantCalls(t, "texts", av.taken(), map[string]int{"UpdateServiceTxt": 1})
		b.Publish(map[string]Service{"a": web("A", 81, "x=2", "y"), "p": p})
		after(time.Second)
		wantCalls(t, "another port", av.taken(), map[string]int{"Reset": 1, "AddService": 1, "Commit": 1})
		wantList(t, "changed", av.announced()[:1], "A _http._tcp 81 x=2,y")
		b.Publish(map[string]Service{"p": p})
		after(time.Second)
		wantCalls(t, "one gone", av.taken(), map[string]int{"Free": 1})
		b.Publish(nil)
		after(time.Second)
		wantList(t, "nothing wanted", append(av.announced(), stands(b)...))
		if n := av.count("groups"); n != 0 {
			t.Errorf("%d groups are left", n)
		}
	})
}

// Two services that change names with each other are no collision.
func TestNamesChangePlaces(t *testing.T) {
	fake(t, "avahi", func(t *testing.T, av *fakeAvahi, b *Board) {
		av.start()
		b.Publish(map[string]Service{"a": web("A", 1), "b": web("B", 2)})
		after(3 * time.Second)
		b.Publish(map[string]Service{"a": web("B", 1), "b": web("A", 2)})
		after(time.Second)
		wantList(t, "announced", av.announced(), "A _http._tcp 2 ", "B _http._tcp 1 ")
	})
}

func TestCollisions(t *testing.T) {
	fake(t, "avahi", func(t *testing.T, av *fakeAvahi, b *Board) {
		av.start()
		av.others(fakeService{name: "Web", typ: "_http._tcp", host: "pi9", addr: "10.0.0.9", port: 80})
		b.Publish(map[string]Service{"x": web("Web", 80), "y": web("Web", 81)})
		after(6 * time.Second)
		// y is "Web #2" from the start, for x has the name; so x becomes the next.
		wantList(t, "stands", stands(b), "x announced Web #3", "y announced Web #2")
		if n := av.count("groups"); n != 2 {
			t.Errorf("%d groups, want the same two", n)
		}
		for _, p := range b.Published() {
			if !strings.Contains(p.Reason, "has the name Web") {
				t.Errorf("%s: reason %q", p.Key, p.Reason)
			}
		}
		// The renamed one keeps its name when its texts change.
		av.taken()
		b.Publish(map[string]Service{"x": web("Web", 80, "new"), "y": web("Web", 81)})
		after(time.Second)
		wantCalls(t, "texts", av.taken(), map[string]int{"UpdateServiceTxt": 1})
		wantList(t, "announced", av.announced(), "Web #2 _http._tcp 81 ", "Web #3 _http._tcp 80 new")
	})
}

// Somebody who claims every name does not keep us busy for ever, nor for good.
func TestEveryNameIsTaken(t *testing.T) {
	fake(t, "avahi", func(t *testing.T, av *fakeAvahi, b *Board) {
		av.start()
		for name, i := "Web", 0; i < 50; i++ {
			av.others(fakeService{name: name, typ: "_http._tcp"})
			name = alternative(name)
		}
		b.Publish(map[string]Service{"x": web("Web", 80), "y": web("Other", 81)})
		after(15 * time.Second)
		wantList(t, "stands", stands(b), "x refused Web", "y announced Other")
		if n := av.count("groups"); n != 1 {
			t.Errorf("%d groups", n)
		}
		av.set(func() { clear(av.lan) })
		after(offerRetry + 2*time.Second)
		wantList(t, "stands", stands(b), "x announced Web", "y announced Other")
	})
}

func TestAvahiRefuses(t *testing.T) {
	fake(t, "avahi", func(t *testing.T, av *fakeAvahi, b *Board) {
		av.start()
		after(3 * time.Second)
		av.set(func() { av.refuses["AddService"] = "TooManyEntriesError" })
		b.Publish(map[string]Service{"x": web("X", 80)})
		after(time.Second)
		wantList(t, "stands", stands(b), "x refused X")
		if r := b.Published()[0].Reason; !strings.Contains(r, "TooManyEntriesError") {
			t.Errorf("reason %q", r)
		}
		av.taken()
		b.Publish(map[string]Service{"x": web("X", 80), "bad": {Name: "", Type: "x"}})
		after(time.Second)
		wantCalls(t, "what is refused is not tried at once again", av.taken(), map[string]int{})
		wantList(t, "stands", stands(b), "bad refused ", "x refused X")
		av.set(func() { clear(av.refuses) })
		after(offerRetry + 2*time.Second)
		wantList(t, "stands", stands(b), "bad refused ", "x announced X")
	})
}

func TestAvahiCrashes(t *testing.T) {
	fake(t, "avahi", func(t *testing.T, av *fakeAvahi, b *Board) {
		want := map[string]Service{}
		for i := range 50 {
			want[fmt.Sprint(i)] = web(fmt.Sprintf("S%d", i), 1+i)
		}
		b.Publish(want)
		after(5 * time.Second)
		if s := b.Published()[0]; s.State != Waiting || s.Reason != notRunning || b.Backend() != "" {
			t.Errorf("without avahi-daemon: %+v, backend %q", s, b.Backend())
		}
		av.start()
		for range 3 {
			after(2 * time.Second)
			if n := len(av.announced()); n != 50 {
				t.Fatalf("%d are announced", n)
			}
			av.stop()
			after(100 * time.Millisecond)
			if s := b.Published()[0]; s.State != Waiting {
				t.Errorf("after a crash: %+v", s)
			}
			av.start()
		}
		after(2 * time.Second)
		if n := len(av.announced()); n != 50 {
			t.Errorf("%d are announced again", n)
		}
	})
}

func TestDBusGoneAndBack(t *testing.T) {
	fake(t, "avahi", func(t *testing.T, av *fakeAvahi, b *Board) {
		av.start()
		b.Publish(map[string]Service{"x": web("X", 80)})
		after(3 * time.Second)
		av.bus.down()
		after(10 * time.Second)
		if p := b.Published()[0]; p.State != Waiting || !strings.Contains(p.Reason, "D-Bus") {
			t.Errorf("without D-Bus: %+v", p)
		}
		av.bus.up()
		after(busRetry + time.Second)
		wantList(t, "stands", stands(b), "x announced X")
		wantList(t, "announced", av.announced(), "X _http._tcp 80 ")
	})
}

// Another host name: avahi-daemon has withdrawn everything, and wants it anew.
func TestHostNameChanges(t *testing.T) {
	fake(t, "avahi", func(t *testing.T, av *fakeAvahi, b *Board) {
		av.start()
		b.Publish(map[string]Service{"x": web("X", 80)})
		after(3 * time.Second)
		av.taken()
		av.setState(3)
		after(time.Second)
		b.Publish(map[string]Service{"x": web("X", 80), "y": web("Y", 81)})
		after(time.Second)
		wantCalls(t, "without a host name", av.taken(), map[string]int{})
		wantList(t, "stands", stands(b), "x waiting X", "y waiting Y")
		av.setState(serverRunning)
		after(time.Second)
		wantCalls(t, "again", av.taken(), map[string]int{"Reset": 1, "EntryGroupNew": 1, "AddService": 2, "Commit": 2})
		wantList(t, "stands", stands(b), "x announced X", "y announced Y")
	})
}

func TestAvahiHangs(t *testing.T) {
	fake(t, "avahi", func(t *testing.T, av *fakeAvahi, b *Board) {
		av.start()
		b.Publish(map[string]Service{"x": web("X", 80)})
		after(3 * time.Second)
		av.set(func() { av.frozen = true })
		b.Publish(map[string]Service{"x": web("X", 81), "y": web("Y", 82)})
		after(time.Minute)
		if n := len(av.taken()); n > 40 {
			t.Errorf("%d calls to somebody who does not answer", n)
		}
		av.set(func() { av.frozen = false })
		after(2*callTimeout + 2*time.Second)
		wantList(t, "announced", av.announced(), "X _http._tcp 81 ", "Y _http._tcp 82 ")
	})
}

func TestVirtualHost(t *testing.T) {
	vip := func(name, addr string) Service {
		return Service{Name: name, Type: "_http._tcp", Port: 80, Host: "home-vip", Addr: netip.MustParseAddr(addr)}
	}
	fake(t, "avahi", func(t *testing.T, av *fakeAvahi, b *Board) {
		av.start()
		b.Publish(map[string]Service{"x": vip("X", "10.0.0.50"), "y": vip("Y", "10.0.0.50")})
		after(3 * time.Second)
		wantList(t, "announced", av.announced(), "X _http._tcp 80  at home-vip.local", "Y _http._tcp 80  at home-vip.local", "home-vip.local=10.0.0.50")
		av.taken()
		b.Publish(map[string]Service{"x": vip("X", "10.0.0.51"), "y": vip("Y", "10.0.0.51")})
		after(time.Second)
		wantCalls(t, "another address", av.taken(), map[string]int{"Reset": 1, "AddAddress": 1, "Commit": 1})
		wantList(t, "announced", av.announced()[2:], "home-vip.local=10.0.0.51")

		// Another host claims the label: services follow to the next one.
		av.others(fakeService{name: "home-vip", typ: ".local"})
		b.Publish(map[string]Service{"x": vip("X", "10.0.0.52"), "y": vip("Y", "10.0.0.52")})
		after(5 * time.Second)
		wantList(t, "announced", av.announced(), "X _http._tcp 80  at home-vip-2.local", "Y _http._tcp 80  at home-vip-2.local", "home-vip-2.local=10.0.0.52")
		b.Publish(nil)
		after(time.Second)
		if n := av.count("groups"); n != 0 {
			t.Errorf("%d groups are left", n)
		}
	})
}

// A board whose context ends is gone at once, whatever avahi-daemon does.
func TestEndWhileHanging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		av := newFakeAvahi(t)
		av.present, av.frozen = true, true
		b := New(Config{Backend: "avahi", Log: slog.New(slog.DiscardHandler), dial: av.bus.dial})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); b.Run(ctx) }()
		after(time.Second)
		cancel()
		synctest.Wait()
		select {
		case <-done:
		default:
			t.Error("it hangs with avahi-daemon")
			<-done
		}
		av.bus.down()
	})
}
