package sim

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// register is (term, holder) as one thing that everybody reads and writes.
type register struct {
	term     uint64
	holder   string
	released bool
}

// The model: a grant needs the term before it, a release needs the term, and every
// read sees the term, its holder, and that it was not given back. A local read has
// no other excuse than its lease: the holder of an old term must not be able to
// read at all.
var model = porcupine.Model{
	Init: func() any { return register{} },
	Step: func(state, input, _ any) (bool, any) {
		s, o := state.(register), input.(Op)
		here := s.term == o.Term && s.holder == o.Holder && !s.released
		switch o.Kind {
		case OpGrant:
			if s.term+1 == o.Term {
				return true, register{term: o.Term, holder: o.Holder}
			}
			return o.Done == Never, s // nobody was told that it was done
		case OpRelease:
			if here {
				s.released = true
				return true, s
			}
			// Two arbiters, one after the other, may commit the same release.
			return o.Done == Never || s.term == o.Term && s.holder == o.Holder, s
		}
		return here, s
	},
}

// linearizable checks one history. Views are checked apart: they may be late, but
// show what was written, and never go back.
func linearizable(r Result) error {
	check := func(ops []Op) porcupine.CheckResult {
		var h []porcupine.Operation
		for i, o := range ops {
			h = append(h, porcupine.Operation{ClientId: i, Input: o, Call: o.Call, Return: o.Done})
		}
		return porcupine.CheckOperationsTimeout(model, h, 20*time.Second)
	}
	ops := slices.Clone(r.Ops)
	slices.SortStableFunc(ops, func(a, b Op) int { return int(a.Call - b.Call) })
	if res := check(ops); res != porcupine.Ok {
		// The shortest beginning that is wrong ends with the operation that gave it away.
		k := 1 + sort.Search(len(ops)-1, func(i int) bool { return check(ops[:i+1]) != porcupine.Ok })
		var b strings.Builder
		for _, o := range ops[max(0, k-12):k] {
			fmt.Fprintf(&b, "\n  %v", o)
		}
		return fmt.Errorf("%v after %d of %d operations; the last ones:%s", res, k, len(ops), b.String())
	}
	type reader struct{ node, life int }
	newest := map[reader]uint64{}
	grants := map[uint64]Op{}
	for _, o := range ops {
		if o.Kind == OpGrant {
			if g, ok := grants[o.Term]; !ok || g.Done == Never {
				grants[o.Term] = o
			}
		}
	}
	for _, v := range r.Views {
		by := reader{v.Node, v.Life}
		if v.Term < newest[by] {
			return fmt.Errorf("n%d showed term %d after term %d", v.Node+1, v.Term, newest[by])
		}
		newest[by] = v.Term
		g, ok := grants[v.Term]
		if !ok || g.Call > v.At || g.Done != Never && g.Holder != v.Holder {
			return fmt.Errorf("n%d showed term %d of %s, which nobody wrote: %v", v.Node+1, v.Term, v.Holder, g)
		}
	}
	return nil
}

// What clients see of (term, holder), through the arbiter or locally under a lease,
// is one register.
func TestLinearizable(t *testing.T) {
	end := time.Now().Add(7 * time.Second)
	ops, n := 0, 0
	for seed := *first; time.Now().Before(end) && n < *schedules; seed++ {
		cfg := config(seed)
		cfg.Clients = true
		r := Run(cfg)
		if r.Violation != "" {
			t.Fatalf("seed %d: %s", seed, r.Violation)
		}
		if err := linearizable(r); err != nil {
			notLinearizable(t, cfg)
			return
		}
		ops += len(r.Ops) + len(r.Views)
		n++
	}
	t.Logf("%d histories, %d operations", n, ops)
	if ops < 100*n || n == 0 {
		t.Error("hardly anything was asked: nothing was tested")
	}
}

// notLinearizable prints the history of cfg, shrunk.
func notLinearizable(t *testing.T, cfg Config) {
	t.Helper()
	small := Shrink(cfg, func(c Config) bool { return linearizable(Run(c)) != nil })
	r, s := told(small)
	t.Errorf("seed %d: %v\n%s", cfg.Seed, linearizable(r), s)
}

// Looking on must not change the story.
func TestClientsOnlyLook(t *testing.T) {
	for seed := uint64(1); seed <= 50; seed++ {
		cfg := config(seed)
		a := Run(cfg)
		cfg.Clients = true
		b := Run(cfg)
		if a.Steps != b.Steps || a.Failovers != b.Failovers || a.Outage != b.Outage {
			t.Fatalf("seed %d: %d decisions unobserved, %d observed", seed, a.Steps, b.Steps)
		}
	}
}

// A right history, spoilt in one place, must be found.
func TestNegativeControlsSpoiltHistory(t *testing.T) {
	var good Result
	for seed := uint64(1); good.Failovers < 2; seed++ {
		cfg := config(seed)
		cfg.Clients = true
		good = Run(cfg)
	}
	if err := linearizable(good); err != nil {
		t.Fatal(err)
	}
	last := func(k OpKind, ops []Op) *Op {
		for i := len(ops) - 1; i >= 0; i-- {
			if ops[i].Kind == k {
				return &ops[i]
			}
		}
		t.Fatalf("no %v in the history", k)
		return nil
	}
	for name, spoil := range map[string]func(r *Result){
		"a renewal of the term before":       func(r *Result) { last(OpRenewed, r.Ops).Term-- },
		"a renewal by another host":          func(r *Result) { last(OpRenewed, r.Ops).Holder = "n9" },
		"a lease held in the next term":      func(r *Result) { last(OpHeld, r.Ops).Term++ },
		"a live control plane of another":    func(r *Result) { last(OpServed, r.Ops).Holder = "n9" },
		"a term granted twice":               func(r *Result) { o := *last(OpGrant, r.Ops); o.Holder = "n9"; r.Ops = append(r.Ops, o) },
		"a term left out":                    func(r *Result) { last(OpGrant, r.Ops).Term++ },
		"a read after the end of its lease":  func(r *Result) { r.Ops[slices.Index(r.Ops, *last(OpHeld, r.Ops))] = late(r.Ops) },
		"a host that shows an older term":    func(r *Result) { v := r.Views[len(r.Views)-1]; v.Term--; r.Views = append(r.Views, v) },
		"a host that shows the wrong holder": func(r *Result) { r.Views[len(r.Views)-1].Holder = "n9" },
	} {
		bad := good
		bad.Ops, bad.Views = slices.Clone(good.Ops), slices.Clone(good.Views)
		spoil(&bad)
		if err := linearizable(bad); err == nil {
			t.Errorf("%s: not found", name)
		} else if testing.Verbose() {
			t.Logf("%s: %.120v", name, err)
		}
	}
}

// late is the first local read of all, as if it had been asked at the end.
func late(ops []Op) Op {
	i := slices.IndexFunc(ops, func(o Op) bool { return o.Kind == OpHeld })
	o := ops[i]
	end := ops[len(ops)-1].Call
	o.Call, o.Done = end, end
	return o
}
