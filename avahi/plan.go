package avahi

import (
	"maps"
	"slices"
)

// plan is what is to be done to announce what is wanted, in this order: a name that
// is given up may be taken again at once.
type plan struct {
	drop   []string // keys of what is not wanted any more
	change []string // keys of what has other records now
	text   []string // keys of what has other texts only
	add    []string // keys of what is new
}

func planFor(have, want map[string]offer) plan {
	var p plan
	for _, key := range slices.Sorted(maps.Keys(have)) {
		w, ok := want[key]
		switch h := have[key]; {
		case !ok:
			p.drop = append(p.drop, key)
		case !h.sameRecords(w):
			p.change = append(p.change, key)
		case !h.same(w):
			p.text = append(p.text, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if _, ok := have[key]; !ok {
			p.add = append(p.add, key)
		}
	}
	return p
}
