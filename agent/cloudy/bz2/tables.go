package bz2

import (
	"cmp"
	"slices"
)

const (
	groupSize = 50 // symbols that share a table
	minTables = 2  // the format's limits
	maxTables = 6
	// maxLength of a code in bits. Readers bear 20, old ones 17.
	maxLength = 17
	rounds    = 4 // of dividing the groups anew; later ones hardly gain
)

// tables is one way to write the symbols of a block.
type tables struct {
	lengths [][]uint8 // of the code of each symbol, for each table
	chosen  []uint8   // table of each group
	size    int       // in bits, all together
}

// chooseTables tries numbers of tables and kinds of weighting, and returns the
// shortest way.
func chooseTables(syms []uint16) tables {
	n := int(syms[len(syms)-1]) + 1
	groups := countGroups(syms, n)
	var best tables
	for k := minTables; k <= maxTables && (k == minTables || k <= len(groups)); k++ {
		for _, weight := range []int{1, 3, 8} {
			t := tables{lengths: firstLengths(groups, n, k), chosen: make([]uint8, len(groups))}
			for range rounds {
				t.choose(groups)
				t.improve(groups, n, weight)
				t.choose(groups)
				if t.size = t.bits(groups); best.size == 0 || t.size < best.size {
					best = tables{slices.Clone(t.lengths), slices.Clone(t.chosen), t.size}
				}
			}
		}
	}
	return best
}

// countGroups says how often each of n symbols occurs in each group.
func countGroups(syms []uint16, n int) [][]int {
	var groups [][]int
	for g := range slices.Chunk(syms, groupSize) {
		count := make([]int, n)
		for _, s := range g {
			count[s]++
		}
		groups = append(groups, count)
	}
	return groups
}

// firstLengths gives each table a range of symbols, of equally many occurrences,
// that it should be good at.
func firstLengths(groups [][]int, n, k int) [][]uint8 {
	total, count := 0, make([]int, n)
	for _, g := range groups {
		for s, c := range g {
			count[s] += c
			total += c
		}
	}
	lengths := make([][]uint8, k)
	seen := 0
	for i := range lengths {
		lengths[i] = slices.Repeat([]uint8{15}, n)
	}
	for s, c := range count {
		lengths[min(k-1, (seen+c/2)*k/total)][s] = 1
		seen += c
	}
	return lengths
}

// choose gives each group the table that makes it shortest.
func (t *tables) choose(groups [][]int) {
	for i, g := range groups {
		least := 0
		for k, lengths := range t.lengths {
			size := dataBits(g, lengths)
			if k == 0 || size < least {
				least, t.chosen[i] = size, uint8(k)
			}
		}
	}
}

func dataBits(count []int, lengths []uint8) (n int) {
	for s, c := range count {
		n += c * int(lengths[s])
	}
	return n
}

// improve makes each table the best one for the groups that chose it. Every symbol
// needs a code; the smaller weight, the shorter are those of symbols that do not
// occur, which can make the table itself shorter.
func (t *tables) improve(groups [][]int, n, weight int) {
	for k := range t.lengths {
		count := make([]int, n)
		for i, g := range groups {
			if int(t.chosen[i]) != k {
				continue
			}
			for s, c := range g {
				count[s] += c * weight
			}
		}
		for s := range count {
			count[s] = max(count[s], 1)
		}
		t.lengths[k] = huffman(count)
	}
}

// bits is what everything after the used bytes takes.
func (t *tables) bits(groups [][]int) int {
	n := 3 + 15
	for _, at := range selectors(t.chosen) {
		n += int(at) + 1
	}
	for _, lengths := range t.lengths {
		n += 5
		before := lengths[0]
		for _, l := range lengths {
			n += 1 + 2*max(int(l)-int(before), int(before)-int(l))
			before = l
		}
	}
	for i, g := range groups {
		n += dataBits(g, t.lengths[t.chosen[i]])
	}
	return n
}

// selectors is the tables of the groups, moved to the front.
func selectors(chosen []uint8) []uint8 {
	stack := []uint8{0, 1, 2, 3, 4, 5}
	out := make([]uint8, len(chosen))
	for i, k := range chosen {
		at := slices.Index(stack, k)
		copy(stack[1:at+1], stack[:at])
		stack[0], out[i] = k, uint8(at)
	}
	return out
}

func (t *tables) write(w *bits, syms []uint16) {
	w.write(uint64(len(t.lengths)), 3)
	w.write(uint64(len(t.chosen)), 15)
	for _, at := range selectors(t.chosen) {
		w.write(1<<(at+1)-2, uint(at)+1) // that many ones and a zero
	}
	codes := make([][]uint32, len(t.lengths))
	for k, lengths := range t.lengths {
		now := lengths[0]
		w.write(uint64(now), 5)
		for _, l := range lengths {
			for ; now < l; now++ {
				w.write(0b10, 2)
			}
			for ; now > l; now-- {
				w.write(0b11, 2)
			}
			w.write(0, 1)
		}
		codes[k] = canonical(lengths)
	}
	for i, s := range syms {
		k := t.chosen[i/groupSize]
		w.write(uint64(codes[k][s]), uint(t.lengths[k][s]))
	}
}

// canonical gives codes of the given lengths, shorter and earlier symbols first.
func canonical(lengths []uint8) []uint32 {
	codes := make([]uint32, len(lengths))
	code := uint32(0)
	for l := uint8(1); l <= maxLength; l++ {
		for s, x := range lengths {
			if x == l {
				codes[s] = code
				code++
			}
		}
		code <<= 1
	}
	return codes
}

// huffman is the lengths of the best codes for symbols that occur so often, none
// over maxLength: counts are levelled until that holds. There are two symbols at
// least, a run or a place and the end.
func huffman(count []int) []uint8 {
	lengths := make([]uint8, len(count))
	count = slices.Clone(count)
	for {
		// Leaves are the symbols, rarest first; nodes come in order of their counts by
		// themselves, so the two rarest are at the front of one of both.
		leaves := make([]int, len(count))
		for i := range leaves {
			leaves[i] = i
		}
		slices.SortFunc(leaves, func(a, b int) int { return cmp.Or(count[a]-count[b], a-b) })
		parent := make([]int, 2*len(count)-1) // leaves by symbol, then nodes
		sums := make([]int, 0, len(count)-1)
		leaf, node := 0, 0
		take := func() (which, c int) {
			if leaf < len(leaves) && (node == len(sums) || count[leaves[leaf]] <= sums[node]) {
				leaf++
				return leaves[leaf-1], count[leaves[leaf-1]]
			}
			node++
			return len(count) + node - 1, sums[node-1]
		}
		for range len(count) - 1 {
			a, x := take()
			b, y := take()
			parent[a], parent[b] = len(count)+len(sums), len(count)+len(sums)
			sums = append(sums, x+y)
		}
		depth := make([]uint8, len(parent))
		for i := len(parent) - 2; i >= 0; i-- {
			depth[i] = depth[parent[i]] + 1
		}
		copy(lengths, depth)
		if slices.Max(lengths) <= maxLength {
			return lengths
		}
		for i := range count {
			count[i] = count[i]/2 + 1
		}
	}
}
