package quorum

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
)

// ballot keeps raft's promises on disk: the raft term, whom this node voted for,
// and how far its log has reached. It is one small file, replaced as a whole.
//
// File: one line "relevo ballot 1 <crc32c of the rest, hex>", then JSON.
type ballot struct {
	path string
	// fatal is told when a promise cannot be kept. raft itself would panic.
	fatal func(error)

	mu      sync.Mutex
	data    ballotData
	staged  []byte // LastVoteTerm, waiting for the candidate's name
	mark    uint64 // what data.Last is to become
	wake    chan struct{}
	closing chan struct{}
	done    chan struct{}
}

type ballotData struct {
	Node    string            `json:"node"`    // an SD card that is copied to another board is refused
	Cluster string            `json:"cluster"` // likewise a directory of another cluster
	Stable  map[string][]byte `json:"stable"`  // raft's own keys
	Last    uint64            `json:"last"`    // the log reaches at least to this entry
	Floor   uint64            `json:"floor"`   // entries up to here were dropped: a snapshot covers them
}

const (
	ballotFile  = "ballot"
	ballotSpare = "ballot.new"
	ballotHead  = "relevo ballot 1 "
	maxBallot   = 64 << 10

	// Names that raft gives its keys (raft.go: keyCurrentTerm and so on).
	keyTerm      = "CurrentTerm"
	keyVoteTerm  = "LastVoteTerm"
	keyVotedFor  = "LastVoteCand"
	stableValues = 16 // keys at most
)

// openBallot reads the file in dir, or makes a new one if there is neither a log
// nor a snapshot that it should belong to.
func openBallot(dir, node, cluster string, fatal func(error)) (*ballot, error) {
	b := &ballot{
		path: filepath.Join(dir, ballotFile), fatal: fatal,
		wake: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}),
	}
	f, err := os.Open(b.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		for _, other := range []string{journalFile, "snapshots"} {
			if _, err := os.Stat(filepath.Join(dir, other)); err == nil {
				return nil, fmt.Errorf("%s is missing beside %s: %w", b.path, other, errDamaged)
			}
		}
		b.data = ballotData{Node: node, Cluster: cluster, Stable: map[string][]byte{}}
		if err := b.save(); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		raw, err := io.ReadAll(io.LimitReader(f, maxBallot+1))
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		if b.data, err = parseBallot(raw); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", b.path, err, errDamaged)
		}
		if b.data.Node != node || b.data.Cluster != cluster {
			return nil, fmt.Errorf("%s belongs to node %q of cluster %q, this is node %q of cluster %q (was an SD card copied, or the host renamed?): %w",
				b.path, b.data.Node, b.data.Cluster, node, cluster, errDamaged)
		}
	}
	b.mark = b.data.Last
	go b.follow()
	return b, nil
}

func parseBallot(raw []byte) (ballotData, error) {
	var d ballotData
	if len(raw) > maxBallot {
		return d, fmt.Errorf("it has more than %d bytes", maxBallot)
	}
	head, body, ok := bytes.Cut(raw, []byte("\n"))
	if !ok || !bytes.HasPrefix(head, []byte(ballotHead)) {
		return d, errors.New("it does not begin like a ballot of relevo")
	}
	if string(head[len(ballotHead):]) != checksum(body) {
		return d, errors.New("its checksum is wrong")
	}
	if err := strict(body, &d); err != nil {
		return d, err
	}
	if d.Stable == nil || len(d.Stable) > stableValues {
		return d, fmt.Errorf("%d values, at most %d are expected", len(d.Stable), stableValues)
	}
	for _, key := range []string{keyTerm, keyVoteTerm} {
		if v := d.Stable[key]; v != nil && len(v) != 8 {
			return d, fmt.Errorf("%s has %d bytes", key, len(v))
		}
	}
	return d, nil
}

func checksum(body []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(body, castagnoli)) }

