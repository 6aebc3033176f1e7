package replica

import (
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"relevo.dev/relevo/agent/replica/kine"
)

// version of the stream; a standby refuses another one by name.
const version = 1

// maxFrame bounds a frame on the wire, in bytes.
const maxFrame = kine.MaxRow + kine.MaxBatchBytes + 64<<10

// kind is the type of a frame.
type kind byte

const (
	kindHeader kind = iota + 1
	kindRows
	kindSurvivors
	kindMark
	kindBeat
	kindError
)

// frame is one message of the stream: 4 bytes length (big endian, of what
// follows), 1 byte kind, the term as a varint, then the fields of the kind.
type frame struct {
	kind   kind
	term   uint64
	header header
	rows   []kine.Row // kindRows
	// compact is, for rows: the master's compact revision when they were read;
	// for survivors: the one that they survived.
	compact   int64
	survivors []kine.Survivor // kindSurvivors: what exists with after < id <= upTo
	after     int64
	upTo      int64
	compacts  []kine.CompactRow // kindMark
	seq       int64
	head      int64  // kindBeat: the master's newest revision; header too
	identity  string // kindBeat: digest of the identity, "" while it cannot be read
	err       string // kindError: why the stream ends; kindBeat: why there is no identity
}

// header is the first frame.
type header struct {
	version   uint64
	cluster   string
	schema    kine.Schema
	head      int64
	anchor    kine.Anchor
	hasAnchor bool
	forks     []kine.Fork
}

var errFrame = errors.New("malformed frame in the replication stream")

// appendFrame encodes f behind buf.
func appendFrame(buf []byte, f *frame) []byte {
	start := len(buf)
	e := encoder{append(buf, 0, 0, 0, 0, byte(f.kind))}
	e.uint(f.term)
	switch f.kind {
	case kindHeader:
		e.header(&f.header)
	case kindRows:
		e.int(f.compact)
		e.uint(uint64(len(f.rows)))
		for i := range f.rows {
			e.row(&f.rows[i])
		}
	case kindSurvivors:
		e.int(f.compact)
		e.int(f.after)
		e.int(f.upTo)
		e.uint(uint64(len(f.survivors)))
		last := f.after
		for _, s := range f.survivors {
			e.uint(uint64(s.ID - last))
			e.b = binary.BigEndian.AppendUint32(e.b, s.Meta)
			last = s.ID
		}
	case kindMark:
		e.int(f.seq)
		e.uint(uint64(len(f.compacts)))
		for _, c := range f.compacts {
			e.int(c.ID)
			e.int(c.Revision)
		}
	case kindBeat:
		e.int(f.head)
		e.str(f.identity)
		e.str(f.err)
	case kindError:
		e.str(f.err)
	}
	binary.BigEndian.PutUint32(e.b[start:], uint32(len(e.b)-start-4))
	return e.b
}

type encoder struct{ b []byte }

func (e *encoder) uint(v uint64) { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int64)   { e.b = binary.AppendVarint(e.b, v) }
func (e *encoder) str(s string)  { e.uint(uint64(len(s))); e.b = append(e.b, s...) }

// blob writes length+1, so that 0 is NULL.
func (e *encoder) blob(v []byte) {
	if v == nil {
		e.uint(0)
		return
	}
	e.uint(uint64(len(v)) + 1)
	e.b = append(e.b, v...)
}

func (e *encoder) row(r *kine.Row) {
	e.int(r.ID)
	e.str(r.Name)
	for _, v := range []sql.NullInt64{r.Created, r.Deleted, r.CreateRevision, r.PrevRevision, r.Lease} {
		if !v.Valid {
			e.b = append(e.b, 0)
			continue
		}
		e.b = append(e.b, 1)
		e.int(v.Int64)
	}
	e.blob(r.Value)
	e.blob(r.OldValue)
}

func (e *encoder) header(h *header) {
	e.uint(h.version)
	e.str(h.cluster)
	e.str(h.schema.NameType)
	e.uint(uint64(len(h.schema.Indexes)))
	for _, n := range h.schema.Indexes {
		e.str(n)
	}
	e.int(h.head)
	if h.hasAnchor {
		e.b = append(e.b, 1)
		e.int(h.anchor.ID)
		e.b = append(e.b, h.anchor.Sum[:]...)
	} else {
		e.b = append(e.b, 0)
	}
	e.uint(uint64(len(h.forks)))
	for _, f := range h.forks {
		e.uint(f.Term)
		e.int(f.From)
		e.int(f.Gap)
	}
}

