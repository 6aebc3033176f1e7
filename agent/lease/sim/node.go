package sim

import (
	"time"

	"relevo.dev/relevo/agent/lease"
)

type unitState int

const (
	down unitState = iota
	starting
	up
	stopping
)

func (u unitState) String() string { return [...]string{"down", "starting", "up", "stopping"}[u] }

// node is one host: its clock, its agent, its units, and what PID 1 does.
type node struct {
	w    *world
	id   int
	name string

	// the host
	skew      time.Duration // its clock = skew + real × (1 + ppm/1e6)
	ppm       int64
	powered   bool
	frozen    bool          // everything on the host stands still, only time goes on,
	frozenTo  time.Duration // in real time, until this
	thawed    time.Duration // real time of the last thaw; <0 = never
	voter     bool
	candidate bool
	wiped     bool

	// the agent's process
	life     int // grows whenever the process ends: what was meant for it is void
	up       bool
	turn     func() // its loop, made once
	stopped  bool   // SIGSTOP
	deferred []event

	// the lease note in /run, and PID 1's timer
	note      lease.Lease
	mayStart  bool // what the note says of starting units
	timer     int  // the armed timer; 0 = none
	timers    int
	known     lease.Fact // newest fact this host wrote down
	units     unitState
	served    bool // its units ran, ever
	unitsLife int
	stubborn  bool // units ignore SIGTERM

	holder    *lease.Holder
	arbiter   *lease.Arbiter
	raft      raft
	appliedTo int
	votedBy   map[int]bool
	votesFor  uint64

	saying   lease.Candidate // what it last reported,
	said     *message        // made once
	asks     map[uint64]func(bool)
	nextID   uint64
	job      int           // the takeover under way; a change cuts it off
	ownTerm  uint64        // on disk: whose term the datastore at its own path is of
	copyTerm uint64        // on disk: the same for the standby's copy; 0 = none
	freshAt  time.Duration // own clock; <0 = not since boot
	revision uint64
	expires  time.Duration // real time at which PID 1's watchdog runs out
}

func (n *node) machine() uint64 { return uint64(n.id) + 1 }

func (n *node) clock() lease.Time { return n.skew + n.w.now + n.w.now*time.Duration(n.ppm)/1_000_000 }

// real converts a duration on the node's clock to real time.
func (n *node) real(d time.Duration) time.Duration { return d - d*time.Duration(n.ppm)/1_000_000 }

// run lets e come to the agent's process, or when it runs again.
func (n *node) run(life int, e *event) {
	switch {
	case !n.powered || !n.up || n.life != life:
	case n.stopped || n.frozen:
		n.deferred = append(n.deferred, *e)
	default:
		e.act()
	}
}

// after is a timer of the agent's process, on the node's clock.
func (n *node) after(d time.Duration, f func()) {
	n.w.put(n.real(d)+n.w.between(0, 2*time.Millisecond), &event{do: f, to: n, life: n.life})
}

func (n *node) resume() {
	es := n.deferred
	n.deferred = nil
	// What lies in the buffers comes in any order between connections.
	n.w.rng.Shuffle(len(es), func(i, j int) { es[i], es[j] = es[j], es[i] })
	for i, e := range es {
		e.life = n.life
		n.w.put(time.Duration(i)*50*time.Microsecond, &e)
	}
}

func (n *node) phase() lease.Phase {
	if n.holder == nil {
		return lease.Standby
	}
	return n.holder.Phase()
}

// startAgent is systemd starting the process.
func (n *node) startAgent() {
	if !n.powered || n.up {
		return
	}
	n.w.trace("%s agent starts", n.name)
	n.life++
	n.up, n.stopped, n.deferred = true, false, nil
	n.asks, n.job, n.freshAt = map[uint64]func(bool){}, n.job+1, -1
	n.raft = raft{term: n.raft.term, voted: n.raft.voted, log: n.raft.log, leader: -1, tick: n.tickRaft}
	n.turn = n.loop
	n.appliedTo, n.votedBy = 0, nil
	n.arbiter = lease.NewArbiter(n.name, n.w.tm, lease.Policy{MaxLag: 10 * time.Second, MaxFailovers: 1 << 30, Fence: n.w.fence})
	if n.candidate {
		n.holder = lease.NewHolder(n.name, n.w.tm, n.note, n.units != down)
	}
	if n.known.Term > 0 {
		n.hold(n.known)
	}
	n.resetElection()
	n.tickRaft()
	n.loop()
	n.pulse()
	n.watchdog(n.life)
}

// pulse feeds PID 1's watchdog. How long it lasts is said anew each time (see
// lease.Holder.Watchdog): an agent that hangs must be found while its lease lasts.
func (n *node) pulse() {
	d := n.w.tm.TTL / 3
	if n.holder != nil {
		d = n.holder.Watchdog(n.clock())
	}
	n.expires = n.w.now + n.real(d)
}

