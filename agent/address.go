package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"relevo.dev/relevo/agent/lease"
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

const (
	// addressSettle is how long after a change the addresses of this host are looked at: DHCP
	// takes the old one away first, and another interface may be better for that moment.
	addressSettle = 300 * time.Millisecond
	// addressTurn is how often they are looked at, should the kernel not tell.
	addressTurn = 10 * time.Second
)

// readdresses notices that this host has another address now, and tells the others, until ctx
// ends. The kernel is listened to: an arbiter that has moved is looked for in vain where it
// was, and a lease runs for seconds only.
func (a *agent) readdresses(ctx context.Context) error {
	if a.cfg.Advertise.IsValid() {
		return nil // it is what it was set to
	}
	told, done := make(chan netlink.AddrUpdate, 16), make(chan struct{})
	events := told
	if err := netlink.AddrSubscribe(told, done); err != nil {
		a.log.Warn("the kernel does not tell of new addresses: they are looked for", "every", addressTurn, "err", err)
		events = nil
	} else {
		defer func() {
			close(done)
			for range told { // closed by who listens
			}
		}()
	}
	look := time.NewTimer(0)
	defer look.Stop()
	for soon := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-events:
			switch {
			case !ok: // it does not tell any more
				events = nil
			case !soon:
				soon = true
				look.Reset(addressSettle)
			}
		case <-look.C:
			a.readdress(ctx)
			soon = false
			look.Reset(addressTurn)
		}
	}
}

func (a *agent) readdress(ctx context.Context) {
	was := *a.addr.Load()
	_, addr, err := chooseInterface(a.cfg.Interface, a.vip())
	if err != nil || addr == was {
		return // without an address there is nothing to tell
	}
	a.log.Warn("this host has another address now", "was", was.String(), "now", addr.String())
	a.addr.Store(&addr)
	a.port.Moved(was.String())
	if a.host != nil {
		a.loop.post(ctx, lease.ArbiterKnown{}) // what was asked from there is asked again
	}
	a.pool.Restart(addr.String())
}
