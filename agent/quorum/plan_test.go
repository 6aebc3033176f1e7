package quorum

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// servers and peers are written as words: "n1" a voter, "n1-" a non-voter;
// peers: flags after a colon: v wants to vote, c candidate, y young.
func servers(words string) (out []Server) {
	for _, w := range strings.Fields(words) {
		name, non := strings.CutSuffix(w, "-")
		out = append(out, Server{name, !non})
	}
	return out
}

func peers(words string) (out []Peer) {
	for _, w := range strings.Fields(words) {
		name, flags, _ := strings.Cut(w, ":")
		p := Peer{Node: name, WantsVoter: strings.Contains(flags, "v"), Candidate: strings.Contains(flags, "c"), StableFor: time.Minute}
		if strings.Contains(flags, "y") {
			p.StableFor = time.Second
		}
		out = append(out, p)
	}
	return out
}

func show(steps []Step) string {
	var out []string
	for _, s := range steps {
		out = append(out, map[StepKind]string{AddNonvoter: "+", AddVoter: "!", Demote: "-", Remove: "x"}[s.Do]+s.Node)
	}
	return strings.Join(out, " ")
}

func TestPlan(t *testing.T) {
	for _, tc := range []struct{ name, servers, alive, holder, want string }{
		{"alone", "n1", "n1:vc", "n1", ""},
		{"two stay one voter", "n1", "n1:vc n2:vc", "n1", "+n2"},
		{"two, and so they rest", "n1 n2-", "n1:vc n2:vc", "n1", ""},
		{"the third makes a pair", "n1 n2-", "n1:vc n2:vc n3:v", "n1", "+n3"},
		{"and is promoted with the second", "n1 n2- n3-", "n1:vc n2:vc n3:v", "n1", "!n3 !n2"},
		{"nobody new at three", "n1 n2 n3", "n1:vc n2:vc n3:v", "n1", ""},
		{"a fourth waits", "n1 n2 n3", "n1:vc n2:vc n3:v n4:v", "n1", "+n4"},
		{"four rest at three", "n1 n2 n3 n4-", "n1:vc n2:vc n3:v n4:v", "n1", ""},
		{"five", "n1 n2 n3 n4- n5-", "n1:vc n2:vc n3:v n4:v n5:v", "n1", "!n4 !n5"},
		{"never six", "n1 n2 n3 n4 n5", "n1:vc n2:vc n3:v n4:v n5:v n6:v n7:v", "n1", ""},
		{"a candidate without a vote is a non-voter", "n1", "n1:vc n2:c", "n1", "+n2"},
		{"a candidate beyond five voters too", "n1 n2 n3 n4 n5", "n1:v n2:v n3:v n4:v n5:v n6:vc", "n1", "+n6"},
		{"who does neither is left out", "n1", "n1:vc n2:", "n1", ""},
		{"non-candidates first", "n1 a- b- c- d-", "n1:vc a:vc b:vc c:v d:v", "n1", "!c !d !a !b"},
		{"the holder last", "n1 a- b- c-", "n1:v a:vc b:vc c:vc", "a", "!b !c"},
		{"the young wait", "n1", "n1:vc n2:vy n3:vy", "n1", ""},
		{"one away changes nothing", "n1 n2 n3", "n1:vc n2:vc", "n1", ""},
		{"one away is not replaced", "n1 n2 n3 n4-", "n1:vc n2:vc n4:v", "n1", ""},
		{"one away, two new: five", "n1 n2 n3 n4- n5-", "n1:vc n2:vc n4:v n5:v", "n1", "!n4 !n5"},
		{"an interrupted pair goes on", "n1 n2 n3-", "n1:vc n2:vc n3:v", "n1", "!n3"},
		{"two voters become one", "n1 n2", "n1:vc n2:vc", "n1", "-n2"},
		{"the holder keeps the vote", "n1 n2", "n1:vc n2:vc", "n2", "-n1"},
		{"two voters, one away: nothing can be agreed", "n1 n2", "n1:vc", "n1", ""},
		{"two voters, the third comes soon", "n1 n2", "n1:vc n2:vc n3:vy", "n1", ""},
		{"two voters, the third is here", "n1 n2", "n1:vc n2:vc n3:v", "n1", "+n3"},
		{"four voters become three, a candidate goes", "n1 n2 n3 n4", "n1:vc n2:v n3:v n4:vc", "n1", "-n4"},
		{"who does not want to vote is relieved", "n1 n2 n3 n4-", "n1:vc n2:vc n3: n4:v", "n1", "!n4 -n3"},
		{"relieved without another", "n1 n2 n3", "n1:vc n2:vc n3:", "n1", "-n3 -n2"},
		{"the last voter stays", "n1", "n1:c", "n1", ""},
		{"the last voter hands over", "n1 n2-", "n1:c n2:v", "n1", "!n2 -n1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := show(Plan(servers(tc.servers), peers(tc.alive), nil, tc.holder)); got != tc.want {
				t.Errorf("servers %q, alive %q: got %q, want %q", tc.servers, tc.alive, got, tc.want)
			}
		})
	}
}

