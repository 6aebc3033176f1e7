package avahi

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// list is what was found, one line each.
func list(b *Board) []string {
	var out []string
	for _, e := range b.Found() {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s %s:%d %s", e.Name, e.Type, e.Host, e.Addr, e.Port, strings.Join(e.TXT, ","))))
	}
	return out
}

func changed(b *Board) bool {
	select {
	case <-b.Changes():
		return true
	default:
		return false
	}
}

func TestFindThroughAvahi(t *testing.T) {
	fake(t, "avahi", func(t *testing.T, av *fakeAvahi, b *Board) {
		web := fakeService{name: "Web", typ: "_http._tcp", host: "pi9", addr: "10.0.0.9", port: 80, txt: []string{"a=1", "b"}}
		av.others(web)
		av.others(fakeService{name: "P", typ: "_ipp._tcp", host: "pi9", addr: "10.0.0.9", port: 631})
		av.start()
		stop := b.Browse("_http._tcp", "not a type")
		after(3 * time.Second)
		wantList(t, "found", list(b), "Web _http._tcp pi9 10.0.0.9:80 a=1,b")
		if !changed(b) {
			t.Error("no word of it")
		}
		after(time.Hour)
		if changed(b) {
			t.Error("word of nothing")
		}
		av.taken()

		web.txt, web.port = []string{"a=2"}, 81
		av.others(web)
		synctest.Wait()
		wantList(t, "changed", list(b), "Web _http._tcp pi9 10.0.0.9:81 a=2")
		if !changed(b) {
			t.Error("no word of the change")
		}
		av.withdrawn("Web", "_http._tcp")
		synctest.Wait()
		wantList(t, "withdrawn", list(b))
		wantCalls(t, "the resolver is freed", av.taken(), map[string]int{"Free": 1})

		av.others(web)
		synctest.Wait()
		stop()
		stop()
		synctest.Wait()
		wantList(t, "nobody looks", list(b))
		if n := av.count("services") + av.count("resolver"); n != 0 {
			t.Errorf("%d objects are left", n)
		}
	})
}

// After a failover a service has its old name, on another host.
func TestServiceMoves(t *testing.T) {
	fake(t, "avahi", func(t *testing.T, av *fakeAvahi, b *Board) {
		api := fakeService{name: "home", typ: "_kubernetes._tcp", host: "pi8", addr: "10.0.0.8", port: 6443}
		av.others(api)
		av.start()
		defer b.Browse("_kubernetes._tcp")()
		after(3 * time.Second)
		for i := range 4 {
			api.host, api.addr = fmt.Sprintf("pi%d", i), fmt.Sprintf("10.0.0.%d", i+1)
			av.others(api)
			synctest.Wait()
			wantList(t, "moved", list(b), fmt.Sprintf("home _kubernetes._tcp pi%d 10.0.0.%d:6443", i, i+1))
		}
		if n := av.count("resolver"); n != 1 {
			t.Errorf("%d resolvers", n)
		}
	})
}

func TestFindAllTypes(t *testing.T) {
	fake(t, "avahi", func(t *testing.T, av *fakeAvahi, b *Board) {
		av.others(fakeService{name: "Web", typ: "_http._tcp", host: "pi9", addr: "10.0.0.9", port: 80})
		av.start()
		keep := b.Browse("_ssh._tcp")
		defer keep()
		stop := b.Browse(AllTypes)
		after(3 * time.Second)
		av.others(fakeService{name: "P", typ: "_ipp._tcp", host: "pi9", addr: "10.0.0.9", port: 631})
		av.others(fakeService{name: "S", typ: "_ssh._tcp", host: "pi9", addr: "10.0.0.9", port: 22})
		av.others(fakeService{name: "evil", typ: "_no such type._tcp", host: "pi9", addr: "10.0.0.9", port: 22})
		synctest.Wait()
		wantList(t, "found", list(b), "Web _http._tcp pi9 10.0.0.9:80", "P _ipp._tcp pi9 10.0.0.9:631", "S _ssh._tcp pi9 10.0.0.9:22")
		av.withdrawn("P", "_ipp._tcp")
		synctest.Wait()
		if n := av.count("services"); n != 2 {
			t.Errorf("%d browsers, want _http and _ssh", n)
		}
		stop()
		synctest.Wait()
		wantList(t, "one type again", list(b), "S _ssh._tcp pi9 10.0.0.9:22")
		if n := av.count("types"); n != 0 {
			t.Errorf("%d browsers of types are left", n)
		}
	})
}

func TestNotResolved(t *testing.T) {
	fake(t, "avahi", func(t *testing.T, av *fakeAvahi, b *Board) {
		web := fakeService{name: "Web", typ: "_http._tcp", host: "pi9", addr: "10.0.0.9", port: 80, mute: true}
		av.others(web)
		av.start()
		defer b.Browse("_http._tcp")()
		after(3 * time.Second)
		wantList(t, "mute", list(b))
		if n := av.count("resolver"); n != 0 {
			t.Errorf("%d resolvers are left", n)
		}
		av.set(func() { web.mute = false; av.lan["Web_http._tcp"] = web })
		after(resolveRetry + time.Second)
		wantList(t, "asked again", list(b), "Web _http._tcp pi9 10.0.0.9:80")
	})
}

