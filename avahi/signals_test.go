package avahi

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// madeObjects is an avahi-daemon that makes objects, and now and then refuses to.
type madeObjects struct {
	refuse func() bool
	n      int
	live   map[dbus.ObjectPath]string // by what they are
	wrong  []string
}

func (m *madeObjects) make(_ context.Context, method string, _ ...any) (dbus.ObjectPath, error) {
	if m.refuse() {
		return "", dbus.Error{Name: busName + ".TooManyObjectsError"}
	}
	m.n++
	path := dbus.ObjectPath(fmt.Sprintf("/o%d", m.n))
	m.live[path] = strings.TrimSuffix(method, "New")
	return path, nil
}

func (m *madeObjects) call(_ context.Context, path dbus.ObjectPath, method string, _ ...any) *dbus.Call {
	if what, ok := m.live[path]; !ok || method != busName+"."+what+".Free" {
		m.wrong = append(m.wrong, fmt.Sprintf("%s of %s, which is %q", method, path, what))
	}
	delete(m.live, path)
	return &dbus.Call{}
}

// script deals out a fuzzer's bytes.
type script []byte

func (s *script) one(n int) int {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return int(b) % n
}

func (s *script) text() string {
	n := min(s.one(256), len(*s))
	t := string((*s)[:n])
	*s = (*s)[n:]
	return strings.ToValidUTF8(t, "?") // as D-Bus promises
}

