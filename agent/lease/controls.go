//go:build !mutants

package lease

// The protections that a test build can switch off, one at a time, to show that
// the simulator notices (go test -tags mutants ./agent/lease/...). In every other
// build they are constants, and nothing of this is left in the program.
const (
	offS3Wait   = false // A gives the term away without waiting
	offDeadline = false // H does not stop when its lease runs out
	offTerm     = false // A renews whatever term is asked for, H ignores a higher term
	offMachine  = false // A renews the lease of whoever has the holder's name
	offFirstAck = false // H starts units before its first renewal is acknowledged
)
