package agent

import (
	"context"
	"time"

	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
)

// reminder says when a master tells its neighbours again where the virtual IP is. Who was
// cut off while it moved has not heard of it, and Linux goes on believing its table for up
// to 45 s before it asks (base_reachable_time is 30 s, half of that more or less; seen on
// test hosts: 23 s and over 30 s without the API, after the network was whole again).
type reminder struct {
	alive int        // members at the last look
	next  lease.Time // 0 = at once
}

// remindEvery is how long a neighbour that is no member, or that gossip did not miss, may
// go on with the old place: a broadcast of 42 bytes, six times.
const remindEvery = 30 * time.Second

// due says whether to tell them now: when members came back, and every so often.
func (r *reminder) due(now lease.Time, alive int) bool {
	more := alive > r.alive
	r.alive = alive
	if !more && now < r.next {
		return false
	}
	r.next = now + remindEvery
	return true
}

// remind tells the neighbours where the virtual IP is, when that is due.
func (a *agent) remind(ctx context.Context, r *reminder) {
	alive := 0
	for _, m := range a.pool.Members() {
		if m.Status == member.Alive {
			alive++
		}
	}
	if !r.due(a.clock(), alive) {
		return
	}
	if err := a.host.Address.Announce(ctx); err != nil && ctx.Err() == nil {
		a.log.Warn("virtual IP not announced again", "err", err)
	}
}
