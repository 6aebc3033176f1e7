package lost

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// fork copies a datastore as it is at the moment, as a standby that is level.
func fork(t *testing.T, w *kinetest.Writer, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	w.Exec(`VACUUM INTO ?`, path)
	kinetest.New(t, path, false).DB.Close() // in WAL mode, as kine's are
}

func promote(t *testing.T, path string, term uint64, gaps int64) *kinetest.Writer {
	t.Helper()
	if _, err := kine.Bump(t.Context(), path, term, gaps*kine.Gap); err != nil {
		t.Fatal(err)
	}
	return kinetest.New(t, path, false)
}

// note writes what a copy remembers.
func note(t *testing.T, path string, n kine.Notes) {
	t.Helper()
	c, err := kine.OpenCopy(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	n.Forks = c.Notes().Forks
	if err := errors.Join(c.SetNotes(t.Context(), n), c.Commit(t.Context()), c.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
}

func places(t *testing.T) Places {
	dir := t.TempDir()
	return Places{Datastore: filepath.Join(dir, "kine", "state.db"), Copy: filepath.Join(dir, "replica", "state.db")}
}

func find(t *testing.T, p Places) Found {
	t.Helper()
	f, err := Find(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// oldMaster is a master that was lost in term 2, and is back as a standby: its
// datastore lies where it was, its copy follows the new master.
func oldMaster(t *testing.T) (p Places, old, next *kinetest.Writer, common int64) {
	t.Helper()
	p = places(t)
	if err := os.Mkdir(filepath.Dir(p.Datastore), 0o700); err != nil {
		t.Fatal(err)
	}
	old = kinetest.New(t, p.Datastore, false)
	old.Put("/registry/configmaps/default/both", "1")
	old.Put("/registry/configmaps/default/gone", "1")
	fork(t, old, p.Copy)
	common = old.Head()
	old.Put("/registry/configmaps/default/both", "2")
	old.Put("/registry/secrets/default/new", "1")
	old.Delete("/registry/configmaps/default/gone")
	next = promote(t, p.Copy, 2, 1)
	return p, old, next, common
}

func TestFind(t *testing.T) {
	p, old, next, common := oldMaster(t)
	f := find(t, p)
	want := Kept{Path: p.Datastore, Term: 2, Common: common, Head: old.Head()}
	if f.Against != p.Copy || !slices.Equal(f.Terms, []uint64{2}) || len(f.Kept) != 1 || f.Kept[0] != want || !f.Kept[0].Lost() {
		t.Fatalf("%+v, want %+v", f, want)
	}

	// It becomes the master again, in term 4; what it had lies aside from then on.
	next.Put("/registry/configmaps/default/since", "1")
	next.DB.Close()
	old.DB.Close()
	if _, err := kine.Aside(t.Context(), p.Datastore, 4); err != nil {
		t.Fatal(err)
	}
	if err := kine.Install(t.Context(), p.Copy, p.Datastore, 4); err != nil {
		t.Fatal(err)
	}
	again := promote(t, p.Datastore, 4, 2)
	f = find(t, p)
	want.Path = p.Datastore + ".relevo-aside-4-1"
	if f.Against != p.Datastore || !slices.Equal(f.Terms, []uint64{2, 4}) || len(f.Kept) != 1 || f.Kept[0] != want {
		t.Fatalf("%+v, want %+v", f, want)
	}

	// It hands over in term 5 without loss, and the one that follows it is lost in
	// term 6 with what this host's copy had seen.
	fork(t, again, p.Copy)
	seen := promote(t, p.Copy, 5, 1)
	sixth := filepath.Join(t.TempDir(), "six.db")
	fork(t, seen, sixth)
	lost := seen.Put("/registry/configmaps/default/lost", "1")
	common = lost - 1
	seen.DB.Close()
	if _, err := kine.Aside(t.Context(), p.Copy, 6); err != nil {
		t.Fatal(err)
	}
	promote(t, sixth, 6, 1).DB.Close()
	if err := os.Rename(sixth, p.Copy); err != nil {
		t.Fatal(err)
	}
	f = find(t, p)
	if f.Against != p.Copy || !slices.Equal(f.Terms, []uint64{2, 4, 5, 6}) || len(f.Kept) != 3 {
		t.Fatalf("%+v", f)
	}
	if k := f.Kept[1]; k.Path != p.Datastore || k.Term != 5 || k.Lost() || k.Err != nil {
		t.Errorf("handed over without loss: %+v", k)
	}
	if k := f.Kept[2]; k != (Kept{Path: p.Copy + ".relevo-aside-6-1", Term: 6, Common: common, Head: lost}) {
		t.Errorf("the copy that was ahead: %+v", k)
	}
}

// TestFindNothing: states in which there is nothing to tell, or no telling.
func TestFindNothing(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T, p Places)
		want error
		kept int
	}{
		{"no datastore at all", func(*testing.T, Places) {}, ErrNoReference, 0},
		{"the first master", func(t *testing.T, p Places) { kinetest.New(t, p.Datastore, false) }, nil, 0},
		{"the first copy is under way", func(t *testing.T, p Places) {
			fork(t, kinetest.New(t, p.Datastore, false), p.Copy)
			promote(t, p.Copy, 2, 1).DB.Close()
			note(t, p.Copy, kine.Notes{Cluster: "home"})
		}, ErrNoReference, 0},
		{"the copy is damaged", func(t *testing.T, p Places) {
			kinetest.New(t, p.Datastore, false)
			if err := os.WriteFile(p.Copy, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, ErrNoReference, 0},
		{"a standby that is level", func(t *testing.T, p Places) {
			w := kinetest.New(t, p.Datastore, false)
			fork(t, w, p.Copy)
			note(t, p.Copy, kine.Notes{Cluster: "home", Complete: true})
			w.Put("/registry/a", "1")
		}, nil, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := places(t)
			for _, f := range []string{p.Datastore, p.Copy} {
				if err := os.MkdirAll(filepath.Dir(f), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			tt.make(t, p)
			f, err := Find(t.Context(), p)
			if !errors.Is(err, tt.want) || len(f.Kept) != tt.kept {
				t.Fatalf("%+v, %v", f, err)
			}
			for _, k := range f.Kept {
				if k.Lost() {
					t.Fatalf("%+v", k)
				}
			}
		})
	}
}

// TestFindBad: an old database that cannot be compared is named, with the
// reason, and stays as it was.
func TestFindBad(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T, path string)
		want error
	}{
		{"half", func(t *testing.T, path string) {
			if err := os.Truncate(path, 3000); err != nil {
				t.Fatal(err)
			}
		}, ErrDamaged},
		{"text", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, ErrDamaged},
		{"empty", func(t *testing.T, path string) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		}, ErrDamaged},
		{"of another cluster", func(t *testing.T, path string) { note(t, path, kine.Notes{Cluster: "work", Complete: true}) }, ErrUnrelated},
		{"of another history", func(t *testing.T, path string) {
			w := kinetest.New(t, path, false)
			w.Exec(`UPDATE kine SET value='other' WHERE id=4`)
			w.DB.Close()
		}, ErrUnrelated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, old, next, _ := oldMaster(t)
			old.DB.Close()
			next.DB.Close()
			note(t, p.Copy, kine.Notes{Cluster: "home", Complete: true})
			aside, err := kine.Aside(t.Context(), p.Datastore, 4)
			if err != nil {
				t.Fatal(err)
			}
			tt.make(t, aside)
			before, err := os.ReadFile(aside)
			if err != nil {
				t.Fatal(err)
			}
			f := find(t, p)
			if len(f.Kept) != 1 || !errors.Is(f.Kept[0].Err, tt.want) || f.Kept[0].Lost() {
				t.Fatalf("%+v", f)
			}
			if _, err := Diff(t.Context(), f, f.Kept[0], Options{}); !errors.Is(err, tt.want) {
				t.Fatal(err)
			}
			if after, err := os.ReadFile(aside); err != nil || string(after) != string(before) {
				t.Fatal("it was changed:", err)
			}
		})
	}
}

func TestDiverged(t *testing.T) {
	forks := func(text string) (out []kine.Fork) {
		for _, w := range strings.Fields(text) {
			var f kine.Fork
			if _, err := fmt.Sscanf(w, "%d:%d:%d", &f.Term, &f.From, &f.Gap); err != nil {
				t.Fatal(err)
			}
			out = append(out, f)
		}
		return out
	}
	var many []string
	for i := range kine.MaxForks {
		many = append(many, fmt.Sprintf("%d:%d:%d", i+20, i*1000+100, i*1000+1000))
	}
	for _, tt := range []struct {
		name, old, present string
		term               uint64
		common             int64
		err                error
	}{
		{"the same", "2:10:1010", "2:10:1010", 0, 0, nil},
		{"none", "", "", 0, 0, nil},
		{"the first master", "", "2:10:1010", 2, 10, nil},
		{"the first of several", "", "2:10:1010 3:1020:2010", 2, 10, nil},
		{"a later one", "2:10:1010", "2:10:1010 3:1020:2010 5:2030:4010", 3, 1020, nil},
		{"a promotion that came to nothing", "2:10:1010 3:1020:2010", "2:10:1010 4:1030:3010", 4, 1020, nil},
		{"and had more", "2:10:1010 3:1040:2010", "2:10:1010 4:1030:3010", 4, 1030, nil},
		{"it is the newer one", "2:10:1010 3:1020:2010", "2:10:1010", 0, 0, ErrNoReference},
		{"the same term, another promotion", "2:10:1010", "2:12:1012", 2, 10, nil},
		{"forgotten", "", strings.Join(many, " "), 0, 0, ErrUnrelated},
		{"forgotten by one", "", strings.Join(many[1:], " "), 21, 1100, nil},
		{"the end of a long list", strings.Join(many[:9], " "), strings.Join(many, " "), 29, 9100, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			term, common, err := diverged(kine.Notes{Forks: forks(tt.old)}, kine.Notes{Forks: forks(tt.present)})
			if term != tt.term || common != tt.common || !errors.Is(err, tt.err) {
				t.Fatalf("term %d, common %d, %v", term, common, err)
			}
		})
	}
}
