package catalog

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"relevo.dev/relevo/avahi"
)

// Origin is where an entry comes from. One source declares the entries of an origin.
type Origin string

// The origins.
const (
	Agent      Origin = "agent"      // the agent itself
	File       Origin = "file"       // a file of an administrator's, or avahi-ps
	Kubernetes Origin = "kubernetes" // a Service of Kubernetes
	Cloudy     Origin = "cloudy"     // somebody else's, read from Cloudy's ring; never announced by us
)

// origins, those first that are the last to be left out where there is no room.
var origins = []Origin{Agent, File, Kubernetes, Cloudy}

// Health of a service, as far as its owner knows.
type Health string

// The healths. Only services that are OK or Unchecked are announced.
const (
	OK        Health = "ok"        // its check passes
	Unchecked Health = "unchecked" // nothing checks it
	Checking  Health = "checking"  // it was not checked yet
	Failing   Health = "failing"   // its check fails
	Refused   Health = "refused"   // it cannot be announced as it is
)

// Entry is one service.
type Entry struct {
	// ID tells the entries of an origin apart and stays the same while the service does:
	// a path, a namespace/name/port. Whatever else changes is changed in place.
	ID          string       `json:"id"`
	Name        string       `json:"name"`         // instance name as it was wanted
	As          string       `json:"as,omitempty"` // as others see it, where that is another one
	Type        string       `json:"type"`         // such as _http._tcp
	Subtypes    []string     `json:"subtypes,omitempty"`
	Description string       `json:"description,omitempty"`
	Node        string       `json:"node,omitempty"` // who offers it; of Cloudy's a member of its ring, else the owner
	Host        string       `json:"host,omitempty"` // host label of Addrs, without .local; "" = the node's
	Addrs       []netip.Addr `json:"addrs,omitempty"`
	Port        int          `json:"port"` // 0 = unknown, as Cloudy allows
	TXT         []string     `json:"txt,omitempty"`
	Origin      Origin       `json:"origin"`
	Health      Health       `json:"health"`
	// Why is the reason of a health that is not OK, or what is other than it was wanted.
	Why string `json:"why,omitempty"`
	// Since is when the entry came to be as its Health says, by its owner's wall clock.
	Since time.Time `json:"since,omitzero"`
	// Domain is the cluster that it belongs to; "" = this one.
	Domain string `json:"domain,omitempty"`
	// MicroCloud of Cloudy's entries, and Public: our community may see this one.
	MicroCloud string `json:"micro_cloud,omitempty"`
	Public     bool   `json:"public,omitempty"`

	// Owner is the member that says so.
	Owner string `json:"-"`
}

// Announced says whether the entry is to be announced by its owner.
func (e Entry) Announced() bool {
	return e.Origin != Cloudy && (e.Health == OK || e.Health == Unchecked || e.Health == Refused)
}

// Key tells the entries of one owner apart.
func (e Entry) Key() string { return string(e.Origin) + "/" + e.ID }

// Shown is the name that others see.
func (e Entry) Shown() string { return cmp.Or(e.As, e.Name) }

// Limits of one entry and of one owner, in bytes where nothing else is said. An owner
// may have what one host may announce.
const (
	maxText    = 255
	maxWhy     = 300
	maxAddrs   = 8 // entries
	maxTXTs    = 32
	maxTXTSum  = 1300
	maxEntries = 1000
	maxList    = 384 << 10 // of a list as it is sent; the peer port takes 1 MiB
)

// clean makes an entry harmless: bounded, without what steers a terminal or a page.
// False is none at all.
func (e Entry) clean() (Entry, bool) {
	text := func(s *string, n int) { *s = avahi.Printable(*s, n) }
	text(&e.ID, maxText)
	text(&e.Name, maxText)
	text(&e.As, maxText)
	text(&e.Type, maxText)
	text(&e.Description, maxText)
	text(&e.Node, maxText)
	text(&e.Host, maxText)
	text(&e.Domain, maxText)
	text(&e.MicroCloud, maxText)
	text(&e.Why, maxWhy)
	if e.Name == "" || e.Type == "" || e.ID == "" || e.Port < 0 || e.Port > 65535 {
		return e, false
	}
	switch e.Origin {
	case Agent, File, Kubernetes, Cloudy:
	default:
		return e, false
	}
	switch e.Health {
	case OK, Unchecked, Checking, Failing, Refused:
	default:
		e.Health = Unchecked // of a newer agent
	}
	e.Addrs = slices.Clone(e.Addrs[:min(len(e.Addrs), maxAddrs)])
	e.Addrs = slices.DeleteFunc(e.Addrs, func(a netip.Addr) bool { return !a.IsValid() })
	for i := range e.Addrs {
		e.Addrs[i] = e.Addrs[i].Unmap().WithZone("")
	}
	e.TXT = texts(e.TXT)
	e.Subtypes = texts(e.Subtypes)
	e.Since = e.Since.UTC().Truncate(time.Second)
	if y := e.Since.Year(); y < 1 || y > 9999 {
		e.Since = time.Time{} // JSON has no others
	}
	return e, true
}

func texts(list []string) (out []string) {
	total := 0
	for _, t := range list {
		t = avahi.Printable(t, maxText)
		if total += len(t); total > maxTXTSum || len(out) == maxTXTs {
			break
		}
		out = append(out, t)
	}
	return out
}

// same compares what the owner's sources say, not since when.
func same(a, b Entry) bool {
	return a.ID == b.ID && a.Name == b.Name && a.As == b.As && a.Type == b.Type && a.Description == b.Description && a.Node == b.Node && a.Host == b.Host &&
		a.Port == b.Port && a.Origin == b.Origin && a.Health == b.Health && a.Why == b.Why && a.Domain == b.Domain && a.MicroCloud == b.MicroCloud &&
		a.Public == b.Public && slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.TXT, b.TXT) && slices.Equal(a.Subtypes, b.Subtypes)
}

// compare orders a view: by type, then name, then who offers it.
func compare(a, b Entry) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Shown(), b.Shown()), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Owner, b.Owner),
		cmp.Compare(a.Port, b.Port), cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.ID, b.ID))
}
