package replica

import (
	"bytes"
	"database/sql"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"testing"

	"relevo.dev/relevo/agent/replica/kine"
)

func n(v int64) sql.NullInt64 { return sql.NullInt64{Int64: v, Valid: true} }

// samples are one frame of each kind, with what is odd about each.
func samples() []*frame {
	return []*frame{
		{kind: kindHeader, term: 7, header: header{version: version, cluster: "home", schema: kine.Schema{NameType: "TEXT", Indexes: []string{"kine_name_index"}},
			head: 1 << 40, hasAnchor: true, anchor: kine.Anchor{ID: 9, Sum: [32]byte{1, 2, 3}}, forks: []kine.Fork{{Term: 6, From: 10, Gap: 1_000_010}}}},
		{kind: kindHeader, term: 1, header: header{version: version, cluster: "", schema: kine.Schema{NameType: "INTEGER"}}},
		{kind: kindRows, term: 7, compact: 3, rows: []kine.Row{
			{ID: 4, Name: "compact_rev_key", Created: n(1), Deleted: n(0), PrevRevision: n(3), Lease: n(0), Value: []byte{}},
			{ID: 5, Name: "/ünïcode", Created: n(0), Deleted: n(1), CreateRevision: n(-1), PrevRevision: n(1 << 62), Lease: n(3600), OldValue: bytes.Repeat([]byte("v"), 3000)},
		}},
		{kind: kindSurvivors, term: 7, compact: 90, after: 5, upTo: 90, survivors: []kine.Survivor{{ID: 6, Meta: 1}, {ID: 89, Meta: 0xffffffff}}},
		{kind: kindSurvivors, term: 7, compact: 90, after: 0, upTo: 90, survivors: []kine.Survivor{}},
		{kind: kindMark, term: 8, seq: 100, compacts: []kine.CompactRow{{ID: 1, Revision: 90}}},
		{kind: kindBeat, term: 8, head: 100, identity: "abc", err: ""},
		{kind: kindError, term: 8, err: "the datastore is gone"},
	}
}

func TestFrames(t *testing.T) {
	var stream []byte
	for _, f := range samples() {
		stream = appendFrame(stream, f)
	}
	r := bytes.NewReader(stream)
	for i, want := range samples() {
		got, err := readFrame(r)
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("frame %d:\ngot  %+v\nwant %+v", i, got, want)
		}
	}
	// Cut at any byte: an error, never a frame that was not sent.
	for cut := range stream {
		r, frames := bytes.NewReader(stream[:cut]), 0
		for {
			f, err := readFrame(r)
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("cut at %d: %v", cut, err)
				}
				break
			}
			if !reflect.DeepEqual(f, samples()[frames]) {
				t.Fatalf("cut at %d: frame %d differs", cut, frames)
			}
			frames++
		}
	}
}

func TestFrameBounds(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"huge", []byte{0xff, 0xff, 0xff, 0xff, 1}},
		{"empty", []byte{0, 0, 0, 0}},
		{"unknown kind", []byte{0, 0, 0, 2, 99, 1}},
		{"trailing bytes", []byte{0, 0, 0, 4, byte(kindError), 1, 0, 0}},
		{"count without items", []byte{0, 0, 0, 5, byte(kindRows), 1, 0, 0xf4, 0x03}},
	} {
		if f, err := readFrame(bytes.NewReader(tt.b)); !errors.Is(err, errFrame) {
			t.Errorf("%s: %+v, %v", tt.name, f, err)
		}
	}
	// A length that is announced but never arrives costs no memory.
	head := binary.BigEndian.AppendUint32(nil, maxFrame)
	if a := testing.AllocsPerRun(1, func() { readFrame(bytes.NewReader(head)) }); a > 20 {
		t.Error(a)
	}
	// Another version is told as such, whatever follows.
	b := appendFrame(nil, &frame{kind: kindHeader, term: 1, header: header{version: 99, cluster: "home"}})
	if f, err := readFrame(bytes.NewReader(b)); err != nil || f.header.version != 99 {
		t.Errorf("%+v, %v", f, err)
	}
}

func FuzzFrame(f *testing.F) {
	for _, s := range samples() {
		f.Add(appendFrame(nil, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := readFrame(bytes.NewReader(b))
		if err != nil || fr.kind == kindHeader && fr.header.version != version {
			return
		}
		again, err := readFrame(bytes.NewReader(appendFrame(nil, fr)))
		if err != nil || !reflect.DeepEqual(fr, again) {
			t.Fatalf("%+v\n%+v\n%v", fr, again, err)
		}
	})
}
