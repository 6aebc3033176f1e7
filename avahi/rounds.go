package avahi

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// The library asks only until its first answer and never tells of removals, so it
// looks in rounds with a fresh question each, and compares. Short rounds find out
// quickly who is there and who is not; where nothing changes, rounds grow longer, for
// every question is answered by everybody.
const (
	shortRound = 3 * time.Second
	longRound  = 24 * time.Second
	// allPause follows a round of all types.
	allPause = 7 * time.Second
	// missedMax rounds without an answer are a removal; a lost packet is none.
	missedMax = 3
)

// rounds looks for services without avahi-daemon.
type rounds struct {
	b          *Board
	mdns       mdns
	log        *slog.Logger
	interfaces func() []net.Interface
	local      func(host string) bool

	missed map[string]map[string]int // by type and id
	types  []string                  // that others announce, as the newest round of all types found
}

func (r *rounds) run(ctx context.Context) {
	r.missed = map[string]map[string]int{}
	r.b.found.begin()
	length := shortRound
	for ctx.Err() == nil {
		types, all := r.b.lookingFor()
		if all {
			types, length = sortedTypes(append(types, r.types...)), shortRound
			types = types[:min(len(types), maxTypes)]
		} else {
			r.types = nil
		}
		wanted := func(t string) bool { return slices.Contains(types, t) }
		r.b.found.keepTypes(wanted)
		maps.DeleteFunc(r.missed, func(t string, _ map[string]int) bool { return !wanted(t) })
		ifs := r.interfaces()
		if len(types) == 0 && !all {
			ifs = nil
		}
		began, took := time.Now(), length
		whole, missing := r.round(ctx, types, all, ifs, length)
		switch {
		case !whole || missing:
			length = shortRound
		default:
			length = min(2*length, longRound)
		}
		r.b.found.settled()
		// A round in which nothing could be asked ends at once.
		wait := max(0, took-time.Since(began))
		if all {
			wait = allPause
		}
		if whole && !r.wait(ctx, wait) {
			length = shortRound
		}
	}
}

// wait before the next round; false if somebody looks for other types meanwhile.
func (r *rounds) wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-r.b.looked:
		return false
	case <-t.C:
		return true
	}
}

// round asks once for every type and compares with what was there. It is not whole
// when other types are wanted before its end.
func (r *rounds) round(ctx context.Context, types []string, all bool, ifs []net.Interface, length time.Duration) (whole, missing bool) {
	if len(ifs) == 0 {
		return r.wait(ctx, length), false
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		mu     sync.Mutex
		seen   = map[string]bool{}
		others []string
		asked  []string
		g      errgroup.Group
	)
	g.SetLimit(atOnce)
	ask := func(typ string, each func(Entry)) {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, length)
			defer cancel()
			err := r.mdns.browse(ctx, typ, ifs, each)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				r.log.Debug("looking for services failed", "type", typ, "err", err)
				return nil
			}
			asked = append(asked, typ)
			return nil
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if all {
			ask(AllTypes, func(e Entry) {
				mu.Lock()
				defer mu.Unlock()
				if len(others) < maxTypes {
					others = append(others, e.Type)
				}
			})
		}
		for _, t := range types {
			ask(t, func(e Entry) {
				id := e.Type + "/" + e.Name + "@" + e.Addr.String()
				e.Local = r.local(e.Host)
				r.b.found.see(id, e)
				mu.Lock()
				defer mu.Unlock()
				if len(seen) < maxEntries {
					seen[id] = true
				}
			})
		}
		g.Wait()
	}()
	whole = true
	select {
	case <-done:
	case <-r.b.looked:
		whole = false
		cancel()
		<-done
	}
	if !whole || ctx.Err() != nil {
		return false, false
	}
	if all && slices.Contains(asked, AllTypes) {
		r.types = sortedTypes(others)
	}
	for _, t := range asked {
		missing = r.compare(t, seen) || missing
	}
	return true, missing
}

// compare loses what was not seen for some rounds; true if something is missing.
func (r *rounds) compare(typ string, seen map[string]bool) (missing bool) {
	missed := map[string]int{}
	for _, id := range r.b.found.ids(typ) {
		if seen[id] {
			continue
		}
		missing = true
		if n := r.missed[typ][id] + 1; n < missedMax {
			missed[id] = n
		} else {
			r.b.found.lose(id)
		}
	}
	r.missed[typ] = missed
	return missing
}
