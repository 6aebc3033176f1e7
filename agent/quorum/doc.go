// Package quorum is this node's part in the vote: the few facts that the voters
// must agree on (who holds the master lease, in which term, whether people have
// paused the cluster), replicated with Raft (hashicorp/raft), and the answer to
// "am I still the arbiter", which the arbiter needs before it acknowledges a
// renewal of the lease. It decides nothing: package lease does.
//
//	state.go, command.go, fsm.go   what is replicated, and what may change it
//	store.go, ballot.go, journal.go  what a voter keeps on its SD card
//	transport.go, timing.go, election.go, back.go  raft's calls and clocks
//	quorum.go, run.go              Open, Run, and the methods
//	confirm.go                     the proof for S2 and S3
//	plan.go                        who should vote
//
// # The disk
//
// An idle cluster writes nothing. A command costs one fsync on each voter before
// it is committed, and a small file (the mark up to where the log must reach) a
// moment later. A voter that cannot vouch for what it once promised (a damaged or
// shortened file, an SD card of another board) refuses to start and says what to
// do. What it cannot see is a directory that was emptied: take a node's vote away
// before its directory is removed.
//
// # Timings
//
// All derive from the lease TTL. The holder asks for a renewal every TTL/6 and
// begins to stop when none was acknowledged for 2/3 TTL. So when only the arbiter
// dies, the next one must be ready well before that: the aim is TTL/3. On the
// other hand every heartbeat wakes a 700 MHz board twice.
//
// raft 1.8.0 makes that hard in three ways, each met here:
//
//   - A leader beats every HeartbeatTimeout/10. So leaders get a longer
//     HeartbeatTimeout than followers (timings.forRole, run.go).
//   - A follower finds out between one and three HeartbeatTimeouts after the last
//     beat. It is made to look when one is over (Quorum.look, run.go).
//   - Two followers that find out together split the vote, and one that finds out
//     first is refused by the others; both try again one or two timeouts later.
//     So they take turns, and ask again soon (election.go).
//
// And a voter that is back after a while would get nothing for up to ten seconds more: see
// back.go.
//
// Measured with TTL 6 s and three voters (measure_test.go says how to repeat it).
// Idle: each voter a process with its directory on ext4, TCP on loopback, two busy
// amd64 cores; CPU and voluntary context switches of all threads. Next arbiter:
// from the leader's loss until the next one has applied its barrier, 400 times in
// simulated time, each message delayed by 5 to 80 ms (slow disks and radio).
//
//	                    leader         follower       next arbiter after
//	                    CPU/min  sw/s  CPU/min  sw/s  median  95 %    worst
//	raft's defaults     1.06 s   466   0.29 s   119   1.17 s  1.32 s   1.40 s
//	beats 0.4-0.8 s     0.14 s    69   0.05 s    23   1.45 s  1.65 s   1.78 s
//	slow                0.13 s    57   0.05 s    16   5.03 s  5.26 s   5.37 s
//	chosen              0.24 s    90   0.09 s    29   1.49 s  1.68 s   1.75 s
//	chosen, no turns                                  1.47 s  3.25 s   5.81 s
//
// "raft's defaults" has beats of 0.1–0.2 s, a timeout of 1 s, CommitTimeout 50 ms,
// and the cures above. "slow" has beats of 0.5–1 s, a timeout of 5 s, CommitTimeout
// 1 s. "chosen" has beats of 0.25–0.5 s, a timeout of 1.4 s, CommitTimeout 1.5 s,
// and steps down after 1.2 s without a majority; longer beats would save the
// arbiter 0.1 s a minute and leave two of them to a timeout. With processes that were killed (kill
// -9, 30 times, fast disk) "chosen" took 1.39 s at the median, 1.49 s
// at the 95th percentile, 1.51 s at worst.
package quorum
