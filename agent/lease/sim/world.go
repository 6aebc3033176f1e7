// Package sim runs whole clusters around the real lease machines: simulated
// networks, clocks, processes, units, systemd's fence and a small Raft, all driven
// by one seed. Nothing runs in parallel and nothing waits: a minute of cluster time
// takes about a millisecond, and a seed always tells the same story.
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
type event struct {
	do   func()
	to   *node
	life int // of the process that it is meant for; whichever = the one that is there then
}

const whichever = -1

// due says when the event of a place in world.events comes; seq keeps the order of those
// of one moment.
type due struct {
	at         time.Duration
	seq, place uint32
}

// world is one simulated cluster. now is the real time that no host can see.
type world struct {
	cfg   Config
	rng   *rand.Rand
	tm    lease.Timings
	now   time.Duration
	queue []due // binary heap
	seq   uint32
	nodes []*node
	net   [][]link
	// events have a place while they wait; free places are used again
	events []event
	free   []uint32
	res    Result

	clients *rand.Rand // their own, so that nothing changes when they look on
	ops     []*Op      // nil = surely refused
	spare   *node      // a board that no cluster has; nil = there is none
	fence   bool       // there is a fence device,
	dice    *rand.Rand // with dice of its own
	part    uint       // the fault that begins now mends itself in one part of its time

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

func (w *world) at(d time.Duration, f func()) { w.put(d, event{do: f}) }

func (w *world) put(d time.Duration, e event) {
	place := uint32(len(w.events))
	if k := len(w.free) - 1; k >= 0 {
		place, w.free = w.free[k], w.free[:k]
		w.events[place] = e
	} else {
		w.events = append(w.events, e)
	}
	w.seq++
	x := due{w.now + max(d, 0), w.seq, place}
	w.queue = append(w.queue, x)
	q, i := w.queue, len(w.queue)-1
	for i > 0 && x.before(q[(i-1)/2]) {
		q[i] = q[(i-1)/2]
		i = (i - 1) / 2
	}
	q[i] = x
}

func (a due) before(b due) bool { return a.at < b.at || a.at == b.at && a.seq < b.seq }

// next takes the event that comes first, and its time.
func (w *world) next() (time.Duration, event) {
	q := w.queue
	first, n := q[0], len(q)-1
	x := q[n]
	q = q[:n]
	w.queue = q
	i := 0
	for c := 1; c < n; c = 2*i + 1 {
		if c+1 < n && q[c+1].before(q[c]) {
			c++
		}
		if !q[c].before(x) {
			break
		}
		q[i] = q[c]
		i = c
	}
	if n > 0 {
		q[i] = x
	}
	e := w.events[first.place]
	w.events[first.place] = event{}
	w.free = append(w.free, first.place)
	return first.at, e
}

// happen does what e is.
func (e event) happen() {
	switch {
	case e.to == nil:
		e.do()
	case e.life != whichever:
		e.to.run(e.life, e.do)
	case e.to.powered:
		e.to.run(e.to.life, e.do)
	}
}

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
	if from == to {
		w.put(50*time.Microsecond, event{f, to, whichever})
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
		w.put(d, event{f, to, whichever})
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
