package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/member"
)

// TestWholeView: a host that neither votes nor is a candidate is told nothing by raft, and its
// people see the same cluster as the others'.
func TestWholeView(t *testing.T) {
	founded(t, "n1 n2 v3 m4", func(t *testing.T, w *world) {
		m4 := w.host("m4").agent
		if m4.isServer() {
			t.Fatal("raft tells m4 all it knows: the scene is another")
		}
		if g, err := m4.granted(t.Context(), "n1", grantRequest{Name: "laptop", Serial: "1"}); err == nil {
			t.Errorf("m4 says what an access may do, and does not know it: %+v", g)
		}
		sees := func(master string, online, standbys int) func() bool {
			return func() bool {
				s, err := m4.Status(t.Context())
				return err == nil && s.Master != nil && s.Master.Node == master && s.Master.API == "ok" && !s.Master.Since.IsZero() &&
					s.Quorum.HaveQuorum && s.Quorum.Voters == 3 && s.Quorum.Online == online && s.Term == s.Master.Term && len(s.Standbys) == standbys
			}
		}
		w.until(time.Minute, "m4 sees the master and the voters", sees("n1", 3, 1))
		s, err := m4.Status(t.Context())
		if err != nil || !s.Failover.Possible {
			t.Errorf("%+v, %v", s.Failover, err)
		}
		for _, p := range s.Problems {
			if p.Severity == api.Critical {
				t.Errorf("all is well, and m4 says: %s (%s)", p.What, p.Why)
			}
		}
		ms, err := m4.Members(t.Context())
		voters, arbiters := 0, 0
		for _, m := range ms.Members {
			if m.Voter {
				voters++
			}
			if m.Arbiter {
				arbiters++
			}
		}
		if err != nil || voters != 3 || arbiters != 1 {
			t.Errorf("%d voters and %d arbiters: %+v, %v", voters, arbiters, ms, err)
		}
		if line := m4.oneLine(); !strings.Contains(line, "n1 is the master") || strings.Contains(line, "no quorum") {
			t.Error(line)
		}
		for _, f := range m4.Metrics() {
			if slices.Contains([]string{"relevo_term", "relevo_quorum", "relevo_paused", "relevo_voters"}, f.Name) && len(f.Samples) > 0 {
				t.Errorf("m4 does not know %s, and shows %v", f.Name, f.Samples)
			}
		}
		told := func(term uint64, holder string) {
			t.Helper()
			h, err := m4.History(t.Context())
			if err != nil || len(h.Changes) != int(term) || h.Changes[0].Holder != holder || h.Changes[0].Term != term {
				t.Errorf("the history: %+v, %v", h, err)
			}
			e, err := m4.Explain(t.Context(), 0)
			if err != nil || e.Term != term || e.Change == nil || e.Change.Holder != holder || e.Arbiter == "" || len(e.Timeline) == 0 {
				t.Errorf("explain: %+v, %v", e, err)
			}
			if _, err := m4.Explain(t.Context(), 9); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("it has terms 1 to %d", term)) {
				t.Errorf("explain of a term that was not: %v", err)
			}
			boards, err := m4.Health(t.Context())
			if err != nil || len(boards.Nodes) != 4 || !slices.ContainsFunc(boards.Nodes, func(n api.NodeHealth) bool { return n.Role == api.RoleMaster && n.Node == holder && n.Report != nil }) {
				t.Errorf("the boards: %+v, %v", boards, err)
			}
		}
		told(1, "n1")
		d, err := m4.Doctor(t.Context())
		if err != nil || !slices.ContainsFunc(d.Findings, func(f api.Finding) bool { return f.Check == "ports" && f.Result == api.FindingOK }) {
			t.Errorf("the doctor: %+v, %v", d, err)
		}
		order := func(o api.Order) (api.Done, error) { o.By = "ann"; return m4.Do(t.Context(), o) }
		if d, err := order(api.Order{Verb: api.VerbSwitchover, DryRun: true}); err != nil || d.Plan == nil || d.Plan.From != "n1" || d.Plan.To != "n2" {
			t.Errorf("a switchover from here: %+v, %v", d, err)
		}
		if _, err := order(api.Order{Verb: api.VerbVerify, To: "n1"}); err == nil || !strings.Contains(err.Error(), "is the master") {
			t.Errorf("the master's copy is compared: %v", err)
		}
		if got, err := m4.see(t.Context()); err != nil || !slices.Equal(m4.standbys(got), []string{"n2"}) {
			t.Errorf("the standbys: %v, %v", m4.standbys(got), err)
		}
		w.host("n1").crash()
		next := w.follows("n1", 2)
		w.until(time.Minute, "m4 sees the next master", sees(next.name, 2, 0))
		w.missed("n1")
		told(2, next.name)

		for _, h := range w.hosts {
			if h.agent != m4 {
				h.crash()
			}
		}
		w.until(3*time.Minute, "m4 is alone", func() bool {
			return !slices.ContainsFunc(m4.pool.Members(), func(m member.Member) bool { return m.Node != "m4" && m.Status == member.Alive })
		})
		if _, err := m4.History(t.Context()); err == nil || !strings.Contains(err.Error(), "this host keeps no history") {
			t.Errorf("a history that nobody tells: %v", err)
		}
	})
}
