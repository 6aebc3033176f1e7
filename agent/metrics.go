package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/quorum"
)

// Metrics for Prometheus; what they mean is with api.Families.
func (a *agent) Metrics() []api.Metric {
	var s api.Set
	st := a.quorum.State()
	s.Add("relevo_build_info", 1, a.opts.Version)
	s.Bool("relevo_is_master", a.role() == api.RoleMaster)
	s.Bool("relevo_is_arbiter", a.quorum.IsLeader())
	if servers, err := a.quorum.Servers(); err == nil && (view{Servers: servers}).tells(a.cfg.Node) {
		s.Add("relevo_term", float64(st.Term))
		s.Bool("relevo_quorum", a.quorum.Leader() != "")
		s.Bool("relevo_paused", st.Pause.Phase != "")
		voters := 0
		for _, sv := range servers {
			if sv.Voter {
				voters++
			}
		}
		s.Add("relevo_voters", float64(voters))
	}
	automatic, asked := a.changes.count()
	s.Add("relevo_master_changes_total", float64(automatic), "automatic")
	s.Add("relevo_master_changes_total", float64(asked), "asked")
	a.memberMetrics(&s)
	a.leaseMetrics(&s)
	a.replicaMetrics(&s)
	if a.hooks != nil {
		runs := a.hooks.Runs()
		for _, result := range []string{"ok", "failed", "skipped"} {
			s.Add("relevo_hook_runs_total", float64(runs[result]), result)
		}
	}
	return slices.Concat(s.Metrics(), api.HealthMetrics(a.monitor.Latest(), a.monitor.Conditions()))
}

func (a *agent) memberMetrics(s *api.Set) {
	count := map[member.Status]int{}
	for _, m := range a.shown() {
		count[m.Status]++
		if m.Status == member.Left {
			continue
		}
		for _, c := range gossiped(m) {
			s.Add("relevo_member_condition", 1, m.Node, string(c))
		}
	}
	for _, st := range []member.Status{member.Alive, member.Failed, member.Left} {
		s.Add("relevo_members", float64(count[st]), string(st))
	}
}

// leaseMetrics are those that only the loop knows. A loop that does not turn has none.
func (a *agent) leaseMetrics(s *api.Set) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = a.loop.view(ctx, func() {
		now := a.clock()
		if a.loop.arbiter.Leading() {
			s.Bool("relevo_failover_possible", a.loop.arbiter.Judge(now).Possible)
		}
		h := a.loop.holder
		if h == nil {
			return
		}
		if d := h.Deadline(); d > now && d != lease.Forever {
			s.Add("relevo_lease_remaining_seconds", (d - now).Seconds())
		}
		if p := h.Phase(); p == lease.Standby || p == lease.Named {
			s.Bool("relevo_standby_ready", a.candidate(now).Ready)
		}
	})
}

func (a *agent) replicaMetrics(s *api.Set) {
	if a.host == nil {
		return
	}
	pos := a.host.Follower.Position()
	if a.role() == api.RoleStandby && pos.FreshAt > 0 {
		s.Add("relevo_replica_lag_seconds", max(0, a.clock()-pos.FreshAt).Seconds())
		s.Add("relevo_replica_lag_revisions", float64(pos.Lag()))
		s.Bool("relevo_replica_stalled", pos.Stalled != "")
	}
	a.checks.metrics(s)
	s.Add("relevo_replica_revision", float64(pos.Revision))
	if e := a.apiErr.Load(); e != nil {
		s.Bool("relevo_api_ready", *e == "")
	}
}

// changeCount counts the changes of the master that are news to this agent: not those
// that it knew before its start, nor, on a new host, what was before it came. The history
// forgets, and a counter must not shrink.
type changeCount struct {
	mu               sync.Mutex
	newest           uint64 // term that was counted; 0 = none is known yet
	automatic, asked int
}

func (c *changeCount) see(s quorum.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fresh := c.newest == 0
	for _, h := range s.History {
		if h.Term <= c.newest {
			continue
		}
		c.newest = h.Term
		switch {
		case fresh || h.Previous == "" || h.Previous == h.Holder:
		case h.Automatic:
			c.automatic++
		default:
			c.asked++
		}
	}
}

func (c *changeCount) count() (automatic, asked int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.automatic, c.asked
}
