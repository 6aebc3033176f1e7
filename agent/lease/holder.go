package lease

import "fmt"

// Phase of a Holder.
type Phase int

// The phases in the order of a mastership.
const (
	Standby   Phase = iota // does not hold the lease
	Named                  // the committed term names this host; no valid lease yet
	Promoting              // lease valid, the takeover runs
	Master                 // lease valid, the control plane runs
	Stopping               // the control plane is being stopped
	Releasing              // stopped for good; the term is being given back
)

func (p Phase) String() string {
	return [...]string{"standby", "named", "promoting", "master", "stopping", "releasing"}[p]
}

// What a Holder observes, besides [Fact] and [Tick].
type (
	// Acked: A acknowledged the renewal for Term that was sent at SentAt with Epoch.
	Acked struct {
		Term   uint64
		SentAt Time
		Epoch  uint64
	}
	// Promoted: the takeover for Term ended.
	Promoted struct {
		Term uint64
		Err  error
	}
	// Units: what the control-plane units of this host do. Active is true unless
	// all of them are surely stopped.
	Units struct{ Active bool }
	// ArbiterKnown: there is an arbiter again, or another one: what was not answered is
	// asked at once, for the lease goes on running out.
	ArbiterKnown struct{}
	// StepDown: give the term back (switchover, shutdown, a dying host). To is the
	// wanted successor, "" for the freshest. Automatic: the arbiter asked, no person.
	StepDown struct {
		Term      uint64
		Why, To   string
		Automatic bool
	}
)

func (Acked) event()        {}
func (Promoted) event()     {}
func (Units) event()        {}
func (ArbiterKnown) event() {}
func (StepDown) event()     {}

// What a Holder wants done.
type (
	// SendRenewal asks A to renew Term; the answer becomes [Acked].
	SendRenewal struct{ Term, Epoch uint64 }
	// SetLease notes the lease where the fence finds it, before anything starts.
	SetLease struct {
		Term     uint64
		Deadline Time
	}
	// ClearLease removes that note.
	ClearLease struct{}
	// Promote starts the takeover for Term; it ends in [Promoted].
	Promote struct{ Term uint64 }
	// Demote stops the takeover, if one runs, and the units; it ends in Units{false}.
	Demote struct {
		Term uint64
		Why  string
	}
	// Kill kills every process of the units now.
	Kill struct {
		Term uint64
		Why  string
	}
	// Release gives Term back; repeated until the committed state shows it.
	Release struct {
		Term      uint64
		Why, To   string
		Automatic bool
	}
)

func (SendRenewal) action() {}
func (SetLease) action()    {}
func (ClearLease) action()  {}
func (Promote) action()     {}
func (Demote) action()      {}
func (Kill) action()        {}
func (Release) action()     {}

// Lease is what was noted by [SetLease]; a restarted agent gets it back.
type Lease struct {
	Term     uint64
	Deadline Time
}

// Holder is the machine of one candidate.
type Holder struct {
	node string
	tm   Timings

	fact     Fact
	phase    Phase
	term     uint64 // the term that phase is about
	deadline Time   // S1: t_send + TTL of the newest acknowledged renewal; 0 = no lease
	active   bool   // units may be running
	nextSend Time
	killAt   Time // Stopping: units that will not stop are killed from here on
	killing  bool
	release  *StepDown // after stopping, give the term back
	restored bool      // the lease is an earlier process's, and none was acknowledged since
}

// NewHolder makes the machine of node. was is the lease that an earlier process
// of this boot noted, if any; active says whether control-plane units run.
func NewHolder(node string, tm Timings, was Lease, active bool) *Holder {
	h := &Holder{node: node, tm: tm, active: active}
	if was.Term != 0 && was.Deadline > 0 {
		h.term, h.deadline, h.phase = was.Term, was.Deadline, Named
		h.fact = Fact{Term: was.Term, Holder: node}
		h.restored = was.Deadline != Forever
	}
	return h
}

// Phase, Term and Deadline tell where the machine stands.
func (h *Holder) Phase() Phase   { return h.phase }
func (h *Holder) Term() uint64   { return h.term }
func (h *Holder) Deadline() Time { return h.deadline }
func (h *Holder) Fact() Fact     { return h.fact }

// MayStart says whether something else than a takeover, such as Restart= or a
// person, may start units now, as far as the phase goes.
func (h *Holder) MayStart() bool { return h.phase == Promoting || h.phase == Master }

