package agent

// sortFew sorts a short list, of members and the like, and keeps the order of what compares
// alike. Its time grows with the square of the length; slices.SortFunc is 8 kB of program for
// every type on ARMv6, and the binary is not to be larger than 24 MB there.
func sortFew[E any](s []E, compare func(a, b E) int) {
	for i := range s {
		for j := i; j > 0 && compare(s[j-1], s[j]) > 0; j-- {
			s[j-1], s[j] = s[j], s[j-1]
		}
	}
}
