package kine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Change is one row, as far as it is needed to say what happened: the value
// itself only with its beginning.
type Change struct {
	Revision       int64
	Name           string // the key
	Created        bool
	Deleted        bool
	CreateRevision int64 // of the object; 0 if a tombstone does not tell
	Size           int64 // of the value, in bytes
	// Begin is the beginning of the value, of a tombstone that of what was deleted.
	Begin []byte
}

// beginBytes of a value are read for a Change: Kubernetes writes there what kind
// of object it is.
const beginBytes = 512

const changeColumns = `id, name, coalesce(created,0) != 0, coalesce(deleted,0) != 0, coalesce(create_revision,0), coalesce(length(value),0),
	substr(CASE WHEN coalesce(deleted,0) != 0 THEN coalesce(old_value,value) ELSE value END,1,?)`

func scanChange(rows interface{ Scan(...any) error }) (c Change, err error) {
	err = rows.Scan(&c.Revision, &c.Name, &c.Created, &c.Deleted, &c.CreateRevision, &c.Size, &c.Begin)
	if c.Created {
		c.CreateRevision = c.Revision
	}
	return c, err
}

// Changes returns the next changes after a revision, oldest first, without what
// kine writes for itself, and the revision to go on after; done says that there
// are none after it. One call is one short transaction.
func (r *Reader) Changes(ctx context.Context, after int64) (list []Change, next int64, done bool, err error) {
	err = r.read(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT `+changeColumns+` FROM kine WHERE id > ? ORDER BY id LIMIT ?`, beginBytes, after, MaxBatchRows)
		if err != nil {
			return err
		}
		defer rows.Close()
		n := 0
		for next = after; rows.Next(); n++ {
			c, err := scanChange(rows)
			if err != nil {
				return err
			}
			next = c.Revision
			if c.Name != CompactKey && c.Name != gapRow(c.Revision).Name {
				list = append(list, c)
			}
		}
		done = n < MaxBatchRows
		return rows.Err()
	})
	return list, next, done, err
}

// Newest returns the newest change of a key at or below a revision; ok is false
// if there is none.
func (r *Reader) Newest(ctx context.Context, name string, atMost int64) (c Change, ok bool, err error) {
	err = r.read(ctx, func(tx *sql.Tx) error {
		c, err = scanChange(tx.QueryRowContext(ctx, `SELECT `+changeColumns+` FROM kine WHERE name = ? AND id <= ? ORDER BY id DESC LIMIT 1`, beginBytes, name, atMost))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		ok = err == nil
		return err
	})
	return c, ok, err
}

// Value returns the value of one revision; sql.ErrNoRows if it is not there.
func (r *Reader) Value(ctx context.Context, revision int64) (value []byte, err error) {
	err = r.read(ctx, func(tx *sql.Tx) error {
		var size int64
		if err := tx.QueryRowContext(ctx, `SELECT coalesce(length(value),0) FROM kine WHERE id = ?`, revision).Scan(&size); err != nil {
			return fmt.Errorf("revision %d: %w", revision, err)
		}
		if size > MaxRow {
			return fmt.Errorf("revision %d weighs %d bytes, more than the %d that are read", revision, size, MaxRow)
		}
		return tx.QueryRowContext(ctx, `SELECT value FROM kine WHERE id = ?`, revision).Scan(&value)
	})
	return value, err
}

// Position is how far a database goes, and what it remembers.
type Position struct {
	Head    int64 // revision up to which it has everything
	Compact int64 // compacted up to here
	Notes   Notes
}

// Position reads it.
func (r *Reader) Position(ctx context.Context) (p Position, err error) {
	err = r.read(ctx, func(tx *sql.Tx) error {
		p, err = readWhole(ctx, tx)
		return err
	})
	return p, err
}

func readWhole(ctx context.Context, q querier) (p Position, err error) {
	if p.Notes, err = readNotes(ctx, q); err != nil {
		return p, err
	}
	m, err := readMarks(ctx, q)
	if err != nil {
		return p, err
	}
	// Where the newest rows were tombstones, the mark may be above the newest row.
	p.Head, p.Compact = max(m.Head, m.Compact), m.Compact
	return p, nil
}

// maxAnchors is how many rows SharesPast looks back for one that both have.
const maxAnchors = 200

// SharesPast compares the newest rows at or below a revision with those of the
// same revision in another database, where both have one. ErrHole if they are
// not the same: the databases are not of one history.
func (r *Reader) SharesPast(ctx context.Context, other *Reader, atMost int64) error {
	for range maxAnchors {
		a, ok, err := r.Anchor(ctx, atMost)
		if err != nil || !ok {
			return err
		}
		b, ok, err := other.Anchor(ctx, a.ID)
		if err != nil {
			return err
		}
		if ok && b.ID == a.ID {
			if a.Sum != b.Sum {
				return fmt.Errorf("%w: revision %d", ErrHole, a.ID)
			}
			return nil
		}
		atMost = a.ID - 1
	}
	return nil
}

// Check runs SQLite's quick check, or the entire one if full, for a database that nobody
// but us writes: it is one long transaction. See IsCorrupt for its error.
func (r *Reader) Check(ctx context.Context, full bool) error {
	return r.read(ctx, func(tx *sql.Tx) error { return check(ctx, tx, full) })
}
