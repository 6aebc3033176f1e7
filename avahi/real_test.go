//go:build e2e

package avahi

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// has says that a line begins and ends with, or contains, all the words.
func has(lines []string, words ...string) bool {
	return slices.ContainsFunc(lines, func(l string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(l, w) })
	})
}

// TestRealAvahi: what we tell avahi-daemon is what avahi-browse and a second board see
// on another host, also after avahi-daemon was killed.
func TestRealAvahi(t *testing.T) {
	h := lab(t)
	h[0].startAvahi()
	h[1].startAvahi()
	until(t, "avahi-daemon runs", func() bool { return h[1].hostName() != "" })
	there := h[1].browse("_http._tcp")
	sub := h[1].browse("_printer._sub._http._tcp")
	b := h[0].board("avahi")
	other := h[1].board("avahi", AllTypes)
	want := map[string]Service{
		"odd":  web("Cámara 1 ☎ a.b/c \\ 'x'", 80, "path=/", `odd=\"é`),
		"long": web(strings.Repeat("☎", 30), 81),
		"sub":  {Name: "Sub", Type: "_http._tcp", Port: 82, Subtypes: []string{"_printer"}},
		"vip":  {Name: "Vip", Type: "_http._tcp", Port: 83, Host: "home-vip", Addr: netip.MustParseAddr("10.77.0.50")},
	}
	b.Publish(want)
	found := func(name, host, addr string, port int, txt ...string) func() bool {
		return func() bool {
			return slices.ContainsFunc(other.Found(), func(e Entry) bool {
				return e.Name == name && e.Type == "_http._tcp" && e.Host == host && e.Addr.String() == addr && e.Port == port && slices.Equal(e.TXT, txt)
			})
		}
	}
	until(t, "the odd name on the other host", found(want["odd"].Name, "lab1", "10.77.0.1", 80, "path=/", `odd=\"é`))
	until(t, "the cut name on the other host", found(strings.Repeat("☎", 21), "lab1", "10.77.0.1", 81))
	until(t, "the virtual host on the other host", found("Vip", "home-vip", "10.77.0.50", 83))
	until(t, "avahi-browse to see the virtual host", func() bool { return has(there.lines(), "=;", ";Vip;", ";home-vip.local;10.77.0.50;83;") })
	until(t, "avahi-browse to see the subtype", func() bool { return has(sub.lines(), "=;", ";Sub;") })
	until(t, "computers are found, too", func() bool {
		return slices.ContainsFunc(other.Found(), func(e Entry) bool { return e.Type == "_workstation._tcp" && strings.HasPrefix(e.Name, "lab1 ") })
	})
	if ps := b.Published(); !slices.ContainsFunc(ps, func(p Published) bool {
		return p.Key == "long" && p.State == Announced && strings.Contains(p.Reason, "the name is cut")
	}) {
		t.Errorf("%+v", ps)
	}

	s := want["odd"]
	s.TXT = []string{"path=/new"}
	want["odd"] = s
	b.Publish(want)
	until(t, "the new texts on the other host", found(s.Name, "lab1", "10.77.0.1", 80, "path=/new"))
	s.Port = 8080
	want["odd"] = s
	b.Publish(want)
	until(t, "the new port on the other host", found(s.Name, "lab1", "10.77.0.1", 8080, "path=/new"))

	h[0].endAvahi("KILL")
	until(t, "its end is noticed", func() bool { return b.Backend() == "" })
	h[0].startAvahi()
	until(t, "everything is announced again", func() bool {
		return !slices.ContainsFunc(b.Published(), func(p Published) bool { return p.State != Announced })
	})
	if has(there.lines(), "-;", ";Vip;") {
		t.Error("killing avahi-daemon made others forget")
	}
	until(t, "the odd name on the other host again", found(s.Name, "lab1", "10.77.0.1", 8080, "path=/new"))

	// Two hosts, one name: the later one is renamed, and says so.
	other.Publish(map[string]Service{"x": web("Vip", 84)})
	until(t, "the name is taken", func() bool { return slices.Equal(stands(other), []string{"x announced Vip #2"}) })
	until(t, "both are seen", found("Vip #2", "lab2", "10.77.0.2", 84))

	// The other host takes over a service of this name from a host that died. It is
	// another host's now, with the other's address.
	b.Publish(map[string]Service{"moves": web("Moves", 85)})
	until(t, "the service is where it was", found("Moves", "lab1", "10.77.0.1", 85))
	h[0].endAvahi("KILL")
	other.Publish(map[string]Service{"moves": web("Moves", 85)})
	until(t, "the service is where it moved to", found("Moves", "lab2", "10.77.0.2", 85))
	other.Publish(nil)
	h[0].startAvahi()
	b.Publish(want)
	until(t, "the virtual host is back", found("Vip", "home-vip", "10.77.0.50", 83))

	if out, err := h[0].command("sh", "-c", "ip addr del 10.77.0.1/24 dev eth0 && ip addr add 10.77.0.7/24 dev eth0").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	until(t, "another address", found("Sub", "lab1", "10.77.0.7", 82))

	delete(want, "vip")
	b.Publish(want)
	until(t, "avahi-browse to see it go", func() bool { return has(there.lines(), "-;", ";Vip;") })
	until(t, "it is gone on the other host", func() bool { return !found("Vip", "home-vip", "10.77.0.50", 83)() })
}

