package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/quorum"
	"relevo.dev/relevo/agent/takeover"
)

// loop is the one way through the house: what was observed becomes an event, the
// lease machines turn event and time into actions, and the loop carries those out
// or hands them to somebody who reports back with an event.
//
// Everything in it belongs to the goroutine of [loop.run]; others reach it through
// [loop.post] and [loop.view].
type loop struct {
	node    string
	machine uint64
	base    context.Context // of run: what serves others must not end with their request
	tm      lease.Timings
	clock   Clock
	log     *slog.Logger
	quorum  quorumAPI
	peers   peersAPI
	host    *Host // nil: not a candidate
	worker  *worker
	journal *takeover.Journal
	pulse   func(next time.Duration) // the watchdog's: how long it may wait for the next turn
	report  func(now lease.Time) lease.Candidate

	holder  *lease.Holder
	arbiter *lease.Arbiter
	events  chan lease.Event
	wg      sync.WaitGroup // short-lived calls; run waits for them

	asks      map[uint64]chan answer // renewals waiting for the arbiter machine
	nextID    uint64
	arbiterIs string // whom this host takes for the arbiter
	lastOther string // whom it took for it last, but itself
	wasLead   uint64 // raft term that we lead in, as told to the arbiter machine; 0 = none
	nextRep   lease.Time
	inflight  int
	lastWhy   string      // why the lease was not renewed, as logged last,
	lastWhyAt lease.Time  // at this moment
	pending   uint64      // term to promote for as soon as our own raft knows it; 0 = none
	guarded   bool        // PID 1's timer may be armed
	calls     chan func() // run inside the loop, for view

	seek        func(ctx context.Context) string // who is the arbiter, where raft does not tell; "" = nobody knows
	saw         func(format string, args ...any) // for the timeline of `explain`
	fence       func(ctx context.Context, f lease.Fence) error
	fenceLimit  func() time.Duration
	trouble     func() (why string, since, grace time.Duration)
	onFact      func(lease.Fact) // the outside's interest in each new state
	onPhase     func(p lease.Phase, term uint64)
	ownRevision func() uint64
	holds       func(term uint64) bool // a term whose end is being prepared is kept meanwhile
	drain       func(ctx context.Context, r lease.Release) (lease.Release, bool)
	facts       lease.Fact
	counted     uint64       // newest change of the history that failovers has looked at
	known       *lease.Fact  // from disk, told to the machine first
	phase       atomic.Int64 // of the holder machine, for others
}

type answer struct {
	ok             bool
	why            string
	stepDown, stay string
}

// quorumAPI and peersAPI are what the loop needs of the others.
type quorumAPI interface {
	State() quorum.State
	Servers() ([]quorum.Server, error)
	Changes() <-chan struct{}
	Leader() string
	IsLeader() bool
	RaftTerm() uint64
	Apply(ctx context.Context, c quorum.Command) error
	Confirm(ctx context.Context, ask func(ctx context.Context, node string) (uint64, error)) error
	TransferTo(ctx context.Context, node string) error
}

// peersAPI calls the other agents.
type peersAPI interface {
	PostJSON(ctx context.Context, node, path string, in, out any) error
}

// errBusy is answered when too many requests wait already.
var errBusy = errors.New("the agent is busy; try again")

// post hands an event to the loop.
func (l *loop) post(ctx context.Context, ev lease.Event) {
	select {
	case l.events <- ev:
	case <-ctx.Done():
	}
}

// view runs f inside the loop and waits for it. With an error f was not run, and will not be:
// what it writes to is the caller's again.
func (l *loop) view(ctx context.Context, f func()) error {
	done := make(chan struct{})
	var taken atomic.Bool // by who runs f, or by who gives up
	call := func() {
		if taken.CompareAndSwap(false, true) {
			f()
		}
		close(done)
	}
	select {
	case l.calls <- call:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		if taken.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		<-done
		return nil
	}
}

