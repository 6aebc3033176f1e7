package avahi

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestFit(t *testing.T) {
	for what, s := range map[string]Service{
		"no name":         {Type: "_http._tcp", Port: 1},
		"control":         {Name: "a\nb", Type: "_http._tcp", Port: 1},
		"not UTF-8":       {Name: "\xff", Type: "_http._tcp", Port: 1},
		"long, not UTF-8": {Name: strings.Repeat("\xff", 99), Type: "_http._tcp", Port: 1},
		"port 0":          {Name: "a", Type: "_http._tcp"},
		"port 70000":      {Name: "a", Type: "_http._tcp", Port: 70000},
		"type":            {Name: "a", Type: "http", Port: 1},
		"type 2":          {Name: "a", Type: "_a_b._tcp", Port: 1},
		"type 3":          {Name: "a", Type: "_-a._tcp", Port: 1},
		"type 4":          {Name: "a", Type: "_123._tcp", Port: 1},
		"type 5":          {Name: "a", Type: "_a._sctp", Port: 1},
		"long type":       {Name: "a", Type: "_" + strings.Repeat("a", 16) + "._tcp", Port: 1},
		"all types":       {Name: "a", Type: AllTypes, Port: 1},
		"subtype":         {Name: "a", Type: "_http._tcp", Port: 1, Subtypes: []string{"printer"}},
		"host label":      {Name: "a", Type: "_http._tcp", Port: 1, Host: "x.y", Addr: netip.MustParseAddr("10.0.0.1")},
		"IP, no label":    {Name: "a", Type: "_http._tcp", Port: 1, Addr: netip.MustParseAddr("10.0.0.1")},
		"IP 0.0.0.0":      {Name: "a", Type: "_http._tcp", Port: 1, Host: "x", Addr: netip.MustParseAddr("0.0.0.0")},
		"IP with zone":    {Name: "a", Type: "_http._tcp", Port: 1, Host: "x", Addr: netip.MustParseAddr("fe80::1%eth0")},
	} {
		if got, _, err := s.Fit(); err == nil {
			t.Errorf("%s was accepted: %+v", what, got)
		} else if s.Check() == nil {
			t.Errorf("%s: Check has nothing against it", what)
		}
	}
	s := Service{Name: "Cámara 1 ☎ a/b.c", Type: "_http._tcp", Port: 80, TXT: []string{"path=/", "bin=\x00\xff", "flag"}, Subtypes: []string{"_b", "_a", "_b"}}
	got, notes, err := s.Fit()
	if err != nil || len(notes) > 0 || s.Check() != nil || got.Name != s.Name || !slices.Equal(got.TXT, s.TXT) || !slices.Equal(got.Subtypes, []string{"_a", "_b"}) {
		t.Errorf("%+v, %q, %v", got, notes, err)
	}
}

func TestFitCuts(t *testing.T) {
	s := Service{Name: strings.Repeat("☎", 67), Type: "_http._tcp", Port: 1,
		TXT: []string{"a=" + strings.Repeat("x", 250), "long=" + strings.Repeat("x", 255), "=x", "", "ké=1", "second=" + strings.Repeat("y", 200), "small=1"}}
	got, notes, err := s.Fit()
	if err != nil || got.Name != strings.Repeat("☎", 21) || len(notes) != 6 {
		t.Errorf("%q, %q, %v", got.Name, notes, err)
	}
	if len(got.TXT) != 2 || got.TXT[1] != "small=1" {
		t.Errorf("texts %.20q", got.TXT)
	}
	if err := s.Check(); err == nil || !strings.Contains(err.Error(), "the name is cut") {
		t.Errorf("Check: %v", err)
	}
}

func TestOffers(t *testing.T) {
	vip := Service{Name: "V", Type: "_http._tcp", Port: 1, Host: "home", Addr: netip.MustParseAddr("10.0.0.1")}
	other := vip
	other.Host, other.Addr = "HOME", netip.MustParseAddr("10.0.0.2")
	offers, refused := offersOf(map[string]Service{
		"1": web("Web", 1), "2": web("web", 2), "3": web("Web #2", 3), "4": {Name: "Web", Type: "_ipp._tcp", Port: 4},
		"5": vip, "6": other, "7": web("", 7),
	})
	var got []string
	for _, key := range []string{"1", "2", "3", "4", "5", "6", "7"} {
		o, ok := offers[key]
		got = append(got, fmt.Sprintf("%s %v %t", o.Name, ok, refused[key] != ""))
	}
	wantList(t, "offers", got, "Web true false", "web #2 true false", "Web #3 true false", "Web true false", "V true false", " false true", " false true")

	many := map[string]Service{}
	for i := range 2 * maxOffers {
		many[fmt.Sprintf("%05d", i)] = web("Same", 1)
	}
	offers, refused = offersOf(many)
	names := map[string]bool{}
	for _, o := range offers {
		names[o.Name] = true
	}
	if len(offers) != maxOffers || len(refused) != maxOffers || len(names) != maxOffers {
		t.Errorf("%d offers of %d names, %d refused", len(offers), len(names), len(refused))
	}
}

func TestPlan(t *testing.T) {
	o := func(name string, port int, txt ...string) offer { return offer{Service: web(name, port, txt...)} }
	have := map[string]offer{"same": o("S", 1, "a"), "gone": o("G", 1), "port": o("P", 1), "text": o("T", 1, "a"), "both": o("B", 1, "a")}
	want := map[string]offer{"same": o("S", 1, "a"), "port": o("P", 2), "text": o("T", 1, "b"), "both": o("B", 2, "b"), "new": o("N", 1)}
	p := planFor(have, want)
	if got := fmt.Sprint(p); got != "{[gone] [both port] [text] [new]}" {
		t.Errorf("%s", got)
	}
	if p := planFor(want, want); p.drop != nil || p.change != nil || p.text != nil || p.add != nil {
		t.Errorf("something to do where nothing changed: %v", p)
	}
}

// Declaring the same again, which happens every two seconds, is next to nothing.
func TestPublishSameAllocatesNothing(t *testing.T) {
	b := New(Config{})
	want := map[string]Service{"a": web("A", 1, "x=1"), "b": web("B", 2)}
	b.Publish(want)
	if n := testing.AllocsPerRun(100, func() { b.Publish(want) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	// The caller may go on with what it gave.
	want["a"].TXT[0] = "x=2"
	if got := b.Published()[0].TXT[0]; got != "x=1" {
		t.Errorf("the caller's slice is kept: %q", got)
	}
}

func TestTypeName(t *testing.T) {
	for in, want := range map[string]string{"_http._tcp": "web page", "_HTTP._tcp": "web page", "_relevo._tcp": "relevo agent", "_x-y._tcp": "x-y", "_x-y._udp": "x-y (UDP)", "": ""} {
		if got := TypeName(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for typ := range typeNames {
		if !ValidType(typ) || foldName(typ) != typ {
			t.Errorf("%q can be no type", typ)
		}
	}
}
