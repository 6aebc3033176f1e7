package kine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
)

// Limits of one batch, and of one row: a row above MaxRow cannot be copied and
// is reported by name (kine takes requests of up to 4 MiB; a row has two
// values).
const (
	MaxBatchRows  = 500
	MaxBatchBytes = 256 << 10
	MaxRow        = 12 << 20
)

// ErrMoved means that the log was compacted between two pieces of one answer:
// begin again.
var ErrMoved = errors.New("the log was compacted meanwhile")

// ErrReplaced means that another file lies under the name that was opened.
var ErrReplaced = errors.New("the datastore file was replaced")

// Reader reads a live kine database. Each method is one short read
// transaction. It works while kine runs, after kine was killed, and while kine
// is stopped.
type Reader struct {
	mu   sync.RWMutex // held for reading while a transaction is open
	db   *sql.DB
	path string
	id   fileID
	hot  prepared // what a stream asks a hundred times a second
}

// OpenReader opens the database and recognises its layout.
//
// Errors: ErrEmpty while kine has not made its table, ErrSchema for a table we
// do not know, os.ErrNotExist.
func OpenReader(ctx context.Context, path string) (*Reader, error) {
	id, err := identify(path)
	if err != nil {
		return nil, fmt.Errorf("open the datastore: %w", err)
	}
	db, err := openReadOnly(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("open the datastore %s: %w", path, err)
	}
	r := &Reader{db: db, path: path, id: id}
	if _, err := readSchema(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("datastore %s: %w", path, err), db.Close())
	}
	var journal string
	if err := db.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&journal); err != nil {
		return nil, errors.Join(fmt.Errorf("datastore %s: %w", path, err), db.Close())
	}
	if journal != "wal" {
		return nil, errors.Join(fmt.Errorf("datastore %s has journal mode %q: it can be followed only in WAL mode; start kine with _journal=WAL in its endpoint", path, journal), db.Close())
	}
	r.hot = prepared{}
	for _, q := range []string{marksQuery, batchQuery} {
		if r.hot[q], err = db.PrepareContext(ctx, q); err != nil {
			return nil, errors.Join(fmt.Errorf("datastore %s: %w", path, err), db.Close())
		}
	}
	return r, nil
}

// prepared are queries that are parsed once: on a busy master doing that anew would be half
// of what a stream costs. Outside of a transaction each of them is one.
type prepared map[string]*sql.Stmt

func (p prepared) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return p[query].QueryContext(ctx, args...)
}

// Head reads the newest revision with a handle of its own, opened for it.
func Head(ctx context.Context, path string) (head int64, err error) {
	db, err := openReadOnly(ctx, path)
	if err != nil {
		return 0, fmt.Errorf("look at the datastore %s: %w", path, err)
	}
	defer db.Close()
	if err := db.QueryRowContext(ctx, `SELECT coalesce(max(id),0) FROM kine`).Scan(&head); err != nil {
		return 0, fmt.Errorf("look at the datastore %s: %w", path, err)
	}
	return head, nil
}

// Schema is the layout at this moment: kine adds indexes with time, one after the other
// when it starts.
func (r *Reader) Schema(ctx context.Context) (s Schema, err error) {
	err = r.read(ctx, func(tx *sql.Tx) error {
		s, err = readSchema(ctx, tx)
		return err
	})
	return s, err
}

// Close waits for reads under way and lets go of the file: it must not be open
// when a datastore is moved aside or restored.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.db.Close()
}

// Current returns ErrReplaced if the name now means another file (restored,
// moved aside), os.ErrNotExist if it is gone.
func (r *Reader) Current() error {
	id, err := identify(r.path)
	if err != nil {
		return fmt.Errorf("look at the datastore: %w", err)
	}
	if id != r.id {
		return fmt.Errorf("%w: %s", ErrReplaced, r.path)
	}
	return nil
}

// Batch is what one read transaction saw.
type Batch struct {
	Rows    []Row
	More    bool  // the batch was cut; there are rows after it
	Head    int64 // highest id in the table
	Compact int64 // the log is compacted up to here
}

// Batch reads rows with id > after, at most MaxBatchRows and about
// MaxBatchBytes (one row more may exceed it). It is one statement, not a transaction of
// three: a master that writes 500 times a second is asked a hundred times a second.
func (r *Reader) Batch(ctx context.Context, after int64) (b Batch, err error) {
	err = r.ask(func() error {
		rows, err := r.hot.QueryContext(ctx, batchQuery, CompactKey, after, MaxBatchRows)
		if err != nil {
			return err
		}
		defer rows.Close()
		bytes := 0
		for rows.Next() {
			row, err := scanRow(rows)
			if err != nil {
				return err
			}
			if row.Name == "" { // the first; no key of Kubernetes is empty
				b.Head, b.Compact = row.ID, row.PrevRevision.Int64
				continue
			}
			if row.size() > MaxRow {
				return fmt.Errorf("revision %d of %q weighs %d bytes, more than the %d that can be copied", row.ID, row.Name, row.size(), MaxRow)
			}
			b.Rows = append(b.Rows, row)
			if bytes += row.size(); bytes >= MaxBatchBytes {
				break
			}
		}
		b.More = len(b.Rows) > 0 && b.Rows[len(b.Rows)-1].ID < b.Head
		return rows.Err()
	})
	return b, err
}

// Marks are how far a database is, and how far it is compacted.
type Marks struct {
	Head     int64 // highest id in the table
	Compact  int64 // the log is compacted up to here
	Compacts []CompactRow
	Seq      int64 // next id minus one (sqlite_sequence)
}

// Marks reads them.
func (r *Reader) Marks(ctx context.Context) (m Marks, err error) {
	err = r.ask(func() error {
		m, err = readMarks(ctx, r.hot)
		return err
	})
	return m, err
}

