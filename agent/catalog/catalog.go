package catalog

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
	"time"
)

// Config of a [Catalog].
type Config struct {
	Node string // this member
	// Members are all that are known, this one or not; it is asked often.
	Members func() []Member
	// Fetch asks a member for its list, with [Catalog.Answer] at the other end.
	Fetch func(ctx context.Context, node string, have Have) (Answer, error)
	Log   *slog.Logger
}

// Member is what the catalog needs to know of another host.
type Member struct {
	Node  string
	Alive bool
	Left  bool   // gone on purpose
	Tag   string // its [Catalog.Tag]; "" = it has no catalog
}

// Problem is something about a source that a person should see to.
type Problem struct {
	Node string `json:"-"`
	Text string `json:"text"` // where and what
}

// Standing is what became of an entry that was to be announced.
type Standing struct {
	As      string // the name that others see
	Refused bool
	Why     string
}

// maxProblems of one owner.
const maxProblems = 20

// Catalog is this member's list and those of the others.
type Catalog struct {
	cfg     Config
	changes chan struct{} // both are buffered by one
	wake    chan struct{}

	mu       sync.Mutex
	sources  map[Origin][]Entry
	troubles map[Origin][]Problem
	standing map[string]Standing // by key
	own      []Entry             // as declared, with Since; sorted by key
	mine     list                // as it is sent
	remotes  map[string]*remote
	total    int // entries of remotes
	rejected map[string]bool
}

// New makes a catalog. [Catalog.Run] joins it to those of the others.
func New(cfg Config) *Catalog {
	c := &Catalog{cfg: cfg, changes: make(chan struct{}, 1), wake: make(chan struct{}, 1), sources: map[Origin][]Entry{}, troubles: map[Origin][]Problem{},
		standing: map[string]Standing{}, remotes: map[string]*remote{}, rejected: map[string]bool{}}
	c.mine.have.Epoch = newEpoch(rand.Uint32())
	c.mine.encode(nil, nil)
	return c
}

// Set declares all entries of an origin that this member offers, and what is wrong
// with their source; those that are not in it any more are gone. Node, Origin and
// Since need not be filled in, nor Health: that is Unchecked then. It returns at
// once, and costs next to nothing where nothing changed.
func (c *Catalog) Set(origin Origin, entries []Entry, problems []Problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	entries = slices.Clone(entries)
	for i := range entries {
		e := &entries[i]
		e.Origin, e.Owner = origin, c.cfg.Node
		e.Node, e.Health = cmp.Or(e.Node, c.cfg.Node), cmp.Or(e.Health, Unchecked)
	}
	if was := c.sources[origin]; slices.EqualFunc(was, entries, same) && slices.Equal(c.troubles[origin], problems) {
		return
	}
	c.sources[origin], c.troubles[origin] = entries, slices.Clone(problems)
	c.rebuild()
}

// Note says how entries stand that are announced, by [Entry.Key]. One that is not
// named is on its way.
func (c *Catalog) Note(standing map[string]Standing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if maps.Equal(standing, c.standing) {
		return
	}
	c.standing = maps.Clone(standing)
	c.rebuild()
}

