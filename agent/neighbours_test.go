package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/avahi"
)

func announcement(node, ip, id, name string, more ...string) avahi.Entry {
	return avahi.Entry{Name: node, Type: relevoType, Addr: netip.MustParseAddr(ip), Port: 7947, TXT: append([]string{"cluster=" + id, "name=" + name}, more...)}
}

func TestNeighbours(t *testing.T) {
	const own, shed, home = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"
	vip := netip.MustParseAddr("10.0.0.250")
	ours := func(ip netip.Addr) bool { return ip == netip.MustParseAddr("10.0.0.1") }
	found := []avahi.Entry{
		announcement("n1", "10.0.0.1", own, "home"),
		announcement("n2", "10.0.0.2", own, "home"),
		announcement("n1", "10.0.0.1", "dddddddddddd", "home"), // a member of ours, by an older ID
		announcement("p1", "10.0.0.11", shed, "shed"),
		announcement("p2", "10.0.0.12", shed, "shed", "vip=10.0.0.250"),
		announcement("n9", "10.0.0.19", home, "home", "vip=10.0.0.251"),
		announcement("x", "10.0.0.20", "", "x"),
		{Name: "web", Type: "_http._tcp", Addr: netip.MustParseAddr("10.0.0.30"), Port: 80, TXT: []string{"cluster=eeeeeeeeeeee"}},
	}
	near := neighbours(found, own, ours)
	if got := fmt.Sprint(near); got != "[{shed bbbbbbbbbbbb [p1 p2] 10.0.0.250} {home cccccccccccc [n9] 10.0.0.251}]" {
		t.Error(got)
	}
	said := tellNeighbours(near, "home", vip)
	if len(said) != 2 || said[0].Severity != api.Critical || !strings.Contains(said[0].What, "same virtual IP") || said[1].Severity != api.Warning || !strings.Contains(said[1].What, "same name") {
		t.Errorf("%+v", said)
	}
	if f := doctorNeighbours(near, "home", vip); f.Result != api.FindingWrong || !strings.Contains(f.What, "same virtual IP") {
		t.Errorf("%+v", f)
	}
	// Another name and another address: that may be meant.
	if f := doctorNeighbours(near[:1], "home", netip.Addr{}); f.Result != api.FindingOK || !strings.Contains(f.What, "shed") || len(tellNeighbours(near[:1], "home", netip.Addr{})) > 0 {
		t.Errorf("%+v", f)
	}
	if f := doctorNeighbours(nil, "home", vip); f.Result != api.FindingOK {
		t.Errorf("%+v", f)
	}

	// Somebody who announces whatever he likes is not all that is told.
	found = found[:0]
	for i := range 500 {
		found = append(found, announcement(fmt.Sprintf("z%d", i), "10.0.1.1", fmt.Sprintf("id%08d", i%50), "z"))
	}
	if near = neighbours(found, own, ours); len(near) != maxNeighbours || slices.ContainsFunc(near, func(n api.Neighbour) bool { return len(n.Nodes) > maxNeighbours }) {
		t.Errorf("%d neighbours: %+v", len(near), near)
	}
}
