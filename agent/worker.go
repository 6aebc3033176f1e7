package agent

import (
	"context"
	"log/slog"
	"sync"

	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/takeover"
)

// worker carries out promotions and demotions, strictly one after the other, and
// runs the follower while neither is under way and this host is a standby.
// A demotion cuts a promotion off; a kill runs beside everything.
type worker struct {
	t        *takeover.Takeover
	follower Follower
	log      *slog.Logger
	post     func(ctx context.Context, ev lease.Event)
	finished func(ctx context.Context, term uint64, steps []takeover.StepRecord) // a promotion succeeded
	failed   func(ctx context.Context, term uint64, err error)                   // one failed, and was not cut off
	// What follows it, and what became of that.
	succession func(term uint64) takeover.Succession
	settled    func(ctx context.Context, term uint64, steps []takeover.StepRecord)

	mu      sync.Mutex
	want    *job
	cancel  context.CancelFunc // of the job under way
	changed chan struct{}      // buffered by one
	kills   chan struct{}      // buffered by one
	guards  chan lease.Time    // buffered by one: the newest moment to kill at, 0 = disarm
	guard   Guard
	clock   Clock
	// following returns when another host is the master, or ctx ends; nil: never.
	following func(ctx context.Context) error
}

type job struct {
	term    uint64
	promote bool
	own     bool
}

func newWorker(t *takeover.Takeover, f Follower, log *slog.Logger) *worker {
	return &worker{t: t, follower: f, log: log, changed: make(chan struct{}, 1), kills: make(chan struct{}, 1), guards: make(chan lease.Time, 1)}
}

// guardAt has PID 1 kill the control plane at a moment, in case that the agent is
// not there any more to do it.
func (w *worker) guardAt(at lease.Time) {
	if w.guard == nil {
		return
	}
	for {
		select {
		case w.guards <- at:
			return
		default:
		}
		select { // an older wish
		case <-w.guards:
		default:
		}
	}
}

func (w *worker) unguard() { w.guardAt(0) }

func (w *worker) guardian(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case at := <-w.guards:
			var err error
			if at == 0 {
				err = w.guard.Disarm(ctx)
			} else {
				err = w.guard.Arm(ctx, max(0, at-w.clock()))
			}
			if err != nil && ctx.Err() == nil {
				w.log.Error("PID 1's timer not set", "err", err)
			}
		}
	}
}

func (w *worker) promote(term uint64, own bool) { w.set(&job{term, true, own}) }
func (w *worker) demote(term uint64)            { w.set(&job{term: term}) }

func (w *worker) kill() {
	select {
	case w.kills <- struct{}{}:
	default:
	}
}

// set replaces what is wanted and cuts off what is under way.
func (w *worker) set(j *job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.want = j
	if w.cancel != nil {
		w.cancel()
	}
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

func (w *worker) take(ctx context.Context) (*job, context.Context, context.CancelFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	j := w.want
	w.want = nil
	if j == nil {
		return nil, nil, nil
	}
	ctx, w.cancel = context.WithCancel(ctx)
	return j, ctx, w.cancel
}

// run works until ctx ends. following says whether the host starts as a standby.
func (w *worker) run(ctx context.Context, following bool) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { w.killer(ctx) })
	wg.Go(func() { w.guardian(ctx) })
	stop := func() {}
	defer func() { stop() }()
	for {
		if following {
			stop = w.follow(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.changed:
		}
		j, jctx, cancel := w.take(ctx)
		if j == nil {
			continue
		}
		// Whatever comes, the copy must stand still: it is about to be moved, or the
		// master that it follows is this host.
		stop()
		stop = func() {}
		following = w.do(ctx, jctx, j, following)
		cancel()
	}
}

// do carries out one job and says whether the host is a standby after it.
func (w *worker) do(ctx, jctx context.Context, j *job, following bool) bool {
	if !j.promote {
		// A demotion is not cut off by anything but the agent's end: a following
		// promotion waits for it.
		if err := w.t.Demote(ctx); err != nil {
			w.log.Error("demotion cut off", "term", j.term, "err", err)
			return false
		}
		w.unguard()
		w.post(ctx, lease.Units{Active: false})
		return true
	}
	steps, err := w.t.Promote(jctx, j.term, j.own)
	w.post(ctx, lease.Promoted{Term: j.term, Err: err})
	switch {
	case err != nil && jctx.Err() == nil:
		w.failed(ctx, j.term, err)
	case err == nil:
		w.finished(jctx, j.term, steps)
		w.settled(jctx, j.term, w.t.Settle(jctx, w.succession(j.term)))
	}
	return false
}

// follow runs the follower, and what else runs on a standby, and returns what ends the
// one, leaves the other alone, and waits.
func (w *worker) follow(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.follower.Run(ctx); err != nil && ctx.Err() == nil {
			w.log.Error("following the master ended", "err", err)
		}
	})
	// A demotion has started them already; a host that booted as a standby has not. Not
	// before another is the master: this one may be about to be it.
	wg.Go(func() {
		if w.following == nil || w.following(ctx) != nil {
			return
		}
		if err := w.t.ControlPlane.EnterStandby(ctx); err != nil && ctx.Err() == nil {
			w.log.Error("standby units not started", "err", err)
		}
	})
	return sync.OnceFunc(func() { cancel(); wg.Wait() })
}

func (w *worker) killer(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.kills:
			if err := w.t.Kill(ctx); err != nil && ctx.Err() == nil {
				w.log.Error("kill", "err", err)
			}
		}
	}
}
