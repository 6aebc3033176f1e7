package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// TestDivergedHistory: three ways in which a copy is not the past of the
// master; each time it is set aside and made anew.
func TestDivergedHistory(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		change     func(t *testing.T, old, new *kinetest.Writer)
	}{
		{"the master is behind", "the master only", func(_ *testing.T, old, _ *kinetest.Writer) {
			old.Put("/registry/b", "1")
		}},
		{"the same revision is another row", "differs", func(_ *testing.T, old, new *kinetest.Writer) {
			old.Put("/registry/b", "1")
			new.Put("/registry/c", "1")
		}},
		{"lost in a promotion", "the promotion of term 2 did not have", func(t *testing.T, old, new *kinetest.Writer) {
			old.Put("/registry/lost", "1")
			new.DB.Close()
			if _, err := kine.Bump(t.Context(), new.Path, 2, kine.Gap); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			old := kinetest.New(t, filepath.Join(dir, "old.db"), false)
			next := kinetest.New(t, filepath.Join(dir, "new.db"), false)
			for _, w := range []*kinetest.Writer{old, next} {
				w.Put("/registry/a", "1")
			}
			tt.change(t, old, next)
			next = kinetest.New(t, next.Path, false)
			h1 := newHost(t, old, "home")
			at := address(h1)
			f := NewFollower(config(t, getter(at)))
			stop := run(t, f.Run)
			wait(t, f, "the old master's head", fresh(old))
			stop()
			lost := kinetest.Dump(t, f.CopyPath())

			h2 := newHost(t, next, "home")
			h2.term.Store(2)
			at.Store(h2.url)
			stop = run(t, f.Run)
			seen := func(p Position) bool { return strings.Contains(p.Err, tt.want) }
			wait(t, f, "the reason", func(p Position) bool { return seen(p) || p.Term == 2 && fresh(next)(p) })
			wait(t, f, "the new master's head", func(p Position) bool { return p.Term == 2 && fresh(next)(p) })
			stop()
			equal(t, f, next)
			list, err := kine.Asides(f.CopyPath())
			if err != nil || len(list) != 1 || kinetest.Dump(t, list[0]) != lost {
				t.Fatalf("set aside: %v, %v", list, err)
			}
		})
	}
}

// TestContinuesOverPromotion: a second standby that had nothing the promoted
// one had not keeps its copy.
func TestContinuesOverPromotion(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	w.Random(rand.New(rand.NewPCG(9, 9)), 200)
	h := newHost(t, w, "home")
	f := NewFollower(config(t, getter(address(h))))
	stop := run(t, f.Run)
	wait(t, f, "the head", fresh(w))
	stop()
	w.Put("/registry/unseen", "1")
	w.DB.Close()
	// The source lets go of the file for the promotion's work on it.
	dst := filepath.Join(t.TempDir(), "state.db")
	copyDB(t, w.Path, dst)
	b, err := kine.Bump(t.Context(), dst, 2, kine.Gap)
	if err != nil {
		t.Fatal(err)
	}
	next := kinetest.New(t, dst, false)
	next.Put("/registry/new", "1")
	h2 := newHost(t, next, "home")
	h2.term.Store(2)
	f.cfg.Get = getter(address(h2))
	stop = run(t, f.Run)
	wait(t, f, "the new master's head", fresh(next))
	stop()
	if list, err := kine.Asides(f.CopyPath()); err != nil || len(list) != 0 {
		t.Fatalf("set aside without need: %v, %v", list, err)
	}
	if p := f.Position(); p.Revision <= b.To {
		t.Fatalf("%+v", p)
	}
	equal(t, f, next)
}

func copyDB(t *testing.T, from, to string) {
	t.Helper()
	for _, s := range []string{"", "-wal"} {
		data, err := os.ReadFile(from + s)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+s, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTornStretch: the stream breaks while the copy passes over what the master
// has compacted; until it can be finished, the copy stays the state it was.
func TestTornStretch(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	w.Put("/registry/a", "1")
	w.Put("/registry/b", "1")
	h := newHost(t, w, "home")
	get := getter(address(h))
	f := NewFollower(config(t, get))
	stop := run(t, f.Run)
	wait(t, f, "the head", fresh(w))
	stop()
	before, pos := kinetest.Dump(t, f.CopyPath()), f.Position().Revision

	w.Delete("/registry/a") // the copy will never see this
	for i := range 50 {
		w.Put("/registry/b", fmt.Sprint(i))
	}
	w.Compact(w.Head() - 1)
	var tries atomic.Int64
	f.cfg.Get = func(ctx context.Context, uri string) (*http.Response, error) {
		resp, err := get(ctx, uri)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		var head []byte // header and rows, and then no more
		for range 2 {
			fr, err := readFrame(resp.Body)
			if err != nil {
				return nil, err
			}
			if fr.kind == kindSurvivors || fr.kind == kindMark {
				t.Error("the test wants rows before the survivors")
			}
			head = appendFrame(head, fr)
		}
		tries.Add(1)
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(head))}, nil
	}
	stop = run(t, f.Run)
	wait(t, f, "a few tries", func(Position) bool { return tries.Load() > 3 })
	if p := f.Position(); p.Revision != pos || !p.Complete {
		t.Fatalf("%+v", p)
	}
	stop()
	if after := kinetest.Dump(t, f.CopyPath()); after != before {
		t.Fatalf("the copy became a state that never was:\n%s", kinetest.Diff(after, before))
	}
	f.cfg.Get = get
	equal(t, f, w)
}

// TestPause: the datastore is let go of at once, and found again.
func TestPause(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	w.Random(rand.New(rand.NewPCG(1, 1)), 50)
	h := newHost(t, w, "home")
	f := NewFollower(config(t, getter(address(h))))
	run(t, f.Run)
	wait(t, f, "the head", fresh(w))
	w.DB.Close()
	h.src.Pause()
	if _, err := kine.Bump(t.Context(), w.Path, 2, kine.Gap); err != nil { // fails if anybody has it open
		t.Fatal(err)
	}
	h.src.Resume()
	w = kinetest.New(t, w.Path, false)
	wait(t, f, "the jump", fresh(w))
}
