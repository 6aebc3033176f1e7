package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"relevo.dev/relevo/agent/durable"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/replica"
)

// handover is a planned change of the master that is under way here, between the end of
// the control plane and the moment in which the term is given back.
type handover struct {
	mu     sync.Mutex
	term   uint64
	since  time.Time // the control plane was found stopped
	trying bool
	over   *lease.Release // it was found who follows, or that it is not worth waiting
	plan   *switchover    // of the term; nil: a stop without a promise
}

// switchover is a handover that must not lose anything: the whole copy of its successor
// was found equal up to a revision before the master stopped.
type switchover struct {
	to      string
	checked int64
}

// Bounds of a handover.
const (
	// drainLimit is how long a stopped master waits for a standby to have everything.
	drainLimit = 15 * time.Second
	// loyalty is how long a switchover waits for the standby that was asked for, before
	// it takes another that has everything.
	loyalty = 5 * time.Second
	// tailRows is how many of the newest revisions are summed up where the whole was not.
	tailRows = 2000
	// proveLimit bounds one question.
	proveLimit = 3 * time.Second
)

// begin notes that the stop which follows is a switchover.
func (h *handover) begin(term uint64, s *switchover) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.term, h.since, h.over, h.plan = term, time.Time{}, nil, s
}

// holds says whether a switchover is still looking for somebody who has everything: as
// long as it does the term must not run out, or whoever has the most gets it.
func (h *handover) holds(term uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.term == term && h.plan != nil && h.over == nil
}

