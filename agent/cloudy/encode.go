package cloudy

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strconv"

	"relevo.dev/relevo/agent/cloudy/bz2"
)

// MaxTag is how long the tag may be where it is the only one: Serf gives all tags
// 512 bytes, 14 of them are its own, and base64 comes in fours.
const MaxTag = 496

// Here says what an entry does not say itself, about the host that writes the list.
type Here struct {
	Node       string     // its name
	Cloud      string     // of the community network; "" = guifi, as in Cloudy
	MicroCloud string     // ours: the cluster's name
	Addr       netip.Addr // IPv4
}

// Left is an entry that is not in the list.
type Left struct {
	Entry Entry
	Why   string
}

// tries is how many services are tried one by one when the list is nearly full.
const tries = 8

// Longest texts that are written, in bytes: so that one service cannot take the
// room of five.
const (
	wireText = 64
	wireTXT  = 160
)

// service is an entry as Cloudy writes it, its keys in Cloudy's order: its scripts
// look for "s":"TYPE" before "p":"PORT" with grep.
type service struct {
	Type        string `json:"s"`
	Description string `json:"d"`
	Host        string `json:"m"`
	Addr        string `json:"i"`
	Port        string `json:"p"`
	MicroCloud  string `json:"e"`
	TXT         string `json:"t"`
}

// Encode writes the tag, "" if there is nothing to write. No more than limit bytes
// are used, 0 = [MaxTag]; where not all entries fit, those that are there longest
// stay, so that a new one cannot push out what the community knows. The same
// entries give the same tag, whatever their order. Entries of Cloudy's own are
// skipped.
func Encode(entries []Entry, here Here, limit int) (tag string, left []Left) {
	limit = cmp.Or(limit, MaxTag)
	entries = slices.Clone(entries)
	sort.Slice(entries, func(i, j int) bool {
		return cmp.Or(entries[i].Since.Compare(entries[j].Since), compare(entries[i], entries[j])) < 0
	})
	var all []one
	seen := map[service]bool{}
	for _, e := range entries {
		if e.Origin == OriginCloudy {
			continue
		}
		s := wire(e, here)
		why := s.unfit()
		key := service{Type: s.Type, Addr: s.Addr, Port: s.Port}
		if why == "" && seen[key] {
			why = "another one has the same type, address and port"
		}
		if why != "" {
			left = append(left, Left{e, why})
			continue
		}
		seen[key] = true
		all = append(all, one{e, s})
	}
	fits := func(list []one) bool {
		tag = pack(list)
		return len(tag) <= limit
	}
	// The most from the front that fit: doubled until they do not, then halved.
	low, high := 0, min(16, len(all))
	for high < len(all) && fits(all[:high]) {
		low, high = high, min(2*high, len(all))
	}
	if high == len(all) && fits(all) {
		return tag, left
	}
	for high-low > 1 {
		if half := (low + high) / 2; fits(all[:half]) {
			low = half
		} else {
			high = half
		}
	}
	// Then what fits beside them: a few tries, each costs as much as a whole list.
	list, full := slices.Clone(all[:low]), []Entry(nil)
	for i, o := range all[low:] {
		if i < tries && fits(append(list, o)) {
			list = append(list, o)
		} else {
			full = append(full, o.entry)
		}
	}
	for _, e := range full {
		left = append(left, Left{e, fmt.Sprintf("the list is full: %d services in %d bytes", len(list), limit)})
	}
	return pack(list), left
}

// wire makes an entry safe to write. What it does not say is left empty, or said of
// this host if it is one of ours.
func wire(e Entry, here Here) service {
	s := service{
		Type:        bareType(e.Type),
		Description: cmp.Or(safe(e.Description, wireText), safe(e.Name, wireText)),
		Host:        safe(e.Host, wireText),
		MicroCloud:  safe(e.MicroCloud, wireText),
		TXT:         joinTXT(e.TXT, wireTXT),
	}
	if e.Port > 0 {
		s.Port = strconv.Itoa(e.Port)
	}
	for _, a := range e.Addrs {
		if a = a.Unmap(); a.Is4() && others(a) {
			s.Addr = a.String()
			break
		}
	}
	if e.Origin == OriginCloudy {
		return s
	}
	s.Host = cmp.Or(s.Host, safe(cmp.Or(e.Node, here.Node), wireText)+"."+safe(cmp.Or(here.Cloud, defaultCloud), wireText)+".local")
	s.MicroCloud = cmp.Or(s.MicroCloud, safe(here.MicroCloud, wireText))
	if len(e.Addrs) == 0 && here.Addr.Is4() {
		s.Addr = here.Addr.String()
	}
	return s
}

// unfit says why a service cannot be in the list, "" if it can.
func (s service) unfit() string {
	port, _ := strconv.Atoi(s.Port)
	switch {
	case s.Type == "":
		return "it has no type"
	case s.Description == "":
		return "it has no name"
	case port < 1 || port > 65535:
		return "it has no port from 1 to 65535"
	case s.Addr == "":
		return "it has no IPv4 address, and Cloudy knows no other"
	}
	return ""
}

// one is an entry and how it is written.
type one struct {
	entry Entry
	service
}

// pack writes services in an order of their own, which also brings like ones
// together.
func pack(list []one) string {
	if len(list) == 0 {
		return ""
	}
	services := make([]service, len(list))
	for i, o := range list {
		services[i] = o.service
	}
	sort.Slice(services, func(i, j int) bool {
		a, b := &services[i], &services[j]
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Description, b.Description), cmp.Compare(a.Addr, b.Addr), cmp.Compare(a.Port, b.Port)) < 0
	})
	return base64.StdEncoding.EncodeToString(bz2.Compress(marshal(services)))
}

// marshal is JSON as jq -c writes it.
func marshal(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // texts only
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
