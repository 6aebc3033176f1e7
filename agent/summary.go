package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/controlplane"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/quorum"
	"relevo.dev/relevo/health"
)

// summary is what an agent tells another about itself.
type summary struct {
	Version  string   `json:"version"`
	Role     api.Role `json:"role"`
	Phase    string   `json:"phase"`
	Term     uint64   `json:"term"`
	Lease    float64  `json:"lease_seconds"` // left of its lease; <0 = none, or paused
	APIError *string  `json:"api_error"`     // "" = works; null = not looked at
	// Unfit is why this master should give its term to the next standby that is ready.
	Unfit   string        `json:"unfit,omitempty"`
	Standby *api.Standby  `json:"standby,omitempty"`
	Health  health.Report `json:"health"`
	// Conditions are judged where they are: they depend on what was before.
	Conditions []health.Condition `json:"conditions,omitempty"`
	// Findings are what would hurt a takeover by this host.
	Findings []controlplane.Finding `json:"findings,omitempty"`
	// Board is what the board was found wanting in, the wrong ones alone.
	Board []api.Finding `json:"board,omitempty"`
	// System is of the machine-id, see [sameSystem].
	System  string     `json:"system,omitempty"`
	Judge   *judgement `json:"judge,omitempty"` // of the arbiter
	Arbiter string     `json:"arbiter"`         // whom it takes for the arbiter
	View    *view      `json:"view,omitempty"`  // of what was agreed on; null where raft tells it nothing
}

type judgement struct {
	Possible bool     `json:"possible"`
	To       string   `json:"to"`
	Why      []string `json:"why"`
	Notes    []string `json:"notes"`
	Evidence []string `json:"evidence"`
	Over     bool     `json:"over"`
	Wait     float64  `json:"wait_seconds"`
	Young    bool     `json:"young,omitempty"` // the arbiter may not have heard every candidate yet
}

func (a *agent) summary(ctx context.Context) summary {
	s := summary{Version: a.opts.Version, Role: a.role(), Term: a.term.Load(), Lease: -1, APIError: a.apiErr.Load(), Health: a.monitor.Latest(), Conditions: a.monitor.Conditions(), Phase: "none", Arbiter: a.quorum.Leader(), System: a.system()}
	if v, err := a.ownView(); err == nil && v.tells(a.cfg.Node) {
		s.View = &v
	}
	_, s.Findings = a.found()
	if t := a.trouble.Load(); t != nil && t.now {
		s.Unfit = t.why
	}
	if f := a.wanting.Load(); f != nil {
		s.Board = *f
	}
	a.loop.view(ctx, func() {
		now := a.clock()
		if l := a.loop; l.holder != nil {
			s.Phase = l.holder.Phase().String()
			if d := l.holder.Deadline(); d > now && d != lease.Forever {
				s.Lease = (d - now).Seconds()
			}
			if p := l.holder.Phase(); p == lease.Standby || p == lease.Named {
				s.Standby = a.standby(now)
			}
		}
		if a.loop.arbiter.Leading() {
			j := a.loop.arbiter.Judge(now)
			s.Judge = &judgement{j.Possible, j.To, j.Why, j.Notes, j.Evidence, j.Over, max(0, j.WaitUntil-now).Seconds(), a.loop.arbiter.Young(now)}
		}
	})
	return s
}

// standby describes this host's copy; it runs inside the loop.
func (a *agent) standby(now lease.Time) *api.Standby {
	c := a.candidate(now)
	pos := a.host.Follower.Position()
	out := &api.Standby{Node: a.cfg.Node, Ready: c.Ready, Why: c.Why, Priority: c.Priority, Never: c.Never}
	out.Version, _ = a.found()
	if pos.Revision > 0 {
		rev, lag := uint64(pos.Revision), uint64(pos.Lag())
		out.Revision, out.LagRevisions = &rev, &lag
	}
	if pos.FreshAt > 0 {
		s := max(0, now-pos.FreshAt).Seconds()
		out.LagSeconds = &s
		out.FreshAt = time.Now().Add(-(now - pos.FreshAt)).UTC()
	}
	a.checks.tell(out)
	if out.Ready && pos.Err != "" {
		out.Why = pos.Err
	}
	return out
}

