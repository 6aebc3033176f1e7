package lost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// lines shows a report as text, for comparing.
func lines(r Report) string {
	var b strings.Builder
	for _, o := range r.Objects {
		fmt.Fprintf(&b, "%s %s %s/%s %s r%d x%d %s\n", o.Op, o.Resource, o.Namespace, o.Name, o.Kind, o.Revision-r.Common, o.Writes, o.Now)
	}
	for _, c := range r.Noise {
		fmt.Fprintf(&b, "noise %s %d\n", c.Resource, c.Writes)
	}
	if r.More > 0 {
		fmt.Fprintf(&b, "more %d\n", r.More)
	}
	return b.String()
}

func TestDiff(t *testing.T) {
	p := places(t)
	for _, d := range []string{p.Datastore, p.Copy} {
		if err := os.MkdirAll(filepath.Dir(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	pod := string(stored(t, "v1", "Pod", []byte("a pod")))
	thing := `{"apiVersion":"example.org/v1","kind":"Thing","metadata":{"name":"x"}}`
	w := kinetest.New(t, p.Datastore, false)
	for _, k := range []string{"pods/default/updated", "pods/default/deleted", "pods/default/deleted-later", "pods/default/both", "pods/default/recreated"} {
		w.Put("/registry/"+k, pod)
	}
	fork(t, w, p.Copy)
	w.Put("/registry/pods/default/updated", pod)                                                                                               // 1
	w.Put("/registry/pods/default/updated", pod+"2")                                                                                           // 2
	w.Delete("/registry/pods/default/deleted")                                                                                                 // 3
	w.Delete("/registry/pods/default/deleted-later")                                                                                           // 4
	w.Put("/registry/example.org/things/default/x", thing)                                                                                     // 5
	w.Put("/registry/namespaces/brief", pod)                                                                                                   // 6
	w.Delete("/registry/namespaces/brief")                                                                                                     // 7
	w.Put("/registry/pods/default/both", pod)                                                                                                  // 8
	w.Delete("/registry/pods/default/recreated")                                                                                               // 9
	w.Put("/registry/pods/default/recreated", pod)                                                                                             // 10
	w.Put("/registry/leases/kube-node-lease/pi", pod)                                                                                          // 11
	w.Put("/registry/leases/kube-node-lease/pi", pod)                                                                                          // 12
	w.Put("/registry/events/default/e", pod)                                                                                                   // 13
	w.Exec(`UPDATE sqlite_sequence SET seq=seq+1`)                                                                                             // 14, never filled
	w.Exec(`INSERT INTO kine(name,created,deleted,create_revision,prev_revision,lease) SELECT 'gap-'||(seq+1),0,1,0,0,0 FROM sqlite_sequence`) // 15
	w.Put("/registry/pods/../../etc/passwd\x1b[2J", "evil")                                                                                    // 16
	next := promote(t, p.Copy, 2, 1)
	next.Put("/registry/pods/default/both", pod+"other")
	next.Delete("/registry/pods/default/deleted-later")

	f := find(t, p)
	before := kinetest.Dump(t, p.Datastore)
	const objects = `create+delete namespaces /brief Namespace r7 x2 absent
create pods ../../etc/passwd` + "\x1b[2J" + `  r16 x1 absent
update pods default/both Pod r8 x1 newer
delete pods default/deleted Pod r3 x1 older
delete pods default/deleted-later Pod r4 x1 absent
update pods default/recreated Pod r10 x2 older
update pods default/updated Pod r2 x2 older
create things.example.org default/x Thing r5 x1 absent
`
	for _, tt := range []struct {
		name string
		opt  Options
		want string
	}{
		{"short", Options{}, objects + "noise events 1\nnoise leases 2\n"},
		{"all", Options{All: true}, objects + "create events default/e Pod r13 x1 absent\ncreate leases kube-node-lease/pi Pod r12 x2 absent\n"},
		{"bounded", Options{Limit: 2}, "delete pods default/deleted Pod r3 x1 older\nupdate pods default/updated Pod r2 x2 older\nnoise events 1\nnoise leases 2\nmore 8\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Diff(t.Context(), f, f.Kept[0], tt.opt)
			want := strings.ReplaceAll(tt.want, "/brief Namespace", "/brief Pod")
			if got := lines(r); err != nil || got != want {
				t.Fatalf("%v\n%s\nwant\n%s", err, got, want)
			}
		})
	}
	if kinetest.Dump(t, p.Datastore) != before {
		t.Fatal("the old database was changed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Diff(ctx, f, f.Kept[0], Options{}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// TestDiffRandom compares with a history that was written down beside it, also
// where either side has compacted what it did since.
func TestDiffRandom(t *testing.T) {
	ops := map[Op]int{}
	for seed := range uint64(12) {
		compacts := seed%2 == 1
		r := rand.New(rand.NewPCG(seed, 3))
		p := places(t)
		for _, d := range []string{p.Datastore, p.Copy} {
			if err := os.MkdirAll(filepath.Dir(d), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		w := kinetest.New(t, p.Datastore, seed%3 == 0)
		live, writes := map[string]bool{}, map[string]int{}
		do := func(w *kinetest.Writer, n int) {
			for range n {
				key := fmt.Sprintf("/registry/configmaps/default/k%02d", r.IntN(30))
				if r.IntN(3) == 0 {
					if live[key] {
						writes[key]++
					}
					w.Delete(key)
					live[key] = false
				} else {
					w.Put(key, "v")
					live[key] = true
					writes[key]++
				}
				if compacts && r.IntN(15) == 0 {
					w.Compact(w.Head() - r.Int64N(10))
				}
			}
		}
		do(w, 20+r.IntN(80))
		fork(t, w, p.Copy)
		was := maps.Clone(live)
		clear(writes)
		do(w, 1+r.IntN(120))
		is, wrote := live, maps.Clone(writes)
		next := promote(t, p.Copy, 2, 1)
		live = maps.Clone(was)
		clear(writes)
		do(next, r.IntN(30))
		now, since := live, writes

		f := find(t, p)
		got, err := Diff(t.Context(), f, f.Kept[0], Options{})
		if err != nil {
			t.Fatal(err)
		}
		listed := map[string]Object{}
		for _, o := range got.Objects {
			listed[o.Path] = o
		}
		for _, key := range slices.Sorted(maps.Keys(wrote)) {
			o, ok := listed[key]
			delete(listed, key)
			op := map[[2]bool]Op{{false, true}: Create, {true, true}: Update, {true, false}: Delete, {false, false}: Passing}[[2]bool{was[key], is[key]}]
			// What both sides have compacted away nobody can know.
			gone := compacts && (!is[key] && !was[key] || since[key] > 0)
			if !ok && gone && !is[key] {
				continue
			}
			if o.Op != op && !gone || o.Writes > wrote[key] || !compacts && o.Writes != wrote[key] {
				t.Errorf("seed %d: %s: %+v, want %s of %d writes", seed, key, o, op, wrote[key])
			}
			want := Older
			switch {
			case !now[key]:
				want = Absent
			case since[key] > 0:
				want = Newer
			}
			if o.Now != want {
				t.Errorf("seed %d: %s is %s, want %s", seed, key, o.Now, want)
			}
			ops[o.Op]++
		}
		if len(listed) > 0 {
			t.Errorf("seed %d: never written: %v", seed, listed)
		}
		w.DB.Close()
		next.DB.Close()
	}
	if len(ops) != 4 {
		t.Errorf("the test does not show everything: %v", ops)
	}
}

// TestDiffDamaged: what can be read of a damaged database is told, with an error
// that says that it may not be all.
func TestDiffDamaged(t *testing.T) {
	for _, tt := range []struct {
		name, at string
		min, max int
	}{
		{"in what was lost", "k400", 90, 100},
		{"elsewhere", "k100", 300, 300},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := places(t)
			for _, d := range []string{p.Datastore, p.Copy} {
				if err := os.MkdirAll(filepath.Dir(d), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			w := kinetest.New(t, p.Datastore, false)
			for i := range 600 {
				if i == 300 {
					fork(t, w, p.Copy)
				}
				w.Put(fmt.Sprintf("/registry/configmaps/default/k%03d", i), strings.Repeat("x", 2000))
			}
			w.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`)
			w.DB.Close()
			promote(t, p.Copy, 2, 1)
			f := find(t, p)
			data, err := os.ReadFile(p.Datastore)
			if err != nil {
				t.Fatal(err)
			}
			at := bytes.Index(data, []byte("/registry/configmaps/default/"+tt.at+"xxxx")) / 4096 * 4096 // a leaf of the table
			for i := range data[at : at+4096] {
				data[at+i] ^= 0xff
			}
			if err := os.WriteFile(p.Datastore, data, 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := Diff(t.Context(), f, f.Kept[0], Options{})
			if !errors.Is(err, ErrDamaged) || len(r.Objects) < tt.min || len(r.Objects) > tt.max {
				t.Fatalf("%d objects, %v", len(r.Objects), err)
			}
			if !slices.IsSortedFunc(r.Objects, func(a, b Object) int { return strings.Compare(a.Path, b.Path) }) || r.Objects[0].Now != Absent {
				t.Fatalf("%+v", r.Objects[0])
			}
			if after, err := os.ReadFile(p.Datastore); err != nil || string(after) != string(data) {
				t.Fatal("it was changed:", err)
			}
		})
	}
}

// TestDiffGone: the reference moves away under the comparison, as in a promotion.
func TestDiffGone(t *testing.T) {
	p, _, next, _ := oldMaster(t)
	f := find(t, p)
	next.DB.Close()
	if _, err := kine.Aside(t.Context(), p.Copy, 9); err != nil {
		t.Fatal(err)
	}
	if _, err := Diff(t.Context(), f, f.Kept[0], Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}
