package quorum

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

// Run looks after this node's part in the vote until ctx ends, then hands the
// arbiter's duty on if it has it, and stops everything. It returns nil after
// ctx, or why this node cannot go on: ErrNewer, or a disk that does not keep
// promises any more.
func (q *Quorum) Run(ctx context.Context) error {
	err := q.watch(ctx)
	if err == nil {
		q.handOn()
	}
	return errors.Join(err, q.Close())
}

// Close stops everything and returns when all goroutines have ended. Run does it
// too; further calls return the same.
func (q *Quorum) Close() error {
	q.once.Do(func() {
		q.mu.Lock()
		q.closed = true
		q.mu.Unlock()
		close(q.closing)
		// The transport first: it ends the calls that raft's goroutines wait for.
		err := q.trans.Close()
		down := q.raft.Shutdown().Error()
		q.workers.Wait()
		q.closeEr = errors.Join(err, down, q.store.Close())
	})
	return q.closeEr
}

// watch follows raft: it sets what depends on the role, finds a dead leader in
// time, and makes a new leader ready.
func (q *Quorum) watch(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	role, leader := raft.Shutdown, "" // no role yet
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-q.closing:
			return ErrClosed
		case err := <-q.fatal:
			q.log.Error("quorum stopped", "err", err)
			return err
		case <-q.fsm.halted:
			q.log.Error("quorum stopped", "err", q.fsm.why)
			return q.fsm.why
		case <-q.events:
		case <-timer.C:
		}
		if now := q.raft.State(); now != role {
			first := role == raft.Shutdown
			role = now
			q.assume(role)
			if first {
				q.alone()
			}
			q.notify()
		}
		if now := q.Leader(); now != leader {
			q.log.Info("arbiter changed", "arbiter", orNobody(now), "before", orNobody(leader), "raft_term", q.raft.CurrentTerm())
			leader = now
			q.notify()
		}
		timer.Reset(q.look(role, leader))
	}
}

// assume sets what depends on the role.
func (q *Quorum) assume(role raft.RaftState) {
	q.reload(q.times.forRole(role))
	if role == raft.Leader {
		q.spawn(q.prepare)
	}
}

func (q *Quorum) reload(c raft.ReloadableConfig) {
	if err := q.raft.ReloadConfig(c); err != nil {
		// Only timings that contradict each other do this; raft goes on with the old ones.
		q.log.Error("setting raft's timings failed, elections may take longer", "err", err)
	}
}

// prepare makes a fresh leader ready: when the barrier is applied, so is all
// that was agreed on before the election.
func (q *Quorum) prepare() {
	term := q.raft.CurrentTerm()
	for begin := time.Now(); ; {
		err := q.raft.Barrier(0).Error()
		if err == nil {
			break
		}
		if !errors.Is(err, raft.ErrLeadershipTransferInProgress) {
			return // leadership lost again, or stopped
		}
		// The transfer is one of an earlier leadership: it ends with its last call, or never.
		if time.Since(begin) > 3*q.times.rpc {
			q.fail(errStuck)
			return
		}
		select {
		case <-q.closing:
			return
		case <-time.After(q.times.detect / 4):
		}
	}
	if q.raft.State() == raft.Leader && q.raft.CurrentTerm() == term {
		q.ready.Store(term)
		q.notify()
	}
}

// look returns when to look again. A follower whose leader has been silent for
// the detection time is told to stand for election: raft's own timer is drawn
// between one and two timeouts and then only starts anew if the leader was heard
// since, so alone it takes up to three.
func (q *Quorum) look(role raft.RaftState, leader string) time.Duration {
	idle := 10 * q.times.detect
	if role != raft.Follower || leader == "" {
		return idle // an event comes when that changes; this is for one that was lost
	}
	if wait := q.times.detect - time.Since(q.raft.LastContact()); wait > 0 {
		return wait + time.Millisecond
	}
	q.check()
	return q.times.detect / 4
}

// check makes raft compare the leader's last sign of life with the timeout now.
// raft does so whenever the timeout is shortened.
func (q *Quorum) check() {
	c := q.times.forRole(raft.Follower)
	longer := c
	longer.HeartbeatTimeout += time.Millisecond
	longer.ElectionTimeout += time.Millisecond
	q.reload(longer)
	q.reload(c)
}

// alone spares the only voter the wait for a leader that cannot be there.
func (q *Quorum) alone() {
	servers, err := q.Servers()
	if err != nil || q.raft.State() != raft.Follower {
		return
	}
	voters := 0
	for _, s := range servers {
		if s.Voter {
			voters++
			if s.Node != q.cfg.Node {
				return
			}
		}
	}
	if voters == 1 {
		q.check()
	}
}
