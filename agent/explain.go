package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"relevo.dev/relevo/agent/api"
)

// Explain tells why (api.Source).
func (a *agent) Explain(ctx context.Context, term uint64) (api.Explanation, error) {
	h, err := a.History(ctx)
	if err != nil {
		return api.Explanation{}, err
	}
	newest := a.quorum.State().Term
	if len(h.Changes) > 0 {
		newest = max(newest, h.Changes[0].Term) // of who was asked
	}
	e := api.Explanation{Term: cmp.Or(term, newest)}
	for _, c := range h.Changes {
		if c.Term == e.Term {
			e.Change = &c
		}
	}
	if e.Change == nil && term != 0 {
		return e, fmt.Errorf("term %d is not in the history: it has terms %d to %d", term, oldest(h), newest)
	}
	answers, failed := a.askAll(ctx)
	v, err := a.viewFrom(answers)
	if err != nil {
		a.complain("the voters are not known", err)
	}
	explain(&e, v, answers, failed)
	e.Timeline, e.Knew = around(a.sights(ctx), e.Term, term != 0, func(node string) bool { return len(v.Servers) == 0 || v.tells(node) })
	return e, nil
}

// explain adds what the members say of themselves, and what the arbiter would do.
func explain(e *api.Explanation, v view, answers map[string]summary, failed map[string]error) {
	for node, x := range answers {
		w := api.View{Node: node, Term: x.Term, Phase: x.Phase, Arbiter: x.Arbiter}
		if x.Lease >= 0 {
			w.LeaseRemaining = &x.Lease
		}
		if x.Standby != nil {
			w.Copy = "ready"
			if st := asToldBy(v, *x.Standby); !st.Ready {
				w.Copy = "not ready: " + st.Why
			}
		}
		e.Views = append(e.Views, w)
	}
	if j := answers[v.Arbiter].Judge; j != nil {
		e.Arbiter, e.Possible, e.To, e.Over, e.Wait, e.Why, e.Notes, e.Holder = v.Arbiter, j.Possible, j.To, j.Over, j.Wait, j.Why, j.Notes, j.Evidence
	}
	for node, err := range failed {
		e.Failed = append(e.Failed, node+": "+err.Error())
	}
	slices.Sort(e.Failed)
	sortFew(e.Views, func(x, y api.View) int { return cmp.Compare(x.Node, y.Node) })
}

func oldest(h api.History) uint64 {
	if len(h.Changes) == 0 {
		return 0
	}
	return h.Changes[len(h.Changes)-1].Term
}

// What is shown of the timeline: so much before a change and after it, and so many of the
// latest lines, of those who are told by raft what was agreed on and of all others.
const (
	before     = time.Minute
	after      = 2 * time.Minute
	lastFew    = 30
	lastOthers = 10
)

// around picks from the timeline what belongs to the change to a term: around the moment in
// which the first knew of it, which is zero if nobody remembers; only who is told can know. If
// no particular term was asked for, it is the latest.
func around(all []api.Sight, term uint64, particular bool, told func(node string) bool) (lines []api.Sight, knew time.Time) {
	seen := 0 // by those who are told, before
	for _, s := range all {
		if !told(s.Node) {
			continue
		}
		if s.Term >= term {
			if seen > 0 || particular && s.Term == term {
				knew = s.At
			}
			break
		}
		seen++
	}
	if particular {
		for _, s := range all {
			if !knew.IsZero() && !s.At.Before(knew.Add(-before)) && !s.At.After(knew.Add(after)) && s.Term+1 >= term {
				lines = append(lines, s)
			}
		}
		return lines, knew
	}
	few, others := lastFew, lastOthers
	for _, s := range slices.Backward(all) {
		left := &few
		if !told(s.Node) {
			left = &others
		}
		if *left > 0 {
			*left--
			lines = append(lines, s)
		}
	}
	slices.Reverse(lines)
	return lines, knew
}
