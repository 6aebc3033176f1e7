package catalog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// The pace of the exchange.
const (
	// atOnce many members are asked at a time.
	atOnce = 8
	// spread: all members see a new tag within the same second or two, and do not all ask
	// its owner in the same moment, which may have to greet each of them.
	spread    = 200 * time.Millisecond
	askLimit  = 5 * time.Second
	firstWait = time.Second // after a member did not answer, doubled up to
	longWait  = time.Minute
	// compareEvery is when one member, by chance, is asked whether its list is still the
	// one that we have; it answers in some hundred bytes if so.
	compareEvery = 4 * time.Minute
	// maxRemotes and maxTotal bound what all members together make us hold.
	maxRemotes = 200
	maxTotal   = 10_000 // entries
)

// remote is another member's list.
type remote struct {
	alive    bool
	lost     time.Time // since when it is not, without having left; zero = it is, or left
	tag      Have      // that it gossips
	asked    Have      // tag of the newest question; it is answered by whatever the owner says
	have     Have      // that we have
	entries  []Entry
	problems []Problem

	busy   bool
	fails  int
	due    time.Time // not asked before; zero = nothing to ask
	forced bool      // ask whatever the tags say
}

type fetched struct {
	node   string
	answer Answer
	err    error
}

// Run fetches what changed until ctx ends. [Catalog.Wake] tells it that members or
// their tags may have changed; what is fetched is told by [Catalog.Changes].
func (c *Catalog) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var fetches sync.WaitGroup
	defer fetches.Wait()
	defer cancel()
	results := make(chan fetched)
	compare := time.NewTimer(compareEvery/2 + rand.N(compareEvery))
	defer compare.Stop()
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
			c.meet(c.cfg.Members(), time.Now())
		case <-next.C:
		case <-compare.C:
			c.compareOne()
			compare.Reset(compareEvery/2 + rand.N(compareEvery))
		case f := <-results:
			c.take(f)
		}
		asks, wait := c.due(time.Now())
		for node, have := range asks {
			fetches.Go(func() {
				fctx, cancel := context.WithTimeout(ctx, askLimit)
				defer cancel()
				a, err := c.cfg.Fetch(fctx, node, have)
				select {
				case results <- fetched{node, a, err}:
				case <-ctx.Done():
				}
			})
		}
		next.Stop()
		if wait > 0 {
			next.Reset(wait)
		}
	}
}

// due says whom to ask now, and after what time to look again (0 = not by itself).
func (c *Catalog) due(now time.Time) (asks map[string]Have, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	busy := 0
	for _, r := range c.remotes {
		if r.busy {
			busy++
		}
	}
	asks = map[string]Have{}
	for node, r := range c.remotes {
		if r.due.IsZero() || r.busy || !r.alive {
			continue
		}
		if in := r.due.Sub(now); in > 0 {
			if wait == 0 || in < wait {
				wait = in
			}
			continue
		}
		if busy == atOnce {
			continue // the next answer looks again
		}
		busy++
		r.busy, r.asked = true, r.tag
		asks[node] = r.have
	}
	return asks, wait
}

// meet notes who is there with which tag, and whom to ask for that.
func (c *Catalog) meet(members []Member, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := make(map[string]bool, len(members))
	for _, m := range members {
		if m.Node == c.cfg.Node {
			continue
		}
		known[m.Node] = !m.Left
		tag, err := parseTag(m.Tag)
		r := c.remotes[m.Node]
		if r == nil {
			if err != nil || !m.Alive || len(c.remotes) >= maxRemotes {
				continue
			}
			r = &remote{}
			c.remotes[m.Node] = r
		}
		if r.alive != m.Alive {
			r.alive, r.lost = m.Alive, time.Time{}
			if !m.Alive && !m.Left {
				r.lost = now
			}
			if len(r.entries)+len(r.problems) > 0 {
				kick(c.changes)
			}
		}
		switch {
		case err != nil || r.forced:
		case r.have.covers(tag):
			r.tag, r.due, r.fails = tag, time.Time{}, 0
		case r.tag != tag:
			r.tag, r.fails = tag, 0
			r.due = now.Add(spread/4 + rand.N(spread))
		}
	}
	for node, r := range c.remotes {
		if known[node] {
			continue
		}
		if r.alive { // it left, or is forgotten
			r.alive = false
			kick(c.changes)
		}
		if !r.busy {
			c.total -= len(r.entries)
			delete(c.remotes, node)
			delete(c.rejected, node)
		}
	}
}

// compareOne makes somebody be asked although its tag is the one that we know.
func (c *Catalog) compareOne() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var quiet []*remote
	for _, r := range c.remotes {
		if r.alive && r.due.IsZero() && !r.busy {
			quiet = append(quiet, r)
		}
	}
	if len(quiet) > 0 {
		r := quiet[rand.IntN(len(quiet))]
		r.forced, r.due = true, time.Now()
	}
}

// take keeps what a member answered, or tries again later.
func (c *Catalog) take(f fetched) {
	entries, err := []Entry(nil), f.err
	if err == nil && !f.answer.Same {
		entries, err = decodeEntries(f.answer.Entries, f.node)
	}
	if err == nil {
		_, err = parseTag(f.answer.tag())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.remotes[f.node]
	if r == nil {
		return
	}
	r.busy, r.forced = false, false
	if err == nil && !f.answer.Same && c.total-len(r.entries)+len(entries) > maxTotal {
		err = fmt.Errorf("its %d services are too many: %d of all members are kept", len(entries), maxTotal)
	}
	if err != nil {
		if r.fails++; !c.rejected[f.node] && r.alive {
			c.rejected[f.node] = true
			c.cfg.Log.Warn("services of a member not fetched; trying again", "node", f.node, "err", err)
		}
		pause := min(firstWait<<min(r.fails-1, 10), longWait)
		r.due = time.Now().Add(pause/2 + rand.N(pause))
		return
	}
	delete(c.rejected, f.node)
	if r.fails = 0; r.tag == r.asked {
		r.due = time.Time{}
	}
	if f.answer.Same {
		r.have = f.answer.Have
		return
	}
	c.total += len(entries) - len(r.entries)
	r.have, r.entries, r.problems = f.answer.Have, entries, cleanProblems(f.answer.Problems, f.node)
	kick(c.changes)
}
