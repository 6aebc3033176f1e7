// Package sim runs whole clusters around the real lease machines: simulated
// networks, clocks, processes, units, systemd's fence and a small Raft, all driven
// by one seed. Nothing runs in parallel and nothing waits: a minute of cluster time
// takes about half a millisecond, and a seed always tells the same story.
package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"relevo.dev/relevo/agent/lease"
)

// Config of one schedule.
type Config struct {
	Seed   uint64
	Length time.Duration // of the time with faults; a quiet time follows
	Faults int           // how many faults happen in it; <0 = as the seed says
	Loss   float64       // message loss all the time
	// Protections outside the machines that can be switched off (negative controls).
	NoStopPost      bool     // systemd does not run the fence when the agent dies
	NoExecCondition bool     // units start without a lease
	NoStartMargin   bool     // units start until the last moment of one
	NoConfirm       bool     // A acknowledges without asking a quorum
	LyingFence      bool     // the fence device confirms what it has not done
	Only            []string // faults to draw from; none = all
	Clients         bool     // clients look on: Result.Ops and Result.Views
	Blind           bool     // the simulator's own invariants are not checked
	Trace           func(string)
	Smaller         // as a shrunk schedule is
}

// Result of one schedule.
type Result struct {
	Violation string        // "" = none
	At        time.Duration // when
	Unsafe    bool          // it is one of safety, not of liveness
	Failovers int
	Fenced    int // hosts that the fence switched off
	MaxTerm   uint64
	Exposure  time.Duration // longest time that a thawed host ran beside the new master
	Outage    time.Duration // longest time without a live control plane
	Steps     int
	Faults    []string
	Planned   int // faults that the seed says
	Hosts     int
	Ops       []Op   // what clients saw of (term, holder)
	Views     []View // what each host's own people saw
}

// event is what happens at some time: do, or, with a node, do in its agent's process.
// Most of all events are what hosts tell each other all the time. They have no do, but
// what do would have to remember, so that nothing is made anew for each of them.
type event struct {
	do   func()
	to   *node
	life int // of the process that it is meant for; whichever = the one that is there then

	hear func(to, from *node, e *message)
	from *node
	what *message
}

const whichever = -1

// due says when the event of a place in world.events comes.
type due struct {
	at    time.Duration
	place int
}

// world is one simulated cluster. now is the real time that no host can see.
type world struct {
	cfg   Config
	rng   dice
	tm    lease.Timings
	now   time.Duration
	queue []due // what comes first is last
	nodes []*node
	net   [][]link
	// events have a place while they wait; free places are used again
	events []event
	free   []int
	res    Result

	clients dice  // their own, so that nothing changes when they look on
	ops     []*Op // nil = surely refused
	spare   *node // a board that no cluster has; nil = there is none
	fence   bool  // there is a fence device,
	dice    dice  // with dice of its own
	part    uint  // the fault that begins now mends itself in one part of its time

	liveSince time.Duration
	lastTerm  uint64
	quiet     bool
	settled   int
}

type link struct {
	down bool
	loss float64
	slow time.Duration
}

func (w *world) at(d time.Duration, f func()) { w.put(d, &event{do: f}) }

func (w *world) put(d time.Duration, e *event) {
	place := len(w.events)
	if k := len(w.free) - 1; k >= 0 {
		place, w.free = w.free[k], w.free[:k]
		w.events[place] = *e
	} else {
		w.events = append(w.events, *e)
	}
	// Most events come soon, before nearly all that waits: a step or two from the end. Of
	// those of one moment the first that was put comes first.
	x := due{w.now + max(d, 0), place}
	w.queue = append(w.queue, x)
	i := len(w.queue) - 1
	for ; i > 0 && w.queue[i-1].at <= x.at; i-- {
		w.queue[i] = w.queue[i-1]
	}
	w.queue[i] = x
}

// next takes the event that comes first into e, and tells its time.
func (w *world) next(e *event) time.Duration {
	k := len(w.queue) - 1
	first := w.queue[k]
	w.queue = w.queue[:k]
	w.free = append(w.free, first.place)
	*e = w.events[first.place]
	return first.at
}

