package replica

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/replica/verify"
)

// asked is something that Run's goroutine does between two frames.
type asked struct {
	do   func(ctx context.Context) error
	done chan error // capacity 1
}

// ask has Run's goroutine do something while it follows the master; an error of do ends
// the stream. Without a stream it waits until there is one, or ctx ends.
func (f *Follower) ask(ctx context.Context, do func(ctx context.Context) error) error {
	a := asked{do, make(chan error, 1)}
	select {
	case f.asks <- a:
	case <-ctx.Done():
		why := f.Position().Err
		if why == "" {
			why = "it is busy"
		}
		return fmt.Errorf("the copy does not follow the master: %s: %w", why, ctx.Err())
	}
	return <-a.done // Run's goroutine has taken it, and answers
}

// Compare finds where the copy differs from the master's datastore, by checksums of
// ranges. What waits in memory is written first, so that it is compared too; and the
// copy's own indexes are checked. The error says that they could not be compared, nothing
// more, unless kine.IsCorrupt.
func (f *Follower) Compare(ctx context.Context, limit int) (kine.Comparison, error) {
	if err := f.ask(ctx, f.commit); err != nil {
		return kine.Comparison{}, err
	}
	r, err := kine.OpenReader(ctx, f.CopyPath())
	if err != nil {
		return kine.Comparison{}, err
	}
	if err := r.Check(ctx, true); err != nil {
		return kine.Comparison{}, errors.Join(err, r.Close())
	}
	there := verify.Ask(func(ctx context.Context, uri string) (*http.Response, error) {
		q := url.Values{"cluster": {f.cfg.Cluster}, "term": {strconv.FormatUint(f.cfg.Term(), 10)}}
		return f.cfg.Get(ctx, uri+"&"+q.Encode())
	})
	c, err := kine.Compare(ctx, r.Answer, there, limit)
	return c, errors.Join(err, r.Close())
}

// Anew sets the copy aside and has it copied again, from nothing. Until that is done
// this host has no copy that a promotion could use.
func (f *Follower) Anew(ctx context.Context, why string) error {
	return f.ask(ctx, func(ctx context.Context) error {
		err := f.anew(ctx, errors.New(why))
		if errors.Is(err, errAnew) {
			return errStreamAnew
		}
		return err
	})
}

var (
	// errAnew: the copy was set aside, and begins from nothing.
	errAnew = errors.New("the copy was set aside and is made anew")
	// errStreamAnew ends a stream because of that, and is no failure.
	errStreamAnew = fmt.Errorf("%w, as asked for", errAnew)
)
