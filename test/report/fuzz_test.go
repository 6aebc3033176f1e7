package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFuzzerRun: a fuzzer that tried nothing, or found something, has failed, and what it found
// is told.
func TestFuzzerRun(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "fuzzer")
	for _, c := range []struct {
		script string
		tried  int64
		inputs int
		fails  string // "" = it does not
	}{
		{"echo 'fuzz: elapsed: 3s, execs: 10 (3/sec), new interesting: 1 (total: 4)'; echo 'fuzz: elapsed: 6s, execs: 25 (5/sec), new interesting: 2 (total: 5)'; echo PASS", 25, 5, ""},
		{"echo 'fuzz: elapsed: 3s, execs: 0 (0/sec), new interesting: 0 (total: 4)'; echo PASS", 0, 4, "did not try anything:\nPASS\n"},
		{"echo 'fuzz: elapsed: 3s, execs: 7 (0/sec), new interesting: 0 (total: 4)'; echo '--- FAIL: FuzzX'; exit 1", 7, 4, "exit status 1\n--- FAIL: FuzzX\n"},
	} {
		if err := os.WriteFile(bin, []byte("#!/bin/sh\n"+c.script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		got, err := fuzzer{".", "FuzzX"}.run(bin, t.TempDir(), time.Second)
		if got != (result{c.tried, c.inputs}) || (err == nil) != (c.fails == "") || err != nil && !strings.HasSuffix(err.Error(), c.fails) {
			t.Errorf("%s: %+v, %v", c.script, got, err)
		}
	}
	path := filepath.Join(t.TempDir(), "runs.tsv")
	for _, want := range []time.Duration{time.Minute, 2 * time.Minute} { // also over two calls of `make fuzz`
		p, err := readPast(path)
		if err == nil {
			err = p.add(fuzzer{"a/b", "FuzzX"}, time.Minute, 5)
		}
		again, err2 := readPast(path)
		if err != nil || err2 != nil || p.of[fuzzer{"a/b", "FuzzX"}] != want || len(again.of) != 1 || again.of[fuzzer{"a/b", "FuzzX"}] != want {
			t.Errorf("%v, and read again %v, not %v; %v, %v", p.of, again.of, want, err, err2)
		}
	}
	for _, bad := range []string{"x\n", "a\tb\tc\tlong\t1\n"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readPast(path); err == nil || !strings.Contains(err.Error(), "runs.tsv:1: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if s := thousands(1234567) + ", " + thousands(12); s != "1 234 567, 12" {
		t.Error(s)
	}
}
