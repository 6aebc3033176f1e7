package replica

import (
	"context"
	"errors"
	"fmt"

	"relevo.dev/relevo/agent/replica/kine"
)

// open opens the copy; one that is damaged is set aside first.
func (f *Follower) open(ctx context.Context) error {
	c, err := kine.OpenCopy(ctx, f.CopyPath())
	if err == nil && !f.checked {
		// After a power cut its indexes may not fit: that is looked for once.
		if err = c.Check(ctx); err != nil {
			err = errors.Join(err, c.Close(ctx))
		}
	}
	if err != nil && (kine.IsCorrupt(err) || errors.Is(err, kine.ErrSchema)) {
		f.cfg.Log.Error("the copy is damaged; it is set aside and made anew", "err", err)
		if _, aerr := kine.Aside(ctx, f.CopyPath(), f.cfg.Term()); aerr != nil {
			return errors.Join(err, aerr)
		}
		c, err = kine.OpenCopy(ctx, f.CopyPath())
	}
	if err != nil {
		return err
	}
	f.copy, f.torn, f.kept, f.checked = c, false, 0, true
	f.publish(func(b *board) { b.pos.Committed = c.Revision(); b.pos.Term = max(b.pos.Term, c.Notes().Term) })
	return nil
}

// close commits what can be, and closes the copy.
func (f *Follower) close(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	err := f.commit(ctx)
	if rerr := f.copy.Rollback(ctx); rerr == nil {
		f.torn = false
		f.publish(func(b *board) { b.pos.Committed = f.copy.Revision() })
	}
	return errors.Join(err, f.copy.Close(ctx))
}

// anew sets the copy aside, because its history is not the master's, so that
// the next stream begins from nothing. Nothing is thrown away: it may hold the
// only trace of writes that a failover lost.
func (f *Follower) anew(ctx context.Context, why error) error {
	f.cfg.Log.Warn("the copy is not the master's history; it is set aside and made anew", "revision", f.copy.Revision(), "why", why)
	err := errors.Join(f.copy.Rollback(ctx), f.copy.Close(ctx))
	if err != nil {
		return err
	}
	if _, err := kine.Aside(ctx, f.CopyPath(), f.cfg.Term()); err != nil {
		return err
	}
	if err := f.open(ctx); err != nil {
		return err
	}
	return fmt.Errorf("%w: %w", errAnew, why)
}
