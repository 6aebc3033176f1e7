package takeover

import (
	"context"
	"time"
)

// Succession is what the voters agreed on about the change to a term.
type Succession struct {
	Term     uint64
	Previous string   // holder of the term before; "" = nobody, or this host itself
	Holders  []string // every other host that held an earlier term: none of them runs a control plane
	Planned  bool     // Previous gave its term back: it lives
	Fenced   bool     // a fence device confirmed that Previous is off
	Reason   string   // why the term changed
}

// Cluster is what lies in Kubernetes itself and is still the old master's. Both tell in
// words what they did, "" = there was nothing to do; both may be called again.
type Cluster interface {
	// ClearLeases makes the leases of controllers that are surely gone free at once;
	// their successors on this host would wait for them for 15 s and more.
	ClearLeases(ctx context.Context, s Succession) (string, error)
	// MarkLost marks the Node object of the old master, and removes this host's own mark.
	MarkLost(ctx context.Context, s Succession) (string, error)
}

// Bounds of what follows a promotion: the API serves already, so nothing waits for it.
const (
	settleLimit = 10 * time.Second // of one try
	settleTries = 3
	settlePause = time.Second
)

// Settle does what follows a promotion, when the API serves:
//
//	leases    controllers' leases that their dead holders left behind are free   (noted)
//	announce  the virtual IP is announced once more: a switch may have slept       (noted)
//	node      the old master's Node object is marked                             (noted)
//
// None of them may stop a promotion: what fails is tried again, told and left. Each is
// done once in a term, also by an agent that was restarted meanwhile.
func (t *Takeover) Settle(ctx context.Context, s Succession) []StepRecord {
	var steps []step
	add := func(name string, do func(ctx context.Context) (string, error)) {
		steps = append(steps, step{name: name, limit: settleLimit, tell: do})
	}
	if t.Cluster != nil {
		add("leases", func(ctx context.Context) (string, error) { return t.Cluster.ClearLeases(ctx, s) })
	}
	if t.Address != nil {
		add("announce", func(ctx context.Context) (string, error) { return "", t.Address.Announce(ctx) })
	}
	if t.Cluster != nil {
		add("node", func(ctx context.Context) (string, error) { return t.Cluster.MarkLost(ctx, s) })
	}
	j := t.Journal
	if j.Term != s.Term {
		return nil // another term has begun here meanwhile
	}
	var records []StepRecord
	noted := false
	for _, st := range steps {
		if j.done(st.name) {
			continue
		}
		rec := t.persist(ctx, st)
		records = append(records, rec)
		if rec.Err == "" {
			j.Steps = append(j.Steps, rec)
			noted = true
			t.Log.Info("takeover step", "term", s.Term, "step", rec.Name, "took", rec.Took.Round(time.Millisecond), "did", rec.Did)
		} else {
			t.Log.Warn("takeover step failed; the master serves all the same", "term", s.Term, "step", rec.Name, "took", rec.Took.Round(time.Millisecond), "err", rec.Err)
		}
		if ctx.Err() != nil {
			break // this host is being demoted
		}
	}
	if noted {
		if err := j.save(); err != nil {
			t.Log.Warn("what followed the promotion is not noted: it is done again at the next start", "term", s.Term, "err", err)
		}
	}
	return records
}

// persist carries a step out, several times if need be.
func (t *Takeover) persist(ctx context.Context, st step) StepRecord {
	begin := time.Now()
	rec, err := carryOut(ctx, st)
	for n := 1; err != nil && n < settleTries; n++ {
		select {
		case <-ctx.Done():
			return rec
		case <-time.After(settlePause):
		}
		rec, err = carryOut(ctx, st)
	}
	rec.Took = time.Since(begin)
	return rec
}
