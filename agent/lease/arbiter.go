package lease

import (
	"fmt"
	"maps"
	"strings"
	"time"
)

// Candidate is what a candidate last said of itself.
type Candidate struct {
	Node     string
	Running  bool // its control-plane units run
	Ready    bool // could take over now: copy and identity complete, host healthy
	Why      string
	Revision uint64        // highest revision in its copy
	FreshAge time.Duration // since its copy was last known to be caught up; <0 = not known since boot
	Priority int
	Never    bool // takes part, but is never promoted automatically
	// For a cluster without any master yet:
	OwnRevision uint64 // highest revision in its own datastore, 0 = none
	Founder     bool   // this host ran `relevo init`
}

// What an Arbiter observes, besides [Fact] and [Tick]. ID pairs a request with
// its answer; the caller chooses it.
type (
	// Led: this host became the raft leader and has applied every committed entry.
	Led struct{}
	// Lost: it leads no longer.
	Lost struct{}
	// Renewal: From asks to renew Term.
	Renewal struct {
		ID      uint64
		From    string
		Term    uint64
		Epoch   uint64
		Serving bool // its promotion is finished: what standbys lack is measured against it
	}
	// Confirmed: the quorum's answer to [Confirm].
	Confirmed struct {
		ID uint64
		OK bool
	}
	// ReleaseAsked: From gives Term back.
	ReleaseAsked struct {
		From    string
		Term    uint64
		Why, To string
	}
	// Reported: a candidate's report arrived.
	Reported struct{ Candidate }
	// Proposed: a proposal ended. Refused is true only if it surely was not and will
	// not be committed.
	Proposed struct {
		Term    uint64
		Refused bool
	}
	// FailedOver: the change to Term, committed at At on this host's clock (it may be
	// negative), was automatic. Told once for each, whoever was the arbiter.
	FailedOver struct {
		Term uint64
		At   Time
	}
	// FenceConfirmed: a fence device says that Node is off.
	FenceConfirmed struct{ Node string }
	// Failover: a person asks for a new term now; it still waits for S3. Force skips
	// readiness, lag, flap limit and the number of voters, never S3.
	Failover struct {
		To, By, Why string
		Force       bool
	}
)

func (Led) event()            {}
func (Lost) event()           {}
func (Renewal) event()        {}
func (Confirmed) event()      {}
func (ReleaseAsked) event()   {}
func (Reported) event()       {}
func (Proposed) event()       {}
func (FailedOver) event()     {}
func (FenceConfirmed) event() {}
func (Failover) event()       {}

// What an Arbiter wants done.
type (
	// Confirm asks a quorum whether we still lead; the answer becomes [Confirmed].
	Confirm struct{ ID uint64 }
	// Ack answers a renewal: granted.
	Ack struct{ ID uint64 }
	// Refuse answers a renewal: not granted, because.
	Refuse struct {
		ID  uint64
		Why string
	}
	// Propose a new term; the outcome comes as [Proposed], or as a [Fact].
	Propose struct {
		Term      uint64
		Holder    string
		Automatic bool
		Reason    string
		By        string
		Notes     []string // the evidence that was weighed
	}
	// ProposeRelease of the present term.
	ProposeRelease struct {
		Term        uint64
		Holder, Why string
	}
	// ProposeInSync notes who has the newest data, now that the holder of Term
	// serves.
	ProposeInSync struct {
		Term  uint64
		Nodes []string
	}
	// Blocked tells why nobody is promoted, although Term is over.
	Blocked struct {
		Term uint64
		Why  string
	}
	// ProposeResumed ends [Resuming].
	ProposeResumed struct{ Epoch uint64 }
)

func (Confirm) action()        {}
func (Ack) action()            {}
func (Refuse) action()         {}
func (Propose) action()        {}
func (ProposeRelease) action() {}
func (ProposeInSync) action()  {}
func (ProposeResumed) action() {}
func (Blocked) action()        {}

// Policy of the arbiter.
type Policy struct {
	MaxLag       time.Duration
	MaxFailovers int // automatic ones per hour; then a person must acknowledge
}

