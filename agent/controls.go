//go:build !mutants

package agent

// The protections that a test build can switch off, as in agent/lease/controls.go.
const (
	offGoodbye = false // that somebody left is believed to gossip
	offWord    = false // that somebody wants to vote, or not, is believed to gossip
)
