package kine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// wire carries queries as JSON, as another host would get them, and counts.
func wire(t testing.TB, r *Reader, bytes *int) Ask {
	return func(ctx context.Context, q Query) (Reply, error) {
		question, err := json.Marshal(q)
		if err != nil {
			t.Error(err)
		}
		var got Query
		if err := json.Unmarshal(question, &got); err != nil {
			t.Error(err)
		}
		reply, err := r.Answer(ctx, got)
		if err != nil {
			return Reply{}, err
		}
		text, err := json.Marshal(reply)
		if err != nil {
			t.Error(err)
		}
		*bytes += len(question) + len(text)
		reply = Reply{}
		if err := json.Unmarshal(text, &reply); err != nil {
			t.Error(err)
		}
		return reply, nil
	}
}

// seen is what both sides must have, worked out the slow way: revision to row.
func seen(t testing.TB, path string, at, upTo int64) map[int64]string {
	t.Helper()
	out, newest := map[int64]string{}, map[string]int64{}
	dead := map[int64]bool{}
	for line := range strings.Lines(kinetest.Dump(t, path)) {
		var id int64
		idText, rest, _ := strings.Cut(line, "|")
		name, columns, _ := strings.Cut(rest, "|")
		if _, err := fmt.Sscan(idText, &id); err != nil {
			t.Fatal(err)
		}
		gap := fmt.Sprintf("gap-%d|01|0|0|0|", id) == name+"|"+columns[:min(len(columns), 9)]
		if id > upTo || name == CompactKey || gap {
			continue
		}
		out[id] = line
		if id <= at {
			if old, ok := newest[name]; ok {
				delete(out, old)
			}
			newest[name] = id
			dead[id] = strings.HasPrefix(columns[1:], "1|") || strings.HasPrefix(columns, "01")
		}
	}
	for id := range dead {
		if dead[id] {
			delete(out, id)
		}
	}
	return out
}

// TestCompareRandom: whatever happened, and whichever side is compacted
// further, equal histories have equal sums; and of tampered ones exactly the
// rows are named that differ in what Kubernetes can see.
func TestCompareRandom(t *testing.T) {
	tampered, behind := 0, 0
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 7))
		dir := t.TempDir()
		w := kinetest.New(t, filepath.Join(dir, "state.db"), seed%3 == 0)
		w.Random(r, 30+r.IntN(400))
		path := filepath.Join(dir, "copy.db")
		c, err := OpenCopy(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		src := mustReader(t, w.Path)
		pull(t, src, c)
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if seed%2 == 0 {
			w.Random(r, r.IntN(60)) // the master goes on, and compacts
		}
		if seed%5 == 0 {
			w.Compact(w.Head() - r.Int64N(20))
		}
		copied := mustReader(t, path)
		bytes := 0
		got, err := Compare(t.Context(), copied.Answer, wire(t, src, &bytes), 1000)
		if errors.Is(err, ErrBehind) {
			behind++
			continue
		}
		if err != nil || !got.Equal() || got.Queries != 2 {
			t.Fatalf("seed %d: %+v, %v", seed, got, err)
		}
		if want := seen(t, w.Path, got.At, got.UpTo); got.Rows != int64(len(want)) || !maps.Equal(want, seen(t, path, got.At, got.UpTo)) {
			t.Fatalf("seed %d: %d rows summed, want %d", seed, got.Rows, len(want))
		}

		bad := kinetest.New(t, path, false)
		for range 1 + r.IntN(6) {
			id := 2 + r.Int64N(got.UpTo-1)
			switch r.IntN(5) {
			case 0:
				bad.Exec(`DELETE FROM kine WHERE id=?`, id)
			case 1:
				bad.Exec(`UPDATE kine SET value=CAST(coalesce(value,'')||'!' AS BLOB) WHERE id=?`, id)
			case 2:
				bad.Exec(`UPDATE kine SET lease=lease+1 WHERE id=?`, id)
			case 3:
				bad.Exec(`UPDATE kine SET old_value=CASE WHEN old_value IS NULL THEN x'' ELSE NULL END WHERE id=?`, id)
			case 4:
				bad.Exec(`INSERT OR IGNORE INTO kine(id,name,created,deleted,prev_revision,value) VALUES(?,?,1,0,-?1,'x')`, id, fmt.Sprint("/registry/more/", id))
			}
		}
		want := diff(seen(t, path, got.At, got.UpTo), seen(t, w.Path, got.At, got.UpTo))
		tampered += len(want)
		got, err = Compare(t.Context(), copied.Answer, wire(t, src, &bytes), 1000)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(got.Differences, want, func(a, b Difference) bool { return a.Revision == b.Revision && a.Where == b.Where }) {
			t.Fatalf("seed %d at %d: found %v, want %v", seed, got.At, got.Differences, want)
		}
	}
	if tampered < 12 || behind > 4 {
		t.Fatalf("the test tells nothing: %d rows tampered with, %d times behind", tampered, behind)
	}
}

