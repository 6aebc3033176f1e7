package replica

import (
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// TestCompareAndHeal: a row of the copy is damaged behind its back; the comparison with
// the master names it, and copying anew mends it.
func TestCompareAndHeal(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	w.Random(rand.New(rand.NewPCG(11, 12)), 400)
	w.Put("/registry/configmaps/default/tampered", "right")
	bad := w.Head()
	w.Put("/registry/configmaps/default/after", "1")
	h := newHost(t, w, "home")
	cfg := config(t, getter(address(h)))
	cfg.SyncEvery = time.Hour // what is compared was not written yet
	f := NewFollower(cfg)
	run(t, f.Run)
	wait(t, f, "the head", fresh(w))
	w.Put("/registry/configmaps/default/late", "1")
	wait(t, f, "the tail", fresh(w))
	c, err := f.Compare(t.Context(), 10)
	if err != nil || !c.Equal() || c.Rows == 0 || c.UpTo != w.Head() {
		t.Fatalf("%+v, %v", c, err)
	}
	other := kinetest.New(t, f.CopyPath(), false)
	other.Exec(`UPDATE kine SET value = 'wrong' WHERE id = ?`, bad)
	other.DB.Close()
	c, err = f.Compare(t.Context(), 10)
	want := kine.Difference{Revision: bad, Name: "/registry/configmaps/default/tampered", Where: kine.Both}
	if err != nil || len(c.Differences) != 1 || c.Differences[0] != want {
		t.Fatalf("%+v, %v", c, err)
	}
	if err := f.Anew(t.Context(), "it differs"); err != nil {
		t.Fatal(err)
	}
	wait(t, f, "the copy to be made anew", fresh(w))
	c, err = f.Compare(t.Context(), 10)
	if err != nil || !c.Equal() || c.UpTo != w.Head() {
		t.Fatalf("%+v, %v", c, err)
	}
	if list, err := kine.Asides(f.CopyPath()); err != nil || len(list) != 1 {
		t.Fatalf("kept of the damaged copy: %v, %v", list, err)
	}
}

// TestCompareFindsADamagedIndex: the rows are right, and an index lacks them. The master
// would list too little.
func TestCompareFindsADamagedIndex(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	w.Random(rand.New(rand.NewPCG(13, 14)), 100)
	h := newHost(t, w, "home")
	f := NewFollower(config(t, getter(address(h))))
	run(t, f.Run)
	wait(t, f, "the head", fresh(w))
	other := kinetest.New(t, f.CopyPath(), false)
	other.Exec(`DROP INDEX kine_name_index`)
	other.Exec(`CREATE INDEX kine_name_index ON kine(name) WHERE id < 0`)
	other.Exec(`PRAGMA writable_schema=ON`)
	other.Exec(`UPDATE sqlite_master SET sql='CREATE INDEX kine_name_index ON kine (name)' WHERE name='kine_name_index'`)
	other.DB.Close()
	if _, err := f.Compare(t.Context(), 10); !kine.IsCorrupt(err) {
		t.Fatalf("%v", err)
	}
}
