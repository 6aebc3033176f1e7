package agent

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestSortFew: as slices.SortStableFunc does.
func TestSortFew(t *testing.T) {
	type pair struct{ key, at int }
	by := func(x, y pair) int { return cmp.Compare(x.key, y.key) }
	for n := range 40 {
		var got []pair
		for i := range n {
			got = append(got, pair{rand.IntN(8), i})
		}
		want := slices.Clone(got)
		slices.SortStableFunc(want, by)
		if sortFew(got, by); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
}
