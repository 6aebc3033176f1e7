package lease

import (
	"maps"
	"strings"
	"time"
)

// Candidate is what a candidate last said of itself.
type Candidate struct {
	Node     string
	Machine  uint64 // which one of that name, by its hardware; never 0
	Running  bool   // its control-plane units run
	Ready    bool   // could take over now: copy and identity complete, host healthy
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
		Machine uint64
		Term    uint64
		Epoch   uint64
		Serving bool // its promotion is finished: what standbys lack is measured against it
		// Trouble is what the holder finds wrong with its own API, "" if it works, since
		// TroubleFor. It may stay the master so for Grace; 0 = for ever.
		Trouble           string
		TroubleFor, Grace time.Duration
	}
	// Probed: From asked the API of the holder of Term through the network. Ever says
	// whether it reached an API of this cluster before: one that never did is no witness.
	Probed struct {
		From     string
		Term     uint64
		OK, Ever bool
		Why      string // why not
	}
	// Gossiped: whether gossip takes Node for alive.
	Gossiped struct {
		Node  string
		Alive bool
	}
	// Confirmed: the quorum's answer to [Confirm].
	Confirmed struct {
		ID uint64
		OK bool
	}
	// ReleaseAsked: From gives Term back.
	ReleaseAsked struct {
		From      string
		Machine   uint64
		Term      uint64
		Why, To   string
		Automatic bool // the arbiter had asked for it, see [Ack]
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
	// FenceConfirmed: the fence device says that the holder which [Fence] named is off.
	FenceConfirmed struct{ ID uint64 }
	// FenceFailed: it does not.
	FenceFailed struct{ ID uint64 }
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
func (FenceFailed) event()    {}
func (Probed) event()         {}
func (Gossiped) event()       {}
func (Failover) event()       {}

// What an Arbiter wants done.
type (
	// Confirm asks a quorum whether we still lead; the answer becomes [Confirmed].
	Confirm struct{ ID uint64 }
	// Ack answers a renewal: granted. With StepDown the holder is asked to give the
	// term back, because; with Stay there is a reason to, and nobody to follow.
	Ack struct {
		ID             uint64
		StepDown, Stay string
	}
	// Fence asks the fence device to switch Node off, after a quorum has confirmed once
	// more that we lead; the answer becomes [FenceConfirmed] or [FenceFailed].
	Fence struct {
		ID, Term uint64
		Node     string
	}
	// Refuse answers a renewal: not granted, because.
	Refuse struct {
		ID  uint64
		Why string
	}
	// Propose a new term; the outcome comes as [Proposed], or as a [Fact].
	Propose struct {
		Term      uint64
		Holder    string
		Machine   uint64
		Automatic bool
		Fenced    bool // a fence device confirmed that the holder before is off
		Reason    string
		By        string
		Notes     []string // the evidence that was weighed
	}
	// ProposeMachine: the holder of Term is another machine of its name from now on.
	ProposeMachine struct {
		Term    uint64
		Holder  string
		Machine uint64
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
func (Fence) action()          {}
func (Propose) action()        {}
func (ProposeRelease) action() {}
func (ProposeMachine) action() {}
func (ProposeInSync) action()  {}
func (ProposeResumed) action() {}
func (Blocked) action()        {}

// Policy of the arbiter.
type Policy struct {
	MaxLag       time.Duration
	MaxFailovers int // automatic ones per hour; then a person must acknowledge
	// Fence says that there is a fence device, which is asked to switch a silent holder
	// off, and to confirm.
	Fence bool
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
	steady  Time // since then the holder has renewed all the time
	lastAck Time // newest ack to the holder of fact.Term; 0 = none in this leadership
	served  Time // newest ack to a holder that served, of any term; 0 = none in this leadership
	// proposed is the term that was proposed and may still be committed: until its
	// fate is known nobody is acknowledged (S2).
	proposed  uint64
	changing  uint64 // machine that was proposed for the holder: until that is committed nobody is acknowledged
	changeAt  Time   // when it may be proposed again
	rival     Time   // when another machine than the holder asked last; 0 = never
	releasing uint64 // term whose release was proposed
	fencing   uint64 // ID of the fence's order under way; 0 = none. Until it ends nobody is acknowledged
	fences    uint64 // IDs given
	fenceAt   Time   // not before, since it failed; 0 = at once
	fenced    string
	asked     *Failover
	toldTo    string          // successor wished for by the one who released,
	toldWhy   string          // why it did,
	toldAuto  bool            // and whether nobody had asked for it
	released  map[string]Time // when each gave a term back
	pending   map[uint64]Renewal
	reports   map[string]report
	failovers map[uint64]Time // automatic ones by term: when each was committed
	syncAt    Time            // when an in-sync set was proposed last,
	syncTerm  uint64          // for this term
	set       []string        // room for the next one
	evidence                  // of the holder's state besides its renewals
	blocked   string          // why nobody is promoted, as told last,
	blockedAt Time            // at this moment
}

// NewArbiter makes the machine of node.
func NewArbiter(node string, tm Timings, pol Policy) *Arbiter {
	return &Arbiter{node: node, tm: tm, pol: pol, pending: map[uint64]Renewal{}, reports: map[string]report{}, released: map[string]Time{}, failovers: map[uint64]Time{}, evidence: newEvidence()}
}

// Alive says whether the holder was acknowledged within the last few renewals; an
// arbiter that has just been elected does not know yet.
func (a *Arbiter) Alive(now Time) (alive, known bool) {
	few := 3 * a.tm.Renew()
	return a.lastAck > 0 && now < a.lastAck+few, a.leading && (a.lastAck > 0 || now >= a.since+few)
}

// Young says whether the machine has not led for long enough to have heard every candidate.
func (a *Arbiter) Young(now Time) bool { return a.leading && now < a.since+2*a.tm.Renew() }

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
			return append(a.changeMachine(now, e), Refuse{e.ID, why})
		}
		a.pending[e.ID] = e
		return []Action{Confirm{e.ID}}
	case Confirmed:
		return a.onConfirmed(now, e)
	case ReleaseAsked:
		if !a.leading || !a.fact.names(e.From, e.Term) || e.Machine != a.fact.Machine || a.proposed != 0 || a.releasing == e.Term {
			return nil
		}
		a.releasing, a.toldTo, a.toldWhy, a.toldAuto = e.Term, e.To, e.Why, e.Automatic
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
		// Only the answer to the order under way: since that was given nobody was
		// acknowledged. A host that was off, booted and renewed must not be taken for off.
		if a.fencing != 0 && e.ID == a.fencing {
			a.fenced, a.fencing = a.fact.Holder, 0
		}
	case FenceFailed:
		if a.fencing != 0 && e.ID == a.fencing {
			a.fencing, a.fenceAt = 0, now+a.tm.TTL
		}
	case Probed:
		if a.leading && e.Term == a.fact.Term && e.From != a.fact.Holder {
			a.probed(now, e)
		}
	case Gossiped:
		a.gossiped(e)
	case Failover:
		if a.leading {
			a.asked = &e
		}
	}
	return a.decide(now)
}

