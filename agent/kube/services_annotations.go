package kube

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Prefixes of annotations. Ours are relevo.dev/publish, name, name.PORT, type,
// type.PORT, ports, txt.KEY, description, host and cloudy. The others were read in
// the sources of the programs that made them:
//
//   - kubelish: kubelish/service-name and service-type, both needed, and txt, one
//     string; of several ports it means the one named as the service.
//   - external-mdns: external-mdns.blakecovarrubias.com/hostnames, a list; in a later
//     version external-mdns.blake.github.io/publish, hostname, service-instance and
//     service-txt, a JSON object of objects by port name.
//   - external-dns: hostname, a list; target, a list; access; controller. They are for
//     DNS at large: only a hostname below .local asks for an announcement.
const (
	ours        = "relevo.dev/"
	kubelish    = "kubelish/"
	mdnsOld     = "external-mdns.blakecovarrubias.com/"
	mdnsNew     = "external-mdns.blake.github.io/"
	externalOld = "external-dns.alpha.kubernetes.io/"
	externalNew = "external-dns.kubernetes.io/" // since 0.22
)

// Limits on what is kept of a Service's annotations, in bytes; far above what can be
// announced.
const (
	maxAnnotation  = 1024
	maxAnnotations = 64 // in number
)

// keepAnnotations are those that are read, bounded.
func keepAnnotations(all map[string]string) map[string]string {
	var out map[string]string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if v := all[k]; len(v) <= maxAnnotation && len(out) < maxAnnotations && readable(k) {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}

func readable(key string) bool {
	return slices.ContainsFunc([]string{ours, kubelish, mdnsOld, mdnsNew, externalOld, externalNew}, func(p string) bool { return strings.HasPrefix(key, p) })
}

// wishes is what the annotations of a Service say.
type wishes struct {
	never, asked bool
	name         string
	names        map[string]string // by port
	typ          string
	types        map[string]string
	ports        []string // names or numbers; empty = all
	txt          []string
	txts         map[string][]string // by port, beside txt
	description  string
	host         string // host label
	public       bool
	targets      []netip.Addr // addresses instead of what Kubernetes says
	external     bool         // nodes by their external address
	complaints   []string
}

func (w *wishes) complain(key, format string, args ...any) {
	w.complaints = append(w.complaints, "annotation "+key+": "+fmt.Sprintf(format, args...))
}

// readWishes reads other programs' annotations first: ours have the last word.
func readWishes(sv *Service) wishes {
	w := wishes{names: map[string]string{}, types: map[string]string{}, txts: map[string][]string{}}
	if len(sv.Annotations) == 0 {
		return w
	}
	w.readExternalDNS(sv.Annotations)
	w.readExternalMDNS(sv.Annotations)
	w.readKubelish(sv)
	w.readOurs(sv.Annotations)
	return w
}

func (w *wishes) readOurs(a map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(a)) {
		word, ok := strings.CutPrefix(key, ours)
		if !ok {
			continue
		}
		v := a[key]
		if word != "publish" {
			w.asked = true
		}
		what, port, _ := strings.Cut(word, ".")
		switch {
		case word == "publish":
			switch strings.ToLower(strings.TrimSpace(v)) {
			case "true", "yes":
				w.asked = true
			case "false", "no":
				w.never = true
			default:
				w.complain(key, `%q: "true" or "false" is allowed`, v)
			}
		case what == "name":
			if n := cleanName(v); n == "" {
				w.complain(key, "%q can be no name", v)
			} else if port == "" {
				w.name = n
			} else {
				w.names[port] = n
			}
		case what == "type":
			if port == "" {
				w.typ = v
			} else {
				w.types[port] = v
			}
		case word == "ports":
			w.ports = list(v)
		case what == "txt" && port != "":
			w.txt = append(w.txt, port+"="+v)
		case word == "description":
			w.description = v
		case word == "host":
			if w.host = label(strings.TrimSuffix(v, ".local")); w.host == "" || strings.TrimSuffix(v, ".local") != w.host {
				w.complain(key, "%q: letters, digits and hyphens within are allowed", v)
				w.host = ""
			}
		case word == "cloudy":
			w.public = strings.EqualFold(strings.TrimSpace(v), "true")
		default:
			w.complain(key, "relevo knows no such annotation: there are publish, name, type, ports, txt.KEY, description, host and cloudy")
		}
	}
}

func (w *wishes) readKubelish(sv *Service) {
	name, typ := cleanName(sv.Annotations[kubelish+"service-name"]), sv.Annotations[kubelish+"service-type"]
	if name == "" || typ == "" {
		return
	}
	w.asked, w.name = true, name
	if t := sv.Annotations[kubelish+"txt"]; t != "" {
		w.txt = append(w.txt, t)
	}
	for _, p := range sv.Ports {
		if len(sv.Ports) == 1 || strings.EqualFold(p.Name, name) {
			w.types[p.key()] = typ
		}
	}
}

func (w *wishes) readExternalMDNS(a map[string]string) {
	if hosts := list(a[mdnsOld+"hostnames"]); len(hosts) > 0 {
		w.asked = true
		w.hostname(hosts[0])
	}
	_, publish := a[mdnsNew+"publish"]
	w.asked = w.asked || publish
	if h := a[mdnsNew+"hostname"]; h != "" {
		w.asked = true
		w.hostname(h)
	}
	if n := cleanName(a[mdnsNew+"service-instance"]); n != "" {
		w.asked, w.name = true, n
	}
	text := a[mdnsNew+"service-txt"]
	if text == "" {
		return
	}
	w.asked = true
	var byPort map[string]map[string]string
	if err := json.Unmarshal([]byte(text), &byPort); err != nil {
		w.complain(mdnsNew+"service-txt", "is no JSON object of objects: %v", err)
		return
	}
	for port, kv := range byPort {
		for _, k := range slices.Sorted(maps.Keys(kv)) {
			w.txts[port] = append(w.txts[port], k+"="+kv[k])
		}
	}
}

func (w *wishes) readExternalDNS(a map[string]string) {
	get := func(word string) string { return cmp.Or(a[externalNew+word], a[externalOld+word]) }
	if c := get("controller"); c != "" && c != "dns-controller" {
		return
	}
	for _, h := range list(get("hostname")) {
		if strings.HasSuffix(strings.TrimSuffix(h, "."), ".local") {
			w.asked = true
			w.hostname(h)
			break
		}
	}
	w.external = get("access") == "public"
	for _, t := range list(get("target")) {
		if ip, err := netip.ParseAddr(t); err == nil && usable(ip) {
			w.targets = append(w.targets, ip.Unmap())
		}
	}
}

// hostname takes the first label of a name for the instance's, and for the host's if
// it is all there is before .local.
func (w *wishes) hostname(h string) {
	h = strings.TrimSuffix(strings.TrimSuffix(h, "."), ".local")
	first, _, more := strings.Cut(h, ".")
	w.name = cmp.Or(cleanName(first), w.name)
	if l := label(first); !more && l == first {
		w.host = l
	}
}

// list reads "a, b,c".
func list(s string) []string {
	return slices.DeleteFunc(strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' }), func(s string) bool { return s == "" })
}

// txtOf are the texts of a port.
func (w *wishes) txtOf(p ServicePort) []string {
	return append(slices.Clone(w.txt), w.txts[p.key()]...)
}
