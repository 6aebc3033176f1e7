package cloudy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// OriginCloudy is the origin of entries that were read from Cloudy's ring. They
// are never written back to it.
const OriginCloudy = "cloudy"

// Entry is a service.
type Entry struct {
	Name        string       // instance name, as DNS-SD shows it
	Type        string       // such as _http._tcp
	Description string       // for people; "" = the name
	Node        string       // who offers it: a host of ours, or a member of Cloudy's ring
	Host        string       // host name; "" = NODE.CLOUD.local
	MicroCloud  string       // domain that it belongs to; "" = our own
	Addrs       []netip.Addr // none = the address of the host that writes the list
	Port        int          // 0 = unknown, as Cloudy allows
	TXT         []string     // key=value
	Origin      string
	Local       bool // not in the ring: for the LAN alone
	Since       time.Time
}

// compare orders entries by what they are, not by when they came.
func compare(a, b Entry) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Description, b.Description),
		cmp.Compare(a.Node, b.Node), cmp.Compare(a.Host, b.Host), cmp.Compare(a.MicroCloud, b.MicroCloud), cmp.Compare(a.Port, b.Port),
		slices.CompareFunc(a.Addrs, b.Addrs, netip.Addr.Compare), slices.Compare(a.TXT, b.TXT))
}

// dnsType makes _http._tcp of Cloudy's http; Cloudy knows nothing but tcp.
func dnsType(t string) string {
	if strings.HasSuffix(t, "._tcp") || strings.HasSuffix(t, "._udp") {
		t = bareType(t)
	}
	if t = label(t); t == "" {
		return ""
	}
	return "_" + t + "._tcp"
}

// bareType makes http of _http._tcp.
func bareType(t string) string {
	t = strings.TrimSuffix(strings.TrimSuffix(t, "._tcp"), "._udp")
	return label(strings.TrimPrefix(t, "_"))
}

// label keeps what may be in a type's name, which Cloudy's page also uses as the id
// of an HTML element.
func label(t string) string {
	t = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return -1
	}, t)
	return t[:min(len(t), 63)]
}
