package sim

import (
	"time"

	"relevo.dev/relevo/agent/lease"
)

// confirm asks every voter for its raft term, as quorum.Confirm does.
func (n *node) confirm(told func(ok bool)) {
	term := n.raft.term
	if n.w.cfg.NoConfirm {
		told(true)
		return
	}
	yes := map[int]bool{n.id: true}
	done := false
	settle := func() {
		if !done && len(yes) > n.w.voters()/2 {
			done = true
			told(n.raft.role == leader && n.raft.term == term)
		}
	}
	settle()
	for _, m := range n.w.nodes {
		if m == n || !m.voter {
			continue
		}
		n.w.send(n, m, func() {
			theirs := m.raft.term
			n.w.send(m, n, func() {
				if theirs == term {
					yes[m.id] = true
					settle()
				}
			})
		})
	}
	n.after(n.w.tm.TTL/3, func() {
		if !done {
			done = true
			told(false)
		}
	})
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
			n.run(life, func() {
				if works {
					w.res.Fenced++
					n.arb(lease.FenceConfirmed{ID: a.ID})
				} else {
					n.arb(lease.FenceFailed{ID: a.ID})
				}
			})
		})
	})
}