// drain holds a planned release back until a standby has everything: after the control
// plane stopped, its log is still being read. It says what is to be released, with the
// proof in its reason. A stop without a promise gives up after a while: then the standbys
// have what they have. A switchover never does: if nobody has everything, the term is
// released in favour of this host itself.
func (a *agent) drain(ctx context.Context, r lease.Release) (lease.Release, bool) {
	h := &a.handover
	h.mu.Lock()
	if h.term != r.Term {
		h.term, h.since, h.over, h.plan = r.Term, time.Time{}, nil, nil
	}
	if over := h.over; over != nil { // it is being delivered
		h.mu.Unlock()
		return *over, true
	}
	if h.trying {
		h.mu.Unlock()
		return r, false
	}
	if h.since.IsZero() {
		h.since = time.Now()
	}
	h.trying = true
	a.log.Info("waiting for a standby to have everything before the term is given back", "term", r.Term)
	since, plan := h.since, h.plan
	h.mu.Unlock()
	defer func() { h.mu.Lock(); h.trying = false; h.mu.Unlock() }()
	for {
		out, done := a.tryDrain(ctx, r, since, plan)
		if done {
			h.mu.Lock()
			h.over = &out
			h.mu.Unlock()
			return out, true
		}
		select {
		case <-ctx.Done():
			return r, false
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (a *agent) tryDrain(ctx context.Context, r lease.Release, since time.Time, plan *switchover) (lease.Release, bool) {
	age := time.Since(since)
	own, err := a.host.Data.OwnRevision(ctx)
	if err == nil {
		a.ownRev.Store(own)
	}
	if plan == nil && (age > drainLimit || err != nil || own == 0 || a.serving.Load() == 0) {
		return r, true
	}
	var why error = err
	if err == nil {
		after := max(0, int64(own)-tailRows)
		if plan != nil {
			after = plan.checked
		}
		var to string
		var p replica.Proof
		if to, p, why = a.proven(ctx, r, after, int64(own), r.To != "" && age < loyalty); why == nil {
			a.log.Info("a standby has everything", "node", to, "revision", p.UpTo, "rows", p.Rows, "since", p.After, "checksum", p.Digest)
			a.seenHere.note("finds that %s has everything: %v", to, p)
			r.To, r.Why = to, fmt.Sprintf("%s; %s has everything: %v", r.Why, to, p)
			return r, true
		}
	}
	if plan != nil && age > drainLimit {
		a.log.Error("nobody has everything: this host goes on as the master", "term", r.Term, "err", why)
		a.seenHere.note("finds nobody that has everything, and wants the next term itself: %v", why)
		r.To, r.Why = a.cfg.Node, fmt.Sprintf("%s; nobody has everything, so %s goes on: %v", r.Why, a.cfg.Node, why)
		return r, true
	}
	return r, false
}

// proven finds a standby whose copy is surely all that this host has: the one that was
// wished for, or any.
func (a *agent) proven(ctx context.Context, r lease.Release, after, own int64, only bool) (node string, p replica.Proof, err error) {
	st := a.quorum.State()
	nodes := a.standbys(view{Holder: st.Holder, Released: st.Released})
	if only {
		nodes = []string{r.To}
	} else if i := slices.Index(nodes, r.To); i > 0 {
		nodes[0], nodes[i] = nodes[i], nodes[0]
	}
	type answer struct {
		node string
		p    replica.Proof
		err  error
	}
	ctx, cancel := context.WithTimeout(ctx, proveLimit)
	defer cancel()
	answers := make(chan answer, len(nodes))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // who is slower than the first is not needed
	for _, n := range nodes {
		if n == a.cfg.Node {
			continue
		}
		wg.Go(func() {
			var p replica.Proof
			err := a.port.PostJSON(ctx, n, pathProve, proveRequest{r.Term, after, own}, &p)
			answers <- answer{n, p, err}
		})
	}
	errs := []error{}
	for range slices.DeleteFunc(nodes, func(n string) bool { return n == a.cfg.Node }) {
		x := <-answers
		if x.err == nil && x.p.UpTo == own {
			return x.node, x.p, nil
		}
		errs = append(errs, x.err)
	}
	return "", p, errors.Join(append(errs, errNobodyElse)...)
}

var errNobodyElse = errors.New("no other standby is there")

// proveRequest asks a standby to compare its copy with the datastore of the one who asks.
type proveRequest struct {
	Term  uint64 `json:"term"`
	After int64  `json:"after"`
	UpTo  int64  `json:"up_to"` // 0: what both have
}

// prove is asked of a standby by the master.
func (a *agent) prove(ctx context.Context, from string, in proveRequest) (replica.Proof, error) {
	if a.host == nil || a.host.Copy == nil {
		return replica.Proof{}, errNoCopy
	}
	if s := a.quorum.State(); s.Holder != from || s.Term != in.Term || s.Released {
		return replica.Proof{}, fmt.Errorf("%s does not hold term %d", from, in.Term)
	}
	return a.host.Copy.Prove(ctx, in.After, in.UpTo)
}

// handOver gives the term back before the agent stops, so that a standby takes over
// now and has everything, and not when the lease has run out. If the agent only
// restarts, and while the cluster is paused, the control plane is left alone.
func (a *agent) handOver(ctx context.Context, why string) {
	if a.host == nil || a.phase() == lease.Standby {
		return
	}
	if a.host.Restarting != nil && a.host.Restarting(ctx) {
		a.log.Info("the agent restarts: the control plane keeps running on its lease")
		return
	}
	if a.quorum.State().Pause.Phase != "" {
		a.log.Info("the cluster is paused: the control plane keeps running")
		return
	}
	a.log.Info("giving the term back", "term", a.term.Load(), "why", why)
	// The holder machine gives up waiting for a standby by itself, well before this.
	ctx, cancel := context.WithTimeout(ctx, handOverLimit(a.cfg.LeaseTTL))
	defer cancel()
	begin := time.Now()
	a.loop.post(ctx, lease.StepDown{Term: a.term.Load(), Why: why})
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for a.phase() != lease.Standby {
		select {
		case <-ctx.Done():
			a.log.Error("the term was not given back in time: the fence looks after the control plane", "phase", a.phase().String())
			return
		case <-t.C:
		}
	}
	a.log.Info("the term is given back", "took", time.Since(begin).Round(time.Millisecond))
}

// handOverLimit bounds an orderly stop; TimeoutStopSec= of the unit is longer than
// that of the default lease.
func handOverLimit(ttl time.Duration) time.Duration { return 6 * ttl }

// handOverTimer measures how long this host, as the master, takes from the beginning of a
// planned stop until the term is given back. It belongs to the loop.
type handOverTimer struct {
	was   lease.Phase
	began time.Time
}

// saw is told of each phase; it says how long a hand-over took that has just ended.
func (h *handOverTimer) saw(p lease.Phase) (took time.Duration, ended bool) {
	was := h.was
	h.was = p
	switch {
	case p == lease.Stopping && was != p:
		h.began = time.Now()
	case p == lease.Standby && was == lease.Releasing && !h.began.IsZero():
		return time.Since(h.began), true
	}
	return 0, false
}

const handOverFile = "handover"

// noteHandOver keeps it for `relevo doctor`.
func (a *agent) noteHandOver(took time.Duration) {
	if err := durable.Replace(filepath.Join(a.cfg.DataDir, handOverFile), []byte(took.String()+"\n"), 0o600); err != nil {
		a.log.Warn("how long the hand-over took is not kept", "took", took, "err", err)
	}
}

// LastHandOver is how long the newest planned hand-over of this host took.
func LastHandOver(dataDir string) (took time.Duration, known bool) {
	b, err := os.ReadFile(filepath.Join(dataDir, handOverFile))
	if err != nil || len(b) > 64 {
		return 0, false
	}
	took, err = time.ParseDuration(strings.TrimSpace(string(b)))
	return took, err == nil && took > 0
}
