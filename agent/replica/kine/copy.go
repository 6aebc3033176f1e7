package kine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// ErrHole means that the copy lacks a row, or has another row, where the
// master has one: it must be copied anew.
var ErrHole = errors.New("the copy differs from the master")

// Copy is a standby's copy of the log, and its only writer. It is not safe for
// use by several goroutines.
//
// Writing is cheap for SD cards: Apply, Retain and Mark work in one open transaction,
// which Commit ends, and the longer that is open, the fewer pages are written: a row
// touches a dozen pages, and so do a hundred rows of the same objects. Commit appends
// the pages to the WAL and waits for the disk; after walPages of them SQLite brings each
// into the database once. A kill or a power cut loses what was not committed, never
// consistency, and the standby asks its master for it again.
type Copy struct {
	path    string
	db      *sql.DB
	tx      *sql.Tx
	insert  *sql.Stmt
	notes   Notes
	schema  Schema // what is there
	want    Schema // what the master has
	pos     int64  // highest id, in the open transaction
	compact int64
	dirty   int64 // bytes of rows since the last commit
}

// walPages of 4 KiB: how long the WAL may become.
const walPages = "1000"

// OpenCopy opens the copy at path, or begins an empty one. A file that is
// damaged or no kine database gives an error for which IsCorrupt or
// errors.Is(err, ErrSchema) is true: set it aside with Aside and open again.
func OpenCopy(ctx context.Context, path string) (*Copy, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the copy: %w", err)
	}
	// SQLite would create it with the umask; it holds every Secret of the cluster.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the copy: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the copy: %w", err)
	}
	db, err := openReadWrite(ctx, path, true, "journal_mode(WAL)", "synchronous(FULL)", "wal_autocheckpoint("+walPages+")", "cache_size(-1024)", "journal_size_limit(4194304)")
	if err != nil {
		return nil, fmt.Errorf("open the copy %s: %w", path, err)
	}
	c := &Copy{path: path, db: db}
	if err := c.load(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open the copy %s: %w", path, err), db.Close())
	}
	return c, nil
}

func (c *Copy) load(ctx context.Context) error {
	if err := c.reload(ctx); err != nil || c.schema.NameType == "" {
		return err
	}
	return check(ctx, c.db, false)
}

// Check runs SQLite's entire check, in which indexes are compared with the table: opening
// does only the quick one. See IsCorrupt for its error.
func (c *Copy) Check(ctx context.Context) error { return check(ctx, c.db, true) }

// Revision is the highest id in the copy, with what is not yet committed.
func (c *Copy) Revision() int64 { return c.pos }

// Compact is the revision up to which the copy is compacted.
func (c *Copy) Compact() int64 { return c.compact }

// Notes are what the copy remembers; see SetNotes.
func (c *Copy) Notes() Notes { return c.notes }

// Dirty is the size in bytes of the rows that wait for Commit.
func (c *Copy) Dirty() int64 { return c.dirty }

// Open says whether something waits for Commit.
func (c *Copy) Open() bool { return c.tx != nil }

// Begin makes the table of the schema if it is not there yet. The indexes of a first copy
// are made at its end, by Index: in one go that takes a fraction of the time and of what
// is written, since rows come in the order of their ids and not of their names.
func (c *Copy) Begin(ctx context.Context, s Schema) error {
	if err := s.Valid(); err != nil {
		return err
	}
	c.want = s
	if c.schema.NameType != "" {
		if c.notes.Complete { // kine adds indexes with time
			return c.Index(ctx)
		}
		return nil
	}
	return c.make(ctx, s.table())
}

// Index makes the indexes that are missing. ErrHole if the rows do not allow them.
func (c *Copy) Index(ctx context.Context) error {
	var st []string
	for _, n := range c.want.Indexes {
		if !slices.Contains(c.schema.Indexes, n) {
			st = append(st, indexes[n])
		}
	}
	if len(st) == 0 {
		return nil
	}
	err := c.make(ctx, st...)
	if isConstraint(err) {
		return fmt.Errorf("%w: %w", ErrHole, err)
	}
	return err
}

func (c *Copy) make(ctx context.Context, statements ...string) error {
	return c.do(ctx, func(tx *sql.Tx) (err error) {
		for _, st := range statements {
			if _, err := tx.ExecContext(ctx, st); err != nil {
				return fmt.Errorf("make the tables of the copy: %w", err)
			}
		}
		c.schema, err = readSchema(ctx, tx)
		return err
	})
}

// SetNotes writes the notes into the open transaction, if they changed.
func (c *Copy) SetNotes(ctx context.Context, n Notes) error {
	if n.Cluster == c.notes.Cluster && n.Term == c.notes.Term && n.Complete == c.notes.Complete &&
		n.Installed == c.notes.Installed && n.Bumped == c.notes.Bumped && slices.Equal(n.Forks, c.notes.Forks) {
		return nil
	}
	return c.do(ctx, func(tx *sql.Tx) error {
		if err := writeNotes(ctx, tx, n); err != nil {
			return err
		}
		c.notes = n
		return nil
	})
}