func TestPlanLeft(t *testing.T) {
	for _, tc := range []struct{ name, servers, alive, left, want string }{
		{"who left is replaced first, and then removed", "n1 n2 n3 n4-", "n1:vc n2:vc n4:v", "n3", "!n4 xn3"},
		{"a non-voter that left", "n1 n2 n3 n4-", "n1:vc n2:vc n3:vc", "n4", "xn4"},
		{"without another, an odd number stays", "n1 n2 n3", "n1:vc n2:vc", "n3", "xn3 -n2"},
		{"the last voter is not removed", "n1", "n2:vc", "n1", "+n2"},
		{"who left and was no server", "n1 n2 n3", "n1:vc n2:vc n3:vc", "n9", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := show(Plan(servers(tc.servers), peers(tc.alive), strings.Fields(tc.left), "n1")); got != tc.want {
				t.Errorf("servers %q, alive %q, left %q: got %q, want %q", tc.servers, tc.alive, tc.left, got, tc.want)
			}
		})
	}
}

// Whatever comes and goes: with everybody there, plans come to rest at an odd
// number of voters that is as large as it may be, and nobody who is away loses
// a vote on the way.
func TestPlanComesToRest(t *testing.T) {
	for seed := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		have := []Server{{"n0", true}}
		var all []Peer
		for i := range 1 + rnd.IntN(8) {
			all = append(all, Peer{Node: fmt.Sprint("n", i), WantsVoter: i == 0 || rnd.IntN(3) > 0, Candidate: rnd.IntN(2) > 0, StableFor: time.Minute})
		}
		run := func(alive []Peer) {
			for round := 0; ; round++ {
				steps := Plan(have, alive, nil, "n0")
				if len(steps) == 0 {
					return
				}
				if round > 10 {
					t.Fatalf("seed %d: no rest: %v %v %v", seed, have, alive, show(steps))
				}
				for _, s := range steps {
					i := 0
					for i < len(have) && have[i].Node != s.Node {
						i++
					}
					switch {
					case s.Do == AddNonvoter && i == len(have):
						have = append(have, Server{s.Node, false})
					case s.Do == AddVoter && i < len(have) && !have[i].Voter:
						have[i].Voter = true
					case s.Do == Demote && i < len(have) && have[i].Voter:
						if !containsPeer(alive, s.Node) {
							t.Fatalf("seed %d: %s is away and loses its vote", seed, s.Node)
						}
						have[i].Voter = false
					default:
						t.Fatalf("seed %d: %v does not fit %v", seed, s, have)
					}
				}
			}
		}
		for range 4 {
			var alive []Peer
			for _, p := range all {
				if p.Node == "n0" || rnd.IntN(3) > 0 {
					alive = append(alive, p)
				}
			}
			run(alive)
		}
		run(all)
		voters, want := 0, 0
		for _, s := range have {
			if s.Voter {
				voters++
			}
		}
		for _, p := range all {
			if p.WantsVoter && want < maxVoters {
				want++
			}
		}
		if want%2 == 0 {
			want--
		}
		if voters != want {
			t.Fatalf("seed %d: %d voters, want %d: %v of %v", seed, voters, want, have, all)
		}
	}
}

func containsPeer(ps []Peer, node string) bool {
	for _, p := range ps {
		if p.Node == node {
			return true
		}
	}
	return false
}
