package avahi

import (
	"maps"
	"slices"
	"sort"
	"sync"
	"time"
)

// maxEntries that are remembered at all: a flood of announcements costs no more
// memory than this.
const maxEntries = 1000

// settling is how long what an earlier backend or daemon found is still believed
// after another one began to look: time enough for everybody to answer.
const settling = 10 * time.Second

// found is all that was found. One finder at a time writes into it.
type found struct {
	mu      sync.Mutex
	entries map[string]Entry // by the finder's own identifiers
	stale   map[string]Entry // what the finder before had found
	until   time.Time        // when stale is not believed any more
	changes chan struct{}    // buffered by one
}

func newFound() *found {
	return &found{entries: map[string]Entry{}, changes: make(chan struct{}, 1)}
}

// all is everything, sorted; what was found on two interfaces is one.
func (f *found) all() []Entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Entry, 0, len(f.entries))
	fresh := make(map[[2]string]bool, len(f.entries))
	for _, id := range slices.Sorted(maps.Keys(f.entries)) {
		e := f.entries[id]
		out = append(out, e)
		fresh[[2]string{e.Type, e.Name}] = true
	}
	if time.Now().Before(f.until) {
		for _, id := range slices.Sorted(maps.Keys(f.stale)) {
			if e := f.stale[id]; !fresh[[2]string{e.Type, e.Name}] {
				out = append(out, e)
			}
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return compareEntries(out[i], out[j]) < 0 })
	return slices.CompactFunc(out, func(a, b Entry) bool { return compareEntries(a, b) == 0 })
}

// see keeps what was found under id; false if there is no room for it.
func (f *found) see(id string, e Entry) bool {
	e, ok := e.clean()
	if !ok {
		f.lose(id)
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	was, had := f.entries[id]
	if !had && len(f.entries) >= maxEntries {
		return false
	}
	f.entries[id] = e
	if !had || !was.equal(e) {
		poke(f.changes)
	}
	return true
}

func (f *found) lose(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, had := f.entries[id]; had {
		delete(f.entries, id)
		poke(f.changes)
	}
}

// keepTypes forgets what is of a type that nobody looks for.
func (f *found) keepTypes(watched func(typ string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range []map[string]Entry{f.entries, f.stale} {
		for id, e := range m {
			if !watched(e.Type) {
				delete(m, id)
				poke(f.changes)
			}
		}
	}
}

// ids of what the present finder has found of a type.
func (f *found) ids(typ string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for id, e := range f.entries {
		if e.Type == typ {
			out = append(out, id)
		}
	}
	return out
}

// begin makes room for another finder; what the one before found is believed until
// it has settled.
func (f *found) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.entries) > 0 {
		f.stale, f.entries = f.entries, map[string]Entry{}
		f.until = time.Now().Add(settling)
	}
}

// settled is for a finder to call when it has looked for the time of settling.
func (f *found) settled() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.stale) > 0 && !time.Now().Before(f.until) {
		f.stale = nil
		poke(f.changes)
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
