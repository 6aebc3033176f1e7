package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"relevo.dev/relevo/agent/quorum"
)

// view is what was agreed on, as far as it is told in a status. A host that neither votes nor
// is a candidate is told nothing by raft: it asks those who are.
type view struct {
	Term     uint64       `json:"term"`
	Holder   string       `json:"holder"`
	Released bool         `json:"released,omitempty"`
	Since    time.Time    `json:"since,omitzero"`
	Pause    quorum.Pause `json:"pause,omitzero"`
	// Servers are those whom raft tells, voters or not.
	Servers []quorum.Server `json:"servers"`
	Arbiter string          `json:"-"` // as in the summary
}

// tells says whether raft tells a node what was agreed on.
func (v view) tells(node string) bool {
	return slices.ContainsFunc(v.Servers, func(s quorum.Server) bool { return s.Node == node })
}

// ownView is what this host knows; an error says that it does not.
func (a *agent) ownView() (view, error) {
	st := a.quorum.State()
	v := view{Term: st.Term, Holder: st.Holder, Released: st.Released, Pause: st.Pause, Arbiter: a.quorum.Leader()}
	for _, h := range st.History {
		if h.Term == st.Term {
			v.Since = h.At.UTC()
		}
	}
	var err error
	v.Servers, err = a.quorum.Servers()
	return v, err
}

// viewFrom is this host's view, or, where raft tells it nothing, the best of those in answers.
func (a *agent) viewFrom(answers map[string]summary) (view, error) {
	if v, err := a.ownView(); err != nil || v.tells(a.cfg.Node) {
		return v, err
	}
	return bestView(answers), nil
}

// bestView is what one says whom most call one of those that raft tells: what a member calls
// itself is its own word alone. Of these it is the newest, and of two of one term the one that
// knows an arbiter.
func bestView(answers map[string]summary) (best view) {
	called := map[string]int{}
	for _, s := range answers {
		if s.View == nil {
			continue
		}
		for i, sv := range s.View.Servers {
			if slices.IndexFunc(s.View.Servers, func(o quorum.Server) bool { return o.Node == sv.Node }) == i {
				called[sv.Node]++
			}
		}
	}
	most := 0
	for _, node := range slices.Sorted(maps.Keys(answers)) {
		s := answers[node]
		if v, n := s.View, called[node]; v != nil && (n > most || n == most && (v.Term > best.Term || v.Term == best.Term && best.Arbiter == "")) {
			most, best = n, *v
			best.Arbiter = s.Arbiter
		}
	}
	return best
}

// see is viewFrom without answers, which are asked for only where they are needed.
func (a *agent) see(ctx context.Context) (view, error) {
	if v, err := a.ownView(); err != nil || v.tells(a.cfg.Node) {
		return v, err
	}
	answers, _ := a.askAll(ctx)
	return a.viewFrom(answers)
}
