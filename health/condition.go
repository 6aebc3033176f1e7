package health

import "time"

// Type of a condition.
type Type string

// The conditions, the gravest first: what is true of a host in trouble.
const (
	ReadOnlyRoot            Type = "ReadOnlyRoot"            // the root or the agent's file system refuses writes
	FilesystemErrorsGrowing Type = "FilesystemErrorsGrowing" // ext4 met new errors
	DiskErrors              Type = "DiskErrors"              // a drive answers with errors
	DiskFull                Type = "DiskFull"
	InodesFull              Type = "InodesFull" // no more files, though there is space
	DiskSlow                Type = "DiskSlow"   // writes take very long to be on the disk
	ClockImplausible        Type = "ClockImplausible"
	FilesystemErrors        Type = "FilesystemErrors" // ext4 met errors once, and nobody repaired them
	CardWornOut             Type = "CardWornOut"      // an eMMC at the end of its life
	UnderVoltage            Type = "UnderVoltage"
	Throttled               Type = "Throttled"
	Hot                     Type = "Hot"
	MemoryPressure          Type = "MemoryPressure"
	ClockNotSynchronized    Type = "ClockNotSynchronized"
	ClockJumped             Type = "ClockJumped"
	LinkFlapping            Type = "LinkFlapping"
	LinkErrors              Type = "LinkErrors"
	WeakSignal              Type = "WeakSignal"
	UnitFailed              Type = "UnitFailed"
)

// Types are all conditions, in the order in which they are shown.
func Types() []Type {
	out := make([]Type, len(table))
	for i, k := range table {
		out[i] = k.typ
	}
	return out
}

// Condition is something about this host that a person, or the failover, should
// know.
type Condition struct {
	Type   Type  `json:"type"`
	Status Truth `json:"status"` // true = it is so
	// Reason is one word for machines, Message a sentence for people.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	Advice  string `json:"advice,omitempty"` // what to do
	// Since when the status is what it is, by the wall clock; For how long, by a clock
	// that nobody sets.
	Since time.Time `json:"since,omitzero"`
	For   float64   `json:"for_seconds"`
}

// Change is a condition whose status changed.
type Change struct {
	Condition
	Was Truth `json:"was"`
}