func (l *loop) run(ctx context.Context) error {
	defer l.wg.Wait()
	l.base = ctx
	t := time.NewTimer(0)
	defer t.Stop()
	if l.known != nil {
		// Not from raft, so it is no fact for [loop.own]: only the newest term counts.
		l.onFact(*l.known)
		l.doAll(ctx, l.holder.Step(l.clock(), *l.known))
	}
	l.observeQuorum(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-l.events:
			l.step(ctx, ev)
		case f := <-l.calls:
			f()
		case <-l.quorum.Changes():
			l.observeQuorum(ctx)
		case <-t.C:
			l.step(ctx, lease.Tick{})
		}
		l.moved()
		now := l.clock()
		l.pulse(l.patience(now))
		if l.host != nil && now >= l.nextRep {
			l.nextRep = now + l.tm.Renew()
			l.sendReport(ctx, now)
		}
		t.Reset(max(time.Millisecond, l.wake(now)-now))
	}
}

// patience is how long PID 1 may wait for the next turn.
func (l *loop) patience(now lease.Time) time.Duration {
	if l.host == nil {
		return l.tm.TTL
	}
	return l.holder.Watchdog(now)
}

// wake is when to look again without an event: at least once in a renewal, for the
// watchdog's pulse.
func (l *loop) wake(now lease.Time) lease.Time {
	at := min(now+l.tm.Renew(), l.arbiter.Wake(now))
	if l.host != nil {
		at = min(at, l.holder.Wake(now), l.nextRep)
	}
	return at
}

// observeQuorum turns what raft knows into events.
func (l *loop) observeQuorum(ctx context.Context) {
	lead := uint64(0)
	if l.quorum.IsLeader() {
		lead = l.quorum.RaftTerm()
	}
	// A leadership that was lost and won again between two looks is another one.
	if l.wasLead != 0 && lead != l.wasLead {
		l.log.Info("arbiter no more", "raft_term", l.wasLead)
		l.saw("is the arbiter no more")
		l.step(ctx, lease.Lost{})
	}
	l.failovers(ctx)
	l.step(ctx, l.fact())
	if lead != 0 && lead != l.wasLead {
		l.log.Info("arbiter now", "raft_term", lead)
		l.saw("is the arbiter now, elected in raft term %d", lead)
		l.step(ctx, lease.Led{})
	}
	l.wasLead = lead
	if now := l.quorum.Leader(); now != l.arbiterIs {
		l.arbiterIs = now
		switch now {
		case "":
			l.saw("knows no arbiter")
		case l.node:
		default:
			l.saw("takes %s for the arbiter", now)
			l.lastOther = now
		}
		if now != "" && l.host != nil {
			l.step(ctx, lease.ArbiterKnown{})
		}
	}
}

// failovers tells the arbiter machine of automatic changes that it has not heard of.
// The wall clock only says how long ago those were that happened before this agent
// started; one that is wrong makes them count for an hour at most.
func (l *loop) failovers(ctx context.Context) {
	for _, c := range l.quorum.State().History {
		if c.Term <= l.counted {
			continue
		}
		l.counted = c.Term
		if age := time.Since(c.At); c.Automatic && age < time.Hour {
			l.step(ctx, lease.FailedOver{Term: c.Term, At: l.clock() - max(0, age)})
		}
	}
}

// fact is the replicated state as the machines see it.
func (l *loop) fact() lease.Fact {
	s := l.quorum.State()
	f := lease.Fact{
		Term: s.Term, Holder: s.Holder, Machine: s.Machine, Released: s.Released,
		Pause: lease.PausePhase(s.Pause.Phase), Epoch: s.Pause.Epoch,
		InSync: s.InSync, Served: s.Served, Acked: s.Ack,
	}
	if servers, err := l.quorum.Servers(); err == nil {
		for _, sv := range servers {
			if sv.Voter {
				f.Voters++
			}
		}
	}
	return f
}

func (l *loop) step(ctx context.Context, ev lease.Event) {
	now := l.clock()
	switch e := ev.(type) {
	case lease.Fact:
		if e.Term != l.facts.Term || e.Holder != l.facts.Holder || e.Released != l.facts.Released || e.Pause != l.facts.Pause {
			l.log.Info("state committed", "term", e.Term, "holder", e.Holder, "released", e.Released, "pause", string(e.Pause))
			l.saw("has it committed: %v", e)
		}
		l.facts = e
		if l.onFact != nil {
			l.onFact(e)
		}
		l.doAll(ctx, l.arbiter.Step(now, ev))
		if l.host != nil {
			l.doAll(ctx, l.holder.Step(now, ev))
			l.promotePending()
		}
	case lease.Acked, lease.Promoted, lease.Units, lease.StepDown, lease.ArbiterKnown:
		if l.host != nil {
			l.doAll(ctx, l.holder.Step(now, ev))
		}
	case lease.Tick:
		l.doAll(ctx, l.arbiter.Step(now, ev))
		if l.host != nil {
			l.doAll(ctx, l.holder.Step(now, ev))
		}
	default:
		l.doAll(ctx, l.arbiter.Step(now, ev))
	}
}

