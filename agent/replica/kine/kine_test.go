package kine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

func mustReader(t testing.TB, path string) *Reader {
	t.Helper()
	r, err := OpenReader(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// pull brings a copy level with a reader the way a stream does.
func pull(t testing.TB, r *Reader, c *Copy) {
	t.Helper()
	ctx := t.Context()
	s, err := r.Schema(ctx)
	if err == nil {
		err = c.Begin(ctx, s)
	}
	if err != nil {
		t.Fatal(err)
	}
	for {
		b, err := r.Batch(ctx, c.Revision())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Apply(ctx, b.Rows); err != nil {
			t.Fatal(err)
		}
		if b.More {
			continue
		}
		upTo := min(b.Compact, c.Revision())
		for after, done := int64(0), false; !done; {
			var list []Survivor
			if list, done, err = r.Survivors(ctx, after, upTo, b.Compact, 7); err != nil {
				t.Fatal(err)
			}
			to := upTo
			if !done {
				to = list[len(list)-1].ID
			}
			if _, err := c.Retain(ctx, after, to, list); err != nil {
				t.Fatal(err)
			}
			after = to
		}
		m, err := r.Marks(ctx)
		if err == nil {
			err = c.Mark(ctx, m.Compacts, m.Seq)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		return
	}
}

// TestCopyEqualsSource: whatever kine writes, and however long the copy was
// away meanwhile, it ends up equal, row for row and type for type.
func TestCopyEqualsSource(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			dir := t.TempDir()
			w := kinetest.New(t, filepath.Join(dir, "state.db"), seed%2 == 0)
			c, err := OpenCopy(t.Context(), filepath.Join(dir, "copy", "state.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(t.Context())
			reader := mustReader(t, w.Path)
			for round := range 12 {
				w.Random(r, 1+r.IntN(60))
				if r.IntN(4) == 0 {
					w.Compact(w.Head()) // over the head of a copy that is behind
				}
				pull(t, reader, c)
				if diff := kinetest.Diff(kinetest.Dump(t, c.path), kinetest.Dump(t, w.Path)); diff != "" {
					t.Fatalf("round %d: the copy differs:\n%s", round, diff)
				}
			}
		})
	}
}

func TestReaderDoesNotWrite(t *testing.T) {
	dir := t.TempDir()
	w := kinetest.New(t, filepath.Join(dir, "state.db"), false)
	for i := range 50 {
		w.Put(fmt.Sprint("/k", i), "v")
	}
	// What a kill -9 leaves: the files as they are, no lock held.
	dead := filepath.Join(dir, "dead", "state.db")
	if err := os.Mkdir(filepath.Dir(dead), 0o700); err != nil {
		t.Fatal(err)
	}
	before := map[string]string{}
	for _, s := range []string{"", "-wal"} {
		data, err := os.ReadFile(w.Path + s)
		if err != nil {
			t.Fatal(err)
		}
		before[s] = string(data)
		if err := os.WriteFile(dead+s, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if len(before["-wal"]) == 0 {
		t.Fatal("the test wants rows in the WAL")
	}
	r, err := OpenReader(t.Context(), dead)
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.Batch(t.Context(), 0)
	if err != nil || len(b.Rows) != 52 {
		t.Fatalf("rows %d, err %v; want 52", len(b.Rows), err)
	}
	if _, err := r.db.Exec(`DELETE FROM kine`); err == nil {
		t.Fatal("the reader could write")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for s, want := range before {
		data, err := os.ReadFile(dead + s)
		if err != nil || string(data) != want {
			t.Fatalf("state.db%s changed under a reader (%v, %d bytes, were %d)", s, err, len(data), len(want))
		}
	}
}

func TestReplacedFile(t *testing.T) {
	dir := t.TempDir()
	w := kinetest.New(t, filepath.Join(dir, "state.db"), false)
	r := mustReader(t, w.Path)
	if err := r.Current(); err != nil {
		t.Fatal(err)
	}
	w.Exec(`VACUUM`)
	w.Put("/after", "vacuum")
	if err := r.Current(); err != nil {
		t.Fatal("a VACUUM is not a replacement: ", err)
	}
	if b, err := r.Batch(t.Context(), 0); err != nil || b.Head != w.Head() {
		t.Fatalf("after VACUUM: head %d, err %v", b.Head, err)
	}
	other := kinetest.New(t, filepath.Join(dir, "other.db"), false)
	if err := os.Rename(other.Path, w.Path); err != nil {
		t.Fatal(err)
	}
	if err := r.Current(); err == nil {
		t.Fatal("the replacement was not noticed")
	}
}

func TestSchemas(t *testing.T) {
	base := `CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER, deleted INTEGER, create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB)`
	// Each layout as kine made it itself, with its indexes.
	plain := `; CREATE INDEX kine_name_index ON kine (name); CREATE INDEX kine_name_id_index ON kine (name,id); CREATE INDEX kine_id_deleted_index ON kine (id,deleted);
		CREATE INDEX kine_prev_revision_index ON kine (prev_revision); CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision)`
	partial := `; CREATE INDEX kine_id_compact_rev_key_with_prev_revision_index ON kine(id, name, prev_revision) WHERE name != 'compact_rev_key' AND prev_revision != 0`
	old := strings.Replace(base, "name TEXT", "name INTEGER", 1)
	tests := []struct{ name, ddl, want string }{
		{"0.11 to 0.14.12", old + plain, "kine 0.11+"},
		{"0.14.13 to 0.16.3", old + plain + partial, "kine 0.14.13+"},
		{"0.16.4 to 0.17", base + plain + partial, "kine 0.16.4+"},
		{"0.17 migrated", base, "kine 0.16.4+"},
		{"old", strings.Replace(base, "name TEXT", "name INTEGER", 1), "kine 0.11+"},
		{"foreign plain index", base + `; CREATE INDEX mine ON kine(lease)`, "kine 0.16.4+"},
		{"empty", `CREATE TABLE other (x)`, "no kine table"},
		{"no autoincrement", strings.Replace(base, " AUTOINCREMENT", "", 1), "AUTOINCREMENT"},
		{"more columns", strings.Replace(base, "old_value BLOB", "old_value BLOB, extra TEXT", 1), "its columns are"},
		{"fewer columns", strings.Replace(base, ", old_value BLOB", "", 1), "its columns are"},
		{"other type", strings.Replace(base, "value BLOB", "value TEXT", 1), `column "value"`},
		{"other name type", strings.Replace(base, "name TEXT", "name BLOB", 1), `column "name"`},
		{"trigger", base + `; CREATE TRIGGER t AFTER INSERT ON kine BEGIN SELECT 1; END`, "trigger"},
		{"unique index", base + `; CREATE UNIQUE INDEX mine ON kine(lease)`, "unique index"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			db, err := openReadWrite(t.Context(), path, true, "journal_mode(WAL)")
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Exec(tt.ddl); err != nil {
				t.Fatal(err)
			}
			r, err := OpenReader(t.Context(), path)
			got := fmt.Sprint(err)
			if err == nil {
				got = sameLayout(t, r).String()
				r.Close()
			}
			if !strings.Contains(got, tt.want) {
				t.Fatalf("got %q, want %q in it", got, tt.want)
			}
		})
	}
}

// sameLayout: a copy gets the layout of what it is a copy of, with kine's own indexes.
func sameLayout(t *testing.T, r *Reader) Schema {
	t.Helper()
	s, err := r.Schema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := OpenCopy(t.Context(), filepath.Join(t.TempDir(), "copy.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	if err := errors.Join(c.Begin(t.Context(), s), c.Index(t.Context()), c.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got, err := readSchema(t.Context(), c.db); err != nil || !reflect.DeepEqual(got, s) {
		t.Fatalf("the copy has %+v, %v, the source %+v", got, err, s)
	}
	return s
}

func TestNotWAL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	w := kinetest.New(t, path, false)
	w.Exec(`PRAGMA journal_mode=DELETE`)
	if _, err := OpenReader(t.Context(), path); err == nil || !strings.Contains(err.Error(), "WAL mode") {
		t.Fatalf("got %v", err)
	}
}
