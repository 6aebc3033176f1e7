package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

type noSource struct{}

func (noSource) Pause()  {}
func (noSource) Resume() {}

// newDataset is a k3s host whose copy of the master's datastore has one object of its own.
func newDataset(t *testing.T) *dataset {
	t.Helper()
	dir := t.TempDir()
	d := &dataset{base: filepath.Join(dir, "k3s"), path: filepath.Join(dir, "k3s/server/db/state.db"), copy: filepath.Join(dir, "replica/state.db"), source: noSource{}}
	if err := os.MkdirAll(filepath.Dir(d.copy), 0o700); err != nil {
		t.Fatal(err)
	}
	w := kinetest.New(t, d.copy, false)
	w.Put("/registry/ours", "ours")
	if err := w.DB.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := kine.OpenCopy(t.Context(), d.copy)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetNotes(t.Context(), kine.Notes{Cluster: "home", Term: 1, Complete: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// A host that was never a server has k3s's data directory and nothing in it: the folders
// are made, but not on a disk that is not there.
func TestTakeoverMakesFolders(t *testing.T) {
	d := newDataset(t)
	if err := d.Verify(t.Context()); err == nil || !strings.Contains(err.Error(), "data directory") {
		t.Fatalf("%v", err)
	}
	if err := os.Mkdir(d.base, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := d.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Dir(d.path)); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", fi, err)
	}
}

// Another cluster's database where k3s has its own: it is kept, and what is served is the
// copy.
func TestWrongClustersDatabaseIsKeptAside(t *testing.T) {
	d, ctx := newDataset(t), t.Context()
	if err := os.MkdirAll(filepath.Dir(d.path), 0o700); err != nil {
		t.Fatal(err)
	}
	other := kinetest.New(t, d.path, false)
	other.Put("/registry/theirs", "theirs")
	if err := other.DB.Close(); err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error { return d.Verify(ctx) }, func() error { return d.Aside(ctx, 2) },
		func() error { return d.Install(ctx, 2) }, func() error { return d.Bump(ctx, 2, 1) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if got := kinetest.Dump(t, d.path); !strings.Contains(got, "/registry/ours") || strings.Contains(got, "/registry/theirs") {
		t.Errorf("served is\n%s", got)
	}
	kept, err := kine.Asides(d.path)
	if err != nil || len(kept) != 1 || !strings.Contains(kinetest.Dump(t, kept[0]), "/registry/theirs") {
		t.Errorf("kept is %q, %v", kept, err)
	}
}
