package kine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// newCopy makes a source with a history and a complete copy of it, closed.
func newCopy(t *testing.T, dir string) (w *kinetest.Writer, path string) {
	t.Helper()
	w = kinetest.New(t, filepath.Join(dir, "src.db"), false)
	for i := range 40 {
		w.Put(fmt.Sprintf("/registry/k%d", i%10), fmt.Sprint("v", i))
	}
	w.Compact(20)
	w.Delete("/registry/k3")
	path = filepath.Join(dir, "replica", "state.db")
	c, err := OpenCopy(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	pull(t, mustReader(t, w.Path), c)
	if err := c.Index(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.SetNotes(t.Context(), Notes{Cluster: "home", Term: 1, Complete: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w, path
}

// TestRestore is the way of a promotion, each step twice, as after a crash.
func TestRestore(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	w, copyPath := newCopy(t, dir)
	want := kinetest.Dump(t, w.Path)
	dst := filepath.Join(dir, "kine", "state.db")
	if err := os.Mkdir(filepath.Dir(dst), 0o750); err != nil {
		t.Fatal(err)
	}
	old := kinetest.New(t, dst, false)
	old.Put("/old", "state")
	oldDump := kinetest.Dump(t, dst)
	old.DB.Close()
	if err := os.Chmod(dst, 0o640); err != nil {
		t.Fatal(err)
	}

	info, err := Verify(ctx, copyPath, true)
	if err != nil || info.MaxID != w.Head() || !info.Notes.Complete {
		t.Fatalf("verify: %+v, %v", info, err)
	}
	if err := CheckSpace(copyPath, dst); err != nil {
		t.Fatal(err)
	}
	if err := Install(ctx, copyPath, dst, 2); err == nil {
		t.Fatal("installed over a datastore that was not set aside")
	}
	var aside string
	for range 2 {
		if aside, err = Aside(ctx, dst, 2); err != nil {
			t.Fatal(err)
		}
	}
	if got := kinetest.Dump(t, aside); got != oldDump {
		t.Fatal("what was set aside is not what was there")
	}
	for range 2 {
		if err := Install(ctx, copyPath, dst, 2); err != nil {
			t.Fatal(err)
		}
		if _, err := Aside(ctx, dst, 2); err != nil { // resumed too early: must not touch it
			t.Fatal(err)
		}
	}
	if got := kinetest.Dump(t, dst); got != want {
		t.Fatalf("installed:\n%s", kinetest.Diff(got, want))
	}
	if fi, err := os.Stat(dst); err != nil || fi.Mode().Perm() != 0o640 {
		t.Fatalf("mode %v, %v; want that of the old one", fi.Mode(), err)
	}
	var b Bumped
	for range 2 {
		if b, err = Bump(ctx, dst, 2, Gap); err != nil {
			t.Fatal(err)
		}
		if b.From != info.MaxID || b.To != info.MaxID+Gap {
			t.Fatalf("bump: %+v", b)
		}
	}
	if _, err := Bump(ctx, dst, 1, Gap); err == nil {
		t.Fatal("an older term could jump")
	}
	if info, err = Verify(ctx, dst, true); err != nil || info.MaxID != b.To || info.Compact != b.To || len(info.Notes.Forks) != 1 {
		t.Fatalf("after the jump: %+v, %v", info, err)
	}
	// kine goes on from there, and every object but the deleted one is there.
	n := kinetest.New(t, dst, false)
	if id := n.Put("/new", "x"); id != b.To+1 {
		t.Fatalf("next revision %d, want %d", id, b.To+1)
	}
	var live int
	if err := n.DB.QueryRow(`SELECT count(*) FROM kine JOIN (SELECT max(id) AS id FROM kine GROUP BY name) USING (id) WHERE deleted=0 AND name LIKE '/registry/k%'`).Scan(&live); err != nil || live != 9 {
		t.Fatalf("%d objects, %v; want 9", live, err)
	}
	var rows int
	if err := n.DB.QueryRow(`SELECT count(*) FROM kine WHERE id <= ?`, b.From).Scan(&rows); err != nil || rows != 11 {
		t.Fatalf("%d rows below the mark, want 9 objects, health and compact_rev_key: nothing superseded (%v)", rows, err)
	}
	// The next promotion, much later, jumps again.
	n.DB.Close()
	if b2, err := Bump(ctx, dst, 5, Gap); err != nil || b2.From != b.To+1 || b2.To != b.To+1+Gap {
		t.Fatalf("second jump: %+v, %v", b2, err)
	}
}

func TestAsideKeepsTwoAndFinishes(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "state.db")
	if a, err := Aside(ctx, path, 1); a != "" || err != nil {
		t.Fatalf("nothing there: %q, %v", a, err)
	}
	for term := uint64(8); term <= 11; term++ {
		w := kinetest.New(t, path, false)
		w.Put("/t", fmt.Sprint(term))
		w.DB.Close()
		if _, err := Aside(ctx, path, term); err != nil {
			t.Fatal(err)
		}
	}
	list, err := Asides(path)
	if err != nil || len(list) != 2 || !strings.HasSuffix(list[0], "-10-1") || !strings.HasSuffix(list[1], "-11-1") {
		t.Fatalf("%v, %v", list, err)
	}
	// Killed between database and WAL.
	if err := os.WriteFile(path+"-wal", []byte("late"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Install(ctx, list[0], path, 12); err == nil {
		t.Fatal("installed beside a foreign WAL")
	}
	if _, err := Aside(ctx, path, 11); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(list[1] + "-wal"); err != nil || string(data) != "late" {
		t.Fatalf("the WAL did not follow: %q, %v", data, err)
	}
}

func TestInstallRefusesAnOpenCopy(t *testing.T) {
	dir := t.TempDir()
	_, path := newCopy(t, dir)
	n := kinetest.New(t, path, false)
	n.Put("/x", "still being written")
	if err := Install(t.Context(), path, filepath.Join(dir, "kine", "state.db"), 3); err == nil {
		t.Fatal("installed a copy that somebody has open")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatal("the copy is gone:", err)
	}
}

// TestInstallWaitsForAReader: somebody who only looks at the copy for a moment
// does not spoil a promotion, also if he is the last to close it.
func TestInstallWaitsForAReader(t *testing.T) {
	dir := t.TempDir()
	_, path := newCopy(t, dir)
	n := kinetest.New(t, path, false)
	last := n.Put("/x", "in the WAL")
	r := mustReader(t, path)
	n.DB.Close()
	left := make(chan error, 1)
	go func() {
		for {
			if fi, err := os.Stat(path + "-wal"); err != nil || fi.Size() == 0 { // the checkpoint is done
				left <- r.Close()
				return
			}
			runtime.Gosched()
		}
	}()
	dst := filepath.Join(dir, "kine", "state.db")
	if err := Install(t.Context(), path, dst, 3); err != nil {
		t.Fatal(err)
	}
	if err := <-left; err != nil {
		t.Fatal(err)
	}
	if info, err := Verify(t.Context(), dst, true); err != nil || info.MaxID != last {
		t.Fatalf("%+v, %v", info, err)
	}
}

func TestSurplus(t *testing.T) {
	for _, tt := range []struct{ name, have, gone string }{
		{"nothing", "", ""},
		{"two terms", "3-1:9 8-1:9", ""},
		{"three terms", "3-1:9 8-1:9 12-1:9", "3-1"},
		{"the first and the last of a term", "8-1:9 8-2:9 8-3:9 12-1:9 12-2:9", "8-2"},
		{"the newest is kept, however large", "8-1:9 12-1:900", "8-1"},
		{"the oldest goes first", "8-1:50 8-2:40 12-1:30 12-2:20", "8-1"},
		{"a small one fits beside", "8-1:20 8-2:90 12-1:80", "8-2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var list []aside
			for _, f := range strings.Fields(tt.have) {
				var a aside
				if _, err := fmt.Sscanf(f, "%d-%d:%d", &a.term, &a.n, &a.bytes); err != nil {
					t.Fatal(err)
				}
				list = append(list, a)
			}
			var gone []string
			for _, a := range surplus(list, 100) {
				gone = append(gone, fmt.Sprintf("%d-%d", a.term, a.n))
			}
			if got := strings.Join(gone, " "); got != tt.gone {
				t.Fatalf("%q, want %q", got, tt.gone)
			}
		})
	}
}

// TestForkAfterCompactedTombstones: where the newest rows were tombstones that
// are compacted away, a second standby that still has them is not cut off.
func TestForkAfterCompactedTombstones(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	w.Put("/registry/a", "1")
	w.Delete("/registry/a")
	head := w.Head()
	w.Compact(head)
	if w.Head() == head {
		t.Fatal("the test wants the newest row gone")
	}
	w.DB.Close()
	b, err := Bump(t.Context(), w.Path, 2, Gap)
	if err != nil || b.From != head || b.To != head+Gap {
		t.Fatalf("%+v, %v", b, err)
	}
	forks, err := mustReader(t, w.Path).Forks(t.Context())
	if err != nil || len(forks) != 1 || forks[0].Contains(head) || !forks[0].Contains(head+1) {
		t.Fatalf("%+v, %v", forks, err)
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	dir := t.TempDir()
	_, path := newCopy(t, dir)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		cut  func([]byte) []byte
	}{
		{"half", func(b []byte) []byte { return b[:len(b)/2] }},
		{"page", func(b []byte) []byte {
			for i := 4096 * 2; i < min(4096*5, len(b)); i++ {
				b[i] ^= 0x5a
			}
			return b
		}},
		{"text", func([]byte) []byte { return []byte("not a database at all, but long enough to be looked at") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bad := filepath.Join(t.TempDir(), "bad.db")
			if err := os.WriteFile(bad, tt.cut(append([]byte{}, data...)), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Verify(t.Context(), bad, false); err == nil {
				t.Fatal("damage not found")
			}
			if _, err := OpenCopy(t.Context(), bad); !IsCorrupt(err) {
				t.Fatalf("OpenCopy: %v is not told as damage", err)
			}
		})
	}
	if _, err := Verify(t.Context(), filepath.Join(dir, "none"), false); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	c, err := OpenCopy(t.Context(), filepath.Join(dir, "fresh.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Begin(t.Context(), Schema{NameType: "TEXT"}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Commit(t.Context()), c.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(t.Context(), filepath.Join(dir, "fresh.db"), false); err == nil {
		t.Fatal("an empty copy was found good")
	}
}
