package cloudy

import (
	"fmt"
	"net"
	"net/netip"
)

// HostAddress is the first IPv4 address that others can use of an interface of this
// host, or of the one with the default route if name is "".
func HostAddress(name string) (device string, addr netip.Addr, err error) {
	if name != "" {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return name, netip.Addr{}, fmt.Errorf("interface %s: %w", name, err)
		}
		if list := usable(*i); len(list) > 0 {
			return name, list[0], nil
		}
		return name, netip.Addr{}, fmt.Errorf("interface %s has no IPv4 address", name)
	}
	// Connecting a UDP socket sends nothing: the kernel only looks up the route.
	c, err := net.Dial("udp4", "192.0.2.1:9")
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("look for the default route: %w", err)
	}
	defer c.Close()
	addr = c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	all, err := net.Interfaces()
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("look at the interfaces: %w", err)
	}
	for _, i := range all {
		for _, a := range usable(i) {
			if a == addr {
				return i.Name, addr, nil
			}
		}
	}
	return "", netip.Addr{}, fmt.Errorf("no interface has the address %s of the default route", addr)
}

func usable(i net.Interface) (list []netip.Addr) {
	all, err := i.Addrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap().Is4() && others(ip) {
			list = append(list, ip.Unmap())
		}
	}
	return list
}