func diff(here, there map[int64]string) (out []Difference) {
	for _, id := range slices.Sorted(maps.Keys(here)) {
		if line, ok := there[id]; !ok {
			out = append(out, Difference{Revision: id, Where: OnlyHere})
		} else if line != here[id] {
			out = append(out, Difference{Revision: id, Where: Both})
		}
	}
	for id := range there {
		if _, ok := here[id]; !ok {
			out = append(out, Difference{Revision: id, Where: OnlyThere})
		}
	}
	slices.SortFunc(out, func(a, b Difference) int { return int(a.Revision - b.Revision) })
	return out
}

// TestComparePromotion: the jump of a promotion and its pruning change nothing
// of what is compared.
func TestComparePromotion(t *testing.T) {
	dir := t.TempDir()
	w, path := newCopy(t, dir)
	w.DB.Close()
	if _, err := Bump(t.Context(), path, 2, Gap); err != nil {
		t.Fatal(err)
	}
	next := kinetest.New(t, path, false)
	next.Put("/registry/new", "1")
	promoted, second := mustReader(t, path), filepath.Join(dir, "second.db")
	c, err := OpenCopy(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	pull(t, mustReader(t, w.Path), c)
	if err := c.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	follower := mustReader(t, second)
	if got, err := Compare(t.Context(), follower.Answer, promoted.Answer, 5); !errors.Is(err, ErrBehind) {
		t.Fatalf("a copy before the jump: %+v, %v", got, err)
	}
	pull(t, promoted, c)
	defer c.Close(t.Context())
	if got, err := Compare(t.Context(), follower.Answer, promoted.Answer, 5); err != nil || !got.Equal() || got.Rows != 11 {
		t.Fatalf("a copy after the jump: %+v, %v", got, err)
	}
}

// TestCompareIsCheap: one changed byte among 4000 rows costs little.
func TestCompareIsCheap(t *testing.T) {
	dir := t.TempDir()
	a := kinetest.New(t, filepath.Join(dir, "a.db"), false)
	tx, err := a.DB.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4000 {
		if _, err := tx.Exec(`INSERT INTO kine(name,created,deleted,prev_revision,lease,value) VALUES(?,1,0,0,0,?)`, fmt.Sprint("/registry/pods/default/p", i), "x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	a.Exec(`VACUUM INTO ?`, filepath.Join(dir, "b.db"))
	b := kinetest.New(t, filepath.Join(dir, "b.db"), false)
	b.Exec(`UPDATE kine SET value='y' WHERE id=2345`)
	bytes := 0
	got, err := Compare(t.Context(), mustReader(t, a.Path).Answer, wire(t, mustReader(t, b.Path), &bytes), 10)
	if err != nil || !slices.Equal(got.Differences, []Difference{{2345, "/registry/pods/default/p2342", Both}}) || got.Rows != 4001 {
		t.Fatalf("%+v, %v", got, err)
	}
	if got.Queries > 6 || bytes > 12<<10 {
		t.Fatalf("%d queries, %d bytes", got.Queries, bytes)
	}
	b.Exec(`UPDATE kine SET lease=9`)
	if got, err = Compare(t.Context(), mustReader(t, a.Path).Answer, wire(t, mustReader(t, b.Path), &bytes), 10); err != nil || len(got.Differences) != 10 || !got.More || got.Differences[9].Revision != 11 {
		t.Fatalf("all differ: %+v, %v", got, err)
	}
}

// TestCompareMoved: a compaction in the middle begins the comparison anew; one
// that never ends is an error, not a wrong answer.
func TestCompareMoved(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	w.Random(rand.New(rand.NewPCG(1, 1)), 300)
	r := mustReader(t, w.Path)
	times := 1
	// Both sides are the same database here: it is compacted once both have said where they are.
	answered := make(chan struct{}, 1)
	here := func(ctx context.Context, q Query) (Reply, error) {
		reply, err := r.Answer(ctx, q)
		if q == (Query{}) {
			answered <- struct{}{}
		}
		return reply, err
	}
	moving := func(ctx context.Context, q Query) (Reply, error) {
		reply, err := r.Answer(ctx, q)
		if q == (Query{}) {
			<-answered
			if times > 0 {
				times--
				w.Compact(reply.Compact + 5)
			}
		}
		return reply, err
	}
	if got, err := Compare(t.Context(), here, moving, 1); err != nil || !got.Equal() || got.Queries != 4 {
		t.Fatalf("%+v, %v", got, err)
	}
	times = 1 << 20
	if got, err := Compare(t.Context(), here, moving, 1); !errors.Is(err, ErrMoved) {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestCompareFails(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	w.Put("/registry/a", "1")
	r := mustReader(t, w.Path)
	broken := errors.New("no route")
	for _, tt := range []struct {
		name  string
		want  error
		reply Reply
		err   error
	}{
		{"gone", broken, Reply{}, broken},
		{"partial", ErrPartial, Reply{Head: 3, Partial: true}, nil},
		{"compacted beyond its head", errReply, Reply{Head: 3, Compact: 4}, nil},
		{"negative", errReply, Reply{Head: -1}, nil},
		{"no sums", errReply, Reply{Head: 3}, nil},
		{"too many rows", errReply, Reply{Head: 3, Sums: slices.Repeat([]Sum{{Rows: 9}}, fanOut)}, nil},
		{"behind", ErrBehind, Reply{Head: 9, Compact: 9}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			there := func(context.Context, Query) (Reply, error) { return tt.reply, tt.err }
			if got, err := Compare(t.Context(), r.Answer, there, 5); !errors.Is(err, tt.want) {
				t.Fatalf("%+v, %v", got, err)
			}
		})
	}
	for _, q := range []Query{{At: -1}, {UpTo: 3, Parts: MaxParts + 1}, {After: 4, UpTo: 3}, {Parts: -1}} {
		if _, err := r.Answer(t.Context(), q); err == nil {
			t.Errorf("%+v was answered", q)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Compare(ctx, r.Answer, r.Answer, 5); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// FuzzCompare: whatever the other side answers, a comparison ends, within its
// bounds.
func FuzzCompare(f *testing.F) {
	for _, s := range []string{
		`{"head":9,"compact":2}`, `{"head":9,"sums":[{"rows":1,"digest":"00"}]}`, `{"head":9,"more":true}`,
		`{"head":9,"list":[{"revision":3,"name":"a","digest":"00112233445566778899aabbccddeeff"}]}`, `{"head":-1}`, `[]`,
	} {
		f.Add([]byte(s), true)
	}
	path := filepath.Join(f.TempDir(), "state.db")
	w := kinetest.New(f, path, false)
	for i := range 100 {
		w.Put(fmt.Sprint("/registry/k", i), "v")
	}
	r, err := OpenReader(f.Context(), path)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { r.Close() })
	f.Fuzz(func(t *testing.T, text []byte, stretch bool) {
		var reply Reply
		if json.Unmarshal(text, &reply) != nil {
			return
		}
		queries := 0
		there := func(_ context.Context, q Query) (Reply, error) {
			queries++
			out := reply
			if stretch && q.Parts > 0 { // as many sums as asked for, so that it goes on
				out.Sums, out.List, out.More = make([]Sum, q.Parts), nil, false
				for i := range out.Sums {
					if len(reply.Sums) > 0 {
						out.Sums[i] = reply.Sums[i%len(reply.Sums)]
					}
				}
			} else if stretch {
				out.Sums = nil
			}
			return out, nil
		}
		const limit = 3
		got, err := Compare(t.Context(), r.Answer, there, limit)
		if len(got.Differences) > limit || queries > moveTries*(1+maxDepth*(limit+1)) {
			t.Fatalf("%d differences, %d queries, %v", len(got.Differences), queries, err)
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	w := kinetest.New(b, filepath.Join(b.TempDir(), "state.db"), false)
	value := []byte(strings.Repeat("x", 1000))
	for i := range 5000 {
		w.Exec(`INSERT INTO kine(name,created,deleted,prev_revision,lease,value) VALUES(?,1,0,0,0,?)`, fmt.Sprint("/k", i), value)
	}
	r := mustReader(b, w.Path)
	b.ReportAllocs()
	b.SetBytes(5000 * 1000)
	for b.Loop() {
		if _, err := r.Answer(b.Context(), Query{UpTo: w.Head(), Parts: fanOut}); err != nil {
			b.Fatal(err)
		}
	}
}
