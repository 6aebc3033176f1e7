package lost

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"

	"relevo.dev/relevo/agent/replica/kine"
)

// Errors that say what to do next.
var (
	// ErrNoReference: there is nothing on this host to compare with.
	ErrNoReference = errors.New("there is no datastore of the present master on this host to compare with")
	// ErrUnrelated: the old database and the present one have no past in common.
	ErrUnrelated = errors.New("it has no past in common with the present datastore")
	// ErrDamaged: the old database cannot be read, or not to its end.
	ErrDamaged = errors.New("the datastore that was kept is damaged")
)

// Places are where databases lie on this host; "" where there is none.
type Places struct {
	Datastore string // the control plane's own
	Copy      string // the standby's copy of the master's
}

// Kept is a database of an older term.
type Kept struct {
	Path string `json:"kept"`
	// Term is the one that began without the newest writes in it; 0 if the
	// present history has them all.
	Term   uint64 `json:"term"`
	Common int64  `json:"last_common_revision"`
	Head   int64  `json:"newest_revision"`
	Err    error  `json:"-"` // why it cannot be compared
}

// Lost says whether there is anything in it that the present master never saw.
func (k *Kept) Lost() bool { return k.Err == nil && k.Term != 0 && k.Head > k.Common }

// Found is what lies on this host.
type Found struct {
	Against string   // the database of the present history
	Terms   []uint64 // promotions that it went through, oldest first
	Kept    []Kept   // oldest first
}

// Find looks for databases of older terms, and for the one of the present
// history: that which has gone through the newest promotion. A database that
// cannot be used is in the list with the reason.
func Find(ctx context.Context, p Places) (Found, error) {
	var f Found
	var old []string
	for _, path := range []string{p.Datastore, p.Copy} {
		if path == "" {
			continue
		}
		list, err := kine.Asides(path)
		if err != nil {
			return f, fmt.Errorf("look for datastores that were kept beside %s: %w", path, err)
		}
		old = append(old, list...)
	}
	ref, rest, err := reference(ctx, p)
	if err != nil {
		return f, err
	}
	f.Against = ref.path
	for _, fork := range ref.pos.Notes.Forks {
		f.Terms = append(f.Terms, fork.Term)
	}
	for _, path := range append(old, rest...) {
		f.Kept = append(f.Kept, compare(ctx, path, ref))
	}
	sort.SliceStable(f.Kept, func(i, j int) bool { return f.Kept[i].Term < f.Kept[j].Term })
	return f, nil
}

type database struct {
	path string
	pos  kine.Position
}

// newest is the newest promotion that a database went through.
func (d database) newest() uint64 {
	if n := len(d.pos.Notes.Forks); n > 0 {
		return d.pos.Notes.Forks[n-1].Term
	}
	return 0
}

// reference chooses the database of the present history; rest are the others.
func reference(ctx context.Context, p Places) (ref database, rest []string, err error) {
	var here []database
	for _, path := range []string{p.Datastore, p.Copy} {
		if path == "" {
			continue
		}
		pos, perr := position(ctx, path)
		switch {
		case errors.Is(perr, os.ErrNotExist), errors.Is(perr, kine.ErrEmpty):
		case perr != nil:
			// It may well be the newest one: without it nothing can be said.
			return ref, nil, fmt.Errorf("%w: %w", ErrNoReference, perr)
		default:
			here = append(here, database{path, pos})
		}
	}
	if len(here) == 0 {
		return ref, nil, fmt.Errorf("%w: neither %s nor %s is there", ErrNoReference, p.Datastore, p.Copy)
	}
	ref = slices.MaxFunc(here, func(a, b database) int {
		return cmp.Or(cmp.Compare(a.newest(), b.newest()), cmp.Compare(a.pos.Head, b.pos.Head))
	})
	if n := ref.pos.Notes; n.Cluster != "" && !n.Complete {
		return ref, nil, fmt.Errorf("%w: the first copy, %s, has not come to its end; wait until `relevo status` calls this host a ready standby", ErrNoReference, ref.path)
	}
	for _, d := range here {
		if d.path != ref.path {
			rest = append(rest, d.path)
		}
	}
	return ref, rest, nil
}

// compare finds out where an old database left the history.
func compare(ctx context.Context, path string, ref database) Kept {
	k := Kept{Path: path}
	pos, err := position(ctx, path)
	if err != nil {
		k.Err = damaged(err)
		return k
	}
	k.Head = pos.Head
	if k.Term, k.Common, k.Err = diverged(pos.Notes, ref.pos.Notes); k.Err != nil || !k.Lost() {
		return k
	}
	k.Err = sharesPast(ctx, path, ref.path, k.Common)
	return k
}

// diverged says from which term on the present history is without what else is
// in the old one, and up to which revision they are the same; term 0 if the
// present one has it all.
func diverged(old, present kine.Notes) (term uint64, common int64, err error) {
	if old.Cluster != "" && present.Cluster != "" && old.Cluster != present.Cluster {
		return 0, 0, fmt.Errorf("%w: it is of cluster %q", ErrUnrelated, old.Cluster)
	}
	next, own := 0, 0 // the first promotions that are not shared
	for i, f := range present.Forks {
		if j := slices.Index(old.Forks, f); j >= 0 {
			next, own = i+1, j+1
		}
	}
	switch {
	case next == 0 && max(len(present.Forks), len(old.Forks)) == kine.MaxForks:
		return 0, 0, fmt.Errorf("%w: there were more promotions since than the %d that are remembered", ErrUnrelated, kine.MaxForks)
	case next < len(present.Forks):
		term, common = present.Forks[next].Term, present.Forks[next].From
		if own < len(old.Forks) { // a promotion that came to nothing
			common = min(common, old.Forks[own].From)
		}
	case own < len(old.Forks):
		return 0, 0, fmt.Errorf("%w: it went through the promotion of term %d, the newest datastore here did not; wait until this host follows the present master", ErrNoReference, old.Forks[own].Term)
	}
	return term, common, nil
}

func sharesPast(ctx context.Context, path, ref string, common int64) error {
	return with(ctx, path, func(old *kine.Reader) error {
		return with(ctx, ref, func(present *kine.Reader) error {
			err := old.SharesPast(ctx, present, common)
			if errors.Is(err, kine.ErrHole) {
				return fmt.Errorf("%w: %w", ErrUnrelated, err)
			}
			return damaged(err)
		})
	})
}

func position(ctx context.Context, path string) (pos kine.Position, err error) {
	err = with(ctx, path, func(r *kine.Reader) error {
		pos, err = r.Position(ctx)
		return err
	})
	return pos, err
}

// with opens a database for a moment: a promotion that must have it for itself
// waits a second, not longer.
func with(ctx context.Context, path string, f func(*kine.Reader) error) error {
	r, err := kine.OpenReader(ctx, path)
	if err != nil {
		return err
	}
	return errors.Join(f(r), r.Close())
}

// damaged gives an error that says so the name of this package.
func damaged(err error) error {
	if kine.IsCorrupt(err) || errors.Is(err, kine.ErrSchema) || errors.Is(err, kine.ErrEmpty) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}
