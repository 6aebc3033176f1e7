package bz2

import "slices"

// runs is the first step, a relic: after four equal bytes comes the number of
// further ones, up to 251.
func runs(in []byte) []byte {
	out := make([]byte, 0, len(in)+len(in)/4)
	for i := 0; i < len(in); {
		n := 1
		for n < 255 && i+n < len(in) && in[i+n] == in[i] {
			n++
		}
		for range min(n, 4) {
			out = append(out, in[i])
		}
		if n >= 4 {
			out = append(out, byte(n-4))
		}
		i += n
	}
	return out
}

// transform is Burrows and Wheeler's: the last column of all sorted rotations of
// in, and the row that is in itself. Ranks of rotations are doubled in length until
// all differ, so that no input makes it slow: n·log²n at worst.
func transform(in []byte) (last []byte, origin int) {
	n := len(in)
	order, rank, next := make([]int, n), make([]int, n), make([]int, n)
	for i, b := range in {
		order[i], rank[i] = i, int(b)
	}
	for k := 0; ; k = max(1, 2*k) {
		second := func(i int) int {
			if k == 0 {
				return 0
			}
			return rank[(i+k)%n]
		}
		slices.SortFunc(order, func(a, b int) int {
			if rank[a] != rank[b] {
				return rank[a] - rank[b]
			}
			return second(a) - second(b)
		})
		next[order[0]] = 0
		for i := 1; i < n; i++ {
			a, b := order[i-1], order[i]
			next[b] = next[a]
			if rank[a] != rank[b] || second(a) != second(b) {
				next[b]++
			}
		}
		rank, next = next, rank
		if rank[order[n-1]] == n-1 || k >= n {
			break // all differ, or equal rotations are equal for ever
		}
	}
	last = make([]byte, n)
	for i, at := range order {
		if at == 0 {
			origin = i
		}
		last[i] = in[(at+n-1)%n]
	}
	return last, origin
}

// Symbols after moveToFront: runA and runB write the length of a run of zeros in
// bijective base 2, then come the places 1, 2, …, and at last the end.
const (
	runA = 0
	runB = 1
)

// moveToFront replaces each byte by how many different ones came since its last
// occurrence. The last symbol is the end of the block, and the highest of all.
func moveToFront(in []byte) (syms []uint16, used [256]bool) {
	for _, b := range in {
		used[b] = true
	}
	var stack []byte
	for b, yes := range used {
		if yes {
			stack = append(stack, byte(b))
		}
	}
	syms = make([]uint16, 0, len(in)/2+2)
	zeros := 0
	flush := func() {
		for ; zeros > 0; zeros = (zeros - 1) / 2 {
			if zeros%2 == 1 {
				syms = append(syms, runA)
			} else {
				syms = append(syms, runB)
			}
		}
	}
	for _, b := range in {
		at := slices.Index(stack, b)
		if at == 0 {
			zeros++
			continue
		}
		flush()
		syms = append(syms, uint16(at+1))
		copy(stack[1:at+1], stack[:at])
		stack[0] = b
	}
	flush()
	return append(syms, uint16(len(stack)+1)), used
}