// rebuild makes the own list anew; c.mu is held. It is another version only if
// others would see a difference.
func (c *Catalog) rebuild() {
	before := make(map[string]Entry, len(c.own))
	for _, e := range c.own {
		before[e.Key()] = e
	}
	var problems []Problem
	var own []Entry
	now := time.Now().UTC().Truncate(time.Second)
	seen := map[string]bool{}
	for _, origin := range origins {
		problems = append(problems, c.troubles[origin]...)
		dropped := 0
		for _, e := range c.sources[origin] {
			if len(own) == maxEntries || seen[e.Key()] {
				dropped++
				continue
			}
			seen[e.Key()] = true
			if s, ok := c.standing[e.Key()]; ok && e.Announced() {
				if s.As != e.Name {
					e.As = s.As
				}
				if s.Refused {
					e.Health, e.As = Refused, ""
				}
				e.Why = cmp.Or(s.Why, e.Why)
			}
			was, known := before[e.Key()]
			if e.Since.IsZero() {
				e.Since = now
				if known && was.Health == e.Health {
					e.Since = was.Since
				}
			}
			own = append(own, e)
		}
		if dropped > 0 {
			problems = append(problems, Problem{Text: fmt.Sprintf("%d services of origin %s are left out: %d are allowed on a host, each once", dropped, origin, maxEntries)})
		}
	}
	sort.Slice(own, func(i, j int) bool {
		a, b := &own[i], &own[j]
		return cmp.Or(cmp.Compare(slices.Index(origins, a.Origin), slices.Index(origins, b.Origin)), cmp.Compare(a.ID, b.ID)) < 0
	})
	c.own = own
	if c.mine.encode(own, problems) {
		kick(c.changes)
		kick(c.wake)
	}
}

// Own are this member's entries as they were declared.
func (c *Catalog) Own() []Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.own)
}

// Tag names this member's present list: at most 32 bytes.
func (c *Catalog) Tag() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mine.have.tag()
}

// succession is how long the Services of Kubernetes stay in the view after the member
// that offered them is lost, if nobody else offers any: they are the cluster's and not
// that member's, and its successor finds them all in the datastore.
const succession = time.Minute

// orphans are the Services that the member offered who was lost last; c.mu is held.
// What was at an address of its own is lost with it.
func (c *Catalog) orphans() (out []Entry) {
	var last *remote
	for _, r := range c.remotes {
		if time.Since(r.lost) < succession && (last == nil || r.lost.After(last.lost)) && slices.ContainsFunc(r.entries, func(e Entry) bool { return e.Origin == Kubernetes }) {
			last = r
		}
	}
	if last == nil {
		return nil
	}
	for _, e := range last.entries {
		if e.Origin == Kubernetes && len(e.Addrs) > 0 {
			e.Why = e.Owner + " is lost; the next master offers this"
			out = append(out, e)
		}
	}
	return out
}

// All are the entries of every member that is alive, sorted by type, name and node.
// What several members read in Cloudy's ring is there once.
func (c *Catalog) All() []Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Entry, 0, len(c.mine.entries)+c.total)
	out = append(out, c.mine.entries...)
	for i := range out {
		out[i].Owner = c.cfg.Node
	}
	for _, r := range c.remotes {
		if r.alive {
			out = append(out, r.entries...)
		}
	}
	if !slices.ContainsFunc(out, func(e Entry) bool { return e.Origin == Kubernetes }) {
		out = append(out, c.orphans()...)
	}
	sort.Slice(out, func(i, j int) bool { return compare(out[i], out[j]) < 0 })
	type place struct{ name, typ, node, host, addrs, port string }
	once := map[place]bool{}
	return slices.DeleteFunc(out, func(e Entry) bool {
		if e.Origin != Cloudy {
			return false
		}
		p := place{e.Name, e.Type, e.Node, e.Host, fmt.Sprint(e.Addrs), fmt.Sprint(e.Port)}
		was := once[p]
		once[p] = true
		return was
	})
}

// Problems of every member that is alive, by node.
func (c *Catalog) Problems() []Problem {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := slices.Clone(c.mine.problems)
	for i := range out {
		out[i].Node = c.cfg.Node
	}
	for _, r := range c.remotes {
		if r.alive {
			out = append(out, r.problems...)
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Node < out[j].Node })
	return out
}

// Answer is what another member is told that asks for the list.
func (c *Catalog) Answer(have Have) Answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := Answer{Have: c.mine.have}
	if have.Digest == a.Digest {
		a.Same = true
		return a
	}
	a.Entries, a.Problems = c.mine.text, slices.Clone(c.mine.problems)
	return a
}

// Changes signals that the view, or this member's tag, may be another one.
func (c *Catalog) Changes() <-chan struct{} { return c.changes }

// Wake makes Run look at the members again.
func (c *Catalog) Wake() { kick(c.wake) }

func kick(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
