package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/avahi"
)

// Other clusters on the same network, as their agents announce themselves. Nothing is merged
// with them, and their word counts for nothing: mDNS proves nothing. They are told to people,
// since two clusters on one network are more often a mistake than a wish, and since both may
// have been given one virtual IP.

const (
	textCluster = "cluster" // TXT keys of relevoType: the ID,
	textName    = "name"    // the name,
	textVIP     = "vip"     // and the virtual IP of the cluster

	neighboursTurn = 10 * time.Second
	maxNeighbours  = 8 // clusters, and nodes of each, that are told
)

// board is what is announced on the network, and what is seen there: an avahi.Board.
type board interface {
	Run(ctx context.Context) error
	Publish(want map[string]avahi.Service)
	Published() []avahi.Published
	Browse(types ...string) (stop func())
	Found() []avahi.Entry
	Changes() <-chan struct{}
	Backend() string
}

func (a *agent) newBoard(cfg avahi.Config) board {
	if a.opts.Net != nil && a.opts.Net.Board != nil {
		return a.opts.Net.Board(cfg)
	}
	return avahi.New(cfg)
}

// neighbours are the clusters but own that found names, by ID. Where a member of ours is,
// ours says that it is no other's: its cluster may be known by two IDs for a while.
func neighbours(found []avahi.Entry, own string, ours func(netip.Addr) bool) []api.Neighbour {
	var out []api.Neighbour
	for _, e := range found {
		id := e.Value(textCluster)
		if e.Type != relevoType || len(id) < 8 || id == own || e.Local || ours(e.Addr) {
			continue
		}
		i := slices.IndexFunc(out, func(n api.Neighbour) bool { return n.ClusterID == id })
		if i < 0 {
			if len(out) == maxNeighbours {
				continue
			}
			i = len(out)
			out = append(out, api.Neighbour{ClusterID: id, Cluster: cmp.Or(e.Value(textName), "?")})
		}
		n := &out[i]
		if len(n.Nodes) < maxNeighbours && !slices.Contains(n.Nodes, e.Name) {
			n.Nodes = append(n.Nodes, e.Name)
		}
		if ip, err := netip.ParseAddr(e.Value(textVIP)); err == nil && n.VIP == "" {
			n.VIP = ip.String()
		}
	}
	sortFew(out, func(x, y api.Neighbour) int { return cmp.Compare(x.ClusterID, y.ClusterID) })
	return out
}

// Neighbours looks for clusters that are announced, until ctx ends, for a host that belongs
// to none. The backend is mdns.backend's.
func Neighbours(ctx context.Context, backend string) []api.Neighbour {
	b := avahi.New(avahi.Config{Backend: backend, Browse: []string{relevoType}, Log: slog.New(slog.DiscardHandler)})
	b.Run(ctx) // it ends with ctx
	return neighbours(b.Found(), "", func(netip.Addr) bool { return false })
}

// watchNeighbours says which other clusters are there, each once.
func (a *agent) watchNeighbours(ctx context.Context) error {
	if a.cfg.MDNS.Backend == "off" {
		return nil
	}
	t := time.NewTicker(neighboursTurn)
	defer t.Stop()
	said := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		now := a.lookForNeighbours(a.board.Found())
		for _, n := range now {
			if len(said) < 16*maxNeighbours && !said[n.ClusterID] {
				said[n.ClusterID] = true
				a.log.Warn("another cluster is on this network", "cluster", n.Cluster, "id", n.ClusterID, "nodes", strings.Join(n.Nodes, " "), "vip", n.VIP)
			}
		}
	}
}

// lookForNeighbours notes those that found names.
func (a *agent) lookForNeighbours(found []avahi.Entry) []api.Neighbour {
	members := map[string]bool{a.addr.Load().String(): true}
	for _, m := range a.pool.Members() {
		members[m.Addr] = true
	}
	now := neighbours(found, a.id.ClusterID(), func(ip netip.Addr) bool { return members[ip.String()] })
	a.near.Store(&now)
	return now
}

// nearby are the neighbours as they were seen last.
func (a *agent) nearby() []api.Neighbour {
	if n := a.near.Load(); n != nil {
		return *n
	}
	return nil
}

// tellNeighbours is what is wrong with two clusters on one network; a neighbour alone is nothing
// wrong.
func tellNeighbours(near []api.Neighbour, cluster string, vip netip.Addr) (out []api.Problem) {
	for _, n := range near {
		who := fmt.Sprintf("the cluster %s (%.8s…) on this network", n.Cluster, n.ClusterID)
		seen := "announced by " + strings.Join(n.Nodes, ", ")
		switch {
		case vip.IsValid() && n.VIP == vip.String():
			out = append(out, api.Problem{Severity: api.Critical, What: who + " has the same virtual IP, " + n.VIP, Why: seen,
				Do: "give one of them another: both masters would answer for it"})
		case n.Cluster == cluster:
			out = append(out, api.Problem{Severity: api.Warning, What: who + " has the same name, and is another", Why: seen,
				Do: "if `relevo init` was run twice by mistake, give those hosts to this cluster (`relevo join --leave-old TOKEN`; docs/headless.md, Two clusters); else give one of them another name"})
		}
	}
	return out
}

// doctorNeighbours is the same as a finding.
func doctorNeighbours(near []api.Neighbour, cluster string, vip netip.Addr) api.Finding {
	f := api.Finding{Check: "other clusters", Result: api.FindingOK, What: "no other cluster is on this network"}
	var names []string
	for _, n := range near {
		names = append(names, fmt.Sprintf("%s (%.8s…, %s)", n.Cluster, n.ClusterID, strings.Join(n.Nodes, ", ")))
	}
	if len(names) > 0 {
		f.What = "on this network too, with members of their own: " + strings.Join(names, "; ")
	}
	for _, p := range tellNeighbours(near, cluster, vip) {
		f.What, f.Do, f.Result = p.What+", "+p.Why, p.Do, api.FindingWarning
		if p.Severity == api.Critical {
			f.Result = api.FindingWrong
			break
		}
	}
	return f
}
