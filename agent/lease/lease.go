// Package lease is where relevo decides: who may run the control plane, until
// when, and who is next. It is two state machines, [Holder] and [Arbiter], each
// one function from (time, event) to actions. There is no clock, no I/O and no
// goroutine here; whoever runs a machine feeds it what was observed and carries
// out what it answers.
//
// The promise: at most one host runs the control plane. H is the holder, A the
// arbiter (the raft leader in its duty of granting the lease). All times are
// readings of a monotonic clock that counts suspend (CLOCK_BOOTTIME); the two
// never compare readings with each other, only durations.
//
//	S1  H runs control-plane units only while now < t_send + TTL, where t_send is
//	    when H sent the newest renewal that was acknowledged for its term.
//	S2  A acknowledges a renewal for (term, H) only when the replicated state names
//	    H for that term and a quorum has just confirmed that A still leads. It notes
//	    the moment on its own clock. H is one machine: another of the same name, with
//	    a copy of its SD card, is named in its place only when S3 would allow anybody else.
//	S3  A proposes a new term only when max(last ack to H, A became leader) +
//	    TTL×(1+drift) + margin has passed, or H released the term, or a fence
//	    device confirmed that H is off.
//	S4  A candidate starts units only after the term is committed and its own first
//	    renewal in that term is acknowledged.
//	S5  Stopping is finished inside the lease: it begins TTL/3 before the end, and
//	    what still runs TTL/6 before the end is killed.
//	S6  Everything carries the term; whoever sees a higher one stands down.
//
// Why S3 suffices for a new arbiter: some voter confirmed the old arbiter before
// it voted for the new one, and H counts from before that confirmation.
package lease

import (
	"fmt"
	"time"
)

// Time is a reading of CLOCK_BOOTTIME on one host. Readings of different hosts
// are not comparable.
type Time = time.Duration

// Forever is the deadline of a lease while the cluster is paused.
const Forever Time = 1<<63 - 1

// Timings derive from the one knob, lease_ttl.
type Timings struct{ TTL time.Duration }

// Bounds of lease_ttl. Below the first a slow SD card or a scheduling pause of
// an ARMv6 board looks like a dead master.
const (
	MinTTL = 3 * time.Second
	MaxTTL = 60 * time.Second
)

// Renew is the pause between two renewals: six tries in a lease.
func (t Timings) Renew() time.Duration { return t.TTL / 6 }

// StopBefore is how long before its end H begins to stop (S5).
func (t Timings) StopBefore() time.Duration { return t.TTL / 3 }

// KillBefore is how long before its end H kills what still runs (S5).
func (t Timings) KillBefore() time.Duration { return t.TTL / 6 }

// Wait is how long A waits after the last ack (S3). 2.1 % covers one clock that
// is 1 % slow and another 1 % fast (real boards: under 0.02 %); TTL/60 covers
// what a timer may be late.
func (t Timings) Wait() time.Duration { return t.TTL + t.TTL*21/1000 + t.TTL/60 }

// Stale is the age from which a candidate's report no longer counts.
func (t Timings) Stale() time.Duration { return t.TTL / 2 }

// Blackout is how long A waits for a holder that it has never heard before it
// trusts a standby whose freshness it cannot measure: after a power cut of
// everybody boards boot at different speeds, and H has the best data.
func (t Timings) Blackout() time.Duration { return 10 * t.TTL }

// PausePhase says whether automatic promotion is switched off.
type PausePhase string

// Running, Paused, and Resuming: a person asked to resume, and H has not yet
// shown that it knows. Until then H may run without a lease, so A may not give
// the term away.
const (
	Running  PausePhase = ""
	Paused   PausePhase = "paused"
	Resuming PausePhase = "resuming"
)

// Fact is the replicated state, as committed, together with the voters. It is an
// event for both machines. Holder "" with Term 0 is a cluster that never had a
// master.
type Fact struct {
	Term     uint64
	Holder   string
	Machine  uint64 // which one of that name
	Released bool   // H gave the term back
	Pause    PausePhase
	Epoch    uint64   // grows at each change of Pause
	InSync   []string // who had the newest data when a holder was last seen serving
	Served   uint64   // the term of that holder
	Acked    uint64   // a person acknowledged the failovers up to this term
	Voters   int
}

func (f Fact) names(node string, term uint64) bool {
	return f.Term == term && f.Holder == node && !f.Released && term != 0
}

// newer orders facts: raft delivers them in order, but a restart may replay
// older ones.
func (f Fact) newer(g Fact) bool {
	if f.Term != g.Term {
		return f.Term > g.Term
	}
	return f.Epoch >= g.Epoch && (f.Released || !g.Released)
}

func (f Fact) String() string {
	s := fmt.Sprintf("term %d held by %q", f.Term, f.Holder)
	if f.Released {
		s += " (released)"
	}
	if f.Pause != Running {
		s += " " + string(f.Pause)
	}
	return s
}

// Event is something observed; Action is something to do. Both are closed sets:
// the types of this package.
type (
	Event  interface{ event() }
	Action interface{ action() }
)

// Tick only says what time it is.
type Tick struct{}

func (Fact) event() {}
func (Tick) event() {}
