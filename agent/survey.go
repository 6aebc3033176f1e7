package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"relevo.dev/relevo/agent/onboard"
	"relevo.dev/relevo/agent/vip"
)

// Survey is the network that an agent on this host would use; name is the interface, or ""
// for the one that the agent would choose.
func Survey(name string) (onboard.Network, error) {
	ifname, own, err := chooseInterface(name, netip.Addr{})
	if err != nil {
		return onboard.Network{}, err
	}
	n := onboard.Network{Interface: ifname, DHCP: onboard.DHCPRanges("/")}
	l, err := net.InterfaceByName(ifname)
	if err != nil {
		return n, err
	}
	addrs, err := l.Addrs()
	if err != nil {
		return n, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == own {
			n.Own = p
		}
	}
	if routes, err := netlink.RouteList(nil, netlink.FAMILY_V4); err == nil {
		for _, r := range routes {
			if (r.Dst == nil || r.Dst.IP.IsUnspecified()) && r.LinkIndex == l.Index {
				n.Gateway, _ = netip.AddrFromSlice(r.Gw.To4())
			}
		}
	}
	return n.Guess(onboard.Leased("/", ifname, l.Index, own)), nil
}

// WhoHas asks the network of an interface for the owner of an address, by ARP and without
// claiming it; "" = nobody answered. It needs root.
func WhoHas(ctx context.Context, ifname string, ip netip.Addr) (string, error) {
	l, err := netlink.LinkByName(ifname)
	if err != nil {
		return "", fmt.Errorf("interface %s: %w", ifname, err)
	}
	a, err := vip.New(vip.Config{Prefix: netip.PrefixFrom(ip, ip.BitLen()), Interface: ifname, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return "", err
	}
	hw, err := a.Probe(ctx, l)
	return hw.String(), err
}
