package onboard

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

// Network is the one that the cluster would use.
type Network struct {
	Interface string
	Own       netip.Prefix // this host's address, with the length of the network
	Gateway   netip.Addr
	// Ranges that a DHCP server gives out, as far as this host knows: it serves them, or
	// was given one of the addresses.
	DHCP []Range
}

// Range of addresses, both ends in it.
type Range struct{ From, To netip.Addr }

// Contains says whether a lies in it.
func (r Range) Contains(a netip.Addr) bool { return r.From.Compare(a) <= 0 && a.Compare(r.To) <= 0 }

var dhcpRange = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^\s*dhcp-range=(?:[a-z:\w-]+,)*?(\d+\.\d+\.\d+\.\d+),(\d+\.\d+\.\d+\.\d+)`)
})

// DHCPRanges are those that a dnsmasq on this host gives out.
func DHCPRanges(root string) []Range {
	h := host(root)
	files, _ := filepath.Glob(filepath.Join(root, "etc/dnsmasq.d/*"))
	texts := [][]byte{h.read("etc/dnsmasq.conf")}
	for _, f := range files[:min(len(files), 64)] {
		if rel, err := filepath.Rel(root, f); err == nil {
			texts = append(texts, h.read(rel))
		}
	}
	var out []Range
	for _, t := range texts {
		for _, m := range dhcpRange().FindAllSubmatch(t, 16) {
			from, err1 := netip.ParseAddr(string(m[1]))
			to, err2 := netip.ParseAddr(string(m[2]))
			if err1 == nil && err2 == nil && from.Compare(to) <= 0 {
				out = append(out, Range{from, to})
			}
		}
	}
	return out
}

// Leased says whether the address of an interface came from a DHCP server: systemd-networkd,
// NetworkManager, dhclient and dhcpcd each leave a note.
func Leased(root, ifname string, index int, own netip.Addr) bool {
	h := host(root)
	if strings.Contains(string(h.read(fmt.Sprintf("run/systemd/netif/leases/%d", index))), "ADDRESS="+own.String()) {
		return true
	}
	for _, pattern := range []string{"var/lib/NetworkManager/*-" + ifname + ".lease", "var/lib/dhcp/dhclient*.leases"} {
		files, _ := filepath.Glob(filepath.Join(root, pattern))
		for _, f := range files[:min(len(files), 64)] {
			rel, err := filepath.Rel(root, f)
			if err == nil && strings.Contains(string(h.read(rel)), own.String()) {
				return true
			}
		}
	}
	return h.there("var/lib/dhcpcd/" + ifname + ".lease")
}

// near is how many addresses around one that was leased are taken for leased ones too.
const near = 16

// around is a guess at the range from which an address was leased.
func around(a netip.Addr) Range {
	b := a.As4()
	n := binary.BigEndian.Uint32(b[:])
	return Range{fromUint(n - min(n, near)), fromUint(n + near)}
}

func fromUint(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// Guess adds to the known ranges what the own, leased address lets suspect.
func (n Network) Guess(leased bool) Network {
	if leased {
		n.DHCP = append(n.DHCP[:len(n.DHCP):len(n.DHCP)], around(n.Own.Addr()))
	}
	return n
}

// InDHCP says whether an address lies where a DHCP server may give it away.
func (n Network) InDHCP(a netip.Addr) bool {
	for _, r := range n.DHCP {
		if r.Contains(a) {
			return true
		}
	}
	return false
}

// Fits says why an address cannot be the virtual IP of this network; "" = it can.
func (n Network) Fits(a netip.Addr) string {
	first, last := ends(n.Own)
	switch {
	case !a.Is4():
		return "only IPv4 is supported for the virtual IP"
	case !n.Own.Contains(a):
		return fmt.Sprintf("it is not in this network, %s", n.Own.Masked())
	case a == n.Own.Addr():
		return "it is this host's own address"
	case a == n.Gateway:
		return "it is the router's address"
	case a.Compare(first) < 0 || a.Compare(last) > 0:
		return "it is the network's own address, or its broadcast"
	}
	return ""
}

// ends are the first and the last address that a host can have.
func ends(p netip.Prefix) (first, last netip.Addr) {
	b := p.Masked().Addr().As4()
	n := binary.BigEndian.Uint32(b[:])
	size := uint32(1)<<(32-p.Bits()) - 1
	return fromUint(n + 1), fromUint(n + size - 1)
}

// maxProbes bounds how many addresses are asked for: each costs some tenths of a second.
const maxProbes = 24

// Free looks for an address for the virtual IP: from .250 of the network downwards, not
// in what is known of DHCP, and with nobody who answers for it. taken asks the network
// (ARP), and says who has it; "" = nobody.
func (n Network) Free(ctx context.Context, taken func(context.Context, netip.Addr) (string, error)) (netip.Addr, error) {
	if n.Own.Bits() > 29 {
		return netip.Addr{}, fmt.Errorf("the network %s is too small for an address to spare", n.Own.Masked())
	}
	first, last := ends(n.Own)
	at := last
	if b := first.As4(); n.Own.Bits() <= 24 {
		// People look for it where they are used to: in the own /24.
		own := n.Own.Addr().As4()
		b[0], b[1], b[2], b[3] = own[0], own[1], own[2], 250
		at = netip.AddrFrom4(b)
	}
	for probes := 0; probes < maxProbes && at.Compare(first) >= 0; at = at.Prev() {
		if n.Fits(at) != "" || n.InDHCP(at) {
			continue
		}
		probes++
		who, err := taken(ctx, at)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("look whether %s is free: %w", at, err)
		}
		if who == "" {
			return at, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no free address was found in %s", n.Own.Masked())
}
