package kube

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"time"
)

// From Services to what the LAN can be told of. The translation is pure: what the
// API says, where this host stands and what is wanted go in, offers come out, in the
// same order and under the same names whoever asks. So another master offers the
// same as the one before.
//
//	services_types.go        what is read of the API's objects
//	services.go              this file: what goes in and out, which Services and ports
//	services_annotations.go  what annotations say, ours and other programs'
//	services_place.go        at which address a port can be reached
//	services_names.go        instance names and types, and who gets a name that two want
//	services_store.go        what is kept of the API's objects
//	services_watch.go        how they come in

// Service is what is kept of a Service.
type Service struct {
	Namespace, Name string
	Created         time.Time
	Type            string // ClusterIP, NodePort, LoadBalancer, ExternalName
	Ports           []ServicePort
	ExternalIPs     []netip.Addr
	LoadBalancer    []netip.Addr // addresses that a load balancer gave it
	Families        []string     // IPv4, IPv6; empty = not said
	Local           bool         // externalTrafficPolicy: Local, only nodes with an endpoint answer
	Annotations     map[string]string
}

func (s *Service) key() string { return s.Namespace + "/" + s.Name }

// ServicePort is one port of a Service.
type ServicePort struct {
	Name     string // "" where it is the only one
	Protocol string // TCP, UDP, SCTP
	App      string // appProtocol
	Port     int    // behind a load balancer's address, or an external one
	NodePort int    // on every node; 0 = none
}

func (p ServicePort) key() string { return cmp.Or(p.Name, strconv.Itoa(p.Port)) }

// Endpoints is what is kept of an EndpointSlice: whether anything is ready, for which
// ports, and where.
type Endpoints struct {
	Service string // namespace/name
	Ports   []string
	Nodes   []string // names of Nodes with a ready endpoint, sorted; "" = one whose node is not said
}

// Node is what is kept of a Node.
type Node struct {
	Name               string
	Internal, External []netip.Addr
	Ready              bool
}

// View is what the API said last.
type View struct {
	Services  []Service
	Endpoints []Endpoints
	Nodes     []Node
}

// Mode says which Services are wanted.
type Mode string

// The modes.
const (
	Off       Mode = "off"
	Annotated Mode = "annotated" // those with an annotation that asks for it
	All       Mode = "all"       // all that can be reached from outside the cluster
)

// Settings is what the administrator wants.
type Settings struct {
	Mode       Mode
	Namespaces []string // empty = all
}

// Place is where the host stands that announces.
type Place struct {
	Node    string     // name of this host's Node
	Addr    netip.Addr // this host's
	VIP     netip.Addr // of the control plane; the zero Addr = none
	VIPHost string     // host label of VIP
	// Down are addresses of hosts that are known to be off, whatever Kubernetes still
	// says of them.
	Down map[netip.Addr]bool
}

// Offer is one port of a Service as it can be reached from outside the cluster.
type Offer struct {
	ID          string // namespace/name/port: stays while the port does
	Name        string // instance name, at most 63 bytes of UTF-8; no two of a type are the same
	Type        string // _http._tcp
	Description string
	Host        string       // host label for Addrs; "" = the host that announces
	Addrs       []netip.Addr // the best first
	Port        int
	TXT         []string
	Public      bool // the community may see it
}

// maxOffers is how many ports are announced: avahi-daemon gives one program 1024
// objects, and others of this host want some.
const maxOffers = 800

// maxProblems that are told.
const maxProblems = 20

