package sim

import (
	"slices"
	"time"

	"relevo.dev/relevo/agent/lease"
)

// raft is a small, ordinary Raft: enough of it to lose leaders, split votes, keep
// uncommitted entries and let an old leader believe in itself. Timings are those
// of the real one (package quorum).
type raft struct {
	// on disk
	term  uint64
	voted int
	log   []entry
	// lost by a crash
	role     int // follower, candidate, leader
	leader   int
	commit   int
	applied  lease.Fact
	votes    int
	match    []int
	heard    []time.Duration // local clock of each follower's newest answer
	deadline time.Duration   // local clock
	told     uint64          // raft term in which the machine was told that it leads; 0 = not
	barrier  int
	waiting  map[int]func(ok bool) // by log index
	tick     func()                // the next turn, made once
}

type entry struct {
	term uint64
	op   func(*lease.Fact) bool // nil = barrier
}

const (
	follower = iota
	candidate
	leader
)

const (
	electionMin = 1200 * time.Millisecond
	electionMax = 2400 * time.Millisecond
	heartbeat   = 300 * time.Millisecond
)

func (n *node) resetElection() {
	n.raft.deadline = n.clock() + n.w.between(electionMin, electionMax)
}

// tickRaft runs every now and then on the node's own clock.
func (n *node) tickRaft() {
	r := &n.raft
	n.after(heartbeat/2+n.w.between(0, heartbeat/2), r.tick)
	if !n.voter {
		return
	}
	switch {
	case r.role == leader:
		fresh := 1
		for _, m := range n.w.nodes {
			if m != n && m.voter && n.clock()-r.heard[m.id] < electionMin {
				fresh++
			}
		}
		if fresh <= n.w.voters()/2 {
			n.follow(r.term, -1)
			return
		}
		n.replicate()
	case n.clock() >= r.deadline:
		r.term++
		r.role, r.voted, r.votes, r.leader = candidate, n.id, 1, -1
		n.resetElection()
		n.w.trace("%s asks for votes, raft term %d", n.name, r.term)
		if r.votes > n.w.voters()/2 {
			n.becomeLeader()
			return
		}
		term, last, lastTerm := r.term, len(r.log), n.lastTerm()
		for _, m := range n.w.nodes {
			if m != n && m.voter {
				n.w.send(n, m, func() { m.askVote(n, term, last, lastTerm) })
			}
		}
	}
}

func (n *node) lastTerm() uint64 {
	if len(n.raft.log) == 0 {
		return 0
	}
	return n.raft.log[len(n.raft.log)-1].term
}

func (n *node) askVote(from *node, term uint64, last int, lastTerm uint64) {
	r := &n.raft
	// A voter that hears a leader does not listen to others.
	if r.role == leader || r.leader >= 0 && n.clock() < r.deadline-electionMin/2 {
		return
	}
	if term > r.term {
		n.follow(term, -1)
	}
	ok := term == r.term && (r.voted < 0 || r.voted == from.id) &&
		(lastTerm > n.lastTerm() || lastTerm == n.lastTerm() && last >= len(r.log))
	if ok {
		r.voted = from.id
		n.resetElection()
		n.w.send(n, from, func() {
			if from.raft.role == candidate && from.raft.term == term {
				from.raft.votes++ // a vote that came twice
				if from.countVotes(n.id, term) > n.w.voters()/2 {
					from.becomeLeader()
				}
			}
		})
	}
}

// countVotes counts each voter once, whatever the network doubled.
func (n *node) countVotes(id int, term uint64) int {
	if n.votedBy == nil || n.votesFor != term {
		n.votedBy, n.votesFor = map[int]bool{n.id: true}, term
	}
	n.votedBy[id] = true
	return len(n.votedBy)
}

func (n *node) becomeLeader() {
	r := &n.raft
	n.w.trace("%s leads in raft term %d", n.name, r.term)
	r.role, r.leader = leader, n.id
	r.match = make([]int, len(n.w.nodes))
	r.heard = make([]time.Duration, len(n.w.nodes))
	for i := range r.heard {
		r.heard[i] = n.clock()
	}
	r.waiting = map[int]func(bool){}
	r.log = append(r.log, entry{r.term, nil})
	r.barrier = len(r.log)
	n.advance()
	n.replicate()
	n.hold(lease.ArbiterKnown{})
}