// happen lets e come to whom it is meant for.
func (e *event) happen() {
	switch {
	case e.to == nil:
		e.do()
	case e.life != whichever:
		e.to.run(e.life, e)
	case e.to.powered:
		e.to.run(e.to.life, e)
	}
}

// act does what e is.
func (e *event) act() {
	if e.hear != nil {
		e.hear(e.to, e.from, e.what)
		return
	}
	e.do()
}

// dice are a source of random numbers in which the most usual, a Float64, is drawn
// without an interface in between.
type dice struct {
	*rand.Rand
	pcg *rand.PCG
}

func newDice(seed, which uint64) dice {
	pcg := rand.NewPCG(seed, which)
	return dice{rand.New(pcg), pcg}
}

// Float64 is what that of [rand.Rand] would be.
func (d dice) Float64() float64 { return float64(d.pcg.Uint64()<<11>>11) / (1 << 53) }

// between draws a duration, small ones more often.
func (w *world) between(lo, hi time.Duration) time.Duration {
	f := w.rng.Float64()
	return lo + time.Duration(f*f*float64(hi-lo))
}

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

func (w *world) trace(format string, args ...any) {
	if w.cfg.Trace != nil {
		w.cfg.Trace(fmt.Sprintf("%10.3fs  ", w.now.Seconds()) + fmt.Sprintf(format, args...))
	}
}

func (w *world) violate(format string, args ...any) {
	if w.res.Violation == "" && !w.cfg.Blind {
		w.res.At = w.now
		w.res.Unsafe = true
		w.res.Violation = fmt.Sprintf("at %.3fs: ", w.now.Seconds()) + fmt.Sprintf(format, args...)
		w.trace("VIOLATION %s", w.res.Violation)
	}
}

// send delivers f on node to, as the network likes: late, twice, or never. Messages
// between two hosts overtake each other.
func (w *world) send(from, to *node, f func()) {
	w.deliver(&event{do: f, from: from, to: to, life: whichever})
}

// tell is send for what is told all the time.
func (w *world) tell(from, to *node, hear func(to, from *node, e *message), what *message) {
	w.deliver(&event{hear: hear, what: what, from: from, to: to, life: whichever})
}

func (w *world) deliver(e *event) {
	from, to := e.from, e.to
	if from == to {
		w.put(50*time.Microsecond, e)
		return
	}
	l := &w.net[from.id][to.id]
	copies := 1
	if w.chance(0.01) {
		copies = 2
	}
	for range copies {
		d := 200*time.Microsecond + w.between(0, 3*time.Millisecond) + w.between(0, l.slow)
		// TCP sends a lost packet again after 200, 400, 800 ms; then the call has
		// timed out.
		again := 200 * time.Millisecond
		for again < 1600*time.Millisecond && w.chance(w.cfg.Loss+l.loss) {
			d += again
			again *= 2
		}
		if l.down || again >= 1600*time.Millisecond {
			continue
		}
		if w.chance(0.002) {
			d += w.between(0, 4*time.Second) // a retransmission, a stuck switch
		}
		w.put(d, e)
	}
}

// check is done after every change of a unit: at most one live control plane in
// real time.
func (w *world) check() {
	var live []int
	exposed := time.Duration(-1)
	for _, n := range w.nodes {
		if n.powered && !n.frozen && n.units != down {
			live = append(live, n.id)
			if n.thawed >= 0 && w.now-n.thawed < thawBound {
				exposed = max(exposed, w.now-n.thawed)
			}
		}
	}
	if len(live) > 0 {
		w.liveSince = w.now
	}
	if len(live) < 2 {
		return
	}
	if exposed >= 0 {
		w.res.Exposure = max(w.res.Exposure, exposed)
		return
	}
	var b strings.Builder
	for _, i := range live {
		n := w.nodes[i]
		fmt.Fprintf(&b, " %s(%v, term %d, %v)", n.name, n.units, n.note.Term, n.phase())
	}
	w.violate("%d live control planes:%s", len(live), b.String())
}

// thawBound: a host that was frozen past its lease runs at most this long before
// its own timers stop it; measured, not forbidden (no software on that host could
// do better; the hardware watchdog resets it after 15 s).
const thawBound = 500 * time.Millisecond
