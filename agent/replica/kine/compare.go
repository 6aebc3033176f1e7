package kine

import (
	"context"
	"errors"
	"fmt"
)

// Errors of a comparison that could not be made. They say nothing about
// whether the two sides are equal.
var (
	// ErrBehind means that one side has not yet seen all that the other has
	// compacted already: there is no revision at which they could be compared.
	ErrBehind = errors.New("one side is behind the compaction of the other")
	// ErrPartial means that one side is a first copy that has not come to its end.
	ErrPartial = errors.New("the first copy has not come to its end")
	// errReply means that the other side's answer does not fit the question.
	errReply = errors.New("the answer does not fit the question")
)

// Ask carries a query to one side: Reader.Answer here, a request to another
// host's there. What comes back from another host need not be trusted: a reply
// that does not fit the query is an error, never a wrong result.
type Ask func(ctx context.Context, q Query) (Reply, error)

// Comparison is what came out.
type Comparison struct {
	At          int64        // the sides were compared as they are at this revision, and all after it
	UpTo        int64        // up to here; what only one side has after it is its lead
	Rows        int64        // rows that this side has in it
	Lead        int64        // revisions that there is ahead of here; negative: behind
	Differences []Difference // in the order of their revisions
	More        bool         // there are more, not looked for
	Queries     int          // that were sent to the other side
}

// Equal says that no difference was found.
func (c Comparison) Equal() bool { return len(c.Differences) == 0 }

// Where says which of the two sides has a row.
type Where string

// OnlyHere and OnlyThere: the other side has no such row. Both: the two rows
// have the same revision, but are not the same.
const (
	OnlyHere  Where = "only here"
	OnlyThere Where = "only there"
	Both      Where = "differs"
)

// Difference is one revision at which the two sides are not alike.
type Difference struct {
	Revision int64
	Name     string // the key; of the row here, if there is one
	Where    Where
}

const (
	fanOut     = 16 // sub-ranges of each step down
	leafRows   = 32 // so few rows on both sides are listed instead
	moveTries  = 5  // times that a comparison is begun anew after a compaction
	maxName    = 4096
	maxLimit   = 10_000
	largestRev = 1 << 62
	// maxDepth is how many steps lead from all revisions to one: 16^16 = 2^64.
	maxDepth = 16
)

// Compare finds where two databases differ, by their checksums: the range that
// both have is cut into sub-ranges, and those whose sums differ again, until
// the rows themselves are listed. Equal sides cost two queries; each difference
// costs a few hundred bytes a step, whatever the size of the database. It stops
// at limit differences (10 000 at most).
func Compare(ctx context.Context, here, there Ask, limit int) (Comparison, error) {
	c := comparing{here: here, there: there, limit: max(1, min(limit, maxLimit))}
	for range moveTries {
		err := c.run(ctx)
		if !errors.Is(err, ErrMoved) {
			return c.Comparison, err
		}
	}
	return c.Comparison, fmt.Errorf("compare the datastores: %w, %d times over; try again when less is going on", ErrMoved, moveTries)
}

type comparing struct {
	Comparison
	here, there Ask
	limit       int
}

func (c *comparing) run(ctx context.Context) error {
	c.Comparison = Comparison{Queries: c.Queries}
	h, t, err := c.both(ctx, Query{})
	if err != nil {
		return err
	}
	if h.Partial || t.Partial {
		return fmt.Errorf("compare the datastores: %w", ErrPartial)
	}
	c.At, c.UpTo, c.Lead = max(h.Compact, t.Compact), min(h.Head, t.Head), t.Head-h.Head
	if c.At > c.UpTo {
		return fmt.Errorf("compare the datastores: %w: here is revision %d, compacted up to %d, there %d and %d", ErrBehind, h.Head, h.Compact, t.Head, t.Compact)
	}
	if c.UpTo == 0 {
		return nil
	}
	// Depth first, the lowest range on top: what is found comes in order.
	stack := []Query{{At: c.At, UpTo: c.UpTo, Parts: fanOut}}
	for most := c.Queries + maxDepth*(c.limit+1); len(stack) > 0 && !c.More; {
		if c.Queries == most { // the other side says that it differs, but not where
			c.More = true
			break
		}
		q := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		down, err := c.step(ctx, q)
		if err != nil {
			return err
		}
		for i := len(down) - 1; i >= 0; i-- {
			stack = append(stack, down[i])
		}
	}
	return nil
}

