package agent

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
)

// chooseInterface finds the interface and the address that others reach this host
// at: the named interface, else the one with the default route, else the first
// real one that is up. The virtual IP is nobody's own address.
func chooseInterface(name string, vip netip.Addr) (string, netip.Addr, error) {
	if name == "" {
		name = defaultInterface()
	}
	ifs, err := net.Interfaces()
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("look at the interfaces of this host: %w", err)
	}
	for _, i := range ifs {
		if name != "" && i.Name != name || name == "" && (i.Flags&net.FlagLoopback != 0 || i.Flags&net.FlagUp == 0 || virtual(i.Name)) {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, ad := range addrs {
			n, ok := ad.(*net.IPNet)
			if !ok {
				continue
			}
			if ip, ok := netip.AddrFromSlice(n.IP.To4()); ok && ip != vip && !ip.IsLinkLocalUnicast() {
				return i.Name, ip, nil
			}
		}
	}
	if name != "" {
		return "", netip.Addr{}, fmt.Errorf("interface %s has no IPv4 address yet: is the cable in, does DHCP answer?", name)
	}
	return "", netip.Addr{}, fmt.Errorf("no network interface has an IPv4 address yet: is the cable in, does DHCP answer?")
}

func virtual(name string) bool {
	for _, p := range []string{"veth", "cni", "docker", "flannel", "br-", "virbr", "tun", "tap", "wg", "cali", "kube"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// defaultInterface carries the default route; "" if there is none.
func defaultInterface() string {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return ""
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
				return l.Attrs().Name
			}
		}
	}
	return ""
}
