package quorum

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func entry(i uint64) *raft.Log {
	return &raft.Log{Index: i, Term: 1 + i/10, Type: raft.LogCommand, Data: fmt.Appendf(nil, "entry %d", i), AppendedAt: time.Unix(0, int64(i))}
}

// filled makes a store with entries 1 to n, a term and a vote.
func filled(t *testing.T, dir string, n uint64) {
	t.Helper()
	s := reopen(t, dir)
	for i := uint64(1); i <= n; i++ {
		if err := s.logs.StoreLog(entry(i)); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(s.stable.SetUint64([]byte(keyTerm), 7), s.stable.SetUint64([]byte(keyVoteTerm), 7), s.stable.Set([]byte(keyVotedFor), []byte("n2")), s.Close())
	if err != nil {
		t.Fatal(err)
	}
}

func openTest(t *testing.T, dir string) (*store, error) {
	return openStore(dir, "n1", "home", func(err error) { t.Error(err) }, newLogger(quiet()))
}

func reopen(t *testing.T, dir string) *store {
	t.Helper()
	s, err := openTest(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func expect(t *testing.T, s *store, first, last uint64) {
	t.Helper()
	f, _ := s.logs.FirstIndex()
	l, _ := s.logs.LastIndex()
	if f != first || l != last {
		t.Fatalf("entries %d to %d, want %d to %d", f, l, first, last)
	}
	for i := first; i <= last && i > 0; i++ {
		var got raft.Log
		if err := s.logs.GetLog(i, &got); err != nil {
			t.Fatal(err)
		}
		if want := entry(i); string(got.Data) != string(want.Data) || got.Term != want.Term || got.Type != want.Type || !got.AppendedAt.Equal(want.AppendedAt) {
			t.Fatalf("entry %d: %+v", i, got)
		}
	}
	var l2 raft.Log
	if err := s.logs.GetLog(last+1, &l2); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("entry %d: %v", last+1, err)
	}
}

func TestStoreKeeps(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 20)
	s := reopen(t, dir)
	expect(t, s, 1, 20)
	if term, _ := s.stable.GetUint64([]byte(keyTerm)); term != 7 {
		t.Errorf("term %d", term)
	}
	if v, _ := s.stable.Get([]byte(keyVotedFor)); string(v) != "n2" {
		t.Errorf("vote for %q", v)
	}
	if v, _ := s.stable.GetUint64([]byte(keyVoteTerm)); v != 7 {
		t.Errorf("vote in term %d", v)
	}
	if err := s.logs.StoreLog(entry(22)); err == nil {
		t.Error("a gap was taken")
	}
	// An overruled suffix, then other entries.
	if err := s.logs.DeleteRange(16, 20); err != nil {
		t.Fatal(err)
	}
	expect(t, s, 1, 15)
	if err := errors.Join(s.logs.StoreLogs([]*raft.Log{entry(16), entry(17)}), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, dir)
	expect(t, s, 1, 17)
	if err := s.logs.DeleteRange(3, 4); err == nil {
		t.Error("a hole was made")
	}
	if err := s.logs.DeleteRange(1, 17); err != nil {
		t.Fatal(err)
	}
	expect(t, s, 0, 0)
	// What follows a snapshot may begin anywhere.
	if err := errors.Join(s.logs.StoreLog(entry(100)), s.Close()); err != nil {
		t.Fatal(err)
	}
	// But the snapshot that covers the rest must be there.
	if _, err := openTest(t, dir); !errors.Is(err, errDamaged) {
		t.Errorf("no snapshot: %v", err)
	}
}

// A power cut in the middle of a write leaves half a record that nobody was
// told of: it is cut off. The mark of how far the log reached follows each
// append, so the half record is written by hand here.
func TestStoreTornWrite(t *testing.T) {
	whole, err := appendRecord(nil, entry(21))
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(whole) - 1 {
		dir := t.TempDir()
		filled(t, dir, 20)
		f, err := os.OpenFile(filepath.Join(dir, journalFile), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(whole[:cut+1]); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		s := reopen(t, dir)
		expect(t, s, 1, 20)
		if err := errors.Join(s.logs.StoreLog(entry(21)), s.Close()); err != nil {
			t.Fatal(err)
		}
		s = reopen(t, dir)
		expect(t, s, 1, 21)
		_ = s.Close()
	}
}

// Every damage that loses what was promised is refused, with the way out.
func TestStoreDamage(t *testing.T) {
	log, vote := journalFile, ballotFile
	truncate := func(name string, by int64) func(string) error {
		return func(dir string) error {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			return os.Truncate(filepath.Join(dir, name), info.Size()-by)
		}
	}
	flip := func(name string, at int64) func(string) error {
		return func(dir string) error {
			raw, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			raw[at] ^= 0x10
			return os.WriteFile(filepath.Join(dir, name), raw, 0o600)
		}
	}
	remove := func(name string) func(string) error {
		return func(dir string) error { return os.RemoveAll(filepath.Join(dir, name)) }
	}
	for name, damage := range map[string]func(dir string) error{
		"log: last byte missing":      truncate(log, 1),
		"log: last record missing":    truncate(log, recordHead+payloadHead+8),
		"log: empty":                  func(dir string) error { return os.Truncate(filepath.Join(dir, log), 0) },
		"log: only its first line":    func(dir string) error { return os.Truncate(filepath.Join(dir, log), int64(len(journalMagic))) },
		"log: missing":                remove(log),
		"log: first byte wrong":       flip(log, 0),
		"log: length of first record": flip(log, int64(len(journalMagic))),
		"log: data in the middle":     flip(log, 300),
		"ballot: missing":             remove(vote),
		"ballot: empty":               func(dir string) error { return os.Truncate(filepath.Join(dir, vote), 0) },
		"ballot: cut":                 truncate(vote, 3),
		"ballot: one bit":             flip(vote, 60),
		"ballot: head":                flip(vote, 2),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			filled(t, dir, 20)
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			_, err := Open(Config{Node: "n1", Cluster: "home", Dir: dir, Voter: true, Stream: newNetwork().stream("n1"), Log: quiet()})
			if !errors.Is(err, errDamaged) || !strings.Contains(err.Error(), "move "+dir+" aside") {
				t.Errorf("got %v, want it refused with the way out", err)
			}
		})
	}
}

