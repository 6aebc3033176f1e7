package lost

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// TestRealKine: a real kine is killed with writes that its successor, a real kine
// as well, never saw; while both compact.
func TestRealKine(t *testing.T) {
	program := kinetest.Program(t)
	p := places(t)
	for _, d := range []string{p.Datastore, p.Copy} {
		if err := os.MkdirAll(filepath.Dir(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	churn := func(s *kinetest.Server, n int) (wrote map[string]int) {
		wrote = map[string]int{}
		for i := range n {
			key := fmt.Sprintf("/registry/configmaps/default/k%02d", r.IntN(40))
			if _, lives := s.Known()[key]; lives && r.IntN(4) == 0 {
				s.Delete(key)
			} else {
				s.Put(key, string(stored(t, "v1", "ConfigMap", fmt.Append(nil, i))))
			}
			wrote[key]++
		}
		return wrote
	}
	old := kinetest.Start(t, program, p.Datastore)
	churn(old, 400)
	compacted(t, p.Datastore, 300)
	was := old.Known()
	db, err := sql.Open("sqlite", "file://"+p.Datastore+"?mode=ro&_pragma=busy_timeout(30000)")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`VACUUM INTO ?`, p.Copy); err != nil {
		t.Fatal(err)
	}
	// Two sides with one past, one of them a kine that goes on and compacts.
	kinetest.New(t, p.Copy, false).DB.Close()
	wrote := churn(old, 20)
	compareLive(t, p)
	for key, n := range churn(old, 60) {
		wrote[key] += n
	}
	compacted(t, p.Datastore, 420)
	old.Kill()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	is := old.Known()

	if _, err := kine.Bump(t.Context(), p.Copy, 2, kine.Gap); err != nil {
		t.Fatal(err)
	}
	next := kinetest.Start(t, program, p.Copy)
	next.Adopt(was)
	since := churn(next, 30)
	now := next.Known()

	f := find(t, p)
	if f.Against != p.Copy || len(f.Kept) != 1 || !f.Kept[0].Lost() {
		t.Fatalf("%+v", f)
	}
	got, err := Diff(t.Context(), f, f.Kept[0], Options{})
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]Object{}
	for _, o := range got.Objects {
		listed[o.Path] = o
	}
	for _, key := range slices.Sorted(maps.Keys(wrote)) {
		o := listed[key]
		delete(listed, key)
		_, before := was[key]
		_, after := is[key]
		_, there := now[key]
		want := Older
		switch {
		case !there:
			want = Absent
		case since[key] > 0:
			want = Newer
		}
		op := map[[2]bool]Op{{false, true}: Create, {true, true}: Update, {true, false}: Delete, {false, false}: Passing}[[2]bool{before, after}]
		// Its kine has compacted beyond the last common revision. Of what came and
		// went there nothing is left; of what is gone, what the new master knows.
		if o.Op == "" && !after && (!before || since[key] > 0) {
			continue
		}
		if o.Op == Create && before && since[key] > 0 || o.Op == Delete && o.Revision == 0 {
			op = o.Op
		}
		if o.Op != op || o.Now != want || o.Kind != "ConfigMap" || after && o.Revision != is[key] {
			t.Errorf("%s: %+v, want %s, %s, revision %d", key, o, op, want, is[key])
		}
	}
	if len(listed) > 0 {
		t.Errorf("never written: %v", listed)
	}
}

// compacted waits until kine has compacted up to a revision.
func compacted(t *testing.T, path string, revision int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		pos, err := position(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		if pos.Compact >= revision {
			return
		}
		<-tick.C
	}
}

// compareLive compares the datastore of a running kine with the copy.
func compareLive(t *testing.T, p Places) {
	t.Helper()
	var sides []kine.Ask
	for _, path := range []string{p.Copy, p.Datastore} {
		r, err := kine.OpenReader(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		sides = append(sides, r.Answer)
	}
	got, err := kine.Compare(t.Context(), sides[0], sides[1], 10)
	if err != nil || !got.Equal() || got.Rows == 0 || got.Lead < 20 {
		t.Fatalf("%+v, %v", got, err)
	}
}