type report struct {
	Candidate
	at Time
}

// Arbiter is the machine of one voter; it acts only while that voter leads.
type Arbiter struct {
	node string
	tm   Timings
	pol  Policy

	fact    Fact
	leading bool
	since   Time // became leader, or saw the present term committed, whichever is later
	lastAck Time // newest ack to the holder of fact.Term; 0 = none in this leadership
	served  Time // newest ack to a holder that served, of any term; 0 = none in this leadership
	// proposed is the term that was proposed and may still be committed: until its
	// fate is known nobody is acknowledged (S2).
	proposed  uint64
	releasing uint64 // term whose release was proposed
	fenced    string
	asked     *Failover
	toldTo    string          // successor wished for by the one who released,
	toldWhy   string          // and why it did
	released  map[string]Time // when each gave a term back
	pending   map[uint64]Renewal
	reports   map[string]report
	failovers map[uint64]Time // automatic ones by term: when each was committed
	syncAt    Time            // when an in-sync set was proposed last,
	syncTerm  uint64          // for this term
	blocked   string          // why nobody is promoted, as told last,
	blockedAt Time            // at this moment
}

// NewArbiter makes the machine of node.
func NewArbiter(node string, tm Timings, pol Policy) *Arbiter {
	return &Arbiter{node: node, tm: tm, pol: pol, pending: map[uint64]Renewal{}, reports: map[string]report{}, released: map[string]Time{}, failovers: map[uint64]Time{}}
}

// Alive says whether the holder was acknowledged within the last few renewals; an
// arbiter that has just been elected does not know yet.
func (a *Arbiter) Alive(now Time) (alive, known bool) {
	few := 3 * a.tm.Renew()
	return a.lastAck > 0 && now < a.lastAck+few, a.leading && (a.lastAck > 0 || now >= a.since+few)
}

// Withdraw takes a [Failover] back that nothing came of.
func (a *Arbiter) Withdraw() { a.asked = nil }

// SetPolicy changes the policy from now on.
func (a *Arbiter) SetPolicy(p Policy) { a.pol = p }

// Leading says whether the machine acts.
func (a *Arbiter) Leading() bool { return a.leading }

// Step takes one event and returns what is to be done.
func (a *Arbiter) Step(now Time, ev Event) []Action {
	switch e := ev.(type) {
	case Fact:
		a.onFact(now, e)
	case Led:
		a.lead(now, true)
	case Lost:
		out := a.refuseAll("this host is no longer the arbiter")
		a.lead(now, false)
		return out
	case Renewal:
		if why := a.mayRenew(e); why != "" {
			return []Action{Refuse{e.ID, why}}
		}
		a.pending[e.ID] = e
		return []Action{Confirm{e.ID}}
	case Confirmed:
		return a.onConfirmed(now, e)
	case ReleaseAsked:
		if !a.leading || !a.fact.names(e.From, e.Term) || a.proposed != 0 || a.releasing == e.Term {
			return nil
		}
		a.releasing, a.toldTo, a.toldWhy = e.Term, e.To, e.Why
		a.released[e.From] = now
		return []Action{ProposeRelease{e.Term, e.From, e.Why}}
	case Reported:
		if a.leading && len(a.reports) < 1000 {
			a.reports[e.Node] = report{e.Candidate, now}
		}
	case Proposed:
		if e.Refused && e.Term == a.proposed {
			a.proposed = 0
		}
		if e.Refused && e.Term == a.releasing {
			a.releasing = 0
		}
	case FailedOver:
		maps.DeleteFunc(a.failovers, func(_ uint64, at Time) bool { return now-at >= time.Hour })
		a.failovers[e.Term] = e.At
	case FenceConfirmed:
		if a.leading && e.Node == a.fact.Holder {
			a.fenced = e.Node
		}
	case Failover:
		if a.leading {
			a.asked = &e
		}
	}
	return a.decide(now)
}

