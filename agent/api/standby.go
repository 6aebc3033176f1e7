package api

import "time"

// Verification is a comparison of a standby's copy with the master's datastore.
type Verification struct {
	Node  string    `json:"node"` // the standby
	At    time.Time `json:"at"`
	Equal bool      `json:"equal"`
	// Rows that were compared, up to Revision.
	Rows     int64   `json:"rows"`
	Revision int64   `json:"revision"`
	Seconds  float64 `json:"seconds"` // how long it took
	// Differences, in the order of their revisions; More says that there are others.
	Differences []RowDifference `json:"differences,omitempty"`
	More        bool            `json:"more,omitempty"`
	// Healing says that the copy was set aside and is being copied again.
	Healing bool `json:"healing,omitempty"`
	// Error is why they could not be compared; then Equal says nothing.
	Error string `json:"error,omitempty"`
}

// RowDifference is one revision at which a copy is not what the master has.
type RowDifference struct {
	Revision int64  `json:"revision"`
	Key      string `json:"key"`   // of the object, as in /registry/configmaps/default/x
	Where    string `json:"where"` // in the copy only, on the master only, or both, and not the same
}

// Rehearsal is a promotion that was tried on a standby, beside what it really does.
type Rehearsal struct {
	Node string    `json:"node"`
	At   time.Time `json:"at"`
	OK   bool      `json:"ok"`
	// Depth is "database" (restored, checked, jumped ahead, the canary read from it) or
	// "control plane" (and its programs were started on that, became ready and served it).
	Depth string `json:"depth"`
	// ReadySeconds is how long a promotion would have taken from the copy to a canary that
	// was read; Seconds how long all of it took.
	ReadySeconds float64 `json:"ready_seconds"`
	Seconds      float64 `json:"seconds"`
	Steps        []Step  `json:"steps,omitempty"`
	// Why the control plane was not started.
	Why   string `json:"why,omitempty"`
	Error string `json:"error,omitempty"` // why it failed
}
