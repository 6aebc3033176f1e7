package quorum

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// Peer is a member that is alive, as Plan needs to know it.
type Peer struct {
	Node       string
	WantsVoter bool          // its configuration allows it to vote
	Candidate  bool          // it can run the control plane
	StableFor  time.Duration // how long it has been alive without a break
}

// StepKind is what a Step does.
type StepKind string

// The steps that Quorum.Do knows.
const (
	AddNonvoter StepKind = "add-nonvoter" // gets the state, does not vote
	AddVoter    StepKind = "add-voter"    // a non-voter gets a vote
	Demote      StepKind = "demote"       // a voter becomes a non-voter
	Remove      StepKind = "remove"       // a server that left is none any more
)

// Step is one change of the servers, and why, for the log.
type Step struct {
	Do   StepKind
	Node string
	Why  string
}

const (
	maxVoters = 5
	// StableForVote is how long a member must have been alive to get a vote.
	StableForVote = 5 * time.Second
)

// Plan says how the servers should change, in order. It is a pure function, asked
// by the arbiter whenever the members change, and again after its steps.
//
//   - 1, 3 or 5 voters: the largest odd number of those who may and are there.
//   - Who votes keeps its vote, even if it is away: replacing one for good is a
//     decision for a person. Only who left, or does not want to vote any more, loses it.
//   - New voters come from the non-candidates first: they do not carry the
//     control plane. The holder comes last.
//   - Who is to vote first becomes a non-voter and is promoted by a later Plan,
//     two at a time, so that it never stays at 2 or 4, which tolerate no more
//     than 1 or 3. Where an interrupted step left an even number, it is made odd.
//   - Candidates that do not vote are non-voters: they must see the state.
func Plan(servers []Server, alive []Peer, left []string, holder string) []Step {
	var steps []Step
	isServer, peers := map[string]bool{}, map[string]Peer{}
	var gone []string // servers that left
	for _, p := range alive {
		peers[p.Node] = p
	}
	var keep, quit []string // voters that stay, voters that do not want to any more
	for _, s := range servers {
		isServer[s.Node] = true
		if slices.Contains(left, s.Node) {
			gone = append(gone, s.Node)
			continue
		}
		if !s.Voter {
			continue
		}
		if p, ok := peers[s.Node]; ok && !p.WantsVoter {
			quit = append(quit, s.Node)
		} else {
			keep = append(keep, s.Node)
		}
	}
	var pool []Peer // could get a vote
	growing := false
	for _, p := range alive {
		if !p.WantsVoter || slices.Contains(keep, p.Node) {
			continue
		}
		if p.StableFor < StableForVote {
			growing = true // soon
			continue
		}
		pool = append(pool, p)
	}
	sort.Slice(pool, func(i, j int) bool {
		a, b := pool[i], pool[j]
		return cmp.Or(
			boolCmp(a.Node == holder, b.Node == holder),
			boolCmp(a.Candidate, b.Candidate),
			-boolCmp(isServer[a.Node], isServer[b.Node]),
			-cmp.Compare(a.StableFor, b.StableFor),
			strings.Compare(a.Node, b.Node),
		) < 0
	})

	// At most so many can be voters; where the number is even, one stays a
	// non-voter at hand: with the next that comes it makes a pair.
	reserve := pool[:min(len(pool), max(0, maxVoters-len(keep)))]
	var ready []Peer // those of them that have the state already
	for _, p := range reserve {
		if isServer[p.Node] {
			ready = append(ready, p)
		} else {
			steps = append(steps, Step{AddNonvoter, p.Node, "may vote later"})
			isServer[p.Node] = true
		}
	}
	for _, p := range sortedPeers(alive) {
		if p.Candidate && !isServer[p.Node] {
			steps = append(steps, Step{AddNonvoter, p.Node, "candidate"})
		}
	}
	if (len(keep)+len(ready))%2 == 0 && len(ready) > 0 {
		ready = ready[:len(ready)-1]
	}
	voters := len(keep) + len(ready)
	for _, p := range ready {
		steps = append(steps, Step{AddVoter, p.Node, fromTo(len(keep), voters)})
	}
	if voters == 0 {
		// The last voter cannot leave before another has come.
		return steps
	}
	for _, node := range gone {
		steps = append(steps, Step{Remove, node, "left the cluster"})
	}
	for _, node := range quit {
		steps = append(steps, Step{Demote, node, "does not want to vote"})
	}
	if voters%2 == 0 && !growing && len(reserve) == len(ready) {
		if node := spare(keep, peers, holder); node != "" {
			steps = append(steps, Step{Demote, node, fromTo(voters, voters-1)})
		}
	}
	return steps
}

// spare chooses the voter that leaves so that the number is odd: one that is
// there (it must agree), never the holder, candidates first.
func spare(keep []string, peers map[string]Peer, holder string) string {
	var can []Peer
	for _, node := range keep {
		p, ok := peers[node]
		if !ok {
			return "" // one is away: every vote is needed
		}
		if node != holder {
			can = append(can, p)
		}
	}
	sort.Slice(can, func(i, j int) bool {
		a, b := can[i], can[j]
		return cmp.Or(-boolCmp(a.Candidate, b.Candidate), cmp.Compare(a.StableFor, b.StableFor), -strings.Compare(a.Node, b.Node)) < 0
	})
	if len(can) == 0 {
		return ""
	}
	return can[0].Node
}

func sortedPeers(ps []Peer) []Peer {
	ps = slices.Clone(ps)
	sort.Slice(ps, func(i, j int) bool { return ps[i].Node < ps[j].Node })
	return ps
}

// boolCmp sorts false before true.
func boolCmp(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func fromTo(from, to int) string { return fmt.Sprintf("voters: %d to %d", from, to) }