// phase is the holder machine's, as last seen.
func (a *agent) phase() lease.Phase { return lease.Phase(a.loop.phase.Load()) }

// role of this host.
func (a *agent) role() api.Role {
	switch {
	case a.loop != nil && a.cfg.Candidate != nil && (a.phase() == lease.Master || a.phase() == lease.Promoting):
		return api.RoleMaster
	case a.cfg.Candidate != nil:
		return api.RoleStandby
	case a.cfg.Voter:
		return api.RoleVoter
	}
	return api.RoleMember
}

// askAll asks every member that is alive, this host too, and waits at most 1.5 s.
func (a *agent) askAll(ctx context.Context) (answers map[string]summary, failed map[string]error) {
	answers, failed = map[string]summary{}, map[string]error{}
	ctx, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	answers[a.cfg.Node] = a.summary(ctx)
	for _, m := range a.shown() {
		if m.Status != member.Alive || m.Node == a.cfg.Node {
			continue
		}
		wg.Go(func() {
			var s summary
			err := a.port.PostJSON(ctx, m.Node, pathSummary, empty{}, &s)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[m.Node] = err
			} else {
				answers[m.Node] = said(m.Node, s)
			}
		})
	}
	wg.Wait()
	return answers, failed
}

// askArbiter asks what would happen if the master were lost.
func (a *agent) askArbiter(ctx context.Context) (judgement, error) {
	if err := a.loop.awaitArbiter(ctx); err != nil {
		return judgement{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return a.askArbiterNow(ctx)
}

// askArbiterHeard is askArbiter for an order to give the term to a host ("" = whoever is
// best). An arbiter that is new in its office has not heard every candidate yet, and what it
// heard is as old as the last report: one that has just caught up is still called late. So it
// is asked once more, after a report would have come, before an order is refused.
func (a *agent) askArbiterHeard(ctx context.Context, to string) (judgement, error) {
	j, err := a.askArbiter(ctx)
	ready := j.Possible
	if to != "" {
		ready = standbyCheck(to, j).Result == api.CheckOK
	}
	if err != nil || !j.Young && ready {
		return j, err
	}
	select {
	case <-time.After(a.loop.tm.Renew() + a.loop.tm.Renew()/2):
	case <-ctx.Done():
		return j, ctx.Err()
	}
	return a.askArbiter(ctx)
}

func (a *agent) askArbiterNow(ctx context.Context) (judgement, error) {
	s, err := toArbiter(ctx, a.loop, pathSummary, empty{}, func(ctx context.Context, _ string, _ empty) (summary, error) { return a.summary(ctx), nil })
	if err != nil {
		return judgement{}, err
	}
	if s.Judge == nil {
		return judgement{}, errNoArbiter
	}
	bound(s.Judge, maxSaids)
	return *s.Judge, nil
}

// noteRequest adds a line to the history.
type noteRequest struct {
	Term uint64 `json:"term"`
	Text string `json:"text"`
}

// note is asked of the arbiter by the master of the term.
func (a *agent) note(ctx context.Context, from string, in noteRequest) (empty, error) {
	if s := a.quorum.State(); s.Holder != from || s.Term != in.Term {
		return empty{}, fmt.Errorf("%s does not hold term %d", from, in.Term)
	}
	return empty{}, a.quorum.Apply(ctx, quorum.Note(in.Term, in.Text))
}

func (a *agent) tellNote(ctx context.Context, n noteRequest) error {
	_, err := toArbiter(ctx, a.loop, pathNote, n, a.note)
	return err
}