// moved tells the others where the holder machine is now.
func (l *loop) moved() {
	if l.host == nil {
		return
	}
	if p := l.holder.Phase(); lease.Phase(l.phase.Load()) != p {
		l.log.Info("phase", "phase", p.String(), "term", l.holder.Term())
		l.saw("is %v in term %d", p, l.holder.Term())
		l.phase.Store(int64(p))
	}
	l.onPhase(l.holder.Phase(), l.holder.Term())
}

func (l *loop) doAll(ctx context.Context, actions []lease.Action) {
	for _, a := range actions {
		l.do(ctx, a)
	}
}

func (l *loop) do(ctx context.Context, a lease.Action) {
	switch a := a.(type) {
	case lease.SendRenewal:
		l.sendRenewal(ctx, a)
	case lease.SetLease:
		l.noteLease(a.Term, a.Deadline)
		if l.holder.Phase() == lease.Stopping {
			l.worker.guardAt(a.Deadline - l.tm.KillBefore())
		} else if l.guarded {
			l.guarded = false
			l.worker.unguard()
		}
	case lease.ClearLease:
		if err := l.host.LeaseNote.Remove(); err != nil {
			l.log.Error("lease note not removed", "err", err)
		}
	case lease.Promote:
		l.pending = a.Term
		l.promotePending()
	case lease.Demote:
		l.log.Warn("stopping the control plane", "term", a.Term, "why", a.Why)
		l.saw("stops its control plane: %s", a.Why)
		l.pending = 0
		l.guarded = true
		if d := l.holder.Deadline(); d > 0 {
			l.noteLease(a.Term, d) // nothing may start from here on
		}
		if d := l.holder.Deadline(); d != lease.Forever {
			l.worker.guardAt(d - l.tm.KillBefore())
		}
		l.worker.demote(a.Term)
	case lease.Kill:
		l.log.Warn("killing the control plane", "term", a.Term, "why", a.Why)
		l.saw("kills its control plane: %s", a.Why)
		l.worker.kill()
	case lease.Release:
		if l.holds(a.Term) {
			// Nothing runs, and an answer extends nothing; but the term is not given away.
			l.sendRenewal(ctx, lease.SendRenewal{Term: a.Term, Epoch: l.facts.Epoch})
		}
		l.call(ctx, drainLimit+l.tm.TTL, func(ctx context.Context) {
			a, done := l.drain(ctx, a)
			if !done {
				return // another call is at it
			}
			ctx, cancel := context.WithTimeout(ctx, 2*l.tm.Renew())
			defer cancel()
			if err := l.release(ctx, a); err != nil {
				l.log.Warn("release not delivered yet", "term", a.Term, "err", err)
			}
		})
	case lease.Confirm:
		l.call(ctx, l.tm.TTL/3, func(ctx context.Context) {
			err := l.quorum.Confirm(ctx, l.askRaftTerm)
			if err != nil {
				l.log.Debug("quorum did not confirm", "err", err)
			}
			l.post(ctx, lease.Confirmed{ID: a.ID, OK: err == nil})
		})
	case lease.Fence:
		l.switchOff(ctx, a)
	case lease.Ack:
		l.answer(a.ID, answer{ok: true, stepDown: a.StepDown, stay: a.Stay})
	case lease.Refuse:
		l.answer(a.ID, answer{why: a.Why})
	case lease.Propose:
		l.log.Warn("giving the next term", "term", a.Term, "holder", a.Holder, "automatic", a.Automatic, "why", a.Reason)
		l.saw("gives term %d to %s: %s", a.Term, a.Holder, a.Reason)
		l.propose(ctx, a.Term, quorum.Grant(a.Term, a.Holder, a.Machine, a.Reason, a.Automatic, a.Fenced, a.By, a.Notes))
	case lease.Blocked:
		l.log.Error("the master is lost and nobody is promoted", "term", a.Term, "why", a.Why)
		l.saw("promotes nobody: %s", a.Why)
	case lease.ProposeMachine:
		l.log.Warn("the holder is another machine of its name now", "term", a.Term, "holder", a.Holder)
		l.saw("notes that %s is another machine now", a.Holder)
		l.propose(ctx, 0, quorum.Machine(a.Term, a.Holder, a.Machine))
	case lease.ProposeRelease:
		l.propose(ctx, a.Term, quorum.Release(a.Term, a.Holder, a.Why))
	case lease.ProposeInSync:
		l.propose(ctx, 0, quorum.InSync(a.Term, a.Nodes))
	case lease.ProposeResumed:
		l.propose(ctx, 0, quorum.Resumed(a.Epoch))
	}
}

