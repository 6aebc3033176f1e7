package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"relevo.dev/relevo/agent/kube"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/takeover"
)

// What follows a promotion in Kubernetes itself: the leases of controllers that are gone,
// and the Node object of the old master.

// Cluster is what lies in Kubernetes itself and is still the old master's.
type Cluster interface {
	takeover.Cluster
	// Lost are the hosts, by relevo's names, whose Node objects are marked as lost.
	Lost(ctx context.Context) ([]string, error)
	// Returned removes the mark of a host that is back.
	Returned(ctx context.Context, host string) error
}

// succession is what the voters agreed on about a term.
func (a *agent) succession(term uint64) takeover.Succession {
	s := takeover.Succession{Term: term}
	seen := map[string]bool{"": true, a.cfg.Node: true}
	for _, c := range a.quorum.State().History {
		if c.Term < term && !seen[c.Holder] {
			seen[c.Holder] = true
			s.Holders = append(s.Holders, c.Holder)
		}
		if c.Term == term {
			s.Planned, s.Fenced, s.Reason = c.Released, c.Fenced, c.Reason
			if c.Previous != a.cfg.Node {
				s.Previous = c.Previous
			}
		}
	}
	return s
}

// settled is called by the worker when what follows a promotion is done.
func (a *agent) settled(ctx context.Context, term uint64, records []takeover.StepRecord) {
	if was := a.steps.Load(); was != nil {
		all := slices.Concat(*was, records)
		a.steps.Store(&all)
	}
	var did []string
	for _, r := range records {
		switch {
		case r.Err != "":
			did = append(did, r.Name+": "+r.Err)
		case r.Did != "":
			did = append(did, r.Did)
		}
	}
	if len(did) > 0 {
		ctx, cancel := context.WithTimeout(ctx, a.cfg.LeaseTTL)
		defer cancel()
		if err := a.tellNote(ctx, noteRequest{term, a.cfg.Node + " tidied up: " + strings.Join(did, "; ")}); err != nil {
			a.log.Warn("the history lacks what followed this promotion", "err", err)
		}
	}
	if a.host.Cluster == nil || ctx.Err() != nil {
		return
	}
	lost, err := a.host.Cluster.Lost(ctx)
	if err != nil {
		a.log.Warn("the nodes of lost masters are not known: their marks stay until the next start of this agent", "err", err)
	}
	a.lost.Store(&lost)
}

// welcome removes the marks of old masters that are back as standbys.
func (a *agent) welcome(ctx context.Context) {
	lost := a.lost.Load()
	if lost == nil || len(*lost) == 0 {
		return
	}
	left := slices.DeleteFunc(slices.Clone(*lost), func(host string) bool {
		m, ok := a.member(host)
		if !ok || m.Status != member.Alive || m.Tags[tagTerm] != strconv.FormatUint(a.term.Load(), 10) {
			return false
		}
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		var s summary
		if err := a.port.PostJSON(ctx, host, pathSummary, empty{}, &s); err != nil || s.Phase != lease.Standby.String() {
			return false
		}
		if err := a.host.Cluster.Returned(ctx, host); err != nil {
			a.log.Warn("the mark of a lost master is not removed yet", "node", host, "err", err)
			return false
		}
		a.log.Info("the old master is back as a standby: its Node object is not marked any more", "node", host)
		return true
	})
	a.lost.Store(&left)
}

// kubeCluster is Kubernetes as it is.
type kubeCluster struct {
	api   *kubeAPI
	units []string
	now   func() time.Time
}

// names are what Kubernetes calls hosts, as far as they noted it; else it is the same.
func (k *kubeCluster) names(ctx context.Context, c *kube.Client, hosts ...string) (map[string]string, error) {
	noted, err := c.NodeNames(ctx)
	out := map[string]string{}
	for _, h := range hosts {
		out[h] = h
		if n := noted[h]; n != "" {
			out[h] = n
		}
	}
	return out, err
}

// ClearLeases clears those of which [clearable] says so.
func (k *kubeCluster) ClearLeases(ctx context.Context, s takeover.Succession) (string, error) {
	if len(s.Holders) == 0 {
		return "", nil
	}
	c, err := k.api.make(false)
	if err != nil {
		return "", err
	}
	names, err := k.names(ctx, c, s.Holders...)
	if err != nil {
		return "", err
	}
	leases, err := c.Leases(ctx)
	if err != nil {
		return "", err
	}
	var did []string
	var errs []error
	for _, l := range leases {
		why := clearable(l, s, names, k.units, k.now())
		if why == "" {
			continue
		}
		if err := c.ClearLease(ctx, l); err != nil {
			errs = append(errs, err)
			continue
		}
		did = append(did, fmt.Sprintf("lease %s of %s cleared (%s)", l.Name, l.Host(), why))
	}
	return strings.Join(did, "; "), errors.Join(errs...)
}

// clearable says why the holder of a lease is surely gone, "" if that is not sure:
//
//   - It is a unit of the control plane (the lease kube-scheduler, the unit
//     kube-scheduler.service) of a host that held an earlier term: that unit is stopped,
//     or the term could not have been given away.
//   - Its host is off, as a fence device has confirmed.
//   - Its host was lost, and it has not renewed for as long as the lease lasts.
//
// Whatever else runs on a host that gave its term back lives on, and keeps its lease.
// names are what Kubernetes calls the holders of earlier terms.
func clearable(l kube.Lease, s takeover.Succession, names map[string]string, units []string, now time.Time) string {
	is := func(host string) bool {
		short, _, _ := strings.Cut(strings.ToLower(names[host]), ".")
		return l.Host() == host || l.Host() == short
	}
	earlier := slices.ContainsFunc(slices.Sorted(maps.Keys(names)), is)
	previous := s.Previous != "" && is(s.Previous)
	switch {
	case earlier && slices.Contains(units, l.Name+".service"):
		return "its control plane is stopped"
	case previous && s.Fenced:
		return "its host is off"
	case previous && !s.Planned && l.Expired(now):
		return "its host is lost, and it has expired"
	}
	return ""
}

// MarkLost marks the Node of a master that did not give its term back.
func (k *kubeCluster) MarkLost(ctx context.Context, s takeover.Succession) (string, error) {
	c, err := k.api.make(false)
	if err != nil {
		return "", err
	}
	if k.api.kubeNode != "" {
		if err := c.Unmark(ctx, k.api.kubeNode); err != nil {
			return "", err
		}
	}
	if s.Previous == "" || s.Planned {
		return "", nil
	}
	names, err := k.names(ctx, c, s.Previous)
	if err != nil {
		return "", err
	}
	name := names[s.Previous]
	there, err := c.MarkLost(ctx, name, s.Previous, fmt.Sprintf("term %d: %s", s.Term, s.Reason), s.Fenced)
	switch {
	case err != nil || !there:
		return "", err
	case s.Fenced:
		return "node " + name + " marked as lost and out of service", nil
	}
	return "node " + name + " marked as lost", nil
}

// Lost are the hosts whose Nodes are marked.
func (k *kubeCluster) Lost(ctx context.Context) ([]string, error) {
	c, err := k.api.make(false)
	if err != nil {
		return nil, err
	}
	lost, err := c.Lost(ctx)
	return slices.Sorted(maps.Keys(lost)), err
}

// Returned removes the mark of a host.
func (k *kubeCluster) Returned(ctx context.Context, host string) error {
	c, err := k.api.make(false)
	if err != nil {
		return err
	}
	lost, err := c.Lost(ctx)
	if err != nil || lost[host] == "" {
		return err
	}
	return c.Unmark(ctx, lost[host])
}
