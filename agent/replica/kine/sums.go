package kine

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
)

// Two databases with the same history need not have the same rows: compaction
// deletes on the master first, the copy follows later, and kine may fill a
// missing id on one side only. What must be equal is what Kubernetes can see.
// With C a revision up to which neither side is compacted further, that is
//
//   - the snapshot at C: of each key the newest row at or below C, unless it is
//     a tombstone. Compaction up to C or less never removes one of these, and
//     everything else below C it may have removed.
//   - the log after C: every row, tombstones and superseded ones too.
//
// Left out of both are compact_rev_key, the one row that changes, and the rows
// that fill a gap, which say nothing.
//
// So both sides choose the same C, at least the larger of their two compaction
// marks, and sum these rows in the order of their revisions. A side that was
// compacted beyond C meanwhile says so instead of a sum.

// Digest is the checksum of the rows of a range: the first half of a SHA-256.
// All columns go into it, and whether they are NULL.
type Digest [16]byte

// MarshalText writes hexadecimal digits.
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText reads what MarshalText writes.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(d)) {
		return fmt.Errorf("a checksum has %d digits, not %d", hex.EncodedLen(len(d)), len(text))
	}
	_, err := hex.Decode(d[:], text)
	return err
}

// Limits of one query, for both sides.
const (
	MaxParts = 64  // sub-ranges that are summed in one pass
	MaxList  = 256 // rows that are listed one by one
)

// Query asks one side about the rows with After < revision <= UpTo, as they
// are comparable at the revision At. The zero Query asks for the position only.
type Query struct {
	At    int64 `json:"at"`
	After int64 `json:"after"`
	UpTo  int64 `json:"up_to"`
	Parts int   `json:"parts"` // sums of so many sub-ranges of equal width; 0: a list of the rows
}

// Reply is one side's answer.
type Reply struct {
	// Head is the revision up to which this side has everything.
	Head int64 `json:"head"`
	// Compact is its compaction mark. Above Query.At there is nothing else in
	// the reply: ask again at a higher revision.
	Compact int64 `json:"compact"`
	// Partial says that this is a first copy that has not come to its end.
	Partial bool     `json:"partial,omitempty"`
	Sums    []Sum    `json:"sums,omitempty"`
	List    []RowSum `json:"list,omitempty"`
	// More says that there are more rows than MaxList; the list is empty then.
	More bool `json:"more,omitempty"`
}

// Sum is the checksum of one sub-range. Which one follows from its place.
type Sum struct {
	Rows   int64  `json:"rows"`
	Digest Digest `json:"digest"`
}

// RowSum is the checksum of one row.
type RowSum struct {
	Revision int64  `json:"revision"`
	Name     string `json:"name"`
	Digest   Digest `json:"digest"`
}

// Valid says whether a query can be answered.
func (q Query) Valid() error {
	if q.At < 0 || q.After < 0 || q.UpTo < q.After || q.Parts < 0 || q.Parts > MaxParts {
		return fmt.Errorf("a query for the revisions from %d to %d in %d parts at %d is malformed", q.After, q.UpTo, q.Parts, q.At)
	}
	return nil
}

// bound is where sub-range i of a query begins, and i-1 ends.
func (q Query) bound(i int) int64 {
	width, parts, n := q.UpTo-q.After, int64(q.Parts), int64(i)
	return q.After + width/parts*n + min(n, width%parts)
}

// Answer answers a query in many short transactions, so that neither a writer
// nor a compaction waits for it; memory does not grow with the range.
func (r *Reader) Answer(ctx context.Context, q Query) (Reply, error) {
	if err := q.Valid(); err != nil {
		return Reply{}, err
	}
	a := answer{q: q, h: sha256.New()}
	if err := r.read(ctx, func(tx *sql.Tx) error { return a.position(ctx, tx) }); err != nil {
		return Reply{}, err
	}
	if a.reply.Compact > q.At || q.UpTo == q.After {
		return a.reply, nil
	}
	if q.Parts > 0 {
		a.reply.Sums = make([]Sum, q.Parts)
	}
	for after, done := q.After, false; !done; {
		err := r.read(ctx, func(tx *sql.Tx) (err error) {
			if err = a.position(ctx, tx); err == nil && a.reply.Compact <= q.At {
				after, done, err = a.batch(ctx, tx, after)
			}
			return err
		})
		if err != nil {
			return Reply{}, err
		}
		if a.reply.Compact > q.At || a.reply.More {
			a.reply.Sums, a.reply.List = nil, nil
			return a.reply, nil
		}
	}
	a.close(q.Parts)
	return a.reply, nil
}

// answer is one query on its way.
type answer struct {
	q     Query
	reply Reply
	part  int // sub-range that is being summed
	rows  int64
	h     hash.Hash
	buf   []byte
}

