package quorum

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// journal is raft's log on disk: one file to which records are appended, and all
// of it in memory, because all of it is a few hundred small entries.
//
// File: the magic, then records of
//
//	length u32 | crc32c(payload) u32 | payload
//	payload: index u64, term u64, type u8, appended at i64 (ns), data length u32, data, extensions
//
// all little-endian. An append is one write and one fsync; it is acknowledged
// after the fsync. So only the end of the file may be torn, and only if nobody
// was told of it. Whether anybody was told is known from the ballot file (see
// ballot.go), which follows the journal: an end before that mark is a loss.
type journal struct {
	path    string
	ballot  *ballot
	covered func() uint64 // up to which entry the newest snapshot reaches

	mu      sync.Mutex
	file    *os.File
	size    int64       // bytes of the file that are good
	entries []*raft.Log // consecutive indexes
	broken  error       // a failed write left the file in an unknown state
}

const (
	journalMagic  = "relevo raft log 1\n"
	recordHead    = 8
	payloadHead   = 8 + 8 + 1 + 8 + 4
	maxRecord     = 1 << 20  // bytes of one payload: a command has 64 KiB at most, a list of servers less
	maxJournal    = 64 << 20 // bytes of the file when it is read: far above what compaction leaves
	journalFile   = "log"
	journalSpare  = "log.new"
	journalAccess = 0o600
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged is in every error that says that the stored state cannot be trusted.
var errDamaged = errors.New("damaged")

// openJournal reads the whole log in dir. A missing file is an empty log only if
// the ballot says that it should be empty.
func openJournal(dir string, b *ballot) (*journal, error) {
	j := &journal{path: filepath.Join(dir, journalFile), ballot: b, covered: func() uint64 { return 0 }}
	info, err := os.Stat(j.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if last, _ := b.marks(); last > 0 {
			return nil, fmt.Errorf("%s is missing, it should reach to entry %d: %w", j.path, last, errDamaged)
		}
		if err := j.rewrite(nil); err != nil {
			return nil, err
		}
		return j, nil
	case err != nil:
		return nil, err
	case info.Size() > maxJournal:
		return nil, fmt.Errorf("%s has %d bytes, at most %d are expected: %w", j.path, info.Size(), maxJournal, errDamaged)
	}
	j.file, err = os.OpenFile(j.path, os.O_RDWR, journalAccess)
	if err != nil {
		return nil, err
	}
	if err := j.load(info.Size()); err != nil {
		return nil, errors.Join(err, j.file.Close())
	}
	return j, nil
}

// load fills entries and cuts a torn end off.
func (j *journal) load(size int64) error {
	entries, good, torn, err := readJournal(bufio.NewReader(j.file))
	if err != nil {
		return fmt.Errorf("%s: %w: %w", j.path, err, errDamaged)
	}
	j.entries, j.size = entries, good
	if last, _ := j.ballot.marks(); j.last() < last {
		if torn == nil {
			torn = errors.New("the file ends there")
		}
		return fmt.Errorf("%s can be read up to entry %d, but this node told others that it has entry %d: %w: %w", j.path, j.last(), last, torn, errDamaged)
	}
	if good == size {
		return nil
	}
	// What follows was never acknowledged: the write was cut short.
	if err := j.file.Truncate(good); err != nil {
		return err
	}
	return j.file.Sync()
}

// readJournal reads records until the end or until one is not good. good is the
// offset after the last good record, torn says what is wrong with the next one
// (nil at a clean end). err is for what a torn write cannot explain.
func readJournal(r io.Reader) (entries []*raft.Log, good int64, torn, err error) {
	magic := make([]byte, len(journalMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != journalMagic {
		return nil, 0, nil, errors.New("it does not begin like a log of relevo")
	}
	good = int64(len(journalMagic))
	for {
		var head [recordHead]byte
		if n, err := io.ReadFull(r, head[:]); err != nil {
			if n == 0 && errors.Is(err, io.EOF) {
				return entries, good, nil, nil
			}
			return entries, good, fmt.Errorf("the record at byte %d is cut short", good), nil
		}
		length := binary.LittleEndian.Uint32(head[:])
		if length < payloadHead || length > maxRecord {
			return entries, good, fmt.Errorf("the record at byte %d claims %d bytes", good, length), nil
		}
		payload := make([]byte, length)
		if _, err := io.ReadFull(r, payload); err != nil {
			return entries, good, fmt.Errorf("the record at byte %d is cut short", good), nil
		}
		if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
			return entries, good, fmt.Errorf("the record at byte %d has a wrong checksum", good), nil
		}
		l, err := decodeRecord(payload)
		if err != nil {
			return nil, 0, nil, fmt.Errorf("the record at byte %d: %w", good, err)
		}
		if n := len(entries); n > 0 && l.Index != entries[n-1].Index+1 {
			return nil, 0, nil, fmt.Errorf("the record at byte %d is entry %d, it follows entry %d", good, l.Index, entries[n-1].Index)
		}
		entries = append(entries, l)
		good += recordHead + int64(length)
	}
}

func decodeRecord(p []byte) (*raft.Log, error) {
	le := binary.LittleEndian
	n := uint64(le.Uint32(p[25:]))
	if n > uint64(len(p)-payloadHead) {
		return nil, fmt.Errorf("%d bytes of data in a record of %d", n, len(p))
	}
	l := &raft.Log{Index: le.Uint64(p), Term: le.Uint64(p[8:]), Type: raft.LogType(p[16])}
	if ns := int64(le.Uint64(p[17:])); ns != 0 {
		l.AppendedAt = time.Unix(0, ns)
	}
	if l.Index == 0 {
		return nil, errors.New("entry 0")
	}
	l.Data = p[payloadHead : payloadHead+n : payloadHead+n]
	if ext := p[payloadHead+n:]; len(ext) > 0 {
		l.Extensions = ext
	}
	return l, nil
}

func appendRecord(buf []byte, l *raft.Log) ([]byte, error) {
	length := payloadHead + len(l.Data) + len(l.Extensions)
	if length > maxRecord {
		return nil, fmt.Errorf("entry %d has %d bytes, at most %d are allowed", l.Index, length, maxRecord)
	}
	le := binary.LittleEndian
	start := len(buf)
	buf = le.AppendUint32(buf, uint32(length))
	buf = le.AppendUint32(buf, 0) // checksum, below
	buf = le.AppendUint64(buf, l.Index)
	buf = le.AppendUint64(buf, l.Term)
	buf = append(buf, byte(l.Type))
	var ns int64
	if !l.AppendedAt.IsZero() {
		ns = l.AppendedAt.UnixNano()
	}
	buf = le.AppendUint64(buf, uint64(ns))
	buf = le.AppendUint32(buf, uint32(len(l.Data)))
	buf = append(buf, l.Data...)
	buf = append(buf, l.Extensions...)
	le.PutUint32(buf[start+4:], crc32.Checksum(buf[start+recordHead:], castagnoli))
	return buf, nil
}

func (j *journal) last() uint64 {
	if len(j.entries) == 0 {
		return 0
	}
	return j.entries[len(j.entries)-1].Index
}

// FirstIndex returns the index of the oldest entry, 0 if there is none.
func (j *journal) FirstIndex() (uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.entries) == 0 {
		return 0, nil
	}
	return j.entries[0].Index, nil
}

// LastIndex returns the index of the newest entry, 0 if there is none.
func (j *journal) LastIndex() (uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last(), nil
}

// GetLog copies entry index into l, or returns raft.ErrLogNotFound.
func (j *journal) GetLog(index uint64, l *raft.Log) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.entries) == 0 || index < j.entries[0].Index || index > j.last() {
		return raft.ErrLogNotFound
	}
	*l = *j.entries[index-j.entries[0].Index]
	return nil
}

