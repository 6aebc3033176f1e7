package replica

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// TestProve: a copy that has everything is told from one that has not, and from one in
// which a row is wrong, also when it lies in memory still.
func TestProve(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	w.Random(rand.New(rand.NewPCG(21, 22)), 400)
	h := newHost(t, w, "home")
	cfg := config(t, getter(address(h)))
	cfg.SyncEvery = time.Hour
	f := NewFollower(cfg)
	run(t, f.Run)
	wait(t, f, "the head", fresh(w))
	before := w.Head()
	all, err := f.Prove(t.Context(), 0, 0)
	if err != nil || all.UpTo != before || all.Rows == 0 || len(all.Digest) != 32 {
		t.Fatalf("%+v, %v", all, err)
	}
	for range 5 {
		w.Put("/registry/configmaps/default/late", "1")
	}
	// It waits for what is on its way; of the rest nothing is read again.
	tail, err := f.Prove(t.Context(), before, w.Head())
	if err != nil || tail.UpTo != w.Head() || tail.Rows != 5 || tail.Digest == all.Digest {
		t.Fatalf("%+v, %v", tail, err)
	}
	if none, err := f.Prove(t.Context(), w.Head(), w.Head()); err != nil || none.Rows != 0 {
		t.Errorf("nothing since: %+v, %v", none, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := f.Prove(ctx, before, w.Head()+1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a revision that never comes: %v", err)
	}
	if _, err := f.Prove(t.Context(), before, w.Head()-1); !errors.Is(err, ErrDiffers) {
		t.Errorf("the master has more than it said: %v", err)
	}
	other := kinetest.New(t, f.CopyPath(), false)
	other.Exec(`UPDATE kine SET value = 'wrong' WHERE id = ?`, w.Head()-2)
	other.DB.Close()
	if _, err := f.Prove(t.Context(), before, w.Head()); !errors.Is(err, ErrDiffers) {
		t.Errorf("a row that is wrong: %v", err)
	}
	if _, err := f.Prove(t.Context(), w.Head()-1, w.Head()); err != nil {
		t.Errorf("after the row that is wrong: %v", err)
	}
}