// save writes the file. The caller holds mu (or is alone).
func (b *ballot) save() error {
	body, err := json.Marshal(b.data)
	if err != nil {
		return err
	}
	raw := append([]byte(ballotHead+checksum(body)+"\n"), body...)
	return replaceFile(filepath.Join(filepath.Dir(b.path), ballotSpare), b.path, raw)
}

// Set stores a value of raft.
func (b *ballot) Set(key, val []byte) error { return b.put(string(key), bytes.Clone(val)) }

// SetUint64 stores a number of raft.
func (b *ballot) SetUint64(key []byte, val uint64) error {
	return b.put(string(key), le64(val))
}

func (b *ballot) put(key string, val []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if key == keyVoteTerm {
		// raft stores the term of a vote and then the name, and votes after
		// that. Both go to the disk together: one write less on an SD card, and
		// never half a vote.
		b.staged = val
		return nil
	}
	if old, ok := b.data.Stable[key]; ok && bytes.Equal(old, val) && b.staged == nil {
		return nil // raft sets the present term again at each start
	}
	before := b.data.Stable
	b.data.Stable = make(map[string][]byte, len(before)+2)
	for k, v := range before {
		b.data.Stable[k] = v
	}
	b.data.Stable[key] = val
	if key == keyVotedFor && b.staged != nil {
		b.data.Stable[keyVoteTerm] = b.staged
		b.staged = nil
	}
	err := b.save()
	if err == nil {
		return nil
	}
	b.data.Stable = before
	err = fmt.Errorf("this node cannot promise its vote, %s cannot be written: %w", b.path, err)
	if key == keyTerm {
		// raft panics when the term cannot be stored, and the whole agent with
		// it. End only raft's goroutine: its deferred calls clean up, and Run
		// returns the error, so that the agent can stop in good order.
		b.fatal(err)
		runtime.Goexit()
	}
	return err
}

// Get returns a value of raft, empty if there is none.
func (b *ballot) Get(key []byte) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.data.Stable[string(key)]), nil
}

// GetUint64 returns a number of raft, 0 if there is none.
func (b *ballot) GetUint64(key []byte) (uint64, error) {
	raw, err := b.Get(key)
	if err != nil || len(raw) == 0 {
		return 0, err
	}
	if len(raw) != 8 {
		return 0, fmt.Errorf("%s: %s is not a number", b.path, key)
	}
	return from64(raw), nil
}

// marks returns how far the log must reach, and up to where a snapshot must.
func (b *ballot) marks() (last, floor uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Last, b.data.Floor
}

// reached notes that the log reaches to entry last. It does not wait for the
// disk: an append would take three fsyncs instead of one. The mark follows in a
// moment, and a power cut before that only means that one entry less is watched.
func (b *ballot) reached(last uint64) {
	b.mu.Lock()
	b.mark = last
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// lower is called before entries are removed, and waits for the disk: the log
// will reach only to last (0 = it will be empty); entries up to floor are covered by a snapshot.
func (b *ballot) lower(last, floor uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.data
	b.data.Last = min(b.data.Last, last)
	b.data.Floor = max(b.data.Floor, floor)
	if err := b.save(); err != nil {
		b.data = old
		return fmt.Errorf("writing %s: %w", b.path, err)
	}
	b.mark = last
	return nil
}

// follow writes the mark after each append, once for several.
func (b *ballot) follow() {
	defer close(b.done)
	for {
		select {
		case <-b.wake:
			// An error here costs protection, not safety; the next write that
			// matters will fail aloud.
			_ = b.catchUp()
		case <-b.closing:
			return
		}
	}
}

func (b *ballot) catchUp() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mark == b.data.Last {
		return nil
	}
	old := b.data.Last
	b.data.Last = b.mark
	err := b.save()
	if err != nil {
		b.data.Last = old
	}
	return err
}

// Close writes the last mark and ends the goroutine.
func (b *ballot) Close() error {
	close(b.closing)
	<-b.done
	return b.catchUp()
}