func (a *Arbiter) lead(now Time, yes bool) {
	a.leading, a.since, a.lastAck, a.served = yes, now, 0, 0
	a.proposed, a.releasing, a.asked = 0, 0, nil
	a.forget()
	clear(a.pending)
	clear(a.reports)
}

// forget what was about a holder that is none any more, or was heard by another arbiter.
func (a *Arbiter) forget() {
	a.fencing, a.fenceAt, a.fenced = 0, 0, ""
	a.changing, a.changeAt, a.rival = 0, 0, 0
	a.toldTo, a.toldWhy, a.toldAuto = "", "", false
	a.evidence.clear()
}

func (a *Arbiter) onFact(now Time, f Fact) {
	if !f.newer(a.fact) && a.fact.Term != 0 {
		return
	}
	if f.Term != a.fact.Term {
		a.lastAck, a.asked = 0, nil
		a.forget()
		if a.leading {
			a.since = now // the new holder has a full wait from here
		}
	}
	if f.Machine == a.changing {
		a.changing = 0
	}
	if f.Term >= a.proposed {
		a.proposed = 0
	}
	a.fact = f
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
	if alive, _ := a.Alive(now); !alive {
		a.steady = now
	}
	a.lastAck = now
	a.fenced = "" // it was off, nobody could follow, and it is back
	a.asked = nil // who renews is alive: nobody is asked to follow
	if r.Serving {
		a.served = now
	}
	a.troubled(now, r)
	ack := Ack{ID: e.ID}
	if why := a.mustGo(now); why != "" && r.Serving {
		if j := a.Judge(now); j.Possible {
			ack.StepDown = why
		} else {
			ack.Stay = why + "; and nobody can follow: " + strings.Join(j.Why, "; ")
		}
	}
	out := []Action{ack}
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
	if now < a.calm() {
		a.blocked = ""
		return out
	}
	j := a.Judge(now)
	if j.FenceAt > 0 && now >= j.FenceAt {
		a.fences++
		a.fencing = a.fences
		return append(out, Fence{a.fencing, a.fact.Term, a.fact.Holder})
	}
	if !j.Due {
		return append(out, a.tellBlocked(now, j)...)
	}
	a.blocked = ""
	a.proposed = a.fact.Term + 1
	return append(out, Propose{a.proposed, j.To, a.reports[j.To].Machine, j.Automatic, j.Fenced, j.Reason, j.By, append(j.Evidence, j.Notes...)})
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
	if until := a.calm(); now < until && !a.pol.Fence {
		return until
	}
	j := a.Judge(now)
	if j.FenceAt > now {
		return j.FenceAt
	}
	if j.WaitUntil > now {
		return j.WaitUntil
	}
	return now + a.tm.Renew() // waiting for somebody to become ready
}
