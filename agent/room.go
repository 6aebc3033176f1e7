package agent

import (
	"context"
	"fmt"
	"time"

	"relevo.dev/relevo/agent/lease"
)

// A master leaves while its datastore still has room: kine on a full disk was seen to
// acknowledge what it did not store. The condition DiskFull comes much earlier (5 % or
// 256 MiB), and gives a person time to clean up; this is for when nobody did, or when
// something fills a card at the tens of megabytes a second that it takes.
const (
	roomEvery   = time.Second
	scarceBytes = 64 << 20
	scarceShare = 40 // of a small file system, a fortieth
)

// room is what a master has seen of it.
type room struct {
	scarce bool
	why    string // this host should not stay the master; "" = there is enough, or it is not known
}

// look takes free and all bytes of a file system. It ends with twice as much as it begins.
func (r *room) look(free, total uint64) bool {
	limit := min(scarceBytes, total/scarceShare)
	if r.scarce {
		limit *= 2
	}
	r.scarce = free < limit
	return r.scarce
}

// watchRoom looks, and tells the arbiter with the next renewal.
func (a *agent) watchRoom(ctx context.Context, r *room) {
	if a.phase() != lease.Master {
		return
	}
	r.why = ""
	if free, total, err := a.host.Data.Left(ctx); err == nil && r.look(free, total) {
		r.why = fmt.Sprintf("the file system of its datastore has %d MB left of %d MB; on a full one kine acknowledges what it does not store", free/1e6, total/1e6)
		a.shouldLeave(r.why, a.clock())
	}
}

// shouldLeave notes why this host should not stay the master, as seen at some time.
func (a *agent) shouldLeave(why string, at lease.Time) {
	if was := a.trouble.Load(); was != nil && was.now {
		at = was.since
	} else {
		a.log.Error("this host should not stay the master", "why", why)
		a.seenHere.note("should not stay the master: %s", why)
	}
	a.trouble.Store(&trouble{why, at, true})
}
