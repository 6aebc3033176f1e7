//go:build !mutants

package kine

// The protection that a test build can switch off, to show what happens without it (go
// test -tags mutants ./agent/replica/kine). In every other build it is a constant.
const offCompactMark = false // a promotion does not mark what is before it as compacted
