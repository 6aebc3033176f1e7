package kube

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"unicode"

	"relevo.dev/relevo/avahi"
)

// unknownType is announced where nothing tells what a port speaks.
const unknownType = "_kube-service._tcp"

// reserved types are the agents' own: whoever may make a Service could otherwise send
// people who look for the API elsewhere.
var reserved = map[string]bool{"_relevo._tcp": true, "_kubernetes._tcp": true, "_relevo-init._tcp": true}

// byNumber is what is spoken on ports whose number says it.
var byNumber = map[int]string{
	22: "ssh", 25: "smtp", 53: "domain", 80: "http", 123: "ntp", 143: "imap", 389: "ldap", 443: "https", 445: "smb", 554: "rtsp",
	631: "ipp", 873: "rsync", 1883: "mqtt", 2049: "nfs", 3000: "http", 3306: "mysql", 3389: "rdp", 5000: "http", 5432: "postgresql", 5900: "rfb",
	8000: "http", 8080: "http", 8081: "http", 8096: "http", 8123: "home-assistant", 8443: "https", 8888: "http", 9000: "http", 9090: "http",
}

// byWord is what people and charts call a port, where it is no service type.
var byWord = map[string]string{
	"web": "http", "webui": "http", "ui": "http", "http2": "http", "http-web": "http", "h2c": "http", "ws": "http", "http-alt": "http", "dashboard": "http",
	"wss": "https", "websecure": "https", "tls": "https", "https-web": "https", "dns": "domain", "dns-tcp": "domain", "postgres": "postgresql", "psql": "postgresql",
	"vnc": "rfb", "metrics": "prometheus-http", "http-metrics": "prometheus-http", "prometheus": "prometheus-http",
}

// typeOf works out what a port is announced as: what an annotation says, then
// appProtocol, the port's name, its number. The complaint is about an annotation that
// says what cannot be.
func (w *wishes) typeOf(sv *Service, p ServicePort) (typ, complaint string) {
	proto := "_" + strings.ToLower(p.Protocol)
	asked, one := w.types[p.key()], true
	if asked == "" {
		asked, one = w.typ, len(sv.Ports) == 1
	}
	if asked != "" {
		switch typ := wellFormed(asked, proto); {
		case reserved[strings.ToLower(typ)]:
			complaint = fmt.Sprintf("annotation type %s: by that relevo's agents find each other and the API; no Service may be announced as it", typ)
		case !avahi.ValidType(typ):
			complaint = fmt.Sprintf("annotation type %s: something like _http._tcp is allowed, with at most 15 letters, digits and hyphens", avahi.Printable(asked, 63))
		case strings.HasSuffix(typ, "."+proto):
			return typ, ""
		case one: // a type for all ports is for those that it can be for
			complaint = fmt.Sprintf("annotation type %s: port %s speaks %s", avahi.Printable(asked, 63), p.key(), p.Protocol)
		}
	}
	app := strings.ToLower(p.App)
	if _, word, ok := strings.Cut(app, "/"); ok { // kubernetes.io/h2c
		app = word
	}
	for _, word := range []string{app, strings.ToLower(p.Name)} {
		for _, try := range []string{word, first(word)} {
			if t := "_" + cmp.Or(byWord[try], try) + "." + proto; try != "" && avahi.KnownType(t) && !reserved[t] {
				return t, complaint
			}
		}
	}
	if t := byNumber[p.Port]; t != "" {
		if t = "_" + t + "." + proto; p.Protocol == "TCP" || avahi.KnownType(t) {
			return t, complaint
		}
	}
	for _, word := range []string{app, strings.ToLower(p.Name)} {
		if t := "_" + word + "." + proto; avahi.ValidType(t) && !reserved[t] {
			return t, complaint
		}
	}
	return strings.TrimSuffix(unknownType, "._tcp") + "." + proto, complaint
}

// first is the part of a port's name before a hyphen: http-admin.
func first(s string) string {
	s, _, _ = strings.Cut(s, "-")
	return s
}

// wellFormed makes _http._tcp of what people write: http, _http, _http._tcp.local.
func wellFormed(t, proto string) string {
	t = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSpace(t), "."), ".local")
	if !strings.Contains(t, ".") {
		t = "_" + strings.TrimPrefix(t, "_") + "." + proto
	}
	return t
}

func (w *wishes) nameOf(sv *Service, p ServicePort) string {
	return cmp.Or(w.names[p.key()], w.name, sv.Name)
}

// cleanName makes a name fit for a label: without control characters, at most 63
// bytes.
func cleanName(s string) string {
	s = strings.ToValidUTF8(s, "")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	return avahi.Cut(strings.Join(strings.Fields(s), " "), avahi.MaxName)
}

// tellApart gives ports of one Service that would be the same their port's name.
func tellApart(ports []wantedPort) {
	count := map[string]int{}
	for _, p := range ports {
		count[p.identity()]++
	}
	for i := range ports {
		if p := &ports[i]; count[p.identity()] > 1 {
			p.offer.Name = withSuffix(p.offer.Name, " "+p.port.key())
		}
	}
}

// identity is what no two may have.
func (p *wantedPort) identity() string { return strings.ToLower(p.offer.Name) + "\x00" + p.offer.Type }

// giveNames lets the first who wants a name have it; others say where they are from.
func giveNames(ports []wantedPort) {
	taken := map[string]bool{}
	for i := range ports {
		p := &ports[i]
		own := p.offer.Name
		for n := 0; taken[p.identity()]; n++ {
			switch n {
			case 0:
				p.offer.Name = withSuffix(own, " ("+p.sv.Namespace+")")
			case 1:
				p.offer.Name = withSuffix(own, " ("+p.sv.key()+")")
			default:
				p.offer.Name = withSuffix(own, " ("+p.offer.ID+strings.Repeat("'", n-2)+")")
			}
		}
		taken[p.identity()] = true
	}
}

// maxSuffix leaves room for a name before it.
const maxSuffix = 36

// withSuffix cuts a name so that the suffix has room. One that is too long itself
// becomes a number that stays the same.
func withSuffix(name, suffix string) string {
	if len(suffix) > maxSuffix {
		h := fnv.New32a()
		h.Write([]byte(suffix))
		suffix = " (" + strconv.FormatUint(uint64(h.Sum32()), 36) + ")"
	}
	return avahi.Cut(name, avahi.MaxName-len(suffix)) + suffix
}

// label makes a host label of a name: what is no letter, digit or hyphen becomes a
// hyphen.
func label(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, s)
	return strings.Trim(s[:min(len(s), avahi.MaxName)], "-")
}