// What was found stays while avahi-daemon is restarted, and is not kept where it
// is not found again.
func TestFoundOverRestart(t *testing.T) {
	fake(t, "avahi", func(t *testing.T, av *fakeAvahi, b *Board) {
		for _, n := range []string{"A", "B"} {
			av.others(fakeService{name: n, typ: "_http._tcp", host: "pi9", addr: "10.0.0.9", port: 80})
		}
		av.start()
		defer b.Browse("_http._tcp")()
		after(3 * time.Second)
		av.stop()
		after(time.Second)
		av.withdrawn("B", "_http._tcp")
		av.start()
		for range 40 {
			after(100 * time.Millisecond)
			if len(b.Found()) != 2 {
				t.Fatalf("a restart lost what was found: %q", list(b))
			}
		}
		changed(b)
		after(settling)
		wantList(t, "settled", list(b), "A _http._tcp pi9 10.0.0.9:80")
		if !changed(b) {
			t.Error("no word of it")
		}
	})
}

// A flood of announcements costs a bounded number of objects and memory, and what is
// real is found when the flood is over.
func TestFlood(t *testing.T) {
	fake(t, "avahi", func(t *testing.T, av *fakeAvahi, b *Board) {
		av.start()
		defer b.Browse("_http._tcp")()
		b.Publish(map[string]Service{"x": web("X", 80)})
		after(3 * time.Second)
		for i := range 2 * inboxSize {
			av.others(fakeService{name: fmt.Sprintf("%06d", i), typ: "_http._tcp", host: "evil", addr: "10.0.0.9", port: 80})
		}
		after(time.Minute)
		if n := len(b.Found()); n > maxEntries {
			t.Errorf("%d are kept", n)
		}
		if n := av.count("resolver"); n > maxEntries {
			t.Errorf("%d resolvers", n)
		}
		if n := av.taken()["ServiceBrowserNew"]; n > 3 {
			t.Errorf("%d new beginnings in the flood", n)
		}
		wantList(t, "announced through it all", av.announced(), "X _http._tcp 80 ")
		av.set(func() { clear(av.lan) })
		av.stop()
		av.start()
		av.others(fakeService{name: "Web", typ: "_http._tcp", host: "pi9", addr: "10.0.0.9", port: 80})
		after(2 * floodPause)
		wantList(t, "after the flood", list(b), "Web _http._tcp pi9 10.0.0.9:80")
	})
}

// More services than are kept, but no more at once than can be handled.
func TestManyServices(t *testing.T) {
	fake(t, "avahi", func(t *testing.T, av *fakeAvahi, b *Board) {
		av.start()
		defer b.Browse("_http._tcp")()
		after(3 * time.Second)
		for i := range maxEntries + 200 {
			av.others(fakeService{name: fmt.Sprintf("%06d", i), typ: "_http._tcp", host: "pi9", addr: "10.0.0.9", port: 80})
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		after(time.Second)
		if f, r := len(b.Found()), av.count("resolver"); f != maxEntries || r != maxEntries {
			t.Errorf("%d are kept, by %d resolvers", f, r)
		}
		av.withdrawn("000000", "_http._tcp")
		av.others(fakeService{name: "new", typ: "_http._tcp", host: "pi9", addr: "10.0.0.9", port: 80})
		synctest.Wait()
		if f := b.Found(); len(f) != maxEntries || f[maxEntries-1].Name != "new" {
			t.Errorf("%d are kept, the last is %+v", len(f), f[len(f)-1])
		}
	})
}

func TestCleanEntry(t *testing.T) {
	e := Entry{Name: "a\nb", Type: "_http._tcp", Host: "pi\x1b", Addr: netip.MustParseAddr("::ffff:10.0.0.1"), Port: 80, TXT: []string{"", "a=1", "b\x00=2", strings.Repeat("x", 256)}}
	got, ok := e.clean()
	if want := fmt.Sprint(Entry{`a\nb`, "_http._tcp", `pi\x1b`, netip.MustParseAddr("10.0.0.1"), 80, []string{"a=1", `b\x00=2`}, false}); !ok || fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	if got.Value("A") != "1" || got.Value("c") != "" {
		t.Error("values")
	}
	for range 10000 {
		e.TXT = append(e.TXT, "x")
	}
	if got, _ := e.clean(); len(got.TXT) != maxTexts {
		t.Errorf("%d texts are kept", len(got.TXT))
	}
	for what, change := range map[string]func(*Entry){
		"no name": func(e *Entry) { e.Name = "" }, "type": func(e *Entry) { e.Type = "x" }, "port": func(e *Entry) { e.Port = 0 },
		"no address": func(e *Entry) { e.Addr = netip.Addr{} }, "loopback": func(e *Entry) { e.Addr = netip.MustParseAddr("127.0.0.1") },
		"multicast": func(e *Entry) { e.Addr = netip.MustParseAddr("224.0.0.251") },
	} {
		bad := e
		if change(&bad); func() bool { _, ok := bad.clean(); return ok }() {
			t.Errorf("%s: taken for a service", what)
		}
	}
}
