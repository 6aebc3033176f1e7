package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"

	"relevo.dev/relevo/agent/catalog"
	"relevo.dev/relevo/agent/cloudy"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/member"
)

// Cloudy's ring: what of the catalog the community may see goes there, and the
// community's services come into the catalog. Several hosts of a cluster may take part:
// each speaks for itself, the first of them also for those that do not.

// maxForeign services of the community are taken into this host's list.
const maxForeign = 500

// cloudyRetry is between looks at an address that is not there, or may have changed.
const cloudyRetry = 10 * time.Second

// cloudyBridge takes part until ctx ends, from whatever address this host has.
func (a *agent) cloudyBridge(ctx context.Context) error {
	if !a.cfg.Cloudy.Bridge {
		return nil
	}
	for ctx.Err() == nil {
		addr, err := a.cloudyAddress()
		if err == nil {
			err = a.bridgeFrom(ctx, addr)
		}
		a.bridge.Store(nil)
		if err != nil {
			a.catalog.Set(catalog.Cloudy, nil, []catalog.Problem{{Text: "Cloudy's ring: " + err.Error()}})
		}
		select {
		case <-ctx.Done():
		case <-time.After(cloudyRetry):
		}
	}
	return nil
}

// cloudyAddress is where the community reaches this host.
func (a *agent) cloudyAddress() (netip.Addr, error) {
	c := a.cfg.Cloudy
	switch {
	case c.Advertise.IsValid():
		return c.Advertise, nil
	case c.Interface != "":
		_, addr, err := cloudy.HostAddress(c.Interface)
		return addr, err
	}
	return *a.addr.Load(), nil
}

