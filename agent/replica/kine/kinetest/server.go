package kinetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Program is where kine lies: $RELEVO_TEST_KINE, or what the tests on real hosts
// have built in .cache of the repository (see test/hosts). Without it the test is
// skipped.
func Program(t testing.TB) string {
	t.Helper()
	if p := os.Getenv("RELEVO_TEST_KINE"); p != "" {
		return p
	}
	for dir, last := ".", ""; dir != last; dir, last = filepath.Join(dir, ".."), dir {
		if found, _ := filepath.Glob(filepath.Join(dir, ".cache/kine-*/kine")); len(found) > 0 {
			return found[0]
		}
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	t.Skip("kine is not built: `make e2e` builds it, or give $RELEVO_TEST_KINE")
	return ""
}

// Server is a running kine, and a client of it.
type Server struct {
	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	*Client
	Address string           // host:port
	revs    map[string]int64 // newest revision of each key that lives
}

// Start runs kine on a database until the test ends or Kill. It compacts often,
// and keeps little, unless args say otherwise.
func Start(t testing.TB, program, path string, args ...string) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	log, err := os.Create(path + ".log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s := &Server{t: t, Client: NewClient(addr, nil), Address: addr, revs: map[string]int64{}}
	s.cmd = exec.Command(program, append([]string{"--endpoint", "sqlite://" + path + "?_journal=WAL&cache=shared&_busy_timeout=30000", "--listen-address", addr,
		"--metrics-bind-address", "0", "--compact-interval", "300ms", "--compact-min-retain", "50", "--compact-batch-size", "100"}, args...)...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.done = make(chan struct{})
	go func() {
		_ = s.cmd.Wait() // killed, or said why in its log
		close(s.done)
	}()
	t.Cleanup(s.Kill)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			c.Close()
			return s
		}
		select {
		case <-s.done:
			cancel()
		case <-ctx.Done():
			text, _ := os.ReadFile(path + ".log")
			t.Fatalf("kine does not listen: %v\n%s", err, text)
		case <-tick.C:
		}
	}
}

// Kill ends it at once, as a power cut would.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // it may be gone
	<-s.done
}

// Put creates or updates a key and returns the revision.
func (s *Server) Put(key, value string) int64 {
	s.t.Helper()
	rev, err := s.Client.Put(s.t.Context(), key, value, s.revs[key])
	if err != nil {
		s.t.Fatal(err)
	}
	s.revs[key] = rev
	return rev
}

// Delete deletes a key that lives.
func (s *Server) Delete(key string) {
	s.t.Helper()
	if s.revs[key] == 0 {
		return
	}
	if _, err := s.Client.Delete(s.t.Context(), key, s.revs[key]); err != nil {
		s.t.Fatal(err)
	}
	delete(s.revs, key)
}

// CPU is what the process has used so far, in steps of 10 ms.
func (s *Server) CPU() time.Duration {
	s.t.Helper()
	d, err := CPU(s.cmd.Process.Pid)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

// CPU is what a process has used so far, in steps of 10 ms.
func CPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // state is field 3 of proc(5)
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}

// Known is the newest revision of each key that lives.
func (s *Server) Known() map[string]int64 { return maps.Clone(s.revs) }

// Adopt makes it know what lives in a database that another server has written.
func (s *Server) Adopt(known map[string]int64) { s.revs = maps.Clone(known) }

// PID is the process's.
func (s *Server) PID() int { return s.cmd.Process.Pid }
