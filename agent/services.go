package agent

import (
	"cmp"
	"context"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/catalog"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/avahi"
)

// Services: sources (this agent, files, Kubernetes, Cloudy) declare what this host
// offers in the catalog; the catalog is joined with those of the other members; what of
// it is this host's own is announced by DNS-SD.

// Service types of the agent's own.
const metricsType = "_prometheus-http._tcp"

// pathCatalog is where a member tells its list.
const pathCatalog = "/v1/catalog"

func (a *agent) buildCatalog() {
	a.catalog = catalog.New(catalog.Config{
		Node: a.cfg.Node, Log: a.log, Members: a.catalogMembers,
		Fetch: func(ctx context.Context, node string, have catalog.Have) (out catalog.Answer, err error) {
			return out, a.port.PostJSON(ctx, node, pathCatalog, have, &out)
		},
	})
	a.phased, a.onDuty, a.curious, a.offered = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
}

func kick(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (a *agent) catalogMembers() []catalog.Member {
	var out []catalog.Member
	for _, m := range a.pool.Members() {
		out = append(out, catalog.Member{Node: m.Node, Alive: m.Status == member.Alive, Left: m.Status == member.Left, Tag: m.Tags[tagCatalog]})
	}
	return out
}

// tellCatalog answers another member.
func (a *agent) tellCatalog(_ context.Context, _ string, have catalog.Have) (catalog.Answer, error) {
	return a.catalog.Answer(have), nil
}

// services keeps what is announced in step with the catalog, and the catalog with what
// became of it.
func (a *agent) services(ctx context.Context) error {
	members := a.pool.Watch()
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	for {
		a.catalog.Set(catalog.Agent, a.ownServices(), nil)
		a.announce()
		a.gossipTags(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-members:
			a.catalog.Wake()
		case <-a.board.Changes():
		case <-a.catalog.Changes():
			kick(a.offered)
		case <-a.phased:
		case <-t.C:
		}
	}
}

// ownServices are the agent's own.
func (a *agent) ownServices() []catalog.Entry {
	agent := catalog.Entry{
		ID: "agent", Name: a.cfg.Node, Type: relevoType, Description: "relevo agent of " + a.cfg.Node, Port: a.cfg.Peer.Port, Health: catalog.OK,
		TXT: []string{"cluster=" + a.id.ClusterID(), "name=" + a.id.Cluster(), "gossip=" + strconv.Itoa(a.cfg.Gossip.Port), "role=" + string(a.role()), "version=" + a.opts.Version},
	}
	if ip := a.vip(); ip.IsValid() {
		agent.TXT = append(agent.TXT, textVIP+"="+ip.String())
	}
	if ca := a.id.IssuedBy(); ca != a.id.ClusterID() { // it was changed: tokens name this one
		agent.TXT = append(agent.TXT, "ca="+ca)
	}
	out := []catalog.Entry{agent}
	if c := a.cfg.Candidate; c != nil && a.phase() == lease.Master {
		k := catalog.Entry{
			ID: "kubernetes", Name: a.id.Cluster(), Type: kubernetesType, Description: "Kubernetes API of " + a.id.Cluster(), Health: catalog.OK,
			TXT: []string{"cluster=" + a.id.ClusterID(), "node=" + a.cfg.Node, "term=" + strconv.FormatUint(a.term.Load(), 10)},
		}
		if c.VIP != nil {
			k.Host, k.Addrs, k.Port = a.id.Cluster()+"-kubernetes", []netip.Addr{c.VIP.Address.Addr()}, c.VIP.Port
		} else {
			k.Port = portOf(c.ControlPlane.API.URL)
		}
		out = append(out, k)
	}
	if at, err := netip.ParseAddrPort(a.cfg.HTTP.Listen); err == nil && !at.Addr().IsLoopback() {
		m := catalog.Entry{ID: "metrics", Name: a.cfg.Node, Type: metricsType, Description: "metrics of " + a.cfg.Node, Port: int(at.Port()), Health: catalog.OK, TXT: []string{"path=/metrics"}}
		if !at.Addr().IsUnspecified() {
			m.Addrs = []netip.Addr{at.Addr().Unmap()}
		}
		if err := a.api.TCPErr(); err != nil {
			m.Health, m.Why = catalog.Failing, err.Error()
		}
		out = append(out, m)
	}
	return out
}

// announce declares to the board what of the catalog this host announces, and notes
// how that stands.
func (a *agent) announce() {
	services := map[string]avahi.Service{}
	for _, e := range a.catalog.Own() {
		if e.Announced() {
			services[e.Key()] = a.announcement(e)
		}
	}
	a.board.Publish(services)
	standing := map[string]catalog.Standing{}
	for _, p := range a.board.Published() {
		if p.State != avahi.Waiting {
			standing[p.Key] = catalog.Standing{As: p.ActualName, Refused: p.State == avahi.Refused, Why: p.Reason}
		}
	}
	a.catalog.Note(standing)
}

// announcement is an entry in the terms of DNS-SD: at this host's own address, or at
// another one under a host label of its own.
func (a *agent) announcement(e catalog.Entry) avahi.Service {
	s := avahi.Service{Name: e.Name, Type: e.Type, Subtypes: e.Subtypes, Port: e.Port, TXT: e.TXT, Host: e.Host}
	if len(e.Addrs) > 0 && e.Addrs[0] != *a.addr.Load() {
		s.Addr = e.Addrs[0]
		s.Host = cmp.Or(s.Host, "relevo-"+strings.NewReplacer(".", "-", ":", "-").Replace(s.Addr.String()))
	}
	return s
}

// gossipTags tells the other members what this one is now.
func (a *agent) gossipTags(ctx context.Context) {
	a.tagMu.Lock() // or an older set could come after a newer one
	defer a.tagMu.Unlock()
	if err := a.pool.SetTags(a.tags()); err != nil && ctx.Err() == nil {
		a.log.Warn("tags not gossiped", "err", err)
	}
}

// Services is what the cluster offers.
func (a *agent) Services(context.Context) (api.Services, error) {
	out := api.Services{Services: []api.Service{}}
	at := map[string]string{a.cfg.Node: a.addr.Load().String()}
	for _, m := range a.pool.Members() {
		if m.Node != a.cfg.Node {
			at[m.Node] = m.Addr
		}
	}
	for _, e := range a.catalog.All() {
		s := api.Service{Name: e.Shown(), Type: e.Type, Node: e.Node, Host: e.Host, Port: e.Port, TXT: e.TXT, Origin: string(e.Origin), Since: e.Since,
			Description: e.Description, Health: string(e.Health), Why: e.Why, Domain: e.Domain, MicroCloud: e.MicroCloud, Public: e.Public}
		if e.As != "" {
			s.Wanted = e.Name
		}
		for _, ad := range e.Addrs {
			s.Addresses = append(s.Addresses, ad.String())
		}
		if addr := at[e.Owner]; len(e.Addrs) == 0 && addr != "" && e.Origin != catalog.Cloudy {
			s.Addresses = []string{addr}
		}
		out.Services = append(out.Services, s)
	}
	out.Backend = a.board.Backend()
	for _, p := range a.catalog.Problems() {
		out.Problems = append(out.Problems, api.Problem{Severity: api.Warning, What: p.Node + ": " + p.Text})
	}
	return out, nil
}

// Browse is what others announce in the LAN beside this cluster. It answers at once with
// what is known, and looks around for a while: who asks again sees more.
func (a *agent) Browse(context.Context) (api.Services, error) {
	kick(a.curious)
	out := api.Services{Services: []api.Service{}, Backend: a.board.Backend()}
	ours := map[[2]string]bool{}
	for _, e := range a.catalog.All() {
		if e.Announced() {
			ours[[2]string{e.Type, e.Shown()}] = true
		}
	}
	for _, e := range a.board.Found() {
		if !ours[[2]string{e.Type, e.Name}] {
			out.Services = append(out.Services, api.Service{Name: e.Name, Type: e.Type, Host: e.Host, Addresses: []string{e.Addr.String()}, Port: e.Port, TXT: e.TXT, Origin: "browsed"})
		}
	}
	return out, nil
}