// bridgeFrom takes part from one address, until ctx ends or the address is another one.
func (a *agent) bridgeFrom(ctx context.Context, addr netip.Addr) error {
	c := a.cfg.Cloudy
	at := netip.AddrPortFrom(addr, uint16(c.Port))
	bind, transport := "0.0.0.0", (func(string, int) (memberlist.NodeAwareTransport, error))(nil)
	if a.opts.Net != nil {
		bind, transport = addr.String(), a.opts.Net.Gossip
	}
	settings := cloudy.ReadSettings("", func(string) string { return "" })
	b, err := cloudy.NewBridge(cloudy.BridgeConfig{
		Node: cloudy.NodeName(a.cfg.Node, at), BindAddr: bind, Port: c.Port, AdvertiseAddr: addr.String(), Join: c.Join,
		Here: cloudy.Here{Node: a.cfg.Node, Cloud: settings.Cloud, MicroCloud: cmp.Or(c.MicroCloud, a.id.Cluster()), Addr: addr},
		Ours: a.ourBridge, Transport: transport, Log: a.log,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	defer func() { cancel(); <-done }()
	go func() { defer close(done); b.Run(ctx) }()
	tag := at.String()
	a.bridge.Store(&tag)
	members := a.pool.Watch()
	defer a.pool.Unwatch(members)
	t := time.NewTicker(cloudyRetry)
	defer t.Stop()
	for {
		left := b.Publish(a.forCommunity())
		a.catalog.Set(catalog.Cloudy, a.fromCommunity(b.Entries()), bridgeProblems(b.Status(), left))
		select {
		case <-ctx.Done():
			return nil
		case <-b.Changes():
		case <-a.offered:
		case <-members:
		case <-t.C:
			if now, err := a.cloudyAddress(); err != nil || now != addr {
				a.log.Warn("leaving Cloudy's ring: this host has another address there now", "was", addr.String(), "now", now.String(), "err", err)
				return err
			}
		}
	}
}

// ourBridge says whether a member of Cloudy's ring is an agent of this cluster: its
// services are in the catalog without the ring.
func (a *agent) ourBridge(ring string) bool {
	if !strings.HasPrefix(ring, "relevo-") {
		return false
	}
	return slices.ContainsFunc(a.pool.Members(), func(m member.Member) bool {
		at, err := netip.ParseAddrPort(m.Tags[tagCloudy])
		return err == nil && cloudy.NodeName(m.Node, at) == ring
	})
}

// forCommunity is what this host publishes in the ring.
func (a *agent) forCommunity() []cloudy.Entry {
	speaker, bridges, addrs := a.cfg.Node, map[string]bool{a.cfg.Node: true}, map[string]netip.Addr{}
	for _, m := range a.pool.Members() {
		addrs[m.Node], _ = netip.ParseAddr(m.Addr)
		if m.Status == member.Alive && m.Tags[tagCloudy] != "" && m.Node != a.cfg.Node {
			bridges[m.Node] = true
			speaker = min(speaker, m.Node)
		}
	}
	var out []cloudy.Entry
	for _, e := range a.catalog.All() {
		if e.Owner != a.cfg.Node && (speaker != a.cfg.Node || bridges[e.Owner]) || !forCommunity(e, a.cfg.Cloudy.Publish) {
			continue
		}
		c := cloudy.Entry{Name: e.Shown(), Type: e.Type, Description: cmp.Or(e.Description, e.Shown()), Node: e.Owner, Addrs: e.Addrs, Port: e.Port, TXT: e.TXT, Origin: string(e.Origin), Since: e.Since}
		if at := addrs[e.Owner]; len(c.Addrs) == 0 && e.Owner != a.cfg.Node && at.IsValid() {
			c.Addrs = []netip.Addr{at}
		}
		out = append(out, c)
	}
	return out
}

// forCommunity says whether a service of ours may be seen, and can be reached.
func forCommunity(e catalog.Entry, p config.Publish) bool {
	switch {
	case e.Health != catalog.OK && e.Health != catalog.Unchecked, e.Origin != catalog.File && e.Origin != catalog.Kubernetes:
		return false
	case p == config.PublishAll:
		return true
	}
	return p == config.PublishMarked && e.Public
}

// fromCommunity makes entries of what others publish in the ring. Our own hosts may have
// been seen there before it was known that they are ours.
func (a *agent) fromCommunity(list []cloudy.Entry) []catalog.Entry {
	list = slices.DeleteFunc(list, func(e cloudy.Entry) bool { return a.ourBridge(e.Node) })
	var out []catalog.Entry
	used := map[string]int{}
	for _, e := range list[:min(len(list), maxForeign)] {
		id := e.Node + ":" + e.Type + ":" + e.Name + ":" + strconv.Itoa(e.Port)
		if used[id]++; used[id] > 1 {
			id += ":" + strconv.Itoa(used[id])
		}
		out = append(out, catalog.Entry{ID: id, Name: e.Name, Type: e.Type, Description: e.Description, Node: e.Node, Host: e.Host, MicroCloud: e.MicroCloud, Addrs: e.Addrs, Port: e.Port, TXT: e.TXT, Since: e.Since})
	}
	return out
}

func bridgeProblems(s cloudy.BridgeStatus, left []cloudy.Left) (out []catalog.Problem) {
	if s.Err != nil {
		out = append(out, catalog.Problem{Text: s.Err.Error()})
	}
	byWhy := map[string][]string{}
	for _, l := range left {
		byWhy[l.Why] = append(byWhy[l.Why], l.Entry.Name)
	}
	for _, why := range slices.Sorted(maps.Keys(byWhy)) {
		names := byWhy[why]
		slices.Sort(names)
		text := strings.Join(names[:min(len(names), 5)], ", ")
		if len(names) > 5 {
			text += fmt.Sprintf(" and %d more", len(names)-5)
		}
		out = append(out, catalog.Problem{Text: "not in Cloudy's ring: " + text + ": " + why})
	}
	if s.Entries > maxForeign {
		out = append(out, catalog.Problem{Text: fmt.Sprintf("Cloudy's ring has %d services, %d are listed", s.Entries, maxForeign)})
	}
	return out
}
