package sim

import (
	"fmt"
	"math"
	"time"
)

// OpKind is what somebody asked of (term, holder), or did to it.
type OpKind int

// Grants and releases write; the others read. A read is served by the arbiter with
// the word of a quorum (a renewal), or locally, without asking anybody, and then
// only under a lease that is valid on the reader's own clock: what `relevo lease
// held` answers, and what a client learns from a control plane that answers at all.
const (
	OpGrant   OpKind = iota // a new term was proposed
	OpRelease               // the holder's release was proposed
	OpRenewed               // a renewal was acknowledged
	OpHeld                  // `relevo lease held` said yes
	OpServed                // the host's control plane was live
)

func (k OpKind) String() string {
	return [...]string{"grant", "release", "renewed", "held", "served"}[k]
}

// Never is the end of an operation that got no answer: it may take effect at any
// time from its call on, or not at all.
const Never = math.MaxInt64

// Op is one operation on (term, holder), in real time, for the linearizability
// check. A refused write is not among them: it says nothing.
type Op struct {
	Kind       OpKind
	By         int // who asked
	Holder     string
	Term       uint64
	Call, Done int64
}

func (o Op) String() string {
	done := "never answered"
	if o.Done != Never {
		done = fmt.Sprintf("%.3fs", time.Duration(o.Done).Seconds())
	}
	return fmt.Sprintf("n%d %-7v term %d of %-3s  %.3fs .. %s", o.By+1, o.Kind, o.Term, o.Holder, time.Duration(o.Call).Seconds(), done)
}

// View is the committed state as a host shows it to its own people (`relevo status`
// asks nobody): it may be late, but never goes back while the agent lives.
type View struct {
	Node, Life int
	Term       uint64
	Holder     string
	At         int64
}

// written notes a write that begins; the answer ends it. What was surely refused
// is forgotten.
func (w *world) written(k OpKind, by int, holder string, term uint64) (answer func(ok bool)) {
	if !w.cfg.Clients {
		return func(bool) {}
	}
	i := len(w.ops)
	w.ops = append(w.ops, &Op{k, by, holder, term, int64(w.now), Never})
	return func(ok bool) {
		w.ops[i].Done = int64(w.now)
		if !ok {
			w.ops[i] = nil
		}
	}
}

func (w *world) read(k OpKind, n *node, term uint64, call time.Duration) {
	if w.cfg.Clients {
		w.ops = append(w.ops, &Op{k, n.id, n.name, term, int64(call), int64(w.now)})
	}
}

// poll is what clients ask of every host, at moments that have nothing to do with
// what happens.
func (w *world) poll() {
	for _, n := range w.nodes {
		if !n.powered || n.frozen {
			continue
		}
		if n.note.Term != 0 && n.note.Deadline > n.clock() {
			w.read(OpHeld, n, n.note.Term, w.now)
		}
		// What runs before the first term is adopted, and the moment after a thaw is
		// measured elsewhere (thawBound).
		if n.units != down && n.note.Term != 0 && (n.thawed < 0 || w.now-n.thawed >= thawBound) {
			w.read(OpServed, n, n.note.Term, w.now)
		}
		if f := n.raft.applied; n.up && !n.stopped && f.Term > 0 {
			w.res.Views = append(w.res.Views, View{n.id, n.life, f.Term, f.Holder, int64(w.now)})
		}
	}
	w.at(20*time.Millisecond+time.Duration(w.clients.Int64N(int64(500*time.Millisecond))), w.poll)
}

// history is what clients saw, without what was surely refused.
func (w *world) history() []Op {
	var out []Op
	for _, o := range w.ops {
		if o != nil {
			out = append(out, *o)
		}
	}
	return out
}
