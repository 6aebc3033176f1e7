package kinetest

import (
	"encoding/binary"
	"io"
	"net/http"
)

// Told is the first thing that a watch says after it was created.
type Told struct {
	Compacted int64 // it was refused: everything up to here is compacted
	Events    bool  // it told of changes
}

// Watch asks for all changes of all keys from a revision on, calls created when kine has
// taken it, and returns what it says first. It ends with the test.
func (s *Server) Watch(from int64, created func()) Told {
	s.t.Helper()
	// WatchRequest.create_request: key "\0", range_end "\0" (all keys), start_revision.
	create := append(field(1, []byte{0}), field(2, []byte{0})...)
	create = binary.AppendUvarint(append(create, 3<<3), uint64(from))
	msg := field(1, create)
	body, w := io.Pipe()
	defer w.Close() // the stream stays open until we have our answer
	go func() {     // ends with the pipe
		_, _ = w.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg))), msg...))
	}()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+"/etcdserverpb.Watch/Watch", body)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	res, err := s.http.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	for {
		var head [5]byte
		if _, err := io.ReadFull(res.Body, head[:]); err != nil {
			s.t.Fatalf("the watch ended without an answer: %v %v", err, res.Trailer)
		}
		answer := make([]byte, min(binary.BigEndian.Uint32(head[1:]), 4<<20))
		if _, err := io.ReadFull(res.Body, answer); err != nil {
			s.t.Fatal(err)
		}
		told, begun := watchResponse(answer)
		if told != (Told{}) {
			return told
		}
		if begun && created != nil {
			created()
			created = nil
		}
	}
}

// watchResponse reads WatchResponse: created, canceled with compact_revision, events.
func watchResponse(b []byte) (told Told, created bool) {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		v, m := binary.Uvarint(b[n:])
		b = b[n+m:]
		switch tag {
		case 3 << 3:
			created = v == 1
		case 5 << 3:
			told.Compacted = int64(v)
		case 11<<3 | 2:
			told.Events = true
		}
		if tag&7 == 2 {
			b = b[v:]
		}
	}
	return told, created
}