func (a *answer) position(ctx context.Context, tx *sql.Tx) error {
	p, err := readWhole(ctx, tx)
	if err != nil {
		return err
	}
	a.reply.Head, a.reply.Compact = p.Head, p.Compact
	a.reply.Partial = p.Notes.Cluster != "" && !p.Notes.Complete
	return nil
}

// comparable selects from the rows of a stretch those that both sides must have.
const comparable = `SELECT ` + selectColumns + ` FROM kine AS k WHERE id > ?1 AND id <= ?2 AND name != '` + CompactKey + `'
	AND (id > ?3 OR coalesce(deleted,0) = 0 AND NOT EXISTS (SELECT 1 FROM kine AS n WHERE n.name = k.name AND n.id > k.id AND n.id <= ?3))
	ORDER BY id`

// batch reads on after a revision, and says how far it came.
func (a *answer) batch(ctx context.Context, tx *sql.Tx, after int64) (to int64, done bool, err error) {
	// Rows are counted before they are chosen: in a stretch where nothing is
	// comparable the transaction must be short as well.
	var last sql.NullInt64
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT max(id), count(*) FROM (SELECT id FROM kine WHERE id > ? AND id <= ? ORDER BY id LIMIT ?)`,
		after, a.q.UpTo, MaxBatchRows).Scan(&last, &n); err != nil {
		return 0, false, err
	}
	if n == 0 {
		return a.q.UpTo, true, nil
	}
	rows, err := tx.QueryContext(ctx, comparable, after, last.Int64, a.q.At)
	if err != nil {
		return 0, false, err
	}
	defer rows.Close()
	bytes := 0
	var r rawRow
	for rows.Next() {
		if err := r.scan(rows); err != nil {
			return 0, false, err
		}
		if !r.isGap() {
			a.add(&r)
		}
		if a.reply.More {
			return 0, true, nil
		}
		if bytes += len(r.value) + len(r.old); bytes >= MaxBatchBytes {
			return r.id, r.id == a.q.UpTo, nil
		}
	}
	return last.Int64, n < MaxBatchRows, rows.Err()
}

// add takes one row into the sum of its sub-range, or into the list.
func (a *answer) add(r *rawRow) {
	if a.q.Parts > 0 {
		for r.id > a.q.bound(a.part+1) {
			a.close(a.part + 1)
		}
		a.rows++
		a.buf = r.write(a.h, a.buf)
		return
	}
	if len(a.reply.List) == MaxList {
		a.reply.More = true
		return
	}
	a.buf = r.write(a.h, a.buf)
	a.reply.List = append(a.reply.List, RowSum{Revision: r.id, Name: string(r.name), Digest: a.digest()})
}

// close ends the sums of the sub-ranges before part.
func (a *answer) close(part int) {
	for ; a.part < part; a.part++ {
		a.reply.Sums[a.part] = Sum{Rows: a.rows, Digest: a.digest()}
		a.rows = 0
	}
}

func (a *answer) digest() Digest {
	a.buf = a.h.Sum(a.buf[:0])
	a.h.Reset()
	return Digest(a.buf[:len(Digest{})])
}

// rawRow is a row whose texts and blobs are only lent until the next one.
type rawRow struct {
	id               int64
	numbers          [5]sql.NullInt64
	name, value, old sql.RawBytes
	null, oldNull    bool
}

func (r *rawRow) scan(rows *sql.Rows) error {
	n := &r.numbers
	return rows.Scan(&r.id, &r.name, &n[0], &n[1], &n[2], &n[3], &n[4], &r.value, &r.old, &r.null, &r.oldNull)
}

// isGap says whether this is the row with which kine fills a missing id.
func (r *rawRow) isGap() bool {
	const prefix = "gap-"
	if len(r.name) <= len(prefix) || string(r.name[:len(prefix)]) != prefix || len(r.value)+len(r.old) > 0 {
		return false
	}
	row := Row{ID: r.id, Name: string(r.name), Created: r.numbers[0], Deleted: r.numbers[1], CreateRevision: r.numbers[2], PrevRevision: r.numbers[3], Lease: r.numbers[4]}
	gap := gapRow(r.id)
	return row.meta() == gap.meta()
}

// write adds the row to the sum, such that no two different rows write the
// same. buf is scratch, returned for the next one.
func (r *rawRow) write(h hash.Hash, buf []byte) []byte {
	buf = binary.BigEndian.AppendUint64(buf[:0], uint64(r.id))
	for _, v := range r.numbers {
		buf = appendNull(buf, v.Valid, uint64(v.Int64))
	}
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(r.name)))
	buf = append(buf, r.name...)
	buf = appendNull(buf, !r.null, uint64(len(r.value)))
	buf = appendNull(buf, !r.oldNull, uint64(len(r.old)))
	h.Write(buf)
	h.Write(r.value)
	h.Write(r.old)
	return buf
}

// appendNull adds a number, or that there is none.
func appendNull(buf []byte, valid bool, v uint64) []byte {
	if !valid {
		return append(buf, 0)
	}
	return binary.BigEndian.AppendUint64(append(buf, 1), v)
}