// Survivors lists rows with after < id <= upTo that still exist, at most
// limit; done says that the list reaches upTo. ErrMoved if the log is not
// compacted up to exactly compact any more.
func (r *Reader) Survivors(ctx context.Context, after, upTo, compact int64, limit int) (list []Survivor, done bool, err error) {
	err = r.read(ctx, func(tx *sql.Tx) error {
		m, err := readMarks(ctx, tx)
		if err != nil {
			return err
		}
		if m.Compact != compact {
			return ErrMoved
		}
		list, err = survivors(ctx, tx, after, upTo, limit)
		return err
	})
	return list, len(list) < limit, err
}

// Anchor returns the newest row at or below the revision; ok is false if there
// is none.
func (r *Reader) Anchor(ctx context.Context, atMost int64) (a Anchor, ok bool, err error) {
	err = r.read(ctx, func(tx *sql.Tx) error {
		a, ok, err = anchor(ctx, tx, atMost)
		return err
	})
	return a, ok, err
}

// Forks returns the promotions that this database went through, oldest first.
func (r *Reader) Forks(ctx context.Context) (forks []Fork, err error) {
	err = r.read(ctx, func(tx *sql.Tx) error {
		n, err := readNotes(ctx, tx)
		forks = n.Forks
		return err
	})
	return forks, err
}

// read runs f in one read transaction, so that all it sees is of one moment.
func (r *Reader) read(ctx context.Context, f func(*sql.Tx) error) error {
	return r.ask(func() error {
		tx, err := r.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return err
		}
		err = f(tx)
		if rerr := tx.Rollback(); err == nil && rerr != nil && !errors.Is(rerr, sql.ErrTxDone) {
			err = rerr
		}
		return err
	})
}

// ask runs f while the database stays open.
func (r *Reader) ask(f func() error) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if err := f(); err != nil {
		return fmt.Errorf("read the datastore %s: %w", r.path, err)
	}
	return nil
}

const metaColumns = "id, name, created, deleted, create_revision, prev_revision, lease"
const rowColumns = metaColumns + ", value, old_value"

// selectColumns adds what the driver does not tell: it reads an empty blob (which
// kine writes) as NULL.
const selectColumns = rowColumns + ", value IS NULL, old_value IS NULL"

const (
	// A row without a name, which has the head as its id and the compaction mark as its
	// prev_revision, and then the rows.
	batchQuery = `SELECT (SELECT coalesce(max(id),0) FROM kine), '', 0, 0, 0, (SELECT coalesce(max(prev_revision),0) FROM kine WHERE name = ?), 0, NULL, NULL, 1, 1
		UNION ALL SELECT * FROM (SELECT ` + selectColumns + ` FROM kine WHERE id > ? ORDER BY id LIMIT ?)`
	// One row at least, also without a compaction mark.
	marksQuery = `SELECT (SELECT coalesce(max(id),0) FROM kine), coalesce((SELECT seq FROM sqlite_sequence WHERE name='kine'),0), c.id, coalesce(c.prev_revision,0)
		FROM (SELECT 1) LEFT JOIN kine c ON c.name = ? ORDER BY c.id LIMIT ?`
)

func scanMeta(rows *sql.Rows) (r Row, err error) {
	err = rows.Scan(&r.ID, &r.Name, &r.Created, &r.Deleted, &r.CreateRevision, &r.PrevRevision, &r.Lease)
	return r, err
}

func scanRow(rows interface{ Scan(...any) error }) (r Row, err error) {
	var null, oldNull bool
	err = rows.Scan(&r.ID, &r.Name, &r.Created, &r.Deleted, &r.CreateRevision, &r.PrevRevision, &r.Lease, &r.Value, &r.OldValue, &null, &oldNull)
	if !null && r.Value == nil {
		r.Value = []byte{}
	}
	if !oldNull && r.OldValue == nil {
		r.OldValue = []byte{}
	}
	return r, err
}

// maxCompactRows bounds the list of compact_rev_key rows; there should be one.
const maxCompactRows = 16

func readMarks(ctx context.Context, q interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}) (m Marks, err error) {
	rows, err := q.QueryContext(ctx, marksQuery, CompactKey, maxCompactRows)
	if err != nil {
		return m, err
	}
	defer rows.Close()
	for rows.Next() {
		var id sql.NullInt64
		var c CompactRow
		if err := rows.Scan(&m.Head, &m.Seq, &id, &c.Revision); err != nil {
			return m, err
		}
		if !id.Valid {
			continue
		}
		c.ID = id.Int64
		m.Compacts = append(m.Compacts, c)
		m.Compact = max(m.Compact, c.Revision) // as kine reads it
	}
	return m, rows.Err()
}

func survivors(ctx context.Context, q querier, after, upTo int64, limit int) ([]Survivor, error) {
	rows, err := q.QueryContext(ctx, `SELECT `+metaColumns+` FROM kine WHERE id > ? AND id <= ? ORDER BY id LIMIT ?`, after, upTo, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []Survivor
	for rows.Next() {
		row, err := scanMeta(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, Survivor{ID: row.ID, Meta: row.meta()})
	}
	return list, rows.Err()
}

func anchor(ctx context.Context, q querier, atMost int64) (Anchor, bool, error) {
	row, err := scanRow(q.QueryRowContext(ctx, `SELECT `+selectColumns+` FROM kine WHERE id <= ? AND name != ? ORDER BY id DESC LIMIT 1`, atMost, CompactKey))
	if errors.Is(err, sql.ErrNoRows) {
		return Anchor{}, false, nil
	}
	if err != nil {
		return Anchor{}, false, err
	}
	return Anchor{ID: row.ID, Sum: row.sum()}, true, nil
}
