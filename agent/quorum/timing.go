package quorum

import (
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// timings all derive from the lease TTL: an arbiter that dies must be replaced
// while the holder's lease still runs, or the control plane would stop although
// nothing is wrong with it. doc.go has the measurements behind the fractions.
type timings struct {
	heartbeat time.Duration // the leader beats every heartbeat to 2×heartbeat (raft draws)
	detect    time.Duration // a follower that heard nothing for so long stands for election
	lease     time.Duration // a leader that heard no majority for so long steps down
	commit    time.Duration // an idle leader compares logs every commit to 2×commit
	hold      time.Duration // another one's question before an election counts for so long
	again     time.Duration // who was refused asks again after this
	rpc       time.Duration // limit of one call between voters, dialling included
	rest      time.Duration // who did not take the arbiter's office over is not asked again before; 0 = everybody is, also who is away
}

const (
	minTTL = 3 * time.Second
	maxTTL = 60 * time.Second
	// DefaultTTL is the lease TTL when Config names none.
	DefaultTTL = 6 * time.Second
)

func timingsFor(ttl time.Duration) (timings, error) {
	if ttl == 0 {
		ttl = DefaultTTL
	}
	if ttl < minTTL || ttl > maxTTL {
		return timings{}, fmt.Errorf("lease TTL %v: %v to %v are possible", ttl, minTTL, maxTTL)
	}
	return timings{
		heartbeat: ttl / 24,
		detect:    ttl * 7 / 30,
		lease:     ttl / 5,
		commit:    ttl / 4,
		hold:      ttl / 10,
		again:     ttl / 40,
		rpc:       max(ttl/4, time.Second),
		rest:      transferRest,
	}, nil
}

// Snapshots: the log of a whole year is a few hundred entries, so both are small.
const (
	snapshotEvery     = 128             // entries
	keepEntries       = 64              // that a voter who was away can get without a snapshot
	snapshotLookAfter = 5 * time.Minute // a timer, not a write
)

func (t timings) config(node string) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(node)
	c.HeartbeatTimeout = t.detect
	c.ElectionTimeout = t.detect
	c.LeaderLeaseTimeout = t.lease
	c.CommitTimeout = t.commit
	c.SnapshotThreshold = snapshotEvery
	c.TrailingLogs = keepEntries
	c.SnapshotInterval = snapshotLookAfter
	c.ShutdownOnRemove = false
	c.NoLegacyTelemetry = true
	return c
}

// forRole returns the part of raft's configuration that depends on what this
// node is at the moment. raft uses one value for two things: a leader beats every
// HeartbeatTimeout/10, a follower stands for election after HeartbeatTimeout. Ten
// beats to a timeout is four times what is needed, and was 6 % of a Pi Zero. So
// a leader gets a longer one.
func (t timings) forRole(role raft.RaftState) raft.ReloadableConfig {
	timeout := t.detect
	if role == raft.Leader {
		timeout = max(10*t.heartbeat, t.lease)
	}
	return raft.ReloadableConfig{
		TrailingLogs:      keepEntries,
		SnapshotInterval:  snapshotLookAfter,
		SnapshotThreshold: snapshotEvery,
		HeartbeatTimeout:  timeout,
		ElectionTimeout:   timeout,
	}
}
