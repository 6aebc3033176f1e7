package files

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A scanner that would not look again by itself for an hour hears of every change.
func TestScannerIsToldOfChanges(t *testing.T) {
	w := newWorld(t)
	token := filepath.Join(w.root, "..", "token")
	s := NewScanner(Spec{Roots: []string{w.root, token}, MayMiss: []string{token}}, time.Hour)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { stop(); <-done }()
	was := ""
	differs := func(what string) {
		t.Helper()
		for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
			if d, err := s.Digest(); err == nil && d != was {
				was = d
				return
			}
			if time.Since(begin) > 20*time.Second {
				t.Fatalf("not noticed: %s", what)
			}
		}
	}
	differs("the first listing")
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) { // until it watches
		s.mu.Lock()
		on := s.watched && !s.stale
		s.mu.Unlock()
		if on {
			break
		}
		_, _ = s.Digest()
		if time.Since(begin) > 20*time.Second {
			t.Fatal("it does not watch")
		}
	}
	was, _ = s.Digest()
	for _, c := range []struct {
		what string
		do   func() error
	}{
		{"a file is written", func() error { return os.WriteFile(filepath.Join(w.root, "tokens.csv"), []byte("more"), 0o640) }},
		{"a file is replaced", func() error {
			tmp := filepath.Join(w.root, "pki", ".new")
			return errors.Join(os.WriteFile(tmp, []byte("x"), 0o600), os.Rename(tmp, filepath.Join(w.root, "pki", "ca.key")))
		}},
		{"another mode", func() error { return os.Chmod(filepath.Join(w.root, "pki", "ca.key"), 0o640) }},
		{"a file is removed", func() error { return os.Remove(filepath.Join(w.root, "pki", "ca.crt")) }},
		{"a folder comes", func() error { return os.Mkdir(filepath.Join(w.root, "etcd"), 0o700) }},
		{"a file in it", func() error { return os.WriteFile(filepath.Join(w.root, "etcd", "ca.crt"), []byte("y"), 0o600) }},
		{"what may be missing comes", func() error { return os.WriteFile(token, []byte("z"), 0o600) }},
	} {
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		differs(c.what)
	}
}
