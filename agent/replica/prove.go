package replica

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/replica/verify"
)

// Proof says that the copy and the master's datastore have the same rows.
type Proof struct {
	After  int64  `json:"after"`  // of the revisions above this one,
	UpTo   int64  `json:"up_to"`  // up to this one,
	Rows   int64  `json:"rows"`   // so many,
	Digest string `json:"digest"` // with this checksum on both sides
}

func (p Proof) String() string {
	return fmt.Sprintf("revision %d, %d rows since revision %d with equal checksum %.12s", p.UpTo, p.Rows, p.After, p.Digest)
}

// ErrDiffers means that the copy is not what the master has.
var ErrDiffers = errors.New("the copy differs from the master's datastore")

// Prove compares the checksums of all rows above the revision after, on both sides. With
// upTo, which is the newest revision of a master that has stopped, it first waits until
// the copy has all up to there, and that must be the master's newest; with 0 what both
// have is compared. What waits in memory is written first. ErrDiffers if they differ; any
// other error says that they could not be compared.
func (f *Follower) Prove(ctx context.Context, after, upTo int64) (Proof, error) {
	p := Proof{After: after}
	if err := f.Wait(ctx, func(pos Position) bool { return pos.Revision >= upTo }); err != nil {
		return p, fmt.Errorf("the copy is at revision %d, the master at %d: %w", f.Position().Revision, upTo, err)
	}
	if err := f.ask(ctx, f.commit); err != nil {
		return p, err
	}
	r, err := kine.OpenReader(ctx, f.CopyPath())
	if err != nil {
		return p, err
	}
	there := verify.Ask(func(ctx context.Context, uri string) (*http.Response, error) {
		q := url.Values{"cluster": {f.cfg.Cluster}, "term": {strconv.FormatUint(f.cfg.Term(), 10)}}
		return f.cfg.Get(ctx, uri+"&"+q.Encode())
	})
	p, err = prove(ctx, r.Answer, there, after, upTo)
	return p, errors.Join(err, r.Close())
}

// proveTries bounds how often a comparison begins anew after a compaction.
const proveTries = 5

func prove(ctx context.Context, here, there kine.Ask, after, upTo int64) (p Proof, err error) {
	for range proveTries {
		if p, err = proveOnce(ctx, here, there, after, upTo); !errors.Is(err, kine.ErrMoved) {
			return p, err
		}
	}
	return p, err
}

func proveOnce(ctx context.Context, here, there kine.Ask, after, upTo int64) (Proof, error) {
	p := Proof{After: after, UpTo: upTo}
	h, err := here(ctx, kine.Query{})
	if err != nil {
		return p, fmt.Errorf("look at the copy: %w", err)
	}
	t, err := there(ctx, kine.Query{})
	if err != nil {
		return p, err
	}
	switch {
	case h.Partial:
		return p, kine.ErrPartial
	case upTo > 0 && t.Head != upTo:
		return p, fmt.Errorf("%w: its newest revision is %d, not %d", ErrDiffers, t.Head, upTo)
	case upTo > 0 && h.Head != upTo:
		return p, fmt.Errorf("%w: the copy's newest revision is %d, the master's %d", ErrDiffers, h.Head, upTo)
	case upTo == 0:
		p.UpTo = min(h.Head, t.Head)
	}
	p.After = max(0, min(after, p.UpTo))
	q := kine.Query{At: max(h.Compact, t.Compact), After: p.After, UpTo: p.UpTo, Parts: 1}
	if q.At > q.UpTo {
		return p, kine.ErrBehind
	}
	if q.After == q.UpTo {
		return p, nil
	}
	// Both at once: the master's clients wait for the slower one.
	type answer struct {
		r   kine.Reply
		err error
	}
	theirs := make(chan answer, 1)
	actx, cancel := context.WithCancel(ctx)
	go func() { r, err := there(actx, q); theirs <- answer{r, err} }() // waited for below
	h, err = here(ctx, q)
	if err != nil {
		cancel()
	}
	a := <-theirs
	cancel()
	switch {
	case err != nil:
		return p, fmt.Errorf("sum up the copy: %w", err)
	case a.err != nil:
		return p, a.err
	case h.Compact > q.At || a.r.Compact > q.At:
		return p, kine.ErrMoved
	case len(h.Sums) != 1 || len(a.r.Sums) != 1:
		return p, errors.New("the master's answer does not fit the question")
	case h.Sums[0] != a.r.Sums[0]:
		return p, fmt.Errorf("%w: %d rows here, %d there between the revisions %d and %d", ErrDiffers, h.Sums[0].Rows, a.r.Sums[0].Rows, p.After, p.UpTo)
	}
	p.Rows, p.Digest = h.Sums[0].Rows, hex.EncodeToString(h.Sums[0].Digest[:])
	return p, nil
}

// IdentityDigest is that of the identity on this host, as standbys mirror it; "" if the
// control plane has none.
func (s *Source) IdentityDigest() (string, error) {
	if len(s.cfg.Identity) == 0 {
		return "", nil
	}
	return s.scan.Digest()
}
