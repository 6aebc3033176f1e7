package sim

import (
	"math/bits"
	"time"

	"relevo.dev/relevo/agent/lease"
)

// ballot is one question to every voter, as quorum.Confirm asks it: is this still your
// raft term?
type ballot struct {
	yes  uint64        // a bit for each host that said so
	told func(ok bool) // nil = the answer is known
}

func (n *node) confirm(told func(ok bool)) {
	if n.w.cfg.NoConfirm {
		told(true)
		return
	}
	e := &message{term: n.raft.term, ballot: &ballot{1 << n.id, told}}
	n.settle(e)
	for _, m := range n.w.nodes {
		if m != n && m.voter {
			n.w.tell(n, m, (*node).asked, e)
		}
	}
	n.after(n.w.tm.TTL/3, func() {
		if told := e.told; told != nil {
			e.told = nil
			told(false)
		}
	})
}

func (n *node) asked(from *node, e *message) {
	answer := (*node).denied
	if n.raft.term == e.term {
		answer = (*node).confirmed
	}
	n.w.tell(n, from, answer, e)
}

func (n *node) denied(*node, *message) {}

func (n *node) confirmed(by *node, e *message) {
	e.yes |= 1 << by.id
	n.settle(e)
}

func (n *node) settle(e *message) {
	if told := e.told; told != nil && bits.OnesCount64(e.yes) > n.w.voters()/2 {
		e.told = nil
		told(n.raft.role == leader && n.raft.term == e.term)
	}
}

// switchOff is the fence device: a switch that is reached over another wire, takes its
// time, fails now and then, and gives the host its power back some time after. The
// answer may come late.
func (n *node) switchOff(a lease.Fence) {
	w, life := n.w, n.life
	target := w.node(a.Node)
	works := w.dice.Float64() < 0.8
	w.trace("%s has the fence switch %s off", n.name, a.Node)
	quick := func() time.Duration { f := w.dice.Float64(); return time.Duration(f * f * f * float64(4*time.Second)) }
	w.at(quick(), func() {
		if works && !w.cfg.LyingFence {
			target.powerCut()
			w.at(time.Duration(w.dice.Int64N(int64(20*time.Second))), target.powerOn)
		}
		w.at(quick(), func() {
			w.trace("the fence answers %s: off: %v", n.name, works)
			n.run(life, &event{to: n, do: func() {
				if works {
					w.res.Fenced++
					n.arb(lease.FenceConfirmed{ID: a.ID})
				} else {
					n.arb(lease.FenceFailed{ID: a.ID})
				}
			}})
		})
	})
}