// snapshotAt stores a snapshot that reaches to an index.
func snapshotAt(t *testing.T, s *store, index uint64) {
	t.Helper()
	conf := raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "n1"}}}
	_, trans := raft.NewInmemTransport("n1")
	sink, err := s.snaps.Create(1, index, 1, conf, 1, trans)
	if err != nil {
		t.Fatal(err)
	}
	if err := (&snapshot{V: 1, State: State{Cluster: "home"}}).Persist(sink); err != nil {
		t.Fatal(err)
	}
}

// A snapshot came from the leader, and the power went before the log was dropped.
func TestStoreSnapshotAhead(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 20)
	s := reopen(t, dir)
	snapshotAt(t, s, 150)
	_ = s.Close()
	for range 2 {
		s = reopen(t, dir)
		expect(t, s, 0, 0)
		_ = s.Close()
	}
	s = reopen(t, dir)
	if err := errors.Join(s.logs.StoreLog(entry(151)), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, dir)
	expect(t, s, 151, 151)
	_ = s.Close()
}

// A log that reached beyond the leader's snapshot is dropped as well; that is
// no loss at the next start. A lost snapshot is.
func TestStoreSnapshotBehind(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 20)
	s := reopen(t, dir)
	snapshotAt(t, s, 15)
	if err := errors.Join(s.logs.DeleteRange(1, 20), s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := reopen(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	snaps, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "state.bin"))
	if err != nil || len(snaps) != 1 {
		t.Fatal(snaps, err)
	}
	if err := os.WriteFile(snaps[0], []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openTest(t, dir); !errors.Is(err, errDamaged) {
		t.Errorf("damaged snapshot: %v", err)
	}
}

func TestStoreOfAnotherNode(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 1)
	for _, who := range [][2]string{{"n2", "home"}, {"n1", "away"}} {
		if _, err := openStore(dir, who[0], who[1], nil, newLogger(quiet())); err == nil || !strings.Contains(err.Error(), `belongs to node "n1" of cluster "home"`) {
			t.Errorf("%v: %v", who, err)
		}
	}
}

func TestStoreIsLocked(t *testing.T) {
	dir := t.TempDir()
	s := reopen(t, dir)
	if _, err := openTest(t, dir); err == nil || errors.Is(err, errDamaged) || !strings.Contains(err.Error(), "another relevo agent") {
		t.Errorf("second agent: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := reopen(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
}

// A disk that does not take the raft term ends raft, not the process.
func TestTermCannotBeStored(t *testing.T) {
	dir := t.TempDir()
	told := make(chan error, 1)
	b, err := openBallot(dir, "n1", "home", func(err error) { told <- err })
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	// A directory where the spare file should be: this works for root as well.
	if err := os.Mkdir(filepath.Join(dir, ballotSpare), 0o700); err != nil {
		t.Fatal(err)
	}
	ended, went := make(chan struct{}), false
	go func() {
		defer close(ended)
		_ = b.SetUint64([]byte(keyTerm), 9)
		went = true
	}()
	<-ended
	if err := <-told; err == nil || went {
		t.Errorf("told %v, went on %v", err, went)
	}
	if v, _ := b.GetUint64([]byte(keyTerm)); v != 0 {
		t.Errorf("term %d was not stored, but is answered", v)
	}
	if err := b.Set([]byte(keyVotedFor), []byte("n2")); err == nil {
		t.Error("a vote that cannot be stored was promised")
	}
}

func FuzzJournal(f *testing.F) {
	buf := []byte(journalMagic)
	for i := uint64(1); i <= 3; i++ {
		buf, _ = appendRecord(buf, entry(i))
	}
	f.Add(buf)
	f.Add(buf[:len(buf)-5])
	f.Add([]byte(journalMagic))
	f.Fuzz(func(t *testing.T, raw []byte) {
		entries, good, _, err := readJournal(bytes.NewReader(raw))
		if err != nil {
			return
		}
		if good > int64(len(raw)) {
			t.Fatalf("%d of %d bytes are good", good, len(raw))
		}
		again := []byte(journalMagic)
		for _, e := range entries {
			if again, err = appendRecord(again, e); err != nil {
				t.Fatal(err)
			}
		}
		if back, _, torn, err := readJournal(bytes.NewReader(again)); err != nil || torn != nil || len(back) != len(entries) {
			t.Errorf("%d entries became %d: %v, %v", len(entries), len(back), torn, err)
		}
	})
}

func FuzzBallot(f *testing.F) {
	body := []byte(`{"node":"n1","cluster":"home","stable":{"CurrentTerm":"AQAAAAAAAAA="},"last":3,"floor":0}`)
	f.Add(append([]byte(ballotHead+checksum(body)+"\n"), body...))
	f.Add([]byte(ballotHead + "00000000\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if d, err := parseBallot(raw); err == nil && (d.Stable == nil || len(d.Stable) > stableValues) {
			t.Errorf("%+v", d)
		}
		// Past the checksum, which a fuzzer does not guess.
		_, _ = parseBallot(append([]byte(ballotHead+checksum(raw)+"\n"), raw...))
	})
}
