package quorum

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// store is all that a voter keeps: its promises, its log, its snapshots.
//
// Why not raft-wal 0.4.0: after a conflicting suffix was removed from its log
// (an arbiter that was cut off with an entry of its own) the segment is sealed
// without an index, and the next start of the agent panics (its issue 31); Close
// leaves the lock of its database held, and its log ends silently at the first
// bad record. What is stored here is so little that a plain file does.
type store struct {
	logs    raft.LogStore
	stable  raft.StableStore
	snaps   raft.SnapshotStore
	closers []io.Closer // closed in reverse
}

const keepSnapshots = 2

// memoryStore keeps nothing.
func memoryStore() *store {
	mem := raft.NewInmemStore()
	return &store{logs: mem, stable: mem, snaps: raft.NewInmemSnapshotStore()}
}

// openStore opens dir, which belongs to one node of one cluster. Whatever is
// not complete is refused, with the way out in the error: a voter that forgot
// its vote or an entry could help to elect two arbiters.
func openStore(dir, node, cluster string, fatal func(error), log hclog.Logger) (s *store, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the vote of this node in %s: %w", dir, err)
	}
	s = &store{}
	defer func() {
		if err == nil {
			return
		}
		_ = s.Close()
		err = fmt.Errorf("opening the vote of this node in %s: %w", dir, err)
		if errors.Is(err, errDamaged) {
			err = fmt.Errorf("%w; this node will not vote with it: on another member take its vote away, move %s aside, and start again: it then gets the state from the others", err, dir)
		}
		s = nil
	}()

	lock, err := lockDir(dir)
	if err != nil {
		return s, err
	}
	s.closers = append(s.closers, lock)
	b, err := openBallot(dir, node, cluster, fatal)
	if err != nil {
		return s, err
	}
	s.closers = append(s.closers, b)
	j, err := openJournal(dir, b)
	if err != nil {
		return s, err
	}
	s.closers = append(s.closers, j)
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, keepSnapshots, log)
	if err != nil {
		return s, err
	}
	s.logs, s.stable, s.snaps = j, b, snaps
	j.covered = func() (newest uint64) {
		metas, _ := snaps.List() // an error is logged and found again at the next start
		for _, m := range metas {
			newest = max(newest, m.Index)
		}
		return newest
	}
	return s, s.checkSnapshots(b)
}

// checkSnapshots makes sure that snapshots and log together are the whole story.
func (s *store) checkSnapshots(b *ballot) error {
	metas, err := s.snaps.List()
	if err != nil {
		return err
	}
	var newest uint64 // newest that can be read
	var bad error
	for _, m := range metas {
		_, r, err := s.snaps.Open(m.ID) // compares the checksum
		if err == nil {
			_, err = readSnapshot(r)
			err = errors.Join(err, r.Close())
		}
		if err != nil {
			bad = errors.Join(bad, fmt.Errorf("snapshot %s: %w", m.ID, err))
			continue
		}
		newest = max(newest, m.Index)
	}
	if errors.Is(bad, ErrNewer) {
		return bad
	}
	first, err := s.logs.FirstIndex()
	if err != nil {
		return err
	}
	_, floor := b.marks()
	if newest < floor || first > newest+1 {
		err := fmt.Errorf("entries up to %d were dropped from the log, but the newest snapshot reaches to %d: %w", max(floor, first-min(first, 1)), newest, errDamaged)
		return errors.Join(err, bad)
	}
	if last, err := s.logs.LastIndex(); err != nil || last >= newest {
		return err
	}
	// A snapshot from the leader was stored, then the power went before the old
	// log was dropped. The next entries would not fit.
	return s.logs.DeleteRange(0, newest)
}

// Close releases everything, the lock last.
func (s *store) Close() error {
	var err error
	for i := len(s.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, s.closers[i].Close())
	}
	s.closers = nil
	return err
}

// lockDir makes sure that only one agent uses dir.
func lockDir(dir string) (io.Closer, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, journalAccess)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s is locked, another relevo agent runs with this directory: %w", path, err)
	}
	return f, nil
}

func le64(v uint64) []byte     { return binary.LittleEndian.AppendUint64(nil, v) }
func from64(raw []byte) uint64 { return binary.LittleEndian.Uint64(raw) }
