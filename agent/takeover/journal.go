package takeover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"relevo.dev/relevo/agent/durable"
)

// maxJournal bounds the journal file: some dozen steps of a line each.
const maxJournal = 64 << 10

// StepRecord is one step that was carried out.
type StepRecord struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took_ns"`
	Err  string        `json:"error,omitempty"`
	Did  string        `json:"did,omitempty"` // in words, where the name does not say it
	// Beside says that the step ran beside the one after it: its time is in that of
	// the others.
	Beside bool `json:"beside,omitempty"`
}

// Journal is what this host remembers of its newest takeover. Its file is written
// at each durable step, so a takeover that was cut off anywhere goes on where it
// stopped.
type Journal struct {
	// Term of the newest takeover that began here, and what is done of it.
	Term     uint64       `json:"term"`
	Steps    []StepRecord `json:"steps,omitempty"`
	Finished bool         `json:"finished,omitempty"`
	// OwnTerm is the newest term whose datastore lies at the control plane's own
	// path on this host; 0 means that whatever lies there is from before relevo.
	OwnTerm uint64 `json:"own_term,omitempty"`

	path string
	own  atomic.Uint64 // OwnTerm, for other goroutines
}

// Own is OwnTerm; it may be asked while a takeover runs.
func (j *Journal) Own() uint64 { return j.own.Load() }

func (j *Journal) setOwn(term uint64) {
	j.OwnTerm = term
	j.own.Store(term)
}

// OpenJournal reads the journal at path; a missing file is an empty journal. A
// damaged one is an error: guessing which steps were done could overwrite data.
func OpenJournal(path string) (*Journal, error) {
	j := &Journal{path: path}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the takeover journal: %w", err)
	}
	defer f.Close()
	dec := json.NewDecoder(&limited{f, maxJournal})
	dec.DisallowUnknownFields()
	err = dec.Decode(j)
	if err == nil && dec.More() {
		err = errors.New("there is more than one journal in it")
	}
	if err != nil {
		return nil, fmt.Errorf("the takeover journal %s is damaged (%w); see whether the datastore of this host is whole, then move the file away: the host starts as a standby", path, err)
	}
	j.own.Store(j.OwnTerm)
	return j, nil
}

type limited struct {
	f *os.File
	n int
}

func (l *limited) Read(p []byte) (int, error) {
	if l.n <= 0 {
		return 0, errors.New("larger than a journal can be")
	}
	n, err := l.f.Read(p[:min(len(p), l.n)])
	l.n -= n
	return n, err
}

func (j *Journal) done(step string) bool {
	for _, s := range j.Steps {
		if s.Name == step && s.Err == "" {
			return true
		}
	}
	return false
}

// save writes the journal so that a power cut leaves the old or the new one.
func (j *Journal) save() error {
	b, err := json.Marshal(j)
	if err != nil {
		return err
	}
	if err := durable.Replace(j.path, b, 0o600); err != nil {
		return fmt.Errorf("write the takeover journal: %w", err)
	}
	return nil
}