// Active says whether units may be running.
func (h *Holder) Active() bool { return h.active }

// Valid says whether a lease is held at now.
func (h *Holder) Valid(now Time) bool { return h.deadline > now }

// Step takes one event and returns what is to be done, in this order.
func (h *Holder) Step(now Time, ev Event) []Action {
	var out []Action
	switch e := ev.(type) {
	case Fact:
		out = h.onFact(now, e)
	case Acked:
		out = h.onAcked(now, e)
	case Promoted:
		if h.phase == Promoting && e.Term == h.term {
			if e.Err == nil {
				h.phase = Master
			} else {
				h.release = &StepDown{Term: h.term, Why: "promotion failed: " + e.Err.Error()}
				out = h.stop(now, h.release.Why)
			}
		}
	case Units:
		h.active = e.Active
		if !e.Active && h.phase == Stopping {
			out = h.stopped(now)
		}
	case ArbiterKnown:
		h.nextSend = now
	case StepDown:
		if e.Term == h.term && (h.phase == Named || h.phase == Promoting || h.phase == Master) {
			h.release = &e
			if h.phase == Named && !h.active {
				out = h.stopped(now)
			} else {
				out = h.stop(now, e.Why)
			}
		}
	}
	out = append(out, h.enforce(now)...)
	return append(out, h.send(now)...)
}

func (h *Holder) onFact(now Time, f Fact) []Action {
	if !f.newer(h.fact) && h.fact.Term != 0 {
		return nil
	}
	was := h.fact
	h.fact = f
	var out []Action
	switch {
	case f.names(h.node, f.Term) && h.term != f.Term: // a new term, and it is ours
		if h.phase >= Promoting && h.phase <= Stopping || h.active && f.Term > 1 {
			// What runs belongs to an earlier term (S1, S4): it stops first. Only the
			// first term of a cluster adopts what runs.
			h.term, h.deadline, h.release = f.Term, 0, nil
			return append(out, h.stop(now, "units were running without a lease")...)
		}
		h.term, h.deadline, h.phase, h.nextSend, h.release = f.Term, 0, Named, now, nil
		if offFirstAck {
			h.phase, h.active, h.deadline = Promoting, true, now+h.tm.TTL
			out = append(out, SetLease{h.term, h.deadline}, Promote{h.term})
		}
	case h.phase != Standby && !f.names(h.node, h.term) && !offTerm: // S6
		if f.Term == h.term && f.Released { // our own release is committed
			if h.phase == Releasing {
				h.phase, h.deadline = Standby, 0
				return nil
			}
		}
		h.deadline, h.release = 0, nil
		if h.phase == Stopping || h.active || h.phase == Promoting || h.phase == Master {
			out = append(out, h.stop(now, fmt.Sprintf("stood down: %v", f))...)
			return append(out, Kill{h.term, "the term is over"})
		}
		h.phase = Standby
		return append(out, ClearLease{})
	case h.phase == Standby && h.active && f.Term != 0:
		return h.stop(now, fmt.Sprintf("this host has no lease: %v", f))
	}
	// A paused cluster: a holder with a lease keeps it for ever. When that ends, it
	// counts again from now: A has not acknowledged this epoch yet, so its S3 wait
	// has not begun. But raft tells a process that has just started everything again, and
	// a pause that ended long ago is no reason to keep the lease that was noted.
	if h.deadline > now && was.Epoch != f.Epoch && !h.restored {
		switch {
		case f.Pause == Paused:
			h.deadline = Forever
			out = append(out, SetLease{h.term, h.deadline})
		case h.deadline == Forever:
			h.deadline = now + h.tm.TTL
			h.nextSend = now
			out = append(out, SetLease{h.term, h.deadline})
		}
	}
	return out
}

// onAcked extends the lease from the moment of sending (S1).
func (h *Holder) onAcked(now Time, e Acked) []Action {
	if !h.fact.names(h.node, e.Term) || e.Term != h.term || h.phase == Releasing || h.phase == Standby {
		return nil
	}
	end := e.SentAt + h.tm.TTL
	if h.fact.Pause == Paused && e.Epoch == h.fact.Epoch {
		end = Forever
	}
	h.restored = false
	if end <= h.deadline || end <= now {
		return nil
	}
	h.deadline = end
	out := []Action{SetLease{h.term, end}}
	if h.phase == Named && end-h.tm.StopBefore() > now {
		h.phase, h.active = Promoting, true // S4
		out = append(out, Promote{h.term})
	}
	return out
}

