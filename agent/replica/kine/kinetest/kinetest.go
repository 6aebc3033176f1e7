// Package kinetest writes SQLite databases the way kine does, for tests.
package kinetest

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"

	_ "modernc.org/sqlite" // the driver
)

const ddl = `CREATE TABLE IF NOT EXISTS kine (
	id INTEGER PRIMARY KEY AUTOINCREMENT, name %s, created INTEGER, deleted INTEGER, create_revision INTEGER,
	prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB);
CREATE INDEX IF NOT EXISTS kine_name_index ON kine (name);
CREATE INDEX IF NOT EXISTS kine_name_id_index ON kine (name,id);
CREATE INDEX IF NOT EXISTS kine_id_deleted_index ON kine (id,deleted);
CREATE INDEX IF NOT EXISTS kine_prev_revision_index ON kine (prev_revision);
CREATE UNIQUE INDEX IF NOT EXISTS kine_name_prev_revision_uindex ON kine (name, prev_revision);`

const ddlNew = `CREATE INDEX IF NOT EXISTS kine_id_compact_rev_key_with_prev_revision_index ON kine(id, name, prev_revision) WHERE name != 'compact_rev_key' AND prev_revision != 0`

// Writer is a kine of sorts. It is not safe for use by several goroutines.
type Writer struct {
	T    testing.TB
	DB   *sql.DB
	Path string

	old  bool
	last map[string]int64
	dead map[string]bool
}

