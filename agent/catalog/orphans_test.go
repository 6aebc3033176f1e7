package catalog

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"
)

// TestOrphans: of a lost member only Services of Kubernetes at an address that is not its
// own stay in the view, for a while, and until somebody else offers some.
func TestOrphans(t *testing.T) {
	entry := func(id string, o Origin, addrs ...netip.Addr) Entry {
		return Entry{ID: id, Name: id, Type: "_http._tcp", Port: 80, Origin: o, Health: OK, Owner: "n1", Node: "n1", Addrs: addrs}
	}
	vip := netip.MustParseAddr("10.0.0.100")
	fresh := func() *Catalog {
		c := New(Config{Node: "n4", Log: slog.New(slog.DiscardHandler)})
		c.total = 3
		c.remotes["n1"] = &remote{alive: true, entries: []Entry{entry("web", Kubernetes, vip), entry("own", Kubernetes), entry("file", File, vip)}}
		return c
	}
	names := func(c *Catalog) (out string) {
		for _, e := range c.All() {
			out += e.Name + "@" + e.Owner + " "
		}
		return out
	}
	lost := []Member{{Node: "n1", Tag: "?"}}
	c := fresh()
	c.meet(lost, time.Now())
	if got := names(c); got != "web@n1 " || c.All()[0].Why == "" {
		t.Errorf("lost: %q, %+v", got, c.All())
	}
	c.meet([]Member{{Node: "n1", Alive: true, Tag: "?"}}, time.Now())
	if got := names(c); got != "file@n1 own@n1 web@n1 " {
		t.Errorf("back: %q", got)
	}
	c.meet(lost, time.Now().Add(-succession))
	if got := names(c); got != "" {
		t.Errorf("lost for long: %q", got)
	}
	c = fresh()
	c.meet(lost, time.Now())
	c.Set(Kubernetes, []Entry{{ID: "chat", Name: "chat", Type: "_http._tcp", Port: 1}}, nil)
	if got := names(c); got != "chat@n4 " {
		t.Errorf("the next master offers its own: %q", got)
	}
	c = fresh()
	c.meet([]Member{{Node: "n1", Left: true, Tag: "?"}}, time.Now())
	if got := names(c); got != "" {
		t.Errorf("left on purpose: %q", got)
	}
}