// step asks one query of both sides and returns what is to be asked next.
func (c *comparing) step(ctx context.Context, q Query) (down []Query, err error) {
	h, t, err := c.both(ctx, q)
	if err != nil {
		return nil, err
	}
	if q.Parts == 0 {
		if !h.More && !t.More {
			c.lists(h.List, t.List)
			return nil, nil
		}
		if q.UpTo-q.After == 1 {
			return nil, fmt.Errorf("compare the datastores at revision %d: %w", q.UpTo, errReply)
		}
		q.Parts = fanOut // a side whose sums say few rows, and then lists many
		return []Query{q}, nil
	}
	whole := q.After == 0 && q.UpTo == c.UpTo
	for i := range h.Sums {
		if whole {
			c.Rows += h.Sums[i].Rows
		}
		if h.Sums[i] == t.Sums[i] {
			continue
		}
		d := Query{At: q.At, After: q.bound(i), UpTo: q.bound(i + 1), Parts: fanOut}
		if width := d.UpTo - d.After; width < fanOut || h.Sums[i].Rows <= leafRows && t.Sums[i].Rows <= leafRows {
			d.Parts = 0
		}
		down = append(down, d)
	}
	return down, nil
}

// both asks both sides at once; the slower one is what is waited for.
func (c *comparing) both(ctx context.Context, q Query) (h, t Reply, err error) {
	type answer struct {
		r   Reply
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ch := make(chan answer, 1)
	go func() {
		r, err := c.there(ctx, q)
		ch <- answer{r, err}
	}()
	c.Queries++
	h, err = c.here(ctx, q)
	if err != nil {
		cancel()
		<-ch
		return h, t, fmt.Errorf("compare the datastores: look here: %w", err)
	}
	a := <-ch
	if a.err != nil {
		return h, t, fmt.Errorf("compare the datastores: ask the other side: %w", a.err)
	}
	t = a.r
	for _, r := range []*Reply{&h, &t} {
		if err := r.fits(q); err != nil {
			return h, t, err
		}
	}
	return h, t, nil
}

// fits says whether a reply answers the query, ErrMoved if that side was
// compacted beyond it.
func (r *Reply) fits(q Query) error {
	bad := func(what string) error { return fmt.Errorf("compare the datastores: %w: %s", errReply, what) }
	if r.Head < 0 || r.Head > largestRev || r.Compact < 0 || r.Compact > r.Head {
		return bad(fmt.Sprintf("revision %d, compacted up to %d", r.Head, r.Compact))
	}
	if q == (Query{}) {
		return nil
	}
	if r.Compact > q.At {
		return ErrMoved
	}
	if len(r.Sums) != q.Parts || len(r.List) > MaxList || q.Parts > 0 && (r.More || len(r.List) > 0) {
		return bad(fmt.Sprintf("%d sums and %d rows, asked for %d parts", len(r.Sums), len(r.List), q.Parts))
	}
	for _, s := range r.Sums {
		if s.Rows < 0 || s.Rows > q.UpTo-q.After {
			return bad(fmt.Sprintf("%d rows between %d and %d", s.Rows, q.After, q.UpTo))
		}
	}
	last := q.After
	for _, l := range r.List {
		if l.Revision <= last || l.Revision > q.UpTo || len(l.Name) > maxName {
			return bad(fmt.Sprintf("revision %d out of order", l.Revision))
		}
		last = l.Revision
	}
	return nil
}

// lists merges two lists of rows and keeps what is not in both.
func (c *comparing) lists(h, t []RowSum) {
	for len(h)+len(t) > 0 {
		var d Difference
		switch {
		case len(t) == 0 || len(h) > 0 && h[0].Revision < t[0].Revision:
			d, h = Difference{h[0].Revision, h[0].Name, OnlyHere}, h[1:]
		case len(h) == 0 || t[0].Revision < h[0].Revision:
			d, t = Difference{t[0].Revision, t[0].Name, OnlyThere}, t[1:]
		default:
			same := h[0] == t[0]
			d = Difference{h[0].Revision, h[0].Name, Both}
			h, t = h[1:], t[1:]
			if same {
				continue
			}
		}
		if len(c.Differences) == c.limit {
			c.More = true
			return
		}
		c.Differences = append(c.Differences, d)
	}
}