// Translate makes offers of what the API says. The problems are for people: what was
// asked for and cannot be done.
func Translate(v View, s Settings, p Place) (offers []Offer, problems []string) {
	if s.Mode == Off || s.Mode == "" {
		return nil, nil
	}
	t := newTranslation(v, p)
	services := make([]*Service, 0, len(v.Services))
	for i := range v.Services {
		services = append(services, &v.Services[i])
	}
	// The oldest first: who was there keeps its name and its place.
	slices.SortFunc(services, func(a, b *Service) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, sv := range services {
		t.service(sv, s)
	}
	return t.finish(), t.problems
}

// Wanted says whether a Service is asked for at all, reachable or not.
func (s Settings) Wanted(sv *Service) bool {
	return s.wanted(sv, readWishes(sv))
}

func (s Settings) wanted(sv *Service, w wishes) bool {
	if w.never || len(s.Namespaces) > 0 && !slices.Contains(s.Namespaces, sv.Namespace) {
		return false
	}
	return s.Mode == All || s.Mode == Annotated && w.asked
}

// translation is one under way.
type translation struct {
	place     Place
	endpoints map[string][]Endpoints // by Service
	nodes     []Node                 // sorted by name
	self      *Node                  // this host's; nil = it is none
	ports     []wantedPort
	problems  []string
	unsaid    int // problems that had no room
}

// wantedPort is a port that is to be announced. Its name is worked out with all
// others', whether it has endpoints at the moment or not: names must not change with
// the endpoints of somebody else.
type wantedPort struct {
	offer Offer
	sv    *Service
	port  ServicePort
	ready bool
}

func newTranslation(v View, p Place) *translation {
	t := &translation{place: p, endpoints: map[string][]Endpoints{}, nodes: slices.Clone(v.Nodes)}
	for _, e := range v.Endpoints {
		t.endpoints[e.Service] = append(t.endpoints[e.Service], e)
	}
	sort.Slice(t.nodes, func(i, j int) bool { return t.nodes[i].Name < t.nodes[j].Name })
	for i, n := range t.nodes {
		if n.Name == p.Node || p.Addr.IsValid() && slices.Contains(n.Internal, p.Addr) {
			t.self = &t.nodes[i]
		}
	}
	return t
}

func (t *translation) problem(sv *Service, format string, args ...any) {
	if len(t.problems) == maxProblems {
		t.unsaid++
		return
	}
	t.problems = append(t.problems, "Service "+sv.key()+": "+fmt.Sprintf(format, args...))
}

func (t *translation) service(sv *Service, s Settings) {
	w := readWishes(sv)
	if !s.wanted(sv, w) {
		return
	}
	for _, c := range w.complaints {
		t.problem(sv, "%s", c)
	}
	if sv.Type == "ExternalName" || sv.Type == "ClusterIP" && len(sv.ExternalIPs) == 0 && len(w.targets) == 0 {
		if w.asked {
			t.problem(sv, "its type is %s: nothing outside the cluster reaches it; NodePort, LoadBalancer or externalIPs are needed", cmp.Or(sv.Type, "unknown"))
		}
		return
	}
	var mine []wantedPort
	for _, port := range sv.Ports {
		if len(w.ports) > 0 && !slices.Contains(w.ports, port.Name) && !slices.Contains(w.ports, strconv.Itoa(port.Port)) {
			continue
		}
		if port.Protocol != "TCP" && port.Protocol != "UDP" {
			if w.asked {
				t.problem(sv, "port %s is %s: DNS-SD knows TCP and UDP", port.key(), port.Protocol)
			}
			continue
		}
		typ, complaint := w.typeOf(sv, port)
		if complaint != "" {
			t.problem(sv, "%s", complaint)
		}
		mine = append(mine, wantedPort{sv: sv, port: port, offer: Offer{
			ID: sv.key() + "/" + port.key(), Name: w.nameOf(sv, port), Type: typ, Description: w.description, TXT: w.txtOf(port), Public: w.public,
		}})
	}
	tellApart(mine)
	for i := range mine {
		m := &mine[i]
		nodes, ready := t.ready(sv, m.port)
		m.ready = ready && t.locate(m, w, nodes)
	}
	t.ports = append(t.ports, mine...)
}

// ready says whether a port has a ready endpoint, and on which nodes.
func (t *translation) ready(sv *Service, port ServicePort) (nodes []string, ready bool) {
	for _, e := range t.endpoints[sv.key()] {
		if len(e.Nodes) > 0 && slices.Contains(e.Ports, port.Name) {
			nodes, ready = append(nodes, e.Nodes...), true
		}
	}
	return nodes, ready
}

// finish gives names, and leaves out what cannot be reached at the moment.
func (t *translation) finish() []Offer {
	giveNames(t.ports)
	t.giveHosts()
	var out []Offer
	left := 0
	for _, p := range t.ports {
		switch {
		case !p.ready:
		case len(out) == maxOffers:
			left++
		default:
			out = append(out, p.offer)
		}
	}
	if left > 0 {
		t.problems = append(t.problems, fmt.Sprintf("%d ports of Services are not announced: %d are, which is as many as one host may; choose with kubernetes.namespaces or kubernetes.selector", left, maxOffers))
	}
	if t.unsaid > 0 {
		t.problems = append(t.problems, fmt.Sprintf("%d more things are wrong with annotations of Services", t.unsaid))
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}
