package kine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrSchema is wrapped by every error that says "this is not a kine database
// that we know".
var ErrSchema = errors.New("not a kine table that this version of relevo knows")

// ErrEmpty means that the file is a database without a kine table: kine has
// not been started on it yet.
var ErrEmpty = errors.New("no kine table in it yet")

// columns of the table in their order; the same in every kine from 0.6 to
// 0.17. Only the declared type of name changed.
var columns = []struct{ name, typ string }{
	{"id", "INTEGER"}, {"name", ""}, {"created", "INTEGER"}, {"deleted", "INTEGER"},
	{"create_revision", "INTEGER"}, {"prev_revision", "INTEGER"}, {"lease", "INTEGER"},
	{"value", "BLOB"}, {"old_value", "BLOB"},
}

// indexes that kine creates, by name. The last one came with kine 0.14.13.
var indexes = map[string]string{
	"kine_name_index":                "CREATE INDEX IF NOT EXISTS kine_name_index ON kine (name)",
	"kine_name_id_index":             "CREATE INDEX IF NOT EXISTS kine_name_id_index ON kine (name,id)",
	"kine_id_deleted_index":          "CREATE INDEX IF NOT EXISTS kine_id_deleted_index ON kine (id,deleted)",
	"kine_prev_revision_index":       "CREATE INDEX IF NOT EXISTS kine_prev_revision_index ON kine (prev_revision)",
	"kine_name_prev_revision_uindex": "CREATE UNIQUE INDEX IF NOT EXISTS kine_name_prev_revision_uindex ON kine (name, prev_revision)",
	compactIndex:                     "CREATE INDEX IF NOT EXISTS " + compactIndex + " ON kine(id, name, prev_revision) WHERE name != 'compact_rev_key' AND prev_revision != 0",
}

const compactIndex = "kine_id_compact_rev_key_with_prev_revision_index"

// Schema is which of kine's table layouts a database has.
type Schema struct {
	// NameType is the declared type of the column name: "INTEGER" up to kine
	// 0.16.3, "TEXT" from 0.16.4. A database keeps the one it was created with.
	NameType string
	// Indexes are the names of kine's own indexes that exist, sorted.
	Indexes []string
}

// String names the oldest kine that creates this layout, for people.
func (s Schema) String() string {
	switch {
	case s.NameType == "TEXT":
		return "kine 0.16.4+"
	case slices.Contains(s.Indexes, compactIndex):
		return "kine 0.14.13+"
	default:
		return "kine 0.11+"
	}
}

// Valid says whether the fields are ones that readSchema can have produced; a
// schema also arrives from the network.
func (s Schema) Valid() error {
	if s.NameType != "TEXT" && s.NameType != "INTEGER" {
		return fmt.Errorf("%w: column name has type %q", ErrSchema, s.NameType)
	}
	for _, n := range s.Indexes {
		if indexes[n] == "" {
			return fmt.Errorf("%w: index %q", ErrSchema, n)
		}
	}
	return nil
}

// table creates the table, without indexes.
func (s Schema) table() string {
	return `CREATE TABLE IF NOT EXISTS kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name ` + s.NameType +
		`, created INTEGER, deleted INTEGER, create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB)`
}

// querier is what *sql.DB, *sql.Conn and *sql.Tx share.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// readSchema recognises the layout, or says what does not fit. An index of
// somebody else's is let pass if it is a plain one (it cannot change what a
// row means; a newer kine makes its own at start); a unique one or a trigger
// is not.
func readSchema(ctx context.Context, q querier) (Schema, error) {
	var s Schema
	var ddl sql.NullString
	err := q.QueryRowContext(ctx, `SELECT sql FROM sqlite_master WHERE type='table' AND name='kine'`).Scan(&ddl)
	if errors.Is(err, sql.ErrNoRows) {
		return s, ErrEmpty
	}
	if err != nil {
		return s, fmt.Errorf("read the table list: %w", err)
	}
	if !strings.Contains(strings.ToUpper(ddl.String), "AUTOINCREMENT") {
		return s, fmt.Errorf("%w: its id is not AUTOINCREMENT, so revisions could be used twice", ErrSchema)
	}
	if err := readColumns(ctx, q, &s); err != nil {
		return s, err
	}
	rows, err := q.QueryContext(ctx, `SELECT m.type, m.name, coalesce(l."unique",0) FROM sqlite_master m
		LEFT JOIN pragma_index_list('kine') l ON l.name = m.name WHERE m.tbl_name='kine' AND m.type IN ('index','trigger')`)
	if err != nil {
		return s, fmt.Errorf("read the index list: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var typ, name string
		var unique bool
		if err := rows.Scan(&typ, &name, &unique); err != nil {
			return s, fmt.Errorf("read the index list: %w", err)
		}
		switch {
		case typ == "trigger":
			return s, fmt.Errorf("%w: it has a trigger %q", ErrSchema, name)
		case indexes[name] != "":
			s.Indexes = append(s.Indexes, name)
		case unique:
			return s, fmt.Errorf("%w: it has a unique index %q", ErrSchema, name)
		}
	}
	slices.Sort(s.Indexes)
	return s, rows.Err()
}

func readColumns(ctx context.Context, q querier, s *Schema) error {
	rows, err := q.QueryContext(ctx, `SELECT name, upper(type), pk FROM pragma_table_info('kine') ORDER BY cid`)
	if err != nil {
		return fmt.Errorf("read the columns: %w", err)
	}
	defer rows.Close()
	var got []string
	for i := 0; rows.Next(); i++ {
		var name, typ string
		var pk int
		if err := rows.Scan(&name, &typ, &pk); err != nil {
			return fmt.Errorf("read the columns: %w", err)
		}
		got = append(got, name+" "+typ)
		if i >= len(columns) || name != columns[i].name {
			continue // said below, with all columns in hand
		}
		switch {
		case name == "name" && (typ == "TEXT" || typ == "INTEGER"):
			s.NameType = typ
		case name == "name" || typ != columns[i].typ || (pk != 0) != (i == 0):
			return fmt.Errorf("%w: column %q has type %q", ErrSchema, name, typ)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the columns: %w", err)
	}
	want := make([]string, len(columns))
	for i, c := range columns {
		want[i] = c.name
	}
	if len(got) != len(want) {
		return fmt.Errorf("%w: its columns are (%s), expected (%s)", ErrSchema, strings.Join(got, ", "), strings.Join(want, ", "))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]+" ") {
			return fmt.Errorf("%w: its columns are (%s), expected (%s)", ErrSchema, strings.Join(got, ", "), strings.Join(want, ", "))
		}
	}
	return nil
}
