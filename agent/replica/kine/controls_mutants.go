//go:build mutants

package kine

var offCompactMark bool

// SwitchOff switches the compaction mark off, or on again, for the negative control.
func SwitchOff(mark bool) { offCompactMark = mark }
