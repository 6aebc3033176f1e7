package replica

import (
	"cmp"
	"context"
	"sync"
	"time"
)

// Position is how far a standby's copy is.
type Position struct {
	// Revision is the highest id in the copy. Until the next commit (see
	// FollowerConfig.SyncEvery) its newest part is in memory only: it is committed when
	// the follower stops, as it does before a promotion, and lost if the agent is killed.
	Revision int64
	// Committed is the part of it that is on disk, and survives a power cut.
	Committed int64
	// HeadRevision is the master's newest revision, as last heard.
	HeadRevision int64
	// FreshAt is the last moment, on the injected clock, at which the copy had
	// all that the master had; 0 if never since the agent started. Now minus
	// FreshAt is the lag in seconds: it grows as well when the stream stalls. It is
	// the moment at which the master's word arrived, so it is too late by the time
	// that this was on its way: milliseconds, more on a host that is very busy.
	FreshAt time.Duration
	// Complete says that a promotion could use what is here: the first copy
	// was finished once, and the identity was mirrored entirely once.
	Complete bool
	// IdentityErr is why the identity is not as on the master, for people; "" if it is.
	IdentityErr string
	// IdentityDigest is the digest of the identity as mirrored; "" if none.
	IdentityDigest string
	// Term is that of the master followed last.
	Term uint64
	// Stalled is why the stream is known to have stood still while the master went on, ""
	// if it is not; until the copy is fresh again.
	Stalled string
	// Err is why the copy is not following or not complete at the moment, for
	// people; "" if all is well.
	Err string
}

// Lag returns how far the copy is behind, in revisions, as last heard.
func (p Position) Lag() int64 { return max(0, p.HeadRevision-p.Revision) }

// board holds the Position, and wakes who waits for a change of it.
type board struct {
	mu       sync.Mutex
	pos      Position
	copied   bool   // first copy done
	mirrored bool   // identity complete
	streamed string // why rows are not following
	stalled  string // why it is known that they did not while the master went on
	identity string // why the identity is not
	changed  chan struct{}
}

func newBoard() *board { return &board{changed: make(chan struct{})} }

func (b *board) update(f func(b *board)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b)
	b.pos.Complete = b.copied && b.mirrored
	b.pos.Stalled, b.pos.IdentityErr = b.stalled, b.identity
	b.pos.Err = cmp.Or(b.stalled, b.streamed, b.identity)
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *board) get() (Position, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pos, b.changed
}

// Position returns where the copy is; it costs a lock and no I/O.
func (f *Follower) Position() Position {
	p, _ := f.board.get()
	return p
}

// Wait returns when cond is true of the position, or ctx ends.
func (f *Follower) Wait(ctx context.Context, cond func(Position) bool) error {
	for {
		p, changed := f.board.get()
		if cond(p) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