// FuzzSignals: whatever avahi-daemon passes on, in whichever order: what is found can be shown
// and is bounded, nothing is told of who is gone, and no object is left behind in it.
func FuzzSignals(f *testing.F) {
	// Paths are "", /none, then the browsers of _http and _ipp, then what was made after them.
	there := []byte{2, 0, 0, 0, 0, 0, 0}
	found := []byte{4, 3, 1, 3, 'a', '=', '1', 0, 0, 0, 0, 0, 4, 'h', 'o', 's', 't', 1, 0}
	moved := []byte{4, 3, 0, 0, 0, 0, 0, 3, 'n', 'e', 'w', 1, 0}
	gone := []byte{2, 2, 0, 0, 0}
	fails := []byte{2, 4, 1, 0}      // the browser
	unresolved := []byte{4, 4, 0, 0} // the resolver
	all := []byte{0, 7, 0}
	announced := []byte{0, 5, 0, 2, 0} // a type, once all are looked for: the browser of types is /o3
	for _, seed := range [][][]byte{
		{there, found, gone}, {there, found, moved, gone}, {there, found, fails, there}, {there, found, unresolved, {0, 7, 2}}, {all, {4, 5, 0, 2, 0}, {4, 5, 1, 2, 0}},
		{all, announced, {0, 7, 1}}, {there, there, found, {15}}, {there, {4, 6, 0, 8, 1, 2, 3, 4, 0, 1, 2, 3}},
	} {
		f.Add(slices.Concat(seed...))
	}
	f.Add(slices.Repeat([]byte{0, 1, 2, 0, 7, 3, 1, 4, 6, 5, 2, 3}, 30))
	f.Add([]byte("070\xff")) // found: no browser of all types is given away
	f.Fuzz(func(t *testing.T, b []byte) {
		s := script(b)
		av := &madeObjects{live: map[dbus.ObjectPath]string{}}
		av.refuse = func() bool { return len(s) > 0 && s[0]%16 == 15 }
		log := slog.New(slog.DiscardHandler)
		board := New(Config{Browse: []string{"_http._tcp", "_ipp._tcp"}, Log: log})
		l := &lookup{cfg: Config{Log: log}, b: board}
		l.begin(av)
		retry := stopped()
		defer retry.Stop()
		ctx := context.Background()
		if err := l.reconcile(ctx, retry); err != nil {
			t.Fatal(err)
		}
		types := []string{"_http._tcp", "_ipp._tcp", "_x._udp", "_y._tcp", "no type"}
		names := []string{"Web", "a/b", "\x1b[2J", "Web"}
		gone := func() {}
		for len(s) > 0 {
			sig := &dbus.Signal{Path: path(l, &s)}
			var err error
			switch s.one(8) {
			case 0, 1:
				sig.Name = ifBrowser + ".ItemNew"
				sig.Body = []any{int32(s.one(2)), int32(0), names[s.one(len(names))] + s.text(), types[s.one(len(types))], "local", uint32(s.one(32))}
			case 2:
				sig.Name = ifBrowser + ".ItemRemove"
				sig.Body = []any{int32(s.one(2)), int32(0), names[s.one(len(names))], types[s.one(len(types))], "local", uint32(0)}
			case 3:
				sig.Name = ifResolver + ".Found"
				txt := [][]byte{}
				for range s.one(4) {
					txt = append(txt, slices.Repeat([]byte(s.text()), 1+s.one(3)*40))
				}
				addr := []string{"10.0.0.9", "fe80::1%eth0", "::ffff:10.0.0.1", "127.0.0.1", s.text()}[s.one(5)]
				sig.Body = []any{int32(0), int32(0), s.text(), s.text(), "local", s.text(), int32(0), addr, uint16(s.one(256) * 257), txt, uint32(s.one(32))}
			case 4:
				sig.Name = []string{ifResolver, ifBrowser, ifTypeBrowser}[s.one(3)] + ".Failure"
				sig.Body = []any{s.text()}
			case 5:
				sig.Name = ifTypeBrowser + []string{".ItemNew", ".ItemRemove"}[s.one(2)]
				sig.Body = []any{int32(0), int32(0), types[s.one(len(types))] + s.text(), "local", uint32(0)}
			case 6: // nothing that belongs together
				sig.Name = []string{ifResolver + ".Found", ifBrowser + ".ItemNew", ifTypeBrowser + ".ItemNew", s.text()}[s.one(4)]
				for range s.one(9) {
					sig.Body = append(sig.Body, []any{s.text(), int32(1), uint32(2), [][]byte{{1}}, uint16(3)}[s.one(5)])
				}
			case 7:
				switch s.one(4) {
				case 0:
					gone()
					gone = board.Browse(AllTypes)
				case 1:
					gone()
					gone = func() {}
				case 2:
					err = l.again(ctx, retry)
				}
				if err == nil {
					err = l.reconcile(ctx, retry)
				}
			}
			if err == nil {
				err = l.signal(ctx, sig, retry)
			}
			if err != nil {
				t.Fatalf("looking breaks off: %v", err)
			}
		}
		known := map[dbus.ObjectPath]bool{}
		for p, it := range l.byPath {
			known[p] = true
			if it.resolver != p || l.items[it.id] != it || l.browsers[it.typ] == "" {
				t.Errorf("%s resolves %+v, which is not looked for", p, it)
			}
		}
		for typ, p := range l.browsers {
			known[p] = true
			if l.byBrowser[p] != typ {
				t.Errorf("%s looks for %q and %q", p, typ, l.byBrowser[p])
			}
		}
		if l.all != "" {
			known[l.all] = true
		}
		for p, what := range av.live {
			if !known[p] {
				t.Errorf("a %s is left behind", what)
			}
		}
		if len(known) != len(av.live) || len(av.wrong) > 0 || len(l.browsers) > maxTypes || len(l.items) > maxEntries {
			t.Errorf("%d objects are known, %d are there; %v", len(known), len(av.live), av.wrong)
		}
		for id, e := range board.found.entries {
			if l.items[id] == nil {
				t.Errorf("%s is gone, and is told of", id)
			}
			for _, text := range append(e.TXT, e.Name, e.Host) {
				if Printable(text, 1<<20) != text || len(text) > maxShownText {
					t.Errorf("%q is not fit to be shown", text)
				}
			}
		}
	})
}

// path is one of those that there are, or none.
func path(l *lookup, s *script) dbus.ObjectPath {
	paths := []string{"/none", string(l.all)}
	for p := range l.byBrowser {
		paths = append(paths, string(p))
	}
	for p := range l.byPath {
		paths = append(paths, string(p))
	}
	slices.Sort(paths)
	return dbus.ObjectPath(paths[s.one(len(paths))])
}
