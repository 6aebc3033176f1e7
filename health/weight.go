package health

import "time"

// kind is what there is to know of a type of condition.
type kind struct {
	typ  Type
	code string // in a digest: two letters, for ever
	// standby and master are what it means for the lease: how long it may hold until a
	// standby is not ready any more, and a master should leave while it still can, if a
	// ready standby is there; negative = never.
	standby, master time.Duration
}

const never time.Duration = -1

// table is all conditions, the gravest first. Where a condition weighs, the host is
// about to lose the ability to keep what it promised: to write down what the API
// acknowledged, or to prove who it is. What only makes it slow or hard to reach
// weighs nothing: the lease itself notices, and a change of master costs seconds.
//
// A master waits longer than a standby: on the day on which a card is bad on all
// boards, nobody should run in circles. Nothing here ever stops a control plane
// without a ready standby.
var table = [...]kind{
	{ReadOnlyRoot, "ro", 0, 10 * time.Second}, // nothing is durable any more
	{FilesystemErrorsGrowing, "fg", 0, time.Minute},
	{DiskErrors, "de", 0, 5 * time.Minute},
	{DiskFull, "df", 0, 5 * time.Minute}, // 5 % are left at first: time to clean up
	{InodesFull, "if", 0, 5 * time.Minute},
	{DiskSlow, "ds", time.Minute, 5 * time.Minute}, // an upgrade of the system passes
	{ClockImplausible, "ci", 0, 5 * time.Minute},   // no certificate is valid in 1970
	{FilesystemErrors, "fe", never, never},         // old: for a person
	{CardWornOut, "cw", never, never},              // weeks of warning
	{UnderVoltage, "uv", never, never},             // comes and goes with the load, which moves with the master
	{Throttled, "th", never, never},                // slow is not broken
	{Hot, "ht", never, never},                      //
	{MemoryPressure, "mp", never, never},           // systemd and the API's own probe see what comes of it
	{ClockNotSynchronized, "cs", never, never},     // a LAN without internet is in order
	{ClockJumped, "cj", never, never},              // no decision hangs on the wall clock
	{LinkFlapping, "lf", never, never},             // renewals are the test of a link
	{LinkErrors, "le", never, never},               //
	{WeakSignal, "ws", never, never},               //
	{UnitFailed, "uf", never, never},               // the control plane's own units are watched elsewhere
}

// kindOf finds the row of a type.
func kindOf(t Type) (kind, bool) {
	for _, k := range table {
		if k.typ == t {
			return k, true
		}
	}
	return kind{}, false
}

// Weight of a condition for the lease.
type Weight struct {
	// StandbyAfter it has held this long, a standby is not ready; negative = never.
	StandbyAfter time.Duration
	// MasterAfter it has held this long, a master should give the lease to a ready
	// standby; negative = never.
	MasterAfter time.Duration
}

// WeightOf a type; a type that is not known here weighs nothing.
func WeightOf(t Type) Weight {
	k, ok := kindOf(t)
	if !ok {
		return Weight{never, never}
	}
	return Weight{k.standby, k.master}
}

// Verdict is what the conditions of a host mean for the lease.
type Verdict struct {
	// NotReady are the conditions for which a standby is not ready, Leave those for
	// which a master should go; the gravest first. Empty = none.
	NotReady, Leave []Condition
}

// Weigh looks up what conditions mean, by how long they have held.
func Weigh(conditions []Condition) Verdict {
	var v Verdict
	for _, k := range table {
		for _, c := range conditions {
			if c.Type != k.typ || c.Status != Yes {
				continue
			}
			held := time.Duration(c.For * float64(time.Second))
			if k.standby >= 0 && held >= k.standby {
				v.NotReady = append(v.NotReady, c)
			}
			if k.master >= 0 && held >= k.master {
				v.Leave = append(v.Leave, c)
			}
		}
	}
	return v
}
