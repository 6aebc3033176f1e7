// Package takeover makes a standby the master and a master a standby: promotion
// and demotion as journalled steps, each bounded in time, which go on where they
// were cut off.
//
// Promotion of a standby:
//
//	verify   the copy and the identity are whole, the certificates valid by this clock
//	aside    what lies at the datastore's path is kept, never overwritten   (durable)
//	install  copy and identity move into place                            (durable)
//	bump     revisions jump ahead, everything before is compacted           (durable)
//	vip      the virtual IP is probed, claimed, announced (beside the next)
//	units    the control plane starts, in order
//	readyz   the API says that it is ready
//	canary   an object was written, read back and seen by a watch
//
// What follows it, when the master serves already, is told at [Takeover.Settle].
//
// A host whose own datastore is the newest needs no restoring: the first master and
// a restart inside the term go straight to units, a host that gets the mastership
// back only bumps.
package takeover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// ControlPlane is what runs on the master.
type ControlPlane interface {
	Start(ctx context.Context) error // in order; what runs already is left alone
	Stop(ctx context.Context) error
	Kill(ctx context.Context) error
	AnyActive(ctx context.Context) (bool, error)
	EnterStandby(ctx context.Context) error
	LeaveStandby(ctx context.Context) error
}

// Data is the copy on this host. Every method may be called again after a crash.
type Data interface {
	Verify(ctx context.Context) error
	Aside(ctx context.Context, term uint64) error
	Install(ctx context.Context, term uint64) error
	// Bump jumps the revisions ahead for term; from is the term that the datastore
	// is of, 0 if unknown.
	Bump(ctx context.Context, term, from uint64) error
	// CopyTerm is the term of the master that the copy is of, also when Install
	// has moved it already.
	CopyTerm(ctx context.Context) (uint64, error)
}

// Address is the virtual IP; nil if there is none.
type Address interface {
	Claim(ctx context.Context, term uint64) error
	Announce(ctx context.Context) error // once more, that it is here
	Release(ctx context.Context) error
}

// API proves that the control plane works.
type API interface {
	WaitReady(ctx context.Context) error
	Canary(ctx context.Context, term uint64) error
}

// Config joins them.
type Config struct {
	ControlPlane ControlPlane
	Data         Data
	Address      Address // may be nil
	API          API
	Cluster      Cluster // may be nil
	// StartTimeout bounds units + readyz + canary: an API server on an SD card may
	// take a minute.
	StartTimeout time.Duration
	// StopGrace is how long units may take to stop by themselves; then they are killed. An
	// API server takes no writes from the moment in which it is asked to stop, and then
	// waits up to a minute for watches that nobody ends. 0 = for ever.
	StopGrace time.Duration
	Journal   *Journal
	Log       *slog.Logger
}

// Takeover carries out promotions and demotions, one at a time; the caller sees
// to that.
type Takeover struct{ Config }

// New makes a Takeover.
func New(cfg Config) *Takeover { return &Takeover{cfg} }

type step struct {
	name    string
	durable bool // done once in a term, and noted on disk
	limit   time.Duration
	do      func(context.Context) error
	beside  bool                                  // runs beside the next one; not durable
	tell    func(context.Context) (string, error) // in the place of do: says what it did
}

// Promote makes this host the master of term. own says that the datastore at its
// own path is the one to serve. The records of the steps come back also with an
// error.
func (t *Takeover) Promote(ctx context.Context, term uint64, own bool) ([]StepRecord, error) {
	j := t.Journal
	if term < j.Term {
		return nil, fmt.Errorf("promote for term %d: this host has already seen term %d", term, j.Term)
	}
	if j.Term != term {
		j.Term, j.Steps, j.Finished = term, nil, false
	}
	bump := func(from uint64) step {
		return step{name: "bump", durable: true, limit: t.StartTimeout, do: func(ctx context.Context) error {
			if err := t.Data.Bump(ctx, term, from); err != nil {
				return err
			}
			j.setOwn(term)
			return nil
		}}
	}
	var steps []step
	switch {
	case j.OwnTerm == term:
	case own && j.OwnTerm == 0: // the first master: nobody has seen any revision but its own
		j.setOwn(term)
		if err := j.save(); err != nil {
			return nil, err
		}
	case own:
		steps = []step{bump(j.OwnTerm)}
	default:
		from, err := t.Data.CopyTerm(ctx)
		if err != nil {
			return nil, fmt.Errorf("promotion for term %d: look at the copy: %w", term, err)
		}
		steps = []step{
			{name: "verify", limit: t.StartTimeout, do: func(ctx context.Context) error {
				if j.done("install") {
					return nil // it has moved already
				}
				return t.Data.Verify(ctx)
			}},
			{name: "aside", durable: true, limit: t.StartTimeout, do: func(ctx context.Context) error { return t.Data.Aside(ctx, term) }},
			{name: "install", durable: true, limit: t.StartTimeout, do: func(ctx context.Context) error { return t.Data.Install(ctx, term) }},
			bump(from),
		}
	}
	if t.Address != nil {
		// Half a second of listening whether somebody has the address: while the units
		// start, it costs nothing.
		steps = append(steps, step{name: "vip", limit: 10 * time.Second, beside: true,
			do: func(ctx context.Context) error { return t.Address.Claim(ctx, term) }})
	}
	steps = append(steps, step{name: "units", limit: t.StartTimeout, do: func(ctx context.Context) error {
		if err := t.ControlPlane.LeaveStandby(ctx); err != nil {
			return err
		}
		return t.ControlPlane.Start(ctx)
	}})
	steps = append(steps,
		step{name: "readyz", limit: t.StartTimeout, do: t.API.WaitReady},
		step{name: "canary", limit: t.StartTimeout, do: func(ctx context.Context) error { return t.API.Canary(ctx, term) }})
	return t.run(ctx, steps)
}