// readFrame reads one frame. io.EOF if the stream ended between two frames,
// io.ErrUnexpectedEOF within one. The memory it takes grows with what really
// arrived, not with the length that was announced.
func readFrame(r io.Reader) (*frame, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 2 || n > maxFrame {
		return nil, fmt.Errorf("%w: length %d", errFrame, n)
	}
	buf := make([]byte, 0, min(n, kine.MaxBatchBytes))
	for uint32(len(buf)) < n {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		chunk := buf[len(buf):min(cap(buf), int(n))]
		m, err := io.ReadFull(r, chunk)
		buf = buf[:len(buf)+m]
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return decodeFrame(buf)
}

func decodeFrame(buf []byte) (*frame, error) {
	d := decoder{b: buf}
	f := &frame{kind: kind(d.byte())}
	f.term = d.uint()
	switch f.kind {
	case kindHeader:
		d.header(&f.header)
	case kindRows:
		f.compact = d.int()
		n := d.count(kine.MaxBatchRows, 9)
		for i := 0; i < n && d.err == nil; i++ {
			f.rows = append(f.rows, d.row())
		}
	case kindSurvivors:
		f.compact, f.after, f.upTo = d.int(), d.int(), d.int()
		n := d.count(maxSurvivors, 5)
		f.survivors = make([]kine.Survivor, 0, n)
		last := f.after
		for i := 0; i < n && d.err == nil; i++ {
			step := d.uint()
			if step == 0 || step > math.MaxInt64-uint64(max(last, 0)) {
				d.fail()
			}
			last += int64(step)
			f.survivors = append(f.survivors, kine.Survivor{ID: last, Meta: d.uint32()})
		}
		if last > f.upTo || f.after < 0 {
			d.fail()
		}
	case kindMark:
		f.seq = d.int()
		n := d.count(16, 2)
		for i := 0; i < n && d.err == nil; i++ {
			f.compacts = append(f.compacts, kine.CompactRow{ID: d.int(), Revision: d.int()})
		}
	case kindBeat:
		f.head, f.identity, f.err = d.int(), d.str(maxText), d.str(maxText)
	case kindError:
		f.err = d.str(maxText)
	default:
		d.fail()
	}
	if d.err == nil && len(d.b) != 0 {
		d.fail()
	}
	return f, d.err
}

// maxText bounds names and messages; maxSurvivors the ids of one frame.
const (
	maxText      = 4 << 10
	maxName      = 64 << 10
	maxSurvivors = 16 << 10
)

// decoder takes fields off b; after the first error everything is zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = errFrame
	}
	d.b = nil
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if v := d.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if v := d.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads a number of items, each at least size bytes long.
func (d *decoder) count(most, size uint64) int {
	n := d.uint()
	if n > most || n*size > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) str(most uint64) string {
	n := d.uint()
	if n > most {
		d.fail()
		return ""
	}
	return string(d.take(n))
}

// blob shares memory with the frame, which lives as long as its rows.
func (d *decoder) blob() []byte {
	n := d.uint()
	if n == 0 {
		return nil
	}
	return d.take(n - 1)
}

func (d *decoder) row() (r kine.Row) {
	r.ID, r.Name = d.int(), d.str(maxName)
	for _, v := range []*sql.NullInt64{&r.Created, &r.Deleted, &r.CreateRevision, &r.PrevRevision, &r.Lease} {
		switch d.byte() {
		case 0:
		case 1:
			*v = sql.NullInt64{Int64: d.int(), Valid: true}
		default:
			d.fail()
		}
	}
	r.Value, r.OldValue = d.blob(), d.blob()
	return r
}

func (d *decoder) header(h *header) {
	h.version, h.cluster = d.uint(), d.str(maxText)
	if h.version != version {
		d.b = nil // the rest may look otherwise; the version alone is the answer
		return
	}
	h.schema.NameType = d.str(maxText)
	for n := d.count(64, 1); n > 0 && d.err == nil; n-- {
		h.schema.Indexes = append(h.schema.Indexes, d.str(maxText))
	}
	h.head = d.int()
	switch d.byte() {
	case 0:
	case 1:
		h.hasAnchor = true
		h.anchor.ID = d.int()
		copy(h.anchor.Sum[:], d.take(uint64(len(h.anchor.Sum))))
	default:
		d.fail()
	}
	for n := d.count(64, 3); n > 0 && d.err == nil; n-- {
		h.forks = append(h.forks, kine.Fork{Term: d.uint(), From: d.int(), Gap: d.int()})
	}
}
