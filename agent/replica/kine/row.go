package kine

import (
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"hash/crc32"
	"strconv"
)

// CompactKey is the name of the row whose prev_revision says how far the log
// is compacted. It is the one row that kine updates in place.
const CompactKey = "compact_rev_key"

// Row is one row of kine's table. Columns may be NULL: kine 0.17 writes NULL
// into create_revision of a create, older ones 0, and the copy keeps that.
type Row struct {
	ID             int64  // the revision
	Name           string // the key
	Created        sql.NullInt64
	Deleted        sql.NullInt64
	CreateRevision sql.NullInt64
	PrevRevision   sql.NullInt64
	Lease          sql.NullInt64
	Value          []byte // nil is NULL, empty is an empty blob
	OldValue       []byte
}

// size is what the row weighs in a batch, in bytes.
func (r *Row) size() int { return 64 + len(r.Name) + len(r.Value) + len(r.OldValue) }

// meta is the checksum of everything but the values, which are too much to
// read again for a comparison. Rows never change, except prev_revision of
// compact_rev_key, which is therefore left out.
func (r *Row) meta() uint32 {
	buf := make([]byte, 0, 96)
	buf = binary.BigEndian.AppendUint64(buf, uint64(r.ID))
	buf = append(buf, r.Name...)
	for _, v := range []sql.NullInt64{r.Created, r.Deleted, r.CreateRevision, r.PrevRevision, r.Lease} {
		if r.Name == CompactKey {
			break
		}
		buf = append(buf, 0)
		if v.Valid {
			buf[len(buf)-1] = 1
			buf = binary.BigEndian.AppendUint64(buf, uint64(v.Int64))
		}
	}
	return crc32.Checksum(buf, castagnoli)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum is the checksum of the whole row.
func (r *Row) sum() [sha256.Size]byte {
	h := sha256.New()
	var b [8]byte
	word := func(v uint64) {
		binary.BigEndian.PutUint64(b[:], v)
		h.Write(b[:])
	}
	word(uint64(r.meta()))
	for _, v := range [][]byte{[]byte(r.Name), r.Value, r.OldValue} {
		word(uint64(len(v)))
		h.Write(v)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// gapRow is the row that kine itself writes for a missing id, so it can be
// made anew wherever it is missing.
func gapRow(id int64) Row {
	n := func(v int64) sql.NullInt64 { return sql.NullInt64{Int64: v, Valid: true} }
	return Row{ID: id, Name: "gap-" + strconv.FormatInt(id, 10), Created: n(0), Deleted: n(1), CreateRevision: n(0), PrevRevision: n(0), Lease: n(0)}
}

// Survivor is an id that compaction left, with the checksum of its row
// without the values.
type Survivor struct {
	ID   int64
	Meta uint32
}

// CompactRow is a row named compact_rev_key. There is one; a bug of old kines
// left two, and kine removes the lesser at its next start.
type CompactRow struct{ ID, Revision int64 }

// Anchor is the newest row that the master still has at or below a revision,
// with its checksum: a copy with another history has another row there, or
// none.
type Anchor struct {
	ID  int64
	Sum [sha256.Size]byte
}

// Fork is a promotion: everything after From and before Gap was never part of
// this history. A copy whose newest revision lies strictly between followed
// another master, and has rows that were lost in the change.
type Fork struct {
	Term uint64
	From int64 // revision up to which the promoted copy had everything
	Gap  int64 // revision from which it went on
}

// Contains says whether a copy that ends at revision was left behind by this
// promotion.
func (f Fork) Contains(revision int64) bool { return revision > f.From && revision < f.Gap }
