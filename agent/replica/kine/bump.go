package kine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// Gap is how far a promotion jumps the revision ahead. It must exceed what the
// old master can have acknowledged and the standby not have seen; at 1000
// writes/s it is a quarter of an hour.
const Gap = 1_000_000

// pruneBudget bounds the clean-up after the jump: the API server waits for it.
const pruneBudget = 500 * time.Millisecond

// Bumped says what Bump did.
type Bumped struct {
	From   int64 // revision up to which the log was whole before
	To     int64 // newest revision after; everything before it is compacted
	Pruned int64 // superseded rows removed; the rest is left lying
}

// Bump makes sure that revisions never go back: it jumps the log ahead by gap
// and marks everything before as compacted. Again for the same term it jumps
// no further. kine must not run.
//
// Why it works (read in kine 0.17.5, and the same since 0.11):
//
//   - kine's current revision is MAX(id), and new rows get their id from
//     AUTOINCREMENT, which never gives less than the highest id ever used. So
//     one row with a high id moves both. It looks exactly like the row with
//     which kine fills a missing id (`gap-<id>`, deleted=1, the rest 0 or
//     NULL), which it never shows to a watch, and, being deleted, to no list.
//   - the compact revision is MAX(prev_revision) of compact_rev_key. A watch
//     or a list at a revision below it is refused with ErrCompacted, which an
//     API server turns into 410 Expired; clients list again, and see that
//     what the old master did last is gone. Without the mark kine would find
//     no rows after the client's revision, say nothing, and the client would
//     believe for ever in what was lost.
//   - objects stay: reads at the newest revision take MAX(id) of each name,
//     whatever is compacted.
//
// The id of the gap row is above the old compact mark as well, which may be
// above MAX(id) if the newest rows were tombstones.
//
// kine 0.17 compacts from its mark on, so what is superseded below the new
// mark would lie there for ever; Bump removes it for a short while, oldest
// first, and leaves the rest to the next promotion.
func Bump(ctx context.Context, path string, term uint64, gap int64) (Bumped, error) {
	var b Bumped
	fail := func(err error) (Bumped, error) { return b, fmt.Errorf("jump the revision in %s: %w", path, err) }
	if term == 0 || gap <= 0 {
		return fail(fmt.Errorf("term %d and gap %d must be positive", term, gap))
	}
	db, err := openReadWrite(ctx, path, false, "synchronous(FULL)")
	if err != nil {
		return fail(err)
	}
	defer db.Close()
	if _, err := readSchema(ctx, db); err != nil {
		return fail(err)
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fail(err)
	}
	if b, err = bump(ctx, tx, term, gap); err != nil {
		return fail(errors.Join(err, tx.Rollback()))
	}
	if err := tx.Commit(); err != nil {
		return fail(err)
	}
	if b.Pruned, err = pruneSuperseded(ctx, db, b.From); err != nil {
		return fail(err)
	}
	if err := closeWhole(ctx, path, db); err != nil {
		return fail(err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fail(err)
	}
	return b, nil
}

func bump(ctx context.Context, tx *sql.Tx, term uint64, gap int64) (Bumped, error) {
	notes, err := readNotes(ctx, tx)
	if err != nil {
		return Bumped{}, err
	}
	if n := len(notes.Forks); notes.Bumped == term && n > 0 {
		return Bumped{From: notes.Forks[n-1].From, To: notes.Forks[n-1].Gap}, nil
	}
	if notes.Bumped > term {
		return Bumped{}, fmt.Errorf("it was already jumped for the newer term %d", notes.Bumped)
	}
	m, err := readMarks(ctx, tx)
	if err != nil {
		return Bumped{}, err
	}
	if len(m.Compacts) == 0 {
		return Bumped{}, fmt.Errorf("no row %s in it: the copy is not complete", CompactKey)
	}
	// Everything up to here has been seen: the newest rows may have been
	// tombstones that were compacted away again.
	from := max(m.Head, m.Seq, m.Compact)
	to := from + gap
	row := gapRow(to)
	if _, err := tx.ExecContext(ctx, `INSERT INTO kine(`+rowColumns+`) VALUES(?,?,?,?,?,?,?,NULL,NULL)`,
		row.ID, row.Name, row.Created, row.Deleted, row.CreateRevision, row.PrevRevision, row.Lease); err != nil {
		return Bumped{}, err
	}
	if !offCompactMark {
		if _, err := tx.ExecContext(ctx, `UPDATE kine SET prev_revision = ? WHERE name = ?`, to, CompactKey); err != nil {
			return Bumped{}, err
		}
	}
	notes.Bumped = term
	notes.Forks = append(notes.Forks, Fork{Term: term, From: from, Gap: to})
	if err := writeNotes(ctx, tx, notes); err != nil {
		return Bumped{}, err
	}
	return Bumped{From: from, To: to}, nil
}

// pruneSuperseded deletes what kine's own compaction up to upTo would delete,
// oldest first, in steps of ids, until done or out of time.
func pruneSuperseded(ctx context.Context, db *sql.DB, upTo int64) (pruned int64, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	const step = 2000
	begin := time.Now()
	for from := int64(0); from < upTo && time.Since(begin) < pruneBudget; {
		to := upTo
		err := tx.QueryRowContext(ctx, `SELECT id FROM kine WHERE id > ? AND id <= ? ORDER BY id LIMIT 1 OFFSET ?`, from, upTo, step).Scan(&to)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return 0, errors.Join(err, tx.Rollback())
		}
		res, err := tx.ExecContext(ctx, `DELETE FROM kine WHERE id IN (
			SELECT prev_revision FROM kine WHERE name != ?1 AND prev_revision != 0 AND id > ?2 AND id <= ?3
			UNION ALL SELECT id FROM kine WHERE deleted != 0 AND id > ?2 AND id <= ?3)`, CompactKey, from, to)
		if err != nil {
			return 0, errors.Join(err, tx.Rollback())
		}
		n, err := res.RowsAffected()
		if err != nil {
			return 0, errors.Join(err, tx.Rollback())
		}
		pruned += n
		from = to
	}
	return pruned, tx.Commit()
}
