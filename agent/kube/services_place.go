package kube

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"
)

// locate works out where a port can be reached, and whether at all. The order is:
// what an annotation says, a load balancer's address, an external one, then the node
// port: at the virtual IP, which follows the master, else at a node.
func (t *translation) locate(m *wantedPort, w wishes, endpoints []string) bool {
	sv := m.sv
	for _, addrs := range [][]netip.Addr{w.targets, sv.LoadBalancer, sv.ExternalIPs} {
		if addrs = t.order(addrs); len(addrs) > 0 {
			m.offer.Addrs, m.offer.Port = addrs, m.port.Port
			m.offer.Host = t.hostOf(addrs[0], cmp.Or(w.host, label(sv.Name+"-"+sv.Namespace)))
			return m.offer.Port > 0
		}
	}
	if m.port.NodePort == 0 {
		return false
	}
	m.offer.Port = m.port.NodePort
	if t.place.VIP.IsValid() && family(sv, t.place.VIP) && t.servesHere(sv, endpoints) {
		m.offer.Addrs, m.offer.Host = []netip.Addr{t.place.VIP}, t.place.VIPHost
		return true
	}
	if len(t.nodes) == 0 { // nobody says who runs it: this host, then
		return true
	}
	name, addr := t.node(sv, endpoints, w.external)
	if !addr.IsValid() {
		return false
	}
	m.offer.Addrs, m.offer.Host = []netip.Addr{addr}, label(name+"-kube")
	return true
}

// servesHere says whether node ports are answered at this host's addresses. Where no
// Node is known that cannot be told, and the master is taken to be one.
func (t *translation) servesHere(sv *Service, endpoints []string) bool {
	if len(t.nodes) == 0 {
		return true
	}
	return t.self != nil && (!sv.Local || slices.Contains(endpoints, t.self.Name))
}

// node chooses the node at which a node port is announced. The choice does not depend
// on who makes it, so that nothing changes with the master; nodes that are not well
// only serve where there is none better.
func (t *translation) node(sv *Service, endpoints []string, external bool) (name string, addr netip.Addr) {
	for _, well := range []bool{true, false} {
		for _, n := range t.nodes {
			if n.Ready != well || sv.Local && !slices.Contains(endpoints, n.Name) {
				continue
			}
			addrs := n.Internal
			if external && len(n.External) > 0 {
				addrs = n.External
			}
			for _, a := range addrs {
				if family(sv, a) && !t.place.Down[a] {
					return n.Name, a
				}
			}
		}
	}
	return "", netip.Addr{}
}

// order puts the best address first: one that follows the master, then those of hosts
// that are up, IPv4 before IPv6; the same whoever does it. Those of hosts that are off
// are left out, unless there is no other.
func (t *translation) order(addrs []netip.Addr) []netip.Addr {
	out := slices.Clone(addrs)
	rank := func(a netip.Addr) int {
		switch {
		case a == t.place.VIP:
			return 0
		case t.down(a):
			return 2
		}
		return 1
	}
	sort.Slice(out, func(i, j int) bool {
		return cmp.Or(cmp.Compare(rank(out[i]), rank(out[j])), out[i].Compare(out[j])) < 0
	})
	out = slices.Compact(out)
	if i := slices.IndexFunc(out, t.down); i > 0 {
		out = out[:i]
	}
	return out[:min(len(out), maxAddrs)]
}

// maxAddrs of one offer.
const maxAddrs = 8

// down says whether an address is that of a host that is off, as far as it is known
// here or to Kubernetes.
func (t *translation) down(a netip.Addr) bool {
	if t.place.Down[a] {
		return true
	}
	for _, n := range t.nodes {
		if !n.Ready && (slices.Contains(n.Internal, a) || slices.Contains(n.External, a)) {
			return true
		}
	}
	return false
}

func (t *translation) hostOf(a netip.Addr, own string) string {
	if a == t.place.VIP {
		return t.place.VIPHost
	}
	return own
}

// giveHosts makes sure that one host label stands for one address: the first that has
// it keeps it.
func (t *translation) giveHosts() {
	taken := map[string]netip.Addr{t.place.VIPHost: t.place.VIP}
	for i := range t.ports {
		o := &t.ports[i].offer
		if o.Host == "" || len(o.Addrs) == 0 {
			continue
		}
		if was, ok := taken[o.Host]; ok && was != o.Addrs[0] {
			o.Host = label(o.Host[:min(len(o.Host), 40)] + "-" + o.Addrs[0].String())
		}
		taken[o.Host] = o.Addrs[0]
	}
}

// family says whether a Service is served at an address of this kind.
func family(sv *Service, a netip.Addr) bool {
	want := "IPv6"
	if a.Is4() {
		want = "IPv4"
	}
	return len(sv.Families) == 0 || slices.Contains(sv.Families, want)
}

// usable says whether an address can be one to reach something at.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a.Zone() == ""
}
