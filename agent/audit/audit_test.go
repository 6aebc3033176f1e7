package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func record(i int) Record {
	return Record{At: time.Date(2026, 11, 25, 12, 0, 0, i, time.UTC), Node: "n1", By: "ann", Action: "pause", Outcome: "done", Why: fmt.Sprint(i)}
}

// TestBounded: the newest are kept, in order, in two files of at most MaxFile.
func TestBounded(t *testing.T) {
	dir := t.TempDir()
	l := Open(dir)
	if got, err := l.Read(); err != nil || len(got) != 0 {
		t.Fatalf("%v, %v", got, err)
	}
	const n = 700
	for i := range n {
		r := record(i)
		r.From = strings.Repeat("x", 1000)
		if err := l.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	got, err := l.Read()
	if err != nil || len(got) < 200 || len(got) == n {
		t.Fatalf("%d, %v", len(got), err)
	}
	for i, r := range got {
		if want := n - len(got) + i; r.Why != fmt.Sprint(want) || len(r.From) != maxText {
			t.Fatalf("record %d is %s with %d bytes", i, r.Why, len(r.From))
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		if st, err := f.Info(); err != nil || st.Size() > MaxFile || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f.Name(), st, err)
		}
	}
}

// TestCutShort: a line that a power cut left unfinished spoils no other.
func TestCutShort(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	l := Open(dir)
	if err := l.Append(record(1)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(b) {
		if err := os.WriteFile(path, append(b[:len(b):len(b)], b[:cut]...), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := l.Append(record(2)); err != nil {
			t.Fatal(err)
		}
		got, err := l.Read()
		whole := cut == len(b)-1 // all but its newline
		if err != nil || len(got) < 2 || len(got) > 3 || (len(got) == 3) != whole || got[len(got)-1].Why != "2" {
			t.Fatalf("cut at %d: %+v, %v", cut, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"at":"2026-11-25T12:00:00Z","node":"n1","action":"pause","outcome":"done"}` + "\n{}\n\x00\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, r := range parse(b) {
			if r.Action == "" || r.At.IsZero() {
				t.Errorf("%+v", r)
			}
		}
	})
}