// TestRealTurns: a host without avahi-daemon announces by itself; its avahi-daemon
// comes, is killed, comes, is stopped in good order and restarted; and another host
// never sees the services go, nor any name change.
func TestRealTurns(t *testing.T) {
	h := lab(t)
	h[1].startAvahi()
	until(t, "avahi-daemon runs", func() bool { return h[1].hostName() != "" })
	there := h[1].browse("_http._tcp")
	publish, says := h[0].boardProcess("auto")
	publish(map[string]Service{"odd": web("Cámara 1 ☎ a.b/c 'x'", 80, `odd=\"é`), "vip": {Name: "Vip", Type: "_http._tcp", Port: 83, Host: "home-vip", Addr: netip.MustParseAddr("10.77.0.50")}})
	odd := `;C\195\161mara\0321\032\226\152\142\032a\.b\047c\032\039x\039;`
	stand := func(backend string) func() bool {
		return func() bool {
			ls := says.lines()
			return has(ls[len(ls)-1:], `stands "`+backend+`" [odd announced Cámara 1 ☎ a.b/c 'x' vip announced Vip]`)
		}
	}
	until(t, "zeroconf announces", stand("zeroconf"))
	until(t, "the other host sees the odd name", func() bool {
		return has(there.lines(), "=;", odd, ";lab1-relevo.local;10.77.0.1;80;", `"odd=\\\"\195\169"`)
	})
	until(t, "the other host sees the virtual host", func() bool { return has(there.lines(), "=;", ";Vip;", ";home-vip.local;10.77.0.50;83;") })
	for _, name := range []string{"home-vip.local", "lab1-relevo.local"} {
		if out, err := h[1].debian("avahi-resolve", "-4n", name).CombinedOutput(); err != nil || !strings.Contains(string(out), "10.77.0.") {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	for _, end := range []string{"KILL", "TERM", "TERM"} {
		h[0].startAvahi()
		until(t, "avahi-daemon announces", stand("avahi"))
		until(t, "avahi-daemon runs", func() bool { return h[0].hostName() != "" })
		if name := h[0].hostName(); name != "lab1" {
			t.Errorf("beside us, avahi-daemon took the host name %q", name)
		}
		h[0].endAvahi(end)
		until(t, "zeroconf announces", stand("zeroconf"))
	}
	h[0].startAvahi()
	until(t, "avahi-daemon announces", stand("avahi"))
	for _, l := range there.lines() {
		if strings.HasPrefix(l, "-;") || strings.Contains(l, "#2") {
			t.Errorf("the other host saw %s", l)
		}
	}
	publish(nil)
	until(t, "everything goes in the end", func() bool { return has(there.lines(), "-;", odd) && has(there.lines(), "-;", ";Vip;") })
}

// TestRealZeroconfs: two hosts without avahi-daemon find each other, see texts change
// and services go, and do not take each other's names.
func TestRealZeroconfs(t *testing.T) {
	h := lab(t)
	one, saysOne := h[0].boardProcess("zeroconf")
	name := "Cámara 1 ☎ a.b 'x'"
	one(map[string]Service{"a": web(name, 80, `odd=\"é`)})
	until(t, "the first announces", func() bool { return has(saysOne.lines(), "[a announced "+name+"]") })
	two, saysTwo := h[1].boardProcess("zeroconf")
	two(map[string]Service{"b": web(name, 81)})
	last := func(o *output, words ...string) func() bool {
		return func() bool { ls := o.lines(); return has(ls[len(ls)-1:], words...) }
	}
	until(t, "the second has another name and sees the first", last(saysTwo, "[b announced "+name+" #2]", "lab1-relevo 10.77.0.1:80 odd="))
	until(t, "the first sees the second", last(saysOne, name+" #2 _http._tcp lab2-relevo 10.77.0.2:81"))
	one(map[string]Service{"a": web(name, 80, "new")})
	until(t, "the new texts", last(saysTwo, "lab1-relevo 10.77.0.1:80 new"))
	if out, err := h[0].command("ip", "addr", "add", "10.77.0.7/24", "dev", "eth0").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	until(t, "the new address", last(saysTwo, "lab1-relevo 10.77.0.7:80 new"))
}
