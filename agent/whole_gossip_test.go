package agent

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"relevo.dev/relevo/agent/member"
)

// liesOfGossip has the arbiter believe, below Serf, which refutes such things by itself, that
// gossip says something false for long; and returns what became of the servers. What is said
// is told by lie, of the members as they are.
func (w *world) liesOfGossip(lie func(arbiter string, ms []member.Member) []member.Member) (before, after string) {
	w.t.Helper()
	a := w.host(w.hosts[0].agent.quorum.Leader()).agent
	now := func() string {
		servers, err := a.quorum.Servers()
		if err != nil {
			w.t.Fatal(err)
		}
		return fmt.Sprint(servers)
	}
	before = now()
	ms := lie(a.cfg.Node, slices.Clone(a.pool.Members()))
	since := func(string) time.Time { return time.Now().Add(-time.Hour) }
	for range 3 { // who is to vote is a server without a vote first
		a.tend(w.t.Context(), ms, since)
	}
	return before, now()
}

// Lies about a voter that is there and is neither master nor arbiter, and about one who is
// nobody.
var liesAboutVoters = map[string]func(arbiter string, ms []member.Member) []member.Member{
	"goodbye": func(arbiter string, ms []member.Member) []member.Member {
		i := victim(arbiter, ms)
		ms[i].Status = member.Left
		return ms
	},
	"word": func(arbiter string, ms []member.Member) []member.Member {
		i := victim(arbiter, ms)
		ms[i].Tags = map[string]string{tagPeerPort: "7947"} // it does not want to vote any more
		for _, name := range []string{"evil1", "evil2"} {
			ms = append(ms, member.Member{Node: name, Addr: "10.0.0.90", Port: 7946, Status: member.Alive, Tags: map[string]string{tagVoter: "1", tagPeerPort: "7947"}})
		}
		return ms
	},
}

func victim(arbiter string, ms []member.Member) int {
	return slices.IndexFunc(ms, func(m member.Member) bool { return m.Node != "n1" && m.Node != arbiter })
}

// TestWholeGossipLies: what gossip says alone moves no vote. See TestGossipNegativeControls.
func TestWholeGossipLies(t *testing.T) {
	for name, lie := range liesAboutVoters {
		t.Run(name, func(t *testing.T) {
			founded(t, "n1 n2 v3", func(t *testing.T, w *world) {
				w.enrolled(3)
				if before, after := w.liesOfGossip(lie); before != after {
					t.Errorf("the servers were %s, and are %s", before, after)
				}
			})
		})
	}
}