func (a *Arbiter) lead(now Time, yes bool) {
	a.leading, a.since, a.lastAck, a.served = yes, now, 0, 0
	a.proposed, a.releasing, a.fenced, a.asked, a.toldTo, a.toldWhy = 0, 0, "", nil, "", ""
	clear(a.pending)
	clear(a.reports)
}

func (a *Arbiter) onFact(now Time, f Fact) {
	if !f.newer(a.fact) && a.fact.Term != 0 {
		return
	}
	if f.Term != a.fact.Term {
		a.lastAck, a.fenced, a.asked, a.toldTo, a.toldWhy = 0, "", nil, "", ""
		if a.leading {
			a.since = now // the new holder has a full wait from here
		}
	}
	if f.Term >= a.proposed {
		a.proposed = 0
	}
	a.fact = f
}

// mayRenew: S2 without the quorum's word. "" = it may.
func (a *Arbiter) mayRenew(r Renewal) string {
	switch {
	case !a.leading:
		return "this host is not the arbiter"
	case a.proposed != 0:
		return fmt.Sprintf("term %d is being given away", a.fact.Term)
	case a.releasing == r.Term:
		return fmt.Sprintf("term %d is being released", r.Term)
	case !a.fact.names(r.From, r.Term) && !offTerm:
		return fmt.Sprintf("%s does not hold term %d: %v", r.From, r.Term, a.fact)
	case a.fenced == r.From:
		return r.From + " was fenced"
	}
	return ""
}

func (a *Arbiter) onConfirmed(now Time, e Confirmed) []Action {
	r, ok := a.pending[e.ID]
	if !ok {
		return nil
	}
	delete(a.pending, e.ID)
	why := a.mayRenew(r)
	if why == "" && !e.OK {
		why = "a quorum did not confirm the arbiter"
	}
	if why != "" {
		return []Action{Refuse{e.ID, why}}
	}
	a.lastAck = now
	a.asked = nil // who renews is alive: nobody is asked to follow
	if r.Serving {
		a.served = now
	}
	out := []Action{Ack{e.ID}}
	if a.fact.Pause == Resuming && r.Epoch == a.fact.Epoch {
		out = append(out, ProposeResumed{r.Epoch})
	}
	return out
}

func (a *Arbiter) refuseAll(why string) []Action {
	var out []Action
	for id := range a.pending {
		out = append(out, Refuse{id, why})
	}
	return out
}

// decide proposes what [Arbiter.Judge] finds due.
func (a *Arbiter) decide(now Time) []Action {
	if !a.leading || a.proposed != 0 {
		return nil
	}
	var out []Action
	if a.fact.Pause == Resuming && (a.fact.Released || a.fact.Term == 0) {
		return []Action{ProposeResumed{a.fact.Epoch}}
	}
	if set, changed := a.inSync(now); changed {
		a.syncAt, a.syncTerm = now, a.fact.Term
		out = append(out, ProposeInSync{a.fact.Term, set})
	}
	j := a.Judge(now)
	if !j.Due {
		return append(out, a.tellBlocked(now, j)...)
	}
	a.blocked = ""
	a.proposed = a.fact.Term + 1
	return append(out, Propose{a.proposed, j.To, j.Automatic, j.Reason, j.By, j.Notes})
}

// tellBlocked says why nobody is promoted although the term is over: when that
// begins, and when the reason is another one after a while.
func (a *Arbiter) tellBlocked(now Time, j Judgement) []Action {
	why := strings.Join(j.Why, "; ")
	if !j.Over {
		a.blocked = ""
		return nil
	}
	if why == a.blocked || a.blocked != "" && now < a.blockedAt+a.tm.Blackout()/2 {
		return nil
	}
	a.blocked, a.blockedAt = why, now
	return []Action{Blocked{a.fact.Term, why}}
}

// Wake is when the machine next has something to decide by itself.
func (a *Arbiter) Wake(now Time) Time {
	if !a.leading || a.proposed != 0 {
		return Forever
	}
	if j := a.Judge(now); j.WaitUntil > now {
		return j.WaitUntil
	}
	return now + a.tm.Renew() // waiting for somebody to become ready
}