// enforce keeps S1 and S5 whatever else happens.
func (h *Holder) enforce(now Time) []Action {
	var out []Action
	if late := now >= h.deadline-h.tm.StopBefore() && !offDeadline; late {
		switch {
		case h.phase == Promoting, h.phase == Master, h.phase == Named && h.deadline != 0:
			// Also if nothing runs as far as we know: while the lease lasted, anybody
			// could start the units.
			out = h.stop(now, "the lease was not renewed")
		}
	}
	if h.phase == Stopping && now >= h.nextKill() {
		h.killAt = now + h.tm.TTL/12
		h.killing = true
		out = append(out, Kill{h.term, "they have not stopped in time"})
	}
	return out
}

// send renews while the term is ours: also while stopping, so that a planned stop
// may take its time.
func (h *Holder) send(now Time) []Action {
	if !h.fact.names(h.node, h.term) || h.phase == Standby || now < h.nextSend {
		if h.phase == Releasing && h.fact.Term == h.term && now >= h.nextSend {
			h.nextSend = now + h.tm.Renew()
			return []Action{Release{h.term, h.release.Why, h.release.To, h.release.Automatic}}
		}
		return nil
	}
	h.nextSend = now + h.tm.Renew()
	if h.phase == Releasing {
		return []Action{Release{h.term, h.release.Why, h.release.To, h.release.Automatic}}
	}
	return []Action{SendRenewal{h.term, h.fact.Epoch}}
}

func (h *Holder) stop(now Time, why string) []Action {
	if h.phase == Stopping {
		return nil
	}
	h.phase, h.killAt, h.killing = Stopping, now+stopLimit*h.tm.TTL, false
	return []Action{Demote{h.term, why}}
}

// stopLimit, in TTLs: a planned stop goes on renewing and may take longer than the
// lease, but not for ever.
const stopLimit = 5

// nextKill is when to kill: shortly before the lease ends, or when a planned stop
// took too long, and then again and again.
func (h *Holder) nextKill() Time {
	if h.killing || offDeadline {
		return h.killAt
	}
	return min(h.killAt, h.deadline-h.tm.KillBefore())
}

// stopped: nothing runs any more.
func (h *Holder) stopped(now Time) []Action {
	out := []Action{ClearLease{}}
	h.nextSend = now
	switch {
	case !h.fact.names(h.node, h.term):
		h.phase, h.deadline, h.release = Standby, 0, nil
		if h.fact.names(h.node, h.fact.Term) {
			h.term, h.phase = h.fact.Term, Named
		}
	case h.release != nil:
		// From here on this host never runs in this term again, even if the release
		// is lost on its way: an ack is ignored in this phase.
		h.phase, h.deadline = Releasing, 0
	default:
		// The lease was lost and nobody else took it: same holder first. A fresh ack
		// starts the units again.
		h.phase, h.deadline = Named, 0
	}
	return out
}

// Wake is when the machine next has something to do by itself.
func (h *Holder) Wake(now Time) Time {
	at := Forever
	if h.deadline != 0 && h.deadline != Forever && now+h.tm.TTL/6 >= h.deadline-h.tm.StopBefore() {
		at = now + h.tm.TTL/24 // the watchdog is short now
	}
	if h.fact.names(h.node, h.term) || h.phase == Releasing {
		at = min(at, h.nextSend)
	}
	if h.deadline != 0 && h.deadline != Forever && h.phase != Stopping {
		at = min(at, h.deadline-h.tm.StopBefore())
	}
	if h.phase == Stopping {
		at = min(at, h.nextKill())
	}
	return at
}

// Watchdog is how long PID 1 may wait for the next sign of life before it kills
// the agent and runs the fence: TTL/3, but never so long that an agent that hangs
// from now on is found too late to stop the units inside the lease (S5). The loop
// turns at least every TTL/6, and at the moment in which a stop begins.
func (h *Holder) Watchdog(now Time) Time {
	d := h.tm.TTL / 3
	if h.deadline == 0 || h.deadline == Forever {
		return d
	}
	return max(h.tm.TTL/12, min(d, h.deadline-h.tm.StopBefore()-now+h.tm.TTL/12))
}
