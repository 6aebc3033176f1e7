package quorum

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// transferRest is how long nobody is asked again to take the arbiter's office over who
// did not. raft 1.8.0 loses its way when it is asked twice while the first question still
// lies in the queue of a follower that cannot be reached (leadershipTransfer, the send to
// triggerDeferErrorCh): if its leadership ends then, it refuses every entry of its next
// one as "leadership transfer in progress". The queue is looked at after each call to the
// follower. Such a call waits while the follower is away (see returns), so who is away is not
// asked at all; and between two calls that failed raft waits for up to ten seconds.
const transferRest = time.Minute

// errStuck ends an agent whose raft has lost its way all the same.
var errStuck = errors.New("raft takes this host for the leader and an old transfer of that office for unfinished, so nothing can be agreed on: the agent ends, and starts anew")

// TransferTo makes node, a voter, the arbiter.
func (q *Quorum) TransferTo(ctx context.Context, node string) error {
	what := "making " + node + " the arbiter"
	if err := checkName("node", node); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if !q.IsLeader() {
		return fmt.Errorf("%s: %w", what, q.notLeader())
	}
	if !q.MayTransferTo(node) {
		return fmt.Errorf("%s: it cannot be reached, or did not take that office over within the last %v", what, q.times.rest)
	}
	s := q.server(node)
	return q.wait(ctx, what, &transfer{q.raft.LeadershipTransferToServer(s.ID, s.Address), q, node})
}

// MayTransferTo says whether node can be asked to take the office over.
func (q *Quorum) MayTransferTo(node string) bool {
	if q.times.rest == 0 {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	at, ok := q.failed[node]
	return !q.trans.back.isAway(raft.ServerID(node)) && (!ok || time.Since(at) >= q.times.rest)
}

// transfer notes that it failed, also if nobody waits for it any more.
type transfer struct {
	raft.Future
	q    *Quorum
	node string
}

func (t *transfer) Error() error {
	err := t.Future.Error()
	if err != nil {
		t.q.mu.Lock()
		defer t.q.mu.Unlock()
		if t.q.failed == nil {
			t.q.failed = map[string]time.Time{}
		}
		t.q.failed[t.node] = time.Now()
	}
	return err
}

// handOn lets the other voters go on without waiting for a timeout, when the
// agent is restarted or upgraded.
func (q *Quorum) handOn() {
	servers, err := q.Servers()
	if err != nil || q.raft.State() != raft.Leader {
		return
	}
	for _, s := range servers {
		if s.Voter && s.Node != q.cfg.Node {
			ctx, cancel := context.WithTimeout(context.Background(), q.times.detect)
			defer cancel()
			if err := q.wait(ctx, "handing on the arbiter's duty", q.raft.LeadershipTransfer()); err != nil {
				q.log.Debug("stopping as arbiter without a successor", "err", err)
			}
			return
		}
	}
}