func (n *node) follow(term uint64, leaderID int) {
	r := &n.raft
	if term > r.term {
		r.term, r.voted = term, -1
	}
	if r.role == leader {
		n.w.trace("%s leads no more", n.name)
		r.waiting = nil
	}
	another := leaderID >= 0 && leaderID != r.leader
	r.role, r.leader = follower, leaderID
	n.resetElection()
	if r.told != 0 {
		r.told = 0
		n.arb(lease.Lost{})
	}
	if another {
		n.hold(lease.ArbiterKnown{})
	}
}

// message is what is told all the time, one of three: by a leader its whole log (the
// simulated one is short, and what is of interest here is who believes what, not how logs
// are matched), a ballot, or what a candidate reports.
type message struct {
	term   uint64
	log    []entry
	commit int
	sent   time.Duration
	*ballot
	report lease.Event
}

func (n *node) replicate() {
	r := &n.raft
	e := &message{term: r.term, log: r.log[:len(r.log):len(r.log)], commit: r.commit, sent: n.clock()}
	for _, m := range n.w.nodes {
		if m != n {
			n.w.tell(n, m, (*node).take, e)
		}
	}
}

func (n *node) take(from *node, e *message) {
	r := &n.raft
	if e.term < r.term {
		theirs := r.term
		n.w.send(n, from, func() {
			if theirs > from.raft.term {
				from.follow(theirs, -1)
			}
		})
		return
	}
	n.follow(e.term, from.id)
	// Never shorten what a later message of the same leader has brought already.
	if len(e.log) >= len(r.log) || r.log[len(e.log)-1].term != e.term || r.log[len(r.log)-1].term != e.term {
		r.log = e.log
	}
	if e.commit > r.commit && e.commit <= len(r.log) {
		r.commit = e.commit
		n.apply()
	}
	n.w.tell(n, from, (*node).taken, e)
}

// taken: by has them.
func (n *node) taken(by *node, e *message) {
	r := &n.raft
	if r.role != leader || r.term != e.term {
		return
	}
	r.heard[by.id] = max(r.heard[by.id], e.sent)
	if len(e.log) > r.match[by.id] {
		r.match[by.id] = len(e.log)
		n.advance()
	}
}

// advance commits what a majority of the voters has.
func (n *node) advance() {
	r := &n.raft
	have := []int{len(r.log)}
	for _, m := range n.w.nodes {
		if m != n && m.voter {
			have = append(have, r.match[m.id])
		}
	}
	slices.Sort(have)
	c := have[(len(have)-1)/2]
	if c > r.commit && r.log[c-1].term == r.term {
		r.commit = c
		n.apply()
		n.replicate()
	}
}

// apply brings the state to the machines, as the FSM does: each change is an event.
func (n *node) apply() {
	r := &n.raft
	for n.appliedTo < r.commit {
		e := r.log[n.appliedTo]
		n.appliedTo++
		ok := true
		if e.op != nil {
			f := r.applied
			ok = e.op(&f)
			if ok {
				r.applied = f
				n.w.committed(n, f)
			}
		}
		if done := r.waiting[n.appliedTo]; done != nil {
			delete(r.waiting, n.appliedTo)
			done(ok)
		}
	}
	f := r.applied
	f.Voters = n.w.voters()
	n.fact(f)
	if r.role == leader && r.told == 0 && r.commit >= r.barrier {
		r.told = r.term
		n.arb(lease.Led{})
	}
}

// propose appends; done is called if the entry is committed while we lead.
func (n *node) propose(op func(*lease.Fact) bool, done func(ok bool)) {
	r := &n.raft
	if r.role != leader {
		return
	}
	r.log = append(r.log[:len(r.log):len(r.log)], entry{r.term, op})
	if done != nil {
		r.waiting[len(r.log)] = done
	}
	n.advance()
	n.replicate()
}
