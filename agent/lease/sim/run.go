package sim

import (
	"fmt"
	"slices"
	"time"

	"relevo.dev/relevo/agent/lease"
)

func (w *world) voters() int {
	v := 0
	for _, n := range w.nodes {
		if n.voter {
			v++
		}
	}
	return v
}

// leaderOf is whom n believes to lead raft.
func (w *world) leaderOf(n *node) *node {
	if l := n.raft.leader; l >= 0 {
		return w.nodes[l]
	}
	return nil
}

func (w *world) node(name string) *node {
	for _, n := range w.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// committed sees each change of the replicated state, on each node.
func (w *world) committed(n *node, f lease.Fact) {
	if f.Term <= w.lastTerm {
		return
	}
	if f.Term != w.lastTerm+1 {
		w.violate("term %d follows term %d", f.Term, w.lastTerm)
	}
	w.lastTerm = f.Term
	w.res.MaxTerm = f.Term
	if f.Term > 1 {
		w.res.Failovers++
		if f.Pause != lease.Running {
			w.violate("term %d was given away while the cluster is %s", f.Term, f.Pause)
		}
	}
}

// Run plays one schedule to its end.
func Run(cfg Config) Result {
	w := &world{cfg: cfg, rng: newDice(cfg.Seed, 0x7265_6c65_766f)}
	w.tm = lease.Timings{TTL: []time.Duration{3, 6, 6, 10}[w.rng.IntN(4)] * time.Second}
	w.clients = newDice(cfg.Seed, 0x636c_6965_6e74)
	w.fence, w.dice = cfg.Seed%3 == 0, newDice(cfg.Seed, 0x6665_6e63_65)
	count := 3 + w.rng.IntN(5)
	if cfg.Hosts > 0 {
		count = cfg.Hosts
	}
	w.res.Hosts = count
	for i := range count {
		n := &node{w: w, id: i, name: fmt.Sprintf("n%d", i+1), thawed: -1, freshAt: -1, powered: true,
			ppm:  int64(w.rng.IntN(20_001)) - 10_000,
			skew: w.between(0, 1000*time.Second)}
		if n.raft.voted = -1; cfg.OneTime {
			n.ppm = 0
		}
		n.candidate = i < 2 || i == 2 && count > 3 || w.chance(0.3)
		n.voter = i < 3 || count >= 5 && i < 5
		w.nodes = append(w.nodes, n)
		w.net = append(w.net, make([]link, count))
	}
	if !w.fence { // a switch that goes by names would switch the wrong one off
		w.spare = &node{w: w, id: count, name: "spare", thawed: -1, freshAt: -1, skew: w.between(0, 1000*time.Second)}
		w.spare.raft.voted = -1
		w.nodes, w.net = append(w.nodes, w.spare), append(w.net, nil)
		for i := range w.net {
			w.net[i] = make([]link, count+1)
		}
	}
	w.nodes[0].units = up // a running master, to be adopted
	w.trace("lease_ttl %v; n1 has the data and runs a control plane", w.tm.TTL)
	for _, n := range w.nodes[:count] {
		w.trace("%s %s; its clock %+.2f %%", n.name, map[[2]bool]string{{true, true}: "is a candidate and votes", {true, false}: "is a candidate",
			{false, true}: "votes", {false, false}: "is only a member"}[[2]bool{n.candidate, n.voter}], float64(n.ppm)/10_000)
		w.at(w.between(0, 3*time.Second), n.startAgent)
	}
	w.plan()
	if cfg.Luck > 0 {
		w.rng = newDice(cfg.Seed, 0x6c75_636b_0000+cfg.Luck)
	}
	w.at(until(cfg), w.mend)
	if cfg.Clients {
		w.at(0, w.poll)
	}
	end := until(cfg) + 3*time.Minute + 20*w.tm.TTL
	var e event
	for len(w.queue) > 0 && w.res.Violation == "" && w.settled < 10 {
		at := w.next(&e)
		if at > end {
			break
		}
		w.now = at
		e.happen()
	}
	if w.res.Violation == "" {
		w.checkLiveness()
		w.res.Unsafe = false
	}
	w.res.Ops = w.history()
	return w.res
}

// plan draws when which fault happens.
func (w *world) plan() {
	k := w.cfg.Faults
	if k < 0 {
		k = 1 + w.rng.IntN(12)
	}
	for i := range k {
		at := 5*time.Second + time.Duration(w.rng.Int64N(int64(w.cfg.Length)))
		if w.chance(0.3) {
			at = 5*time.Second + w.between(0, w.cfg.Length/4) // close together
		}
		f := faults[w.rng.IntN(len(faults))]
		for len(w.cfg.Only) > 0 && !slices.Contains(w.cfg.Only, f.name) {
			f = faults[w.rng.IntN(len(faults))]
		}
		w.res.Planned++
		if w.cfg.Keep != nil && !slices.Contains(w.cfg.Keep, i) {
			continue
		}
		w.at(at-w.cfg.Sooner, func() {
			if w.now >= until(w.cfg) {
				return
			}
			// Each fault has dice of its own: what it does must not change when another
			// one is left out.
			was := w.rng
			w.rng, w.part = newDice(w.cfg.Seed, 0x6661_756c_7400+uint64(i)), w.cfg.Part[i]
			s := f.do(w)
			w.rng, w.part = was, 0
			w.res.Faults = append(w.res.Faults, fmt.Sprintf("%d: %.3fs %s %s", i, w.now.Seconds(), f.name, s))
			w.trace("FAULT %s %s", f.name, s)
		})
	}
}

// mend ends every fault: what follows must find its way by itself.
func (w *world) mend() {
	w.trace("everything is mended")
	w.quiet = true
	w.cfg.Loss = 0
	for i := range w.net {
		clear(w.net[i])
	}
	if w.spare != nil {
		w.spare.powerCut()
	}
	for _, n := range w.nodes[:w.res.Hosts] {
		n.stubborn = false
		if n.stopped {
			n.stopped = false
			n.resume()
		}
		n.powerOn()
		w.at(5*time.Second, func() { n.onHost(n.startAgent) })
	}
	w.resumeUntil(30)
	w.at(time.Second, w.settle)
}

// settle counts the seconds for which the mended cluster has its one master.
func (w *world) settle() {
	w.settled++
	if w.masters() != 1 {
		w.settled = 0
	}
	w.at(time.Second, w.settle)
}

func (w *world) masters() int {
	live := 0
	for _, n := range w.nodes {
		if n.powered && n.units == up && n.phase() == lease.Master {
			live++
		}
	}
	return live
}

// dataLeft says whether any candidate still has the newest data: where the disk with
// the only fresh copy was lost, nobody becomes the master without a person.
func (w *world) dataLeft() bool {
	if w.spare != nil && w.spare.served {
		return false // the board with the copied card served, and was taken away
	}
	var f lease.Fact
	for _, n := range w.nodes {
		if n.raft.applied.Served >= f.Served {
			f = n.raft.applied
		}
	}
	for _, n := range w.nodes {
		// The spare board is taken away in any case, with what is on its card.
		fresh := n.ownTerm > 0 && n.ownTerm >= f.Served || n.copyTerm > 0 && n.copyTerm >= f.Served
		if n != w.spare && n.candidate && (fresh && slices.Contains(f.InSync, n.name) || f.Served == 0 && (fresh || n.id == 0 && !n.wiped)) {
			return true
		}
	}
	return false
}

func (w *world) checkLiveness() {
	if !w.dataLeft() {
		return
	}
	if live := w.masters(); live != 1 {
		s := ""
		for _, n := range w.nodes {
			s += fmt.Sprintf(" %s(%v, %v, knows %v)", n.name, n.phase(), n.units, n.known)
			if n.raft.role == leader {
				s += fmt.Sprintf(" judges %v", n.arbiter.Judge(n.clock()).Why)
			}
		}
		w.violate("%d masters long after everything was mended:%s", live, s)
	}
}
