package avahi

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"sort"
	"strings"
)

// foreignLinks are beginnings of the names of interfaces that belong to containers,
// virtual machines and tunnels: nobody listens there, and to answer there makes an
// avahi-daemon on the same host believe in a second host of its name.
var foreignLinks = []string{"veth", "cni", "docker", "flannel", "br-", "virbr", "vmnet", "lxc", "lxdbr", "tun", "tap", "wg", "tailscale", "zt", "cali", "kube", "nodelocaldns", "dummy", "ifb"}

// realInterfaces are those on which a LAN may be.
func realInterfaces() []net.Interface {
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(all, func(i net.Interface) bool { return !realInterface(i) })
}

func realInterface(i net.Interface) bool {
	if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagMulticast == 0 || i.Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 {
		return false
	}
	return !slices.ContainsFunc(foreignLinks, func(p string) bool { return strings.HasPrefix(i.Name, p) })
}

// links are the interfaces in use and this host's addresses on them.
type links struct {
	ifs   []net.Interface
	addrs []netip.Addr
}

func (l links) equal(o links) bool {
	return slices.Equal(l.addrs, o.addrs) && slices.EqualFunc(l.ifs, o.ifs, func(a, b net.Interface) bool { return a.Index == b.Index && a.Name == b.Name })
}

// linksOf takes the interfaces that have an IPv4 address.
func linksOf(ifs []net.Interface, addrs func(net.Interface) []net.Addr) links {
	var l links
	for _, i := range ifs {
		had := len(l.addrs)
		for _, a := range addrs(i) {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap().Is4() && !ip.Unmap().IsLoopback() {
				l.addrs = append(l.addrs, ip.Unmap())
			}
		}
		if len(l.addrs) > had {
			l.ifs = append(l.ifs, i)
		}
	}
	sort.Slice(l.addrs, func(i, j int) bool { return l.addrs[i].Less(l.addrs[j]) })
	l.addrs = slices.Compact(l.addrs)
	return l
}

// without leaves out addresses that are announced under other labels.
func (l links) without(vips map[netip.Addr]bool) links {
	l.addrs = slices.DeleteFunc(slices.Clone(l.addrs), func(a netip.Addr) bool { return vips[a] })
	return l
}

func systemAddrs(i net.Interface) []net.Addr {
	as, err := i.Addrs()
	if err != nil {
		return nil // it went away
	}
	return as
}

// ownLabel is the host label that zeroconf announces: not the host's own, which an
// avahi-daemon may have.
func ownLabel(host string) string {
	if host == "" {
		host, _ = os.Hostname()
	}
	host, _, _ = strings.Cut(host, ".")
	host = strings.Map(func(r rune) rune {
		if !letterDigitHyphen(r) {
			return '-'
		}
		return r
	}, host)
	const suffix = "relevo"
	host = strings.Trim(host[:min(len(host), MaxName-1-len(suffix))], "-")
	if host == "" {
		return suffix
	}
	return host + "-" + suffix
}