// New opens or creates the database, and goes on with what is in it; old writes like kine 0.11 (compaction
// from the beginning, 0 for the create_revision of a create), else like 0.17.
func New(t testing.TB, path string, old bool) *Writer {
	t.Helper()
	db, err := sql.Open("sqlite", "file://"+(&url.URL{Path: path}).EscapedPath()+"?_txlock=immediate&_pragma=busy_timeout(30000)&_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	w := &Writer{T: t, DB: db, Path: path, old: old, last: map[string]int64{}, dead: map[string]bool{}}
	if old {
		w.Exec(fmt.Sprintf(ddl, "INTEGER"))
	} else {
		w.Exec(fmt.Sprintf(ddl, "TEXT"))
		w.Exec(ddlNew)
	}
	if w.Head() == 0 {
		w.append("compact_rev_key", 1, 0, 0, []byte{})
		w.Put("/registry/health", `{"health":"true"}`)
		return w
	}
	rows, err := db.Query(`SELECT name, max(id), coalesce(deleted,0) FROM kine WHERE name NOT LIKE 'gap-%' GROUP BY name`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var id int64
		var dead bool
		if err := rows.Scan(&name, &id, &dead); err != nil {
			t.Fatal(err)
		}
		w.last[name], w.dead[name] = id, dead
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return w
}

// Exec runs SQL, for what the methods do not do.
func (w *Writer) Exec(q string, args ...any) sql.Result {
	w.T.Helper()
	res, err := w.DB.Exec(q, args...)
	if err != nil {
		w.T.Fatalf("%s: %v", q, err)
	}
	return res
}

// Int asks for one number.
func (w *Writer) Int(q string, args ...any) (n int64) {
	w.T.Helper()
	if err := w.DB.QueryRow(q, args...).Scan(&n); err != nil {
		w.T.Fatalf("%s: %v", q, err)
	}
	return n
}

// Head is the newest revision.
func (w *Writer) Head() int64 {
	w.T.Helper()
	return w.Int(`SELECT coalesce(max(id),0) FROM kine`)
}

func (w *Writer) append(key string, created, deleted int, prev int64, value []byte) int64 {
	w.T.Helper()
	createRevision := `(SELECT coalesce(nullif(create_revision,0),id) FROM ikv)`
	if w.old {
		createRevision = `coalesce(` + createRevision + `,0)`
	}
	id, err := w.Exec(`INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value, old_value)
		WITH ikv AS (SELECT id, create_revision, value FROM kine WHERE id=? AND deleted=0)
		SELECT ?, ?, ?, `+createRevision+`, ?, 0, ?, (SELECT value FROM ikv)`, prev, key, created, deleted, prev, value).LastInsertId()
	if err != nil {
		w.T.Fatal(err)
	}
	return id
}

// Put creates or updates a key and returns the revision.
func (w *Writer) Put(key, value string) int64 {
	w.T.Helper()
	prev, known := w.last[key]
	created := 0
	if !known || w.dead[key] {
		created = 1
		// kine first tries prev_revision 0, which works again once the
		// tombstone was compacted away.
		if known && w.Int(`SELECT count(*) FROM kine WHERE name=?`, key) == 0 {
			prev = 0
		}
	}
	id := w.append(key, created, 0, prev, []byte(value))
	w.last[key], w.dead[key] = id, false
	return id
}

// Delete writes a tombstone, if the key lives.
func (w *Writer) Delete(key string) {
	w.T.Helper()
	if w.last[key] != 0 && !w.dead[key] {
		w.last[key], w.dead[key] = w.append(key, 0, 1, w.last[key], nil), true
	}
}

// Compact compacts up to a revision.
func (w *Writer) Compact(to int64) {
	w.T.Helper()
	tx, err := w.DB.Begin()
	if err != nil {
		w.T.Fatal(err)
	}
	defer tx.Rollback()
	var from int64
	if err := tx.QueryRow(`SELECT max(prev_revision) FROM kine WHERE name='compact_rev_key'`).Scan(&from); err != nil {
		w.T.Fatal(err)
	}
	if to <= from {
		return
	}
	if w.old {
		from = 0
	}
	if _, err := tx.Exec(`UPDATE kine SET prev_revision=? WHERE name='compact_rev_key'`, to); err != nil {
		w.T.Fatal(err)
	}
	if _, err := tx.Exec(`DELETE FROM kine WHERE id IN (SELECT prev_revision FROM kine WHERE name != 'compact_rev_key' AND prev_revision != 0 AND id > ?1 AND id <= ?2
		UNION ALL SELECT id FROM kine WHERE deleted != 0 AND id > ?1 AND id <= ?2)`, from, to); err != nil {
		w.T.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		w.T.Fatal(err)
	}
}

// Random does n random things: mostly updates, some deletes, compactions,
// missing ids and their filling.
func (w *Writer) Random(r *rand.Rand, n int) {
	w.T.Helper()
	for range n {
		key := fmt.Sprintf("/registry/configmaps/default/k%d", r.IntN(12))
		switch x := r.IntN(100); {
		case x < 70:
			w.Put(key, strings.Repeat("x", r.IntN(300)))
		case x < 90:
			w.Delete(key)
		case x < 95:
			w.Compact(r.Int64N(w.Head() + 1))
		case x < 97:
			w.Exec(`UPDATE sqlite_sequence SET seq=seq+1 WHERE name='kine'`)
		default:
			id := w.Head()
			for id > 0 && w.Int(`SELECT count(*) FROM kine WHERE id=?`, id) > 0 {
				id--
			}
			if id > 0 {
				w.Exec(`INSERT INTO kine(id, name, created, deleted, create_revision, prev_revision, lease) VALUES(?,?,0,1,0,0,0)`, id, fmt.Sprintf("gap-%d", id))
			}
		}
	}
}

// Dump is the whole table as text, with the storage class of every value.
func Dump(t testing.TB, path string) string {
	t.Helper()
	db, err := sql.Open("sqlite", "file://"+(&url.URL{Path: path}).EscapedPath()+"?mode=ro&_pragma=busy_timeout(30000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(`SELECT id || '|' || name || '|' || quote(created) || quote(deleted) || '|' || quote(create_revision) || '|' || quote(prev_revision) || '|' ||
		quote(lease) || '|' || typeof(value) || quote(value) || '|' || typeof(old_value) || quote(old_value) FROM kine ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var b strings.Builder
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		b.WriteString(s + "\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Diff returns "" if two dumps are equal but for rows that fill gaps (those
// filled behind a copy reach it with the next compaction only), else some of
// the lines that differ.
func Diff(got, want string) string {
	a, b := map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(got) {
		a[line] = true
	}
	for line := range strings.Lines(want) {
		b[line] = true
	}
	var out []string
	for sign, of := range map[string][2]map[string]bool{"too much: ": {a, b}, "missing: ": {b, a}} {
		for line := range of[0] {
			if !of[1][line] && !strings.Contains(line, "|gap-") && len(out) < 12 {
				out = append(out, sign+line[:min(len(line)-1, 160)])
			}
		}
	}
	return strings.Join(out, "\n")
}