// Apply adds rows; they come in the order of their ids.
//
// REPLACE (once there are indexes): where a new row has the (name, prev_revision) of an old one, the
// master has compacted the old one away already (its index is unique too), and
// only the list of survivors that would tell us is still to come.
func (c *Copy) Apply(ctx context.Context, rows []Row) error {
	return c.do(ctx, func(*sql.Tx) error {
		for i := range rows {
			r := &rows[i]
			if r.ID <= c.pos {
				return fmt.Errorf("revision %d came after %d", r.ID, c.pos)
			}
			if _, err := c.insert.ExecContext(ctx, r.ID, r.Name, r.Created, r.Deleted, r.CreateRevision, r.PrevRevision, r.Lease, r.Value, r.OldValue); err != nil {
				return fmt.Errorf("write revision %d of %q: %w", r.ID, r.Name, err)
			}
			c.pos = r.ID
			c.dirty += int64(r.size())
		}
		return nil
	})
}

// Retain deletes the rows with after < id <= upTo that are not in the list,
// and compares the others. It returns how many it deleted; ErrHole if the
// master has a row there that the copy has not or has otherwise. A row with
// which kine filled a gap later is made here too: nothing but its id is in it.
func (c *Copy) Retain(ctx context.Context, after, upTo int64, list []Survivor) (deleted int, err error) {
	err = c.do(ctx, func(tx *sql.Tx) error {
		gone, fill, err := c.compare(ctx, tx, after, upTo, list)
		if err != nil {
			return err
		}
		if len(gone) > 0 {
			del, err := tx.PrepareContext(ctx, `DELETE FROM kine WHERE id = ?`)
			if err != nil {
				return fmt.Errorf("follow the compaction: %w", err)
			}
			defer del.Close()
			for _, id := range gone {
				if _, err := del.ExecContext(ctx, id); err != nil {
					return fmt.Errorf("follow the compaction at revision %d: %w", id, err)
				}
			}
		}
		for _, id := range fill {
			r := gapRow(id)
			if _, err := c.insert.ExecContext(ctx, r.ID, r.Name, r.Created, r.Deleted, r.CreateRevision, r.PrevRevision, r.Lease, nil, nil); err != nil {
				return fmt.Errorf("fill the gap at revision %d: %w", id, err)
			}
		}
		deleted = len(gone)
		return nil
	})
	return deleted, err
}