// watchdog is PID 1's: it kills an agent that does not pulse in time. Its timer is
// up to 250 ms late, and the abort before the kill takes up to 300 ms.
func (n *node) watchdog(life int) {
	was := time.Duration(0)
	var again func()
	look := func() {
		switch {
		case !n.up || n.life != life:
		case n.expires != was:
			again()
		default:
			n.w.trace("%s watchdog kills the agent", n.name)
			n.endAgent(true)
		}
	}
	rings := func() { n.onHost(look) }
	again = func() {
		was = n.expires
		n.w.at(n.expires-n.w.now+n.w.between(0, 550*time.Millisecond), rings)
	}
	again()
}

// endAgent: the process ends, for whatever reason; PID 1 runs the fence.
func (n *node) endAgent(restart bool) {
	if !n.up {
		return
	}
	n.up, n.deferred = false, nil
	n.life++
	n.job++
	boot := n.unitsBoot()
	n.w.at(n.w.between(5*time.Millisecond, 300*time.Millisecond), func() {
		if n.powered && n.unitsBoot() == boot && !n.up && !n.w.cfg.NoStopPost {
			n.onHost(n.fence)
		}
	})
	if restart {
		n.w.at(n.w.between(300*time.Millisecond, 3*time.Second), func() {
			if n.unitsBoot() == boot {
				n.onHost(n.startAgent)
			}
		})
	}
}

// loop is the agent's: one turn whenever a machine wants it, and at least once in
// a renewal.
func (n *node) loop() {
	now := n.clock()
	n.arb(lease.Tick{})
	at := min(now+n.w.tm.Renew(), n.arbiter.Wake(now))
	if n.holder != nil {
		n.hold(lease.Tick{})
		at = min(at, n.holder.Wake(now))
		n.sendReport()
	}
	n.after(max(at-now, 20*time.Millisecond), n.turn)
}

func (n *node) hold(ev lease.Event) {
	if n.holder == nil {
		return
	}
	for _, a := range n.holder.Step(n.clock(), ev) {
		n.doHolder(a)
	}
	n.pulse()
}

func (n *node) arb(ev lease.Event) {
	n.w.res.Steps++
	n.pulse()
	for _, a := range n.arbiter.Step(n.clock(), ev) {
		n.doArbiter(a)
	}
}

func (n *node) fact(f lease.Fact) {
	if f.Term != n.known.Term || f.Holder != n.known.Holder || f.Released != n.known.Released {
		n.known = f
	}
	n.arb(f)
	n.hold(f)
}

func (n *node) doHolder(a lease.Action) {
	w := n.w
	switch a := a.(type) {
	case lease.SendRenewal:
		n.renew(a)
	case lease.SetLease:
		n.note, n.mayStart = lease.Lease(a), n.holder.MayStart()
		n.timer = 0
		if n.phase() == lease.Stopping {
			n.guard()
		}
	case lease.ClearLease:
		n.note = lease.Lease{}
		n.timer = 0
	case lease.Promote:
		w.trace("%s promotes itself for term %d", n.name, a.Term)
		n.job++
		n.promote(n.job, a.Term, 0)
	case lease.Demote:
		w.trace("%s demotes itself, term %d: %s", n.name, a.Term, a.Why)
		n.job++
		job := n.job
		n.mayStart = false
		n.guard()
		n.stopUnits()
		n.waitDown(job)
	case lease.Kill:
		w.trace("%s kills its units, term %d: %s", n.name, a.Term, a.Why)
		n.killUnits()
	case lease.Release:
		to := w.leaderOf(n)
		if to != nil {
			w.send(n, to, func() {
				to.arb(lease.ReleaseAsked{From: n.name, Machine: n.machine(), Term: a.Term, Why: a.Why, To: a.To, Automatic: a.Automatic})
			})
		}
	}
}

// promote: the takeover's steps, each of any length, cut off by a newer job.
func (n *node) promote(job int, term uint64, step int) {
	const steps = 6 // verify, aside, install, bump, units, readyz+canary
	n.after(n.w.between(time.Millisecond, 400*time.Millisecond), func() {
		if n.job != job {
			return
		}
		switch {
		case n.w.chance(0.002) && !n.w.quiet && n.w.cfg.Faults != 0:
			n.hold(lease.Promoted{Term: term, Err: errSim})
			return
		case step == 3:
			n.ownTerm, n.copyTerm = term, 0
		case step == 4:
			if n.startUnits(); n.units == down { // the lease is nearly over: once more, or it is lost
				n.promote(job, term, 4)
				return
			}
		case step == 5 && n.units != up:
			n.promote(job, term, 5) // not ready yet
			return
		case step == steps:
			n.hold(lease.Promoted{Term: term})
			return
		}
		n.promote(job, term, step+1)
	})
}