// IsMonotonic tells raft that entries are stored without gaps.
func (j *journal) IsMonotonic() bool { return true }

// StoreLog appends one entry; see StoreLogs.
func (j *journal) StoreLog(l *raft.Log) error { return j.StoreLogs([]*raft.Log{l}) }

// StoreLogs appends entries and returns when they are on the disk.
func (j *journal) StoreLogs(logs []*raft.Log) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return j.broken
	}
	var buf []byte
	var err error
	last := j.last()
	kept := make([]*raft.Log, 0, len(logs))
	for _, l := range logs {
		if last > 0 && l.Index != last+1 {
			return fmt.Errorf("%s: entry %d cannot follow entry %d", j.path, l.Index, last)
		}
		last = l.Index
		if buf, err = appendRecord(buf, l); err != nil {
			return err
		}
		c := *l
		kept = append(kept, &c)
	}
	if _, err := j.file.WriteAt(buf, j.size); err != nil {
		err = fmt.Errorf("appending to %s: %w", j.path, err)
		// A full disk may have space again later: cut off what was written.
		if cut := errors.Join(j.file.Truncate(j.size), j.file.Sync()); cut != nil {
			j.broken = errors.Join(err, cut)
		}
		return err
	}
	if err := j.file.Sync(); err != nil {
		// After a failed fsync nobody knows what is on the disk, and a second
		// fsync may well say that all is fine.
		j.broken = fmt.Errorf("appending to %s: %w", j.path, err)
		return j.broken
	}
	j.size += int64(len(buf))
	j.entries = append(j.entries, kept...)
	j.ballot.reached(last)
	return nil
}