// compare walks both lists in step: ids to delete, gaps to fill.
func (c *Copy) compare(ctx context.Context, tx *sql.Tx, after, upTo int64, list []Survivor) (gone, fill []int64, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT `+metaColumns+` FROM kine WHERE id > ? AND id <= ? ORDER BY id`, after, upTo)
	if err != nil {
		return nil, nil, fmt.Errorf("compare the copy: %w", err)
	}
	defer rows.Close()
	missing := func(s Survivor, here string) error {
		if g := gapRow(s.ID); g.meta() != s.Meta {
			return fmt.Errorf("%w: revision %d, here: %s", ErrHole, s.ID, here)
		}
		fill = append(fill, s.ID)
		return nil
	}
	i := 0
	for rows.Next() {
		row, err := scanMeta(rows)
		if err != nil {
			return nil, nil, fmt.Errorf("compare the copy: %w", err)
		}
		for ; i < len(list) && list[i].ID < row.ID; i++ {
			if err := missing(list[i], "nothing"); err != nil {
				return nil, nil, err
			}
		}
		if i == len(list) || list[i].ID != row.ID {
			gone = append(gone, row.ID)
			continue
		}
		if list[i].Meta != row.meta() {
			if err := missing(list[i], row.Name); err != nil {
				return nil, nil, err
			}
		}
		i++
	}
	if err := rows.Err(); err != nil {
		return nil, nil, fmt.Errorf("compare the copy: %w", err)
	}
	for ; i < len(list); i++ {
		if err := missing(list[i], "nothing"); err != nil {
			return nil, nil, err
		}
	}
	return gone, fill, nil
}

// Mark writes how far the master's log is compacted, and the next id that it
// would give. Call it when all survivors up to that revision were retained.
func (c *Copy) Mark(ctx context.Context, compacts []CompactRow, seq int64) error {
	q := querier(c.db)
	if c.tx != nil {
		q = c.tx
	}
	had, err := readMarks(ctx, q)
	if err != nil {
		return fmt.Errorf("read the compaction mark: %w", err)
	}
	if slices.Equal(had.Compacts, compacts) && had.Seq >= seq {
		c.compact = had.Compact
		return nil // nothing changes: nothing is written
	}
	return c.do(ctx, func(tx *sql.Tx) error {
		c.compact = 0
		for _, m := range compacts {
			if _, err := tx.ExecContext(ctx, `UPDATE kine SET prev_revision = ? WHERE id = ? AND name = ?`, m.Revision, m.ID, CompactKey); err != nil {
				return fmt.Errorf("write the compaction mark: %w", err)
			}
			c.compact = max(c.compact, m.Revision)
		}
		for _, m := range had.Compacts { // the one that kine removed after an old bug
			if !slices.ContainsFunc(compacts, func(x CompactRow) bool { return x.ID == m.ID }) {
				if _, err := tx.ExecContext(ctx, `DELETE FROM kine WHERE id = ? AND name = ?`, m.ID, CompactKey); err != nil {
					return fmt.Errorf("write the compaction mark: %w", err)
				}
			}
		}
		_, err := tx.ExecContext(ctx, `UPDATE sqlite_sequence SET seq = ? WHERE name = 'kine' AND seq < ?`, seq, seq)
		return err
	})
}

// CheckAnchor compares the master's anchor with the same row here.
func (c *Copy) CheckAnchor(ctx context.Context, a Anchor) error {
	q := querier(c.db)
	if c.tx != nil {
		q = c.tx
	}
	row, err := scanRow(q.QueryRowContext(ctx, `SELECT `+selectColumns+` FROM kine WHERE id = ?`, a.ID))
	if errors.Is(err, sql.ErrNoRows) {
		row, err = gapRow(a.ID), nil // a gap that kine filled behind us
	}
	if err != nil {
		return fmt.Errorf("compare the copy with the master: %w", err)
	}
	if row.sum() != a.Sum {
		return fmt.Errorf("%w: revision %d", ErrHole, a.ID)
	}
	return nil
}

// do runs f in the open transaction, opening it if there is none. After an
// error the transaction is rolled back.
func (c *Copy) do(ctx context.Context, f func(*sql.Tx) error) error {
	if c.tx == nil {
		// Not bound to ctx: when the follower is told to stop, what it has is committed.
		tx, err := c.db.BeginTx(context.WithoutCancel(ctx), nil)
		if err != nil {
			return fmt.Errorf("begin to write the copy: %w", err)
		}
		c.tx = tx
	}
	if c.insert == nil && c.schema.NameType != "" {
		ins, err := c.tx.PrepareContext(context.WithoutCancel(ctx), `INSERT OR REPLACE INTO kine(`+rowColumns+`) VALUES(?,?,?,?,?,?,?,?,?)`)
		if err != nil {
			return errors.Join(fmt.Errorf("begin to write the copy: %w", err), c.Rollback(ctx))
		}
		c.insert = ins
	}
	if err := f(c.tx); err != nil {
		return errors.Join(err, c.Rollback(ctx))
	}
	return nil
}

// Commit makes the open transaction part of the copy. Nothing open, nothing
// written.
func (c *Copy) Commit(ctx context.Context) error {
	if c.tx == nil {
		return nil
	}
	if err := c.end().Commit(); err != nil {
		return errors.Join(fmt.Errorf("commit to the copy: %w", err), c.reload(context.WithoutCancel(ctx)))
	}
	return nil
}

// Rollback forgets the open transaction; Revision and Notes go back with it.
func (c *Copy) Rollback(ctx context.Context) error {
	if c.tx == nil {
		return nil
	}
	if err := c.end().Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return fmt.Errorf("roll back the copy: %w", err)
	}
	return c.reload(context.WithoutCancel(ctx))
}

// reload reads schema, notes and position from the file.
func (c *Copy) reload(ctx context.Context) (err error) {
	c.pos, c.compact, c.notes = 0, 0, Notes{}
	if c.schema, err = readSchema(ctx, c.db); errors.Is(err, ErrEmpty) {
		return nil
	} else if err != nil {
		return err
	}
	if c.notes, err = readNotes(ctx, c.db); err != nil {
		return err
	}
	m, err := readMarks(ctx, c.db)
	if err != nil {
		return err
	}
	c.pos, c.compact = m.Head, m.Compact
	return nil
}

func (c *Copy) end() *sql.Tx {
	tx := c.tx
	c.tx, c.insert, c.dirty = nil, nil, 0
	return tx
}

// checkpoint brings the WAL into the database file, with fsync, and empties it.
func checkpoint(ctx context.Context, q querier) error {
	var busy, log, moved int64
	if err := q.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &log, &moved); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if busy != 0 {
		return fmt.Errorf("checkpoint: somebody else has the database open")
	}
	return nil
}

// Close rolls back what is not committed, checkpoints and closes.
func (c *Copy) Close(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	return errors.Join(c.Rollback(ctx), c.db.Close())
}