// switchOff has the fence device switch the holder off, and tells what became of it.
func (l *loop) switchOff(ctx context.Context, f lease.Fence) {
	l.log.Warn("asking the fence device to switch the master off", "node", f.Node, "term", f.Term)
	l.saw("asks the fence device to switch %s off", f.Node)
	l.call(ctx, l.fenceLimit(), func(ctx context.Context) {
		begin := l.clock()
		err := l.fence(ctx, f)
		took := (l.clock() - begin).Round(time.Millisecond)
		if err != nil {
			l.log.Error("the fence device does not confirm that the master is off: its lease is waited for", "node", f.Node, "term", f.Term, "took", took, "err", err)
			l.saw("has no word from the fence device that %s is off: %v", f.Node, err)
			l.post(l.base, lease.FenceFailed{ID: f.ID})
			return
		}
		l.log.Warn("the fence device confirms that the master is off", "node", f.Node, "term", f.Term, "took", took)
		l.saw("has it from the fence device that %s is off, after %v", f.Node, took)
		l.post(l.base, lease.FenceConfirmed{ID: f.ID})
	})
}

// noteLease writes the lease where the fence and the units find it.
func (l *loop) noteLease(term uint64, deadline lease.Time) {
	if err := l.host.LeaseNote.Write(term, deadline, l.holder.MayStart()); err != nil {
		l.log.Error("lease not noted: the fence acts on the older one", "term", term, "err", err)
	}
}

// call runs a short call beside the loop, bounded by limit.
func (l *loop) call(ctx context.Context, limit time.Duration, f func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	l.wg.Go(func() {
		defer cancel()
		f(ctx)
	})
}

func (l *loop) answer(id uint64, a answer) {
	if ch, ok := l.asks[id]; ok {
		delete(l.asks, id)
		ch <- a // buffered by one
	}
}

// propose hands a command to raft. Only a refusal by the state machine itself is
// surely no commit; everything else stays open until the state shows it.
func (l *loop) propose(ctx context.Context, term uint64, c quorum.Command) {
	l.call(ctx, l.tm.TTL, func(ctx context.Context) {
		err := l.quorum.Apply(ctx, c)
		if err == nil {
			return
		}
		l.log.Warn("proposal not committed", "op", c.Op, "term", term, "err", err)
		var refused *quorum.Refused
		if errors.As(err, &refused) {
			l.post(ctx, lease.Proposed{Term: term, Refused: true})
		}
	})
}

// promotePending begins a promotion as soon as this host's own raft has the term: the
// arbiter may renew the lease of a holder that has just booted and knows its term from
// disk alone, and whose datastore is the newest cannot be judged before.
func (l *loop) promotePending() {
	if l.pending == 0 || l.facts.Term < l.pending {
		return
	}
	term := l.pending
	l.pending = 0
	l.log.Info("promoting this host", "term", term)
	l.worker.promote(term, l.own(term))
}

// own says whether the datastore at the control plane's own path is the one to
// serve in term: this host restored it for term already, or it is as new as that
// of the last master that served, or no master ever served and there is no copy.
func (l *loop) own(term uint64) bool {
	own := l.journal.Own()
	return own == term || own > 0 && own >= l.facts.Served || l.facts.Served == 0 && (l.ownRevision() > 0 || !l.host.Follower.Position().Complete)
}
