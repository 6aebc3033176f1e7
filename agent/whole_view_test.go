package agent

import (
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
)

// TestWholeView: a host that neither votes nor is a candidate is told nothing by raft, and its
// people see the same cluster as the others'.
func TestWholeView(t *testing.T) {
	founded(t, "n1 n2 v3 m4", func(t *testing.T, w *world) {
		m4 := w.host("m4").agent
		if m4.isServer() {
			t.Fatal("raft tells m4 all it knows: the scene is another")
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
		if _, err := m4.History(t.Context()); err == nil || !strings.Contains(err.Error(), "n1") {
			t.Errorf("an empty history says nothing: %v", err)
		}
		w.host("n1").crash()
		next := w.follows("n1", 2)
		w.until(time.Minute, "m4 sees the next master", sees(next.name, 2, 0))
	})
}
