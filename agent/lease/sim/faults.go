package sim

import (
	"fmt"
	"slices"
	"time"

	"relevo.dev/relevo/agent/lease"
)

// fault is one thing that goes wrong, or that a person asks for. It draws what it
// needs from the world and mends itself after a while.
type fault struct {
	name string
	do   func(w *world) string
}

// any of the boards that belong to the cluster.
func (w *world) any() *node { return w.nodes[w.rng.IntN(w.res.Hosts)] }
func (w *world) while() time.Duration {
	return w.between(50*time.Millisecond, 40*time.Second) >> w.part
}

// target is often the interesting one: the master or the arbiter.
func (w *world) target() *node {
	for _, n := range w.nodes {
		if n.units != down && w.chance(0.4) || n.raft.role == leader && w.chance(0.3) {
			return n
		}
	}
	return w.any()
}

func (w *world) cut(down bool, pairs func(i, j int) bool) {
	for i := range w.nodes {
		for j := range w.nodes {
			if i != j && pairs(i, j) {
				w.net[i][j].down = down
			}
		}
	}
}

var faults = []fault{
	{"power cut", func(w *world) string {
		n := w.target()
		n.powerCut()
		w.at(w.while(), n.powerOn)
		return n.name
	}},
	{"blackout", func(w *world) string {
		for _, n := range w.nodes[:w.res.Hosts] {
			n.powerCut()
			w.at(w.while(), n.powerOn)
		}
		return "all"
	}},
	{"agent killed", func(w *world) string { n := w.target(); n.endAgent(true); return n.name }},
	{"agent stopped", func(w *world) string {
		n, d, life := w.target(), w.while(), 0
		life = n.life
		n.stopped = n.up
		w.at(d, func() {
			if n.life == life && n.stopped {
				n.stopped = false
				n.resume()
			}
		})
		return fmt.Sprint(n.name, " for ", d)
	}},
	{"host frozen", func(w *world) string {
		n, d := w.target(), w.while()
		n.freeze(d)
		return fmt.Sprint(n.name, " for ", d)
	}},
	{"disk lost", func(w *world) string {
		// One voter of five: what three agreed on is still known to two of the other four. No
		// consensus survives that two of those three lose their disks at once.
		n := w.any()
		if n.wiped || w.voters() < 5 && n.voter {
			return "nobody"
		}
		n.powerCut()
		n.wiped, n.voter, n.ownTerm, n.copyTerm, n.known = true, false, 0, 0, lease.Fact{}
		n.raft.log, n.raft.term = nil, 0
		w.at(w.while(), n.powerOn)
		return n.name
	}},
	{"copied card", func(w *world) string { // of a candidate, in a spare board
		n, c := w.target(), w.spare
		if c == nil || c.powered || !n.candidate {
			return "nobody"
		}
		c.name, c.candidate = n.name, true
		c.ownTerm, c.copyTerm, c.known, c.revision = n.ownTerm, n.copyTerm, n.known, n.revision
		c.raft = raft{term: n.raft.term, voted: n.raft.voted, log: slices.Clone(n.raft.log), leader: -1}
		c.powerOn()
		w.at(w.while(), c.powerCut)
		return n.name
	}},
	{"isolated", func(w *world) string {
		n := w.target()
		w.cut(true, func(i, j int) bool { return i == n.id || j == n.id })
		w.at(w.while(), func() { w.cut(false, func(i, j int) bool { return i == n.id || j == n.id }) })
		return n.name
	}},
	{"one way", func(w *world) string {
		n, out := w.target(), w.chance(0.5)
		f := func(i, j int) bool { return out && i == n.id || !out && j == n.id }
		w.cut(true, f)
		w.at(w.while(), func() { w.cut(false, f) })
		return n.name
	}},
	{"halves", func(w *world) string {
		side := w.rng.Uint64()
		f := func(i, j int) bool { return side>>i&1 != side>>j&1 }
		w.cut(true, f)
		w.at(w.while(), func() { w.cut(false, f) })
		return fmt.Sprintf("%b", side&127)
	}},
	{"bridge", func(w *world) string { // two halves that only meet through one host
		b, k := w.any().id, len(w.nodes)/2
		f := func(i, j int) bool { return i != b && j != b && (i < k) != (j < k) }
		w.cut(true, f)
		w.at(w.while(), func() { w.cut(false, f) })
		return w.nodes[b].name
	}},
	{"ring", func(w *world) string {
		k := len(w.nodes)
		f := func(i, j int) bool { return (i+1)%k != j && (j+1)%k != i }
		w.cut(true, f)
		w.at(w.while(), func() { w.cut(false, f) })
		return "all"
	}},
	{"loss", func(w *world) string {
		p := w.rng.Float64() * 0.5
		set := func(p float64) {
			for i := range w.net {
				for j := range w.net[i] {
					w.net[i][j].loss = p
				}
			}
		}
		set(p)
		w.at(w.while(), func() { set(0) })
		return fmt.Sprintf("%.0f %%", p*100)
	}},
	{"slow network", func(w *world) string {
		n, d := w.target(), w.between(10*time.Millisecond, 3*time.Second)
		set := func(d time.Duration) {
			for j := range w.net {
				w.net[n.id][j].slow, w.net[j][n.id].slow = d, d
			}
		}
		set(d)
		w.at(w.while(), func() { set(0) })
		return fmt.Sprint(n.name, " ", d)
	}},
	{"link flaps", func(w *world) string {
		n := w.target()
		f := func(i, j int) bool { return i == n.id || j == n.id }
		for k := range 6 {
			w.at(time.Duration(k)*5*time.Second, func() { w.cut(k%2 == 0, f) })
		}
		return n.name
	}},
	{"stubborn units", func(w *world) string {
		n := w.target()
		n.stubborn = true
		w.at(w.while(), func() { n.stubborn = false })
		return n.name
	}},
	{"started by hand", func(w *world) string { n := w.any(); n.onHost(n.startUnits); return n.name }},
	{"switchover", func(w *world) string {
		n := w.target()
		if n.holder != nil {
			n.run(n.life, &event{to: n, do: func() { n.hold(lease.StepDown{Term: n.holder.Term(), Why: "asked"}) }})
		}
		return n.name
	}},
	{"pause", func(w *world) string {
		w.setPause(lease.Paused)
		w.at(w.while(), func() { w.resumeUntil(20) })
		return ""
	}},
}

// setPause is a person at some arbiter.
func (w *world) setPause(p lease.PausePhase) {
	for _, n := range w.nodes {
		if n.raft.role == leader && n.up && !n.stopped && !n.frozen {
			n.propose(func(f *lease.Fact) bool {
				if f.Pause == p || p == lease.Resuming && f.Pause != lease.Paused {
					return false
				}
				f.Pause, f.Epoch = p, f.Epoch+1
				return true
			}, nil)
		}
	}
}

// resumeUntil asks again until it is done: a person would. Where the holder is the board
// with the copied card, which was taken away, it would never answer, and the person who
// sees that vouches for it (`relevo resume --force`, `relevo failover --force`).
func (w *world) resumeUntil(tries int) {
	if w.setPause(lease.Resuming); w.quiet && w.spare != nil {
		for _, n := range w.nodes {
			if n.raft.role == leader && n.raft.applied.Machine == w.spare.machine() {
				w.setPause(lease.Running)
				if n.raft.applied.Served == 0 {
					n.arb(lease.Failover{To: n.raft.applied.Holder, By: "a person", Why: "that board is gone", Force: true})
				}
			}
		}
	}
	if tries > 0 {
		w.at(2*time.Second, func() { w.resumeUntil(tries - 1) })
	}
}