func (t *Takeover) run(ctx context.Context, steps []step) ([]StepRecord, error) {
	j := t.Journal
	var records []StepRecord
	note := func(s step, rec StepRecord, err error) error {
		records = append(records, rec)
		if s.durable && err == nil {
			j.Steps = append(j.Steps, rec)
			err = j.save()
		}
		t.Log.Info("takeover step", "term", j.Term, "step", s.name, "took", rec.Took.Round(time.Millisecond), "err", rec.Err)
		if err != nil {
			return fmt.Errorf("promotion for term %d, step %s: %w", j.Term, s.name, err)
		}
		return nil
	}
	wait := func() error { return nil } // for the step that runs beside
	for _, s := range steps {
		if s.durable && j.done(s.name) {
			continue
		}
		if s.beside {
			done := make(chan error, 1)
			var rec StepRecord
			go func() {
				var err error
				rec, err = carryOut(ctx, s)
				done <- err
			}()
			wait = func() error {
				err := <-done
				return note(s, rec, err)
			}
			continue
		}
		rec, err := carryOut(ctx, s)
		err = errors.Join(note(s, rec, err), wait())
		if err != nil {
			return records, err
		}
		wait = func() error { return nil }
	}
	j.Finished = true
	return records, j.save()
}

func carryOut(ctx context.Context, s step) (StepRecord, error) {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	rec := StepRecord{Name: s.name, Beside: s.beside}
	var err error
	if s.tell != nil {
		rec.Did, err = s.tell(ctx)
	} else {
		err = s.do(ctx)
	}
	rec.Took = time.Since(begin)
	if err != nil {
		rec.Err = err.Error()
	}
	return rec, err
}

// Summary of steps for people: "promoted in 2.9s: units 0.1s, readyz 2.4s".
func Summary(records []StepRecord) string {
	var total time.Duration
	var parts []string
	for _, r := range records {
		if !r.Beside {
			total += r.Took
		}
		parts = append(parts, fmt.Sprintf("%s %v", r.Name, r.Took.Round(time.Millisecond)))
	}
	return fmt.Sprintf("promoted in %v: %s", total.Round(time.Millisecond), strings.Join(parts, ", "))
}

// Demote stops the control plane and gives the virtual IP up. It returns nil only
// when no unit is active; until then it goes on, whatever fails, until ctx ends.
// Killing in time is the caller's: [Takeover.Kill] may run beside it.
func (t *Takeover) Demote(ctx context.Context) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		var errs []error
		// Stopping first: clients of a stopped API get an error, those of a vanished
		// address wait. But an address that cannot be given up must not delay it.
		if err := t.stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop the control plane: %w", err))
		}
		if t.Address != nil {
			if err := t.Address.Release(ctx); err != nil {
				errs = append(errs, fmt.Errorf("give up the virtual IP: %w", err))
			}
		}
		active, err := t.ControlPlane.AnyActive(ctx)
		if err != nil {
			errs = append(errs, err)
		}
		if len(errs) == 0 && !active {
			break
		}
		t.Log.Error("demotion does not end", "active", active, "err", errors.Join(errs...))
		select {
		case <-ctx.Done():
			return errors.Join(append(errs, ctx.Err())...)
		case <-time.After(wait):
		}
	}
	if err := t.ControlPlane.EnterStandby(ctx); err != nil {
		t.Log.Error("standby units not started", "err", err)
	}
	return nil
}

// stop stops the units, and kills them when their grace is over.
func (t *Takeover) stop(ctx context.Context) error {
	if t.StopGrace <= 0 {
		return t.ControlPlane.Stop(ctx)
	}
	stopped := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-stopped:
			return
		case <-ctx.Done():
			return
		case <-time.After(t.StopGrace):
		}
		t.Log.Info("the units have not stopped by themselves and are killed", "after", t.StopGrace)
		if err := t.ControlPlane.Kill(ctx); err != nil {
			t.Log.Error("kill", "err", err)
		}
	})
	err := t.ControlPlane.Stop(ctx)
	close(stopped)
	wg.Wait()
	return err
}

// Kill ends every process of the control plane at once, and takes the address away.
func (t *Takeover) Kill(ctx context.Context) error {
	err := t.ControlPlane.Kill(ctx)
	if t.Address != nil {
		err = errors.Join(err, t.Address.Release(ctx))
	}
	return err
}
