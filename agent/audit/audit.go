// Package audit keeps who did what from where: a line of JSON for each event, in two
// files of bounded size, appended and never changed. It is written when people act, or
// when the term or a vote changes, so a few times a month.
package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Record is one event.
type Record struct {
	At     time.Time `json:"at"`   // wall clock of Node, for people only
	Node   string    `json:"node"` // who wrote it down
	Term   uint64    `json:"term"` // the newest that Node knew
	By     string    `json:"by,omitempty"`
	From   string    `json:"from,omitempty"`
	Action string    `json:"action"`
	Target string    `json:"target,omitempty"`
	// Outcome is done, refused (not now, Why says why) or denied (not by this one).
	Outcome string `json:"outcome"`
	Why     string `json:"why,omitempty"`
}

// Bounds.
const (
	MaxFile = 128 << 10 // bytes of each of the two files
	maxText = 400       // bytes of one field
	maxLine = 4 << 10
)

// Log is the two files: audit.log, and audit.log.1 from before.
type Log struct {
	path string
	mu   sync.Mutex
}

// Open names the files; they are made when there is something to write.
func Open(dir string) *Log { return &Log{path: filepath.Join(dir, "audit.log")} }

// Append writes r down, and returns when it is on the disk.
func (l *Log) Append(r Record) error {
	for _, s := range []*string{&r.Node, &r.By, &r.From, &r.Action, &r.Target, &r.Outcome, &r.Why} {
		*s = oneLine(*s)
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write the audit: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if st, err := os.Lstat(l.path); err == nil && st.Size()+int64(len(b)) > MaxFile {
		if err := os.Rename(l.path, l.path+".1"); err != nil {
			return fmt.Errorf("write the audit: %w", err)
		}
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("write the audit: %w", err)
	}
	// A line that a power cut left unfinished ends here.
	lead := ""
	if st, err := f.Stat(); err == nil && st.Size() > 0 && !endsLine(l.path, st.Size()) {
		lead = "\n"
	}
	if _, err = f.WriteString(lead + string(b) + "\n"); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the audit: %w", err)
	}
	return nil
}

func endsLine(path string, size int64) bool {
	f, err := os.Open(path)
	if err != nil {
		return true
	}
	defer f.Close()
	var last [1]byte
	_, err = f.ReadAt(last[:], size-1)
	return err != nil || last[0] == '\n'
}

// Read gives what is kept, the oldest first. Lines that are damaged are left out.
func (l *Log) Read() ([]Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Record
	for _, path := range []string{l.path + ".1", l.path} {
		b, err := readBounded(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return out, fmt.Errorf("read the audit: %w", err)
		}
		out = append(out, parse(b)...)
	}
	return out, nil
}

// readBounded reads at most twice what we write.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, 2*MaxFile)
	n, err := f.ReadAt(b, 0)
	if n > 0 {
		return b[:n], nil
	}
	if st, serr := f.Stat(); serr == nil && st.Size() == 0 {
		return nil, nil
	}
	return nil, err
}

func parse(b []byte) []Record {
	var out []Record
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, 2*MaxFile)
	for sc.Scan() {
		var r Record
		if len(sc.Bytes()) <= maxLine && json.Unmarshal(sc.Bytes(), &r) == nil && r.Action != "" && !r.At.IsZero() {
			out = append(out, r)
		}
	}
	return out
}

// oneLine makes a field fit for a terminal, and short.
func oneLine(s string) string {
	s = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s), "")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}
