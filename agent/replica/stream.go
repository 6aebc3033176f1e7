package replica

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"relevo.dev/relevo/agent/replica/kine"
)

// writeTimeout ends a stream whose standby takes nothing for so long.
const writeTimeout = 15 * time.Second

// compactCalm is how long the compaction mark must have stood still before the
// survivors are listed: kine compacts in many small steps. compactLong is the
// longest wait if it never does.
const (
	compactCalm = 500 * time.Millisecond
	compactLong = 10 * time.Second
)

// stream is one standby's stream.
type stream struct {
	src    *Source
	r      *kine.Reader
	w      http.ResponseWriter
	rc     *http.ResponseController
	term   uint64
	buf    []byte
	pos    int64 // the standby has everything up to here
	marked int64 // compact revision whose survivors were sent; -1 none yet
	seen   int64 // compact revision last read
	torn   bool  // rows were sent that the standby cannot use before the survivors
	calm   time.Time
	since  time.Time // since when seen differs from marked
}

var errStreamEnd = errors.New("the source is being stopped")

func (s *Source) serveRows(w http.ResponseWriter, req *http.Request, after int64) {
	r, _, why := s.current()
	if r == nil {
		http.Error(w, "no datastore to follow: "+why.Error(), http.StatusServiceUnavailable)
		return
	}
	s.count(1)
	defer s.count(-1)
	st := &stream{src: s, r: r, w: w, rc: http.NewResponseController(w), pos: after, marked: -1, seen: -1}
	w.Header().Set("Content-Type", "application/octet-stream")
	err := st.run(req.Context())
	if err != nil && req.Context().Err() == nil {
		s.cfg.Log.Info("a standby's stream ended", "remote", req.RemoteAddr, "revision", st.pos, "err", err)
		// Best effort: if the standby is gone it does not read this either.
		if st.send(&frame{kind: kindError, err: cut(err.Error(), maxText)}) == nil {
			_ = st.rc.Flush()
		}
	}
}

func cut(s string, n int) string { return s[:min(len(s), n)] }

func (st *stream) run(ctx context.Context) error {
	if err := st.begin(ctx); err != nil {
		return err
	}
	beat := time.NewTimer(0)
	defer beat.Stop()
	var look int
	for {
		_, wake, _ := st.src.current()
		more, err := st.step(ctx)
		if err != nil {
			return err
		}
		if more {
			continue
		}
		next := st.src.cfg.Beat
		if look < len(looks) {
			next = min(next, looks[look])
			look++
		}
		beat.Reset(next)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-st.src.done:
			return errStreamEnd
		case <-wake:
			look = 1
		case <-beat.C:
		}
	}
}

// begin sends the header.
func (st *stream) begin(ctx context.Context) error {
	m, err := st.r.Marks(ctx)
	if err != nil {
		return st.failed(err)
	}
	h := header{version: version, cluster: st.src.cfg.Cluster, head: m.Head}
	if h.schema, err = st.r.Schema(ctx); err != nil {
		return st.failed(err)
	}
	if h.forks, err = st.r.Forks(ctx); err != nil {
		return st.failed(err)
	}
	if h.anchor, h.hasAnchor, err = st.r.Anchor(ctx, st.pos); err != nil {
		return st.failed(err)
	}
	if err := st.send(&frame{kind: kindHeader, header: h}); err != nil {
		return err
	}
	return st.rc.Flush()
}

// step reads once and sends what there is. more: there is more to read at once.
func (st *stream) step(ctx context.Context) (more bool, err error) {
	if err := st.r.Current(); err != nil {
		return false, st.failed(err)
	}
	b, err := st.r.Batch(ctx, st.pos)
	if err != nil {
		return false, st.failed(err)
	}
	if len(b.Rows) > 0 {
		st.torn = st.torn || b.Compact > st.pos
		if err := st.send(&frame{kind: kindRows, rows: b.Rows, compact: b.Compact}); err != nil {
			return false, err
		}
		st.pos = b.Rows[len(b.Rows)-1].ID
	}
	if b.More {
		return true, st.rc.Flush()
	}
	if moved, err := st.compaction(ctx, &b); err != nil || moved {
		return moved, err
	}
	digest, ierr := st.src.scan.Digest()
	f := &frame{kind: kindBeat, head: b.Head, identity: digest}
	if ierr != nil {
		f.err = cut(ierr.Error(), maxText)
	}
	if err := st.send(f); err != nil {
		return false, err
	}
	return false, st.rc.Flush() // with the rows before it: one call of the kernel, and of the standby
}

// compaction lists what survived, if the log was compacted since the last
// list, once it stands still; on a new stream at once, which also compares all
// that the standby has. The standby has everything up to the mark by now: the
// batch reached the head of the log.
func (st *stream) compaction(ctx context.Context, b *kine.Batch) (moved bool, err error) {
	now := time.Now()
	if b.Compact != st.seen {
		if st.seen == st.marked {
			st.since = now
		}
		st.seen, st.calm = b.Compact, now
	}
	if st.seen == st.marked {
		return false, nil
	}
	if st.marked >= 0 && !st.torn && now.Sub(st.calm) < compactCalm && now.Sub(st.since) < compactLong {
		return false, nil
	}
	for after, upTo := int64(0), min(b.Compact, st.pos); after < upTo; {
		list, done, err := st.r.Survivors(ctx, after, upTo, b.Compact, maxSurvivors)
		if errors.Is(err, kine.ErrMoved) {
			return true, nil
		}
		if err != nil {
			return false, st.failed(err)
		}
		to := upTo
		if !done {
			to = list[len(list)-1].ID
		}
		if err := st.send(&frame{kind: kindSurvivors, compact: b.Compact, after: after, upTo: to, survivors: list}); err != nil {
			return false, err
		}
		after = to
	}
	m, err := st.r.Marks(ctx)
	if err != nil {
		return false, st.failed(err)
	}
	if m.Compact != b.Compact {
		return true, nil
	}
	if err := st.send(&frame{kind: kindMark, compacts: m.Compacts, seq: m.Seq}); err != nil {
		return false, err
	}
	st.marked, st.torn = b.Compact, false
	return false, nil
}

// failed makes the source open the datastore anew, unless it was the standby
// who hung up.
func (st *stream) failed(err error) error {
	if !errors.Is(err, context.Canceled) {
		st.src.spoiled(st.r)
	}
	return err
}

// send writes one frame with the term of this moment. It may wait for a Flush.
func (st *stream) send(f *frame) error {
	select {
	case <-st.src.done:
		if f.kind != kindError {
			return errStreamEnd
		}
	default:
	}
	term, serving := st.src.cfg.Term()
	if !serving && f.kind != kindError {
		return errors.New("this agent is not the master any more")
	}
	if term < st.term {
		return fmt.Errorf("the term went back from %d to %d", st.term, term)
	}
	st.term, f.term = term, term
	// Not every ResponseWriter can; then a dead standby is noticed by TCP.
	_ = st.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	st.buf = appendFrame(st.buf[:0], f)
	if _, err := st.w.Write(st.buf); err != nil {
		return err
	}
	if cap(st.buf) > 4*kine.MaxBatchBytes {
		st.buf = nil // one huge row must not cost memory for ever
	}
	return nil
}
