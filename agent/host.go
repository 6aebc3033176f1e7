package agent

import (
	"context"
	"net"
	"net/http"
	"time"

	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/replica"
	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/takeover"
)

// Host is this host as a candidate: everything that a master is, and everything
// that the agent does to it. A member that is no candidate has none. The real one
// is built in host_linux.go; the demo and the tests bring their own.
type Host struct {
	ControlPlane takeover.ControlPlane
	Data         Data
	Address      Address // nil without a virtual IP
	API          API
	Cluster      Cluster // nil: nothing is tidied up in Kubernetes
	Follower     Follower
	Inspector    Inspector    // nil: nothing is looked at
	Identity     *identity    // nil: not looked at
	Source       http.Handler // serves the datastore and the identity to standbys
	Copy         Copy         // nil: the copy is never compared
	Rehearse     Rehearser    // nil: nothing is rehearsed
	LeaseNote    LeaseNote
	Guard        Guard // nil: nobody kills for us
	// Restarting says whether who stops the agent starts it again at once, as an
	// upgrade does: then the control plane is left alone. nil: never.
	Restarting func(ctx context.Context) bool
	// Blocked tells who asks at the moment that this host is not restarted; nil: nobody
	// can be asked.
	Blocked func(ctx context.Context) ([]string, error)
	// Shutdowns waits for the host to be switched off, and calls before when it is; tell is
	// told how long it waits for that. It returns when it cannot wait (any more). nil:
	// nobody says so.
	Shutdowns func(ctx context.Context, tell func(patience time.Duration), before func(ctx context.Context)) error
	// Prepare runs once at start, before anything is decided: drop-ins, leftovers.
	Prepare func(ctx context.Context) error
}

// Data is the datastore and identity of the control plane on this host.
type Data interface {
	takeover.Data
	// OwnRevision is the highest revision of the datastore at the control plane's
	// own path; 0 if there is none.
	OwnRevision(ctx context.Context) (uint64, error)
	// Left is what the file system of the datastore can still take, and all that it has,
	// in bytes.
	Left(ctx context.Context) (free, total uint64, err error)
}

// API is the control plane's API, seen from this host.
type API interface {
	takeover.API
	Healthy(ctx context.Context) error // one quick look at /readyz
}

// Address is the virtual IP.
type Address interface {
	takeover.Address
	// Defend corrects the neighbours as long as another host, which it names, answers
	// for the address as well.
	Defend(ctx context.Context) (net.HardwareAddr, error)
}

// announcer is an Address that needs something from elsewhere to ask and to announce.
type announcer interface {
	Run(ctx context.Context) error // has it ready, until ctx ends
	Trouble() error                // why it is not there; nil = it is
}

// Follower tails the master.
type Follower interface {
	Run(ctx context.Context) error // until ctx ends
	Position() replica.Position
}

// Copy is the follower's copy as something to be checked.
type Copy interface {
	// Compare finds where it differs from the master's datastore; an error says that
	// they could not be compared.
	Compare(ctx context.Context, limit int) (kine.Comparison, error)
	// Prove compares the checksums of all revisions above one, up to another, for which it
	// waits; or, with 0, up to what both have. An error if they differ, or could not be
	// compared.
	Prove(ctx context.Context, after, upTo int64) (replica.Proof, error)
	// Anew sets it aside and has it copied again.
	Anew(ctx context.Context, why string) error
}

// LeaseNote is where the fence finds the lease.
type LeaseNote interface {
	Write(term uint64, deadline lease.Time, mayStart bool) error
	Remove() error
	Read() (lease.Lease, error) // zero if there is none
}

// Guard is PID 1's timer: it kills the control plane at a moment, whatever becomes
// of the agent.
type Guard interface {
	Arm(ctx context.Context, in time.Duration) error
	Disarm(ctx context.Context) error
}

// Clock reads CLOCK_BOOTTIME.
type Clock func() lease.Time
