package replica

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// TestDiskFullInFirstCopy: the card is full in the middle of the first copy. That is said,
// nothing of what came is lost, and when there is room it goes on by itself.
func TestDiskFullInFirstCopy(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	w.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 3000)
		INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value)
		SELECT '/registry/configmaps/default/object-' || i, 1, 0, 0, 0, 0, randomblob(4096) FROM n`)
	h := newHost(t, w, "home")
	cfg := config(t, getter(address(h)))
	smallDisk(t, cfg.Dir)
	f := NewFollower(cfg)
	stop := run(t, f.Run)
	wait(t, f, "the full disk", func(p Position) bool { return strings.Contains(p.Err, "full") && p.Committed > 0 })
	p := f.Position()
	if p.Complete || p.Committed == w.Head() {
		t.Fatalf("%+v", p)
	}
	if err := unix.Mount("small", cfg.Dir, "tmpfs", unix.MS_REMOUNT, "size=100m"); err != nil {
		t.Fatal(err)
	}
	wait(t, f, "the head", fresh(w))
	stop()
	equal(t, f, w)
	if list, err := kine.Asides(f.CopyPath()); err != nil || len(list) != 0 {
		t.Fatalf("a copy that was only cut off is not to be set aside: %v, %v", list, err)
	}
}

// smallDisk makes dir a file system of 6 MB of its own.
func smallDisk(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=6m"); err != nil {
		t.Skipf("SKIPPED: a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// TestDiskFullLater: a complete copy on a full disk stays the state that it was.
func TestDiskFullLater(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	w.Random(rand.New(rand.NewPCG(21, 22)), 300)
	h := newHost(t, w, "home")
	cfg := config(t, getter(address(h)))
	smallDisk(t, cfg.Dir)
	f := NewFollower(cfg)
	stop := run(t, f.Run)
	wait(t, f, "the head", fresh(w))
	before, rev := kinetest.Dump(t, w.Path), w.Head()
	if err := os.WriteFile(filepath.Join(cfg.Dir, "ballast"), make([]byte, 6<<20), 0o600); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	w.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 1500)
		INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value)
		SELECT '/registry/configmaps/default/large-' || i, 1, 0, 0, 0, 0, randomblob(4096) FROM n`)
	wait(t, f, "the full disk", func(p Position) bool { return strings.Contains(p.Err, "full") })
	stop()
	if p := f.Position(); !p.Complete {
		t.Fatalf("%+v", p)
	}
	info, err := kine.Verify(t.Context(), f.CopyPath(), true)
	if err != nil || !info.Notes.Complete || info.MaxID < rev {
		t.Fatalf("%+v, %v", info, err)
	}
	if info.MaxID == rev {
		if diff := kinetest.Diff(kinetest.Dump(t, f.CopyPath()), before); diff != "" {
			t.Fatal(diff)
		}
	}
	if err := os.Remove(filepath.Join(cfg.Dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", cfg.Dir, "tmpfs", unix.MS_REMOUNT, "size=100m"); err != nil {
		t.Fatal(err)
	}
	equal(t, f, w)
}

// TestHalfWrittenCopy: what a power cut leaves of the copy's file, at any length, is
// either used or set aside and made anew; the master's datastore is not touched.
func TestHalfWrittenCopy(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	w.Random(rand.New(rand.NewPCG(31, 32)), 200)
	h := newHost(t, w, "home")
	f := NewFollower(config(t, getter(address(h))))
	stop := run(t, f.Run)
	wait(t, f, "the head", fresh(w))
	stop()
	whole, err := os.ReadFile(f.CopyPath())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 99, 100, 4095, 4096, 5000, len(whole) / 3, len(whole) - 4096, len(whole) - 1} {
		if err := os.WriteFile(f.CopyPath(), whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		f = NewFollower(f.cfg)
		stop := run(t, f.Run)
		wait(t, f, "the head", fresh(w))
		stop()
		equal(t, f, w)
	}
}

// TestClockOf1970: lag, freshness and stalls go by the injected clock, CLOCK_BOOTTIME on a
// host, and not by the wall: a board without a battery is as good a standby as any.
func TestClockOf1970(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	h := newHost(t, w, "home")
	cfg := config(t, getter(address(h)))
	cfg.Clock = func() time.Duration { return time.Nanosecond } // just booted, and it does not even move
	f := NewFollower(cfg)
	run(t, f.Run)
	w.Put("/registry/x", "1")
	wait(t, f, "the head", fresh(w))
	if p := f.Position(); p.FreshAt != time.Nanosecond {
		t.Fatalf("%+v", p)
	}
}
