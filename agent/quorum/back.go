package quorum

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A voter that was away gets the log as soon as it is back. raft 1.8.0 would make it wait:
// after n failures in a row it sends nothing for 10 ms × 2^n, up to 10 s (replication.go,
// backoff), and nothing ends the wait early. For so long the voter that came back does not
// know who is the master, and counts in no agreement; one more that fails meanwhile, and
// there is none. So a call that carries the log to a voter that is away does not fail, again
// and again: it waits for the next heartbeat that arrives, and goes out then.

// returns tells when a heartbeat has arrived at a voter.
type returns struct {
	mu   sync.Mutex
	next map[raft.ServerID]chan struct{} // closed by the next heartbeat that arrives
	away map[raft.ServerID]bool          // the last one did not arrive
}

// after is closed by the next heartbeat that arrives there.
func (r *returns) after(id raft.ServerID) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.next[id]
	if c == nil {
		c = make(chan struct{})
		if r.next == nil {
			r.next = map[raft.ServerID]chan struct{}{}
		}
		r.next[id] = c
	}
	return c
}

func (r *returns) sent(id raft.ServerID, arrived bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !arrived {
		if r.away == nil {
			r.away = map[raft.ServerID]bool{}
		}
		r.away[id] = true
		return
	}
	delete(r.away, id)
	if c := r.next[id]; c != nil {
		close(c)
		delete(r.next, id)
	}
}

func (r *returns) isAway(id raft.ServerID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.away[id]
}

// isHeartbeat: what raft sends beside the log says nothing of it (raft's own NetworkTransport
// tells them apart the same way).
func isHeartbeat(args *raft.AppendEntriesRequest) bool {
	return args.PrevLogEntry == 0 && args.PrevLogTerm == 0 && len(args.Entries) == 0 && args.LeaderCommitIndex == 0
}

// AppendEntries sends a heartbeat, or the log: again, once, when it was lost and the next
// heartbeat has arrived. A follower takes the same entries twice without harm.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if isHeartbeat(args) {
		err := t.NetworkTransport.AppendEntries(id, target, args, resp)
		t.back.sent(id, err == nil)
		return err
	}
	back := t.back.after(id)
	var answer raft.AppendEntriesResponse
	err := t.NetworkTransport.AppendEntries(id, target, args, &answer)
	if err != nil && t.waitForReturn(back, id, args.Term) {
		answer = raft.AppendEntriesResponse{}
		err = t.NetworkTransport.AppendEntries(id, target, args, &answer)
	}
	*resp = answer
	return err
}

// waitForReturn waits until back is closed. False: there is no more reason to wait.
func (t *transport) waitForReturn(back <-chan struct{}, id raft.ServerID, term uint64) bool {
	look := time.NewTicker(t.times.detect)
	defer look.Stop()
	for {
		select {
		case <-back:
			return true
		case <-t.closed:
			return false
		case <-look.C:
			if !t.sends(id, term) {
				return false
			}
		}
	}
}

// sends says whether this node still leads in a raft term, and the log goes to a server.
func (t *transport) sends(id raft.ServerID, term uint64) bool {
	r := t.raft.Load()
	if r == nil || r.State() != raft.Leader || r.CurrentTerm() != term {
		return false
	}
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.ID == id {
			return true
		}
	}
	return false
}