func (n *node) waitDown(job int) {
	n.after(20*time.Millisecond, func() {
		switch {
		case n.job != job:
		case n.units == down:
			n.hold(lease.Units{Active: false})
		default:
			n.waitDown(job)
		}
	})
}

func (n *node) renew(a lease.SendRenewal) {
	to := n.w.leaderOf(n)
	if to == nil {
		return
	}
	sent, real, life := n.clock(), n.w.now, n.life
	serving := n.phase() == lease.Master
	n.w.send(n, to, func() {
		to.nextID++
		id := to.nextID
		to.asks[id] = func(ok bool) {
			if !ok {
				return
			}
			n.w.send(to, n, func() {
				if n.life != life {
					return
				}
				n.w.read(OpRenewed, n, a.Term, real)
				n.hold(lease.Acked{Term: a.Term, SentAt: sent, Epoch: a.Epoch})
			})
		}
		to.arb(lease.Renewal{ID: id, From: n.name, Term: a.Term, Machine: n.machine(), Epoch: a.Epoch, Serving: serving})
	})
}

func (n *node) sendReport() {
	to := n.w.leaderOf(n)
	if to == nil {
		return
	}
	c := lease.Candidate{Node: n.name, Machine: n.machine(), Running: n.units != down, Revision: n.revision, FreshAge: -1, Founder: n.id == 0}
	if n.id == 0 && !n.wiped || n.ownTerm > 0 {
		c.OwnRevision = 1
	}
	now, f := n.clock(), n.raft.applied
	if m := n.w.node(f.Holder); m != nil && m != n && m.ownTerm == f.Term && m.powered && !m.frozen && m.units == up && !n.w.net[m.id][n.id].down && n.units == down {
		n.freshAt, n.copyTerm = now, m.ownTerm
	}
	if n.freshAt >= 0 {
		c.FreshAge = now - n.freshAt
	}
	own := n.ownTerm > 0 && n.ownTerm >= f.Served
	if own {
		c.FreshAge = 0
	}
	c.Ready = (own || n.copyTerm > 0 && n.copyTerm >= f.Served) && n.units == down && n.phase() == lease.Standby
	if n.said == nil || n.saying != c {
		n.saying, n.said = c, &message{report: lease.Reported{Candidate: c}}
	}
	n.w.tell(n, to, (*node).reported, n.said)
}

func (n *node) reported(_ *node, e *message) { n.arb(e.report) }

func (n *node) doArbiter(a lease.Action) {
	w := n.w
	switch a := a.(type) {
	case lease.Confirm:
		n.confirm(func(ok bool) { n.arb(lease.Confirmed{ID: a.ID, OK: ok}) })
	case lease.Fence:
		n.confirm(func(ok bool) {
			if !ok {
				n.arb(lease.FenceFailed{ID: a.ID})
				return
			}
			n.switchOff(a)
		})
	case lease.Ack:
		n.reply(a.ID, true)
	case lease.Refuse:
		n.reply(a.ID, false)
	case lease.Propose:
		w.trace("%s gives term %d to %s: %s", n.name, a.Term, a.Holder, a.Reason)
		answer := w.written(OpGrant, n.id, a.Holder, a.Term)
		n.propose(func(f *lease.Fact) bool {
			if f.Term+1 != a.Term || f.Pause != lease.Running {
				return false
			}
			f.Term, f.Holder, f.Machine, f.Released = a.Term, a.Holder, a.Machine, false
			return true
		}, func(ok bool) {
			if answer(ok); !ok {
				n.arb(lease.Proposed{Term: a.Term, Refused: true})
			}
		})
	case lease.ProposeMachine:
		n.propose(func(f *lease.Fact) bool {
			if f.Term != a.Term || f.Released || f.Pause != lease.Running {
				return false
			}
			f.Machine = a.Machine
			return true
		}, nil)
	case lease.ProposeRelease:
		answer := w.written(OpRelease, n.id, a.Holder, a.Term)
		n.propose(func(f *lease.Fact) bool {
			if f.Term != a.Term || f.Holder != a.Holder {
				return false
			}
			f.Released = true
			return true
		}, answer)
	case lease.ProposeInSync:
		n.propose(func(f *lease.Fact) bool {
			if f.Term != a.Term || f.Released {
				return false
			}
			f.InSync, f.Served = a.Nodes, a.Term
			return true
		}, nil)
	case lease.ProposeResumed:
		n.propose(func(f *lease.Fact) bool {
			if f.Pause != lease.Resuming || f.Epoch != a.Epoch {
				return false
			}
			f.Pause, f.Epoch = lease.Running, f.Epoch+1
			return true
		}, nil)
	}
}

func (n *node) reply(id uint64, ok bool) {
	if f := n.asks[id]; f != nil {
		delete(n.asks, id)
		f(ok)
	}
}