// DeleteRange removes the entries min to max, both included: a prefix that a
// snapshot covers, or a suffix that another leader overruled.
func (j *journal) DeleteRange(min, max uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return j.broken
	}
	if len(j.entries) == 0 || min > max || max < j.entries[0].Index || min > j.last() {
		return nil
	}
	first, last := j.entries[0].Index, j.last()
	var keep []*raft.Log
	switch {
	case min <= first && max >= last:
		// Not last: after a snapshot from the leader raft drops everything, also
		// what the snapshot does not reach.
		if err := j.ballot.lower(0, j.covered()); err != nil {
			return err
		}
	case min <= first:
		keep = j.entries[max-first+1:]
		if err := j.ballot.lower(last, max); err != nil {
			return err
		}
	case max >= last:
		keep = j.entries[:min-first]
		if err := j.ballot.lower(min-1, 0); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s: entries %d to %d are neither at the beginning nor at the end", j.path, min, max)
	}
	return j.rewrite(keep)
}

// rewrite replaces the file by one with the given entries.
func (j *journal) rewrite(entries []*raft.Log) error {
	buf := []byte(journalMagic)
	var err error
	for _, l := range entries {
		if buf, err = appendRecord(buf, l); err != nil {
			return err
		}
	}
	spare := filepath.Join(filepath.Dir(j.path), journalSpare)
	if err := replaceFile(spare, j.path, buf); err != nil {
		return err
	}
	file, err := os.OpenFile(j.path, os.O_RDWR, journalAccess)
	if err != nil {
		// The old handle writes into a file without a name.
		j.broken = err
		return err
	}
	if j.file != nil {
		_ = j.file.Close() // nothing unwritten: every append was synced
	}
	j.file, j.size = file, int64(len(buf))
	j.entries = append([]*raft.Log(nil), entries...)
	return nil
}

// Close releases the file.
func (j *journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.broken = os.ErrClosed
	return j.file.Close()
}

// replaceFile writes data to spare and renames it to path, so that path holds
// either the old or the new content whatever happens.
func replaceFile(spare, path string, data []byte) error {
	f, err := os.OpenFile(spare, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, journalAccess)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", spare, err)
	}
	if err := os.Rename(spare, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
