package quorum

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// election keeps two followers that lose the leader within the same moment from
// splitting the vote, which in raft costs another election timeout or two: with
// messages and disks of 5 to 80 ms every tenth election took twice as long.
//
// Everything here is about pre-votes: questions before an election, by which
// nobody promises anything. Turning one down, or asking again, changes who stands
// and when, never who may win. The rules:
//
//   - Of two that ask each other, the one whose name sorts first goes on: it turns
//     the other's question down while its own is under way.
//   - Who let somebody else's question pass holds back with its own for a moment.
//   - Who is refused asks again soon. Most refusals mean that the other has not
//     yet missed the leader, and a moment later it has.
type election struct {
	node string
	hold time.Duration // how long a question counts as under way

	mu    sync.Mutex
	asked map[raft.ServerID]time.Time // when this node asked, unless it was refused since
	quiet time.Time                   // until then another one's turn
}

func newElection(node string, hold time.Duration) *election {
	return &election{node: node, hold: hold, asked: map[raft.ServerID]time.Time{}}
}

// turn returns how long this node has to hold back; 0: it asks to now.
func (e *election) turn(to raft.ServerID) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if wait := time.Until(e.quiet); wait > 0 {
		return wait
	}
	e.asked[to] = time.Now()
	return 0
}

// answered notes an answer, and says whether a pre-vote that was granted may be used.
func (e *election) answered(from raft.ServerID, granted bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if granted && time.Until(e.quiet) <= 0 {
		return true
	}
	delete(e.asked, from)
	return false
}

// pass says whether another node's question may reach raft.
func (e *election) pass(from raft.ServerID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if at, ok := e.asked[from]; ok && e.node < string(from) && time.Since(at) < e.hold {
		return false
	}
	e.quiet = time.Now().Add(e.hold)
	return true
}
