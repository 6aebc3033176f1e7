package cloudy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	monday = time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	here   = Here{Node: "pi1", MicroCloud: "home", Addr: netip.MustParseAddr("10.139.40.21")}
)

func plainOf(t *testing.T, tag string) string {
	t.Helper()
	if tag == "" {
		return ""
	}
	plain, err := unpack(tag, Limits{Tag: 1 << 20, Plain: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return string(plain)
}

func TestEncode(t *testing.T) {
	entries := []Entry{
		{Name: "shop", Type: "_http._tcp", Node: "pi2", Addrs: addrs("2001:db8::1", "127.0.0.1", "10.139.40.22"), Port: 30080, TXT: []string{"path=/", "a=b c"}, Since: monday},
		{Name: "relevo", Type: "_relevo._tcp", Description: "the agent", Port: 7947, Since: monday},
		{Name: "theirs", Type: "_http._tcp", Port: 1, Origin: OriginCloudy},
	}
	const want = `[{"s":"http","d":"shop","m":"pi2.guifi.local","i":"10.139.40.22","p":"30080","e":"home","t":"path=/&a=b_c"},` +
		`{"s":"relevo","d":"the_agent","m":"pi1.guifi.local","i":"10.139.40.21","p":"7947","e":"home","t":""}]`
	tag, left := Encode(entries, here, 0)
	if got := plainOf(t, tag); got != want || len(left) != 0 {
		t.Errorf("%s\nwant %s\nleft %v", got, want, left)
	}
	if tag, left := Encode(nil, here, 0); tag != "" || left != nil {
		t.Errorf("nothing is written as %q, %v", tag, left)
	}
	other := here
	other.Cloud = "sants"
	entries[0].MicroCloud, entries[1].Host = "barn", "box.example"
	tag, _ = Encode(entries, other, 0)
	if got := plainOf(t, tag); !strings.Contains(got, `"m":"pi2.sants.local"`) || !strings.Contains(got, `"e":"barn"`) || !strings.Contains(got, `"m":"box.example"`) {
		t.Error(got)
	}
}

// TestBunzip2: what we write is read by the programs that Cloudy has.
func TestBunzip2(t *testing.T) {
	for _, p := range []string{"base64", "bunzip2", "sh"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(p, "is not here")
		}
	}
	tag, _ := Encode([]Entry{{Name: "Ünïcode & <b>Joan's</b>", Type: "_http._tcp", Port: 80}}, here, 0)
	c := exec.CommandContext(t.Context(), "sh", "-c", "base64 -d - | bunzip2 -")
	c.Stdin = strings.NewReader(tag)
	out, err := c.Output()
	if want := `[{"s":"http","d":"Ünïcode_+_bJoans/b","m":"pi1.guifi.local","i":"10.139.40.21","p":"80","e":"home","t":""}]`; err != nil || string(out) != want {
		t.Errorf("%s, %v", out, err)
	}
}

// ordinary services, n of them, on some hosts, each half a day older than the next.
func ordinary(n int) []Entry {
	kinds := []string{"http", "syncthing", "tincvpn", "Docker", "kubernetes", "peerstreamer", "owp", "dnsservice", "proxy3", "snpservice", "ssh", "tahoe-lafs", "serf", "grafana", "minio"}
	list := make([]Entry, n)
	for i := range list {
		kind := kinds[i%len(kinds)]
		list[i] = Entry{Name: fmt.Sprintf("%s instance %d", kind, i), Type: "_" + kind + "._tcp", Node: fmt.Sprint("pi", i%3),
			Addrs: addrs(fmt.Sprint("10.139.40.", 20+i%3)), Port: 3000 + 7*i, Since: monday.Add(time.Duration(i) * 12 * time.Hour)}
	}
	return list
}

func TestTooMany(t *testing.T) {
	for _, n := range []int{1, 10, 16, 17, 40, 3000} {
		list := ordinary(n)
		tag, left := Encode(list, here, 0)
		if len(tag) > MaxTag {
			t.Fatalf("%d services: %d bytes", n, len(tag))
		}
		got, err := Decode(tag, Limits{})
		if err != nil || len(got)+len(left) != n {
			t.Fatalf("%d services: %d written, %d left out, %v", n, len(got), len(left), err)
		}
		if n > 20 && (len(got) < 12 || len(got) > 25) {
			t.Errorf("%d of %d fit", len(got), n)
		}
		// The oldest stay, but for some later ones that are shorter.
		for _, l := range left {
			if !strings.Contains(l.Why, fmt.Sprintf("%d services in %d bytes", len(got), MaxTag)) {
				t.Errorf("%s: %q", l.Entry.Name, l.Why)
			}
			if l.Entry.Since.Before(monday.Add(9 * 12 * time.Hour)) {
				t.Errorf("%s is left out, though it is among the oldest", l.Entry.Name)
			}
		}
		// Whatever the order, the same bytes.
		r := rand.New(rand.NewPCG(1, uint64(n)))
		for range 3 {
			r.Shuffle(n, func(i, j int) { list[i], list[j] = list[j], list[i] })
			if again, _ := Encode(list, here, 0); again != tag {
				t.Fatalf("%d services in another order are another tag", n)
			}
		}
	}
	// Nor does it matter since when they are known, as long as all fit: after a
	// restart that is another order.
	list := ordinary(8)
	tag, _ := Encode(list, here, 0)
	for i := range list {
		list[i].Since = monday.Add(-time.Duration(i) * time.Minute)
	}
	if again, _ := Encode(list, here, 0); again != tag {
		t.Error("known since other times, and another tag")
	}
	// By option.
	long, left := Encode(ordinary(200), here, 8<<10)
	if got, err := Decode(long, Limits{}); err != nil || len(got) != 200 || len(left) != 0 {
		t.Errorf("%d of 200 in %d bytes, %v", len(got), len(long), err)
	}
}

// TestFullListIsSteady: who is new waits; nobody is pushed out.
func TestFullListIsSteady(t *testing.T) {
	list := ordinary(30)
	names := func(list []Entry) map[string]bool {
		tag, _ := Encode(list, here, 0)
		got, err := Decode(tag, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		set := map[string]bool{}
		for _, e := range got {
			set[e.Name] = true
		}
		return set
	}
	before := names(list)
	after := names(append(list, Entry{Name: "a", Type: "_a._tcp", Port: 1, Since: monday.AddDate(1, 0, 0)}))
	for n := range before {
		if !after[n] {
			t.Errorf("%s was pushed out", n)
		}
	}
}

func TestLeftOut(t *testing.T) {
	ok := Entry{Name: "x", Type: "_http._tcp", Port: 80, Since: monday}
	with := func(f func(e *Entry)) Entry {
		e := ok
		e.Since = monday.Add(time.Hour)
		f(&e)
		return e
	}
	for why, e := range map[string]Entry{
		"no type":           with(func(e *Entry) { e.Type = "_._tcp" }),
		"no name":           with(func(e *Entry) { e.Name = "\"<>\x00" }),
		"no port ":          with(func(e *Entry) { e.Port = 0 }),
		"no port from":      with(func(e *Entry) { e.Port = 65536 }),
		"no port from 1":    with(func(e *Entry) { e.Port = -1 }),
		"no IPv4 address":   with(func(e *Entry) { e.Addrs = addrs("2001:db8::1") }),
		"the same type":     with(func(e *Entry) { e.Name = "y" }),
		"no IPv4 address, ": with(func(e *Entry) { e.Addrs = addrs("127.0.0.1") }),
	} {
		tag, left := Encode([]Entry{e, ok}, here, 0)
		if got, _ := Decode(tag, Limits{}); len(got) != 1 || got[0].Name != "x" {
			t.Errorf("%s: %v is written", why, got)
		}
		if len(left) != 1 || !strings.Contains(left[0].Why, why) || left[0].Entry.Since != e.Since {
			t.Errorf("%s: left %v", why, left)
		}
	}
	if _, left := Encode([]Entry{ok}, Here{Node: "pi1"}, 0); len(left) != 1 {
		t.Errorf("without any address: %v", left)
	}
	// Nothing fits: no tag, rather than one that is too long.
	if tag, left := Encode([]Entry{ok}, here, 20); tag != "" || len(left) != 1 {
		t.Errorf("%q, %v", tag, left)
	}
}

func TestSafe(t *testing.T) {
	for in, want := range map[string]string{
		"a b\tc\nd\u00a0e\u2028f":    "a_b_c_d_e_f",
		`Joan's "best" <b>x</b> & y`: "Joans_best_bx/b_+_y",
		"back\\slash `tick`":         "backslash_tick",
		"a\x00b\x1b[31mc\u202ed\xff": "ab[31mcd",
		"Cámara 📷":                   "Cámara_📷",
	} {
		if got := safe(in, 100); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := safe("ééé", 5); got != "éé" {
		t.Errorf("%q", got)
	}
	if got := joinTXT([]string{"a=1", "", "long=" + strings.Repeat("x", 30), "b=2 & 3"}, 20); got != "a=1&b=2_+_3" {
		t.Errorf("%q", got)
	}
	if got := splitTXT("a=1 b=2&c=3  =x&& \x01"); !slices.Equal(got, []string{"a=1", "b=2", "c=3"}) {
		t.Errorf("%q", got)
	}
}

// FuzzEncode: whatever a service is called, the list is short, valid, and harmless
// to Cloudy's script and page.
func FuzzEncode(f *testing.F) {
	f.Add("shop", "_http._tcp", "it's a \"shop\"\\", "pi 1", "<home>", "a=1 2", 80, uint8(1))
	f.Add("\xff\u202e\u2028", "..", "\x00", "&", "''", "=", 0, uint8(40))
	f.Fuzz(func(t *testing.T, name, kind, description, node, micro, txt string, port int, n uint8) {
		var list []Entry
		for i := range int(n%64) + 1 {
			list = append(list, Entry{Name: name, Type: kind, Description: description, Node: node, MicroCloud: micro, TXT: []string{txt, "k=" + txt}, Port: port + i,
				Since: monday.Add(time.Duration(i) * time.Second)})
		}
		tag, left := Encode(list, here, 0)
		if len(tag) > MaxTag {
			t.Fatalf("%d bytes", len(tag))
		}
		slices.Reverse(list)
		if again, _ := Encode(list, here, 0); again != tag {
			t.Error("another order, another tag")
		}
		got, err := Decode(tag, Limits{})
		if tag == "" {
			got, err = nil, nil
		}
		if err != nil || len(got)+len(left) != len(list) {
			t.Fatalf("%d written, %d left out of %d, %v", len(got), len(left), len(list), err)
		}
		if plain := plainOf(t, tag); strings.ContainsAny(plain, " '`\\<>\t\n\x00") {
			t.Errorf("%s breaks Cloudy's script or page", plain)
		} else if q := strings.Count(plain, `"`); q != 28*len(got) {
			t.Errorf("%d quotation marks for %d services: %s", q, len(got), plain)
		}
		for _, e := range got {
			harmless(t, e)
		}
	})
}

func BenchmarkEncodeFull(b *testing.B) {
	list := ordinary(100)
	b.ReportAllocs()
	for b.Loop() {
		Encode(list, here, 0)
	}
}
