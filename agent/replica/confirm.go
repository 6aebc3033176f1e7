package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"relevo.dev/relevo/agent/replica/kine"
)

// A stream can stand still and look healthy: the master's reader may be stuck in an old
// state of the database, and go on saying that this is all there is. So a standby asks
// the master beside the stream, on another connection, for its newest revision, which is
// read for that by a handle of its own. The API server's own leases write at least every
// ten seconds, so there is always something to compare. Only a copy that has what was
// said there counts as fresh; and if that does not come, and nothing else either, the
// stream has stalled.

// PathHead is where a Source tells the newest revision.
const PathHead = "/v1/replica/head"

// headReply is its answer.
type headReply struct {
	Head int64 `json:"head"`
}

// serveHead reads the newest revision with a database handle of its own.
func (s *Source) serveHead(w http.ResponseWriter, r *http.Request) {
	head, err := s.freshHead(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// Whoever hung up does not read it.
	_ = json.NewEncoder(w).Encode(headReply{head})
}

func (s *Source) freshHead(ctx context.Context) (int64, error) {
	// Not while the datastore is being moved or restored: it must not be open then.
	s.opening.Lock()
	defer s.opening.Unlock()
	if s.paused {
		return 0, errNotServing
	}
	return kine.Head(ctx, s.cfg.Path)
}

// confirmation is what the master said beside the stream.
type confirmation struct {
	mu     sync.Mutex
	head   int64
	at     time.Duration // when, on the injected clock; 0 = never
	old    bool          // the master's agent is too old to be asked
	failed string        // why the last question had no answer
}

// allows says whether a copy that has all up to revision may be called fresh, and if not
// why; "" as well for "not at this moment".
func (c *confirmation) allows(now time.Duration, revision int64, within time.Duration) (ok bool, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.old:
		return true, ""
	case c.at == 0 || now-c.at > within:
		if c.failed == "" {
			return false, ""
		}
		return false, "the master does not confirm what its newest revision is: " + c.failed
	}
	return revision >= c.head, ""
}

// reset forgets what another master said.
func (c *confirmation) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.head, c.at, c.old, c.failed = 0, 0, false, ""
}

// runConfirm asks the master for its newest revision for as long as ctx lasts, which is
// as long as one stream; kick ends the stream.
func (f *Follower) runConfirm(ctx context.Context, kick func(error)) {
	t := time.NewTicker(f.cfg.ConfirmEvery)
	defer t.Stop()
	var w watch
	for {
		head, err := f.askHead(ctx)
		if ctx.Err() != nil {
			return
		}
		now := f.cfg.Clock()
		c := &f.confirmed
		c.mu.Lock()
		switch {
		case err == nil:
			c.head, c.at, c.old, c.failed = head, now, false, ""
		case errors.Is(err, errNoHead):
			c.old = true
		default:
			c.failed = err.Error()
		}
		c.mu.Unlock()
		if err == nil {
			if why := w.look(now, head, f.Position().Revision, f.applied.Load(), f.cfg.StallAfter); why != "" && !f.busy.Load() {
				f.board.update(func(b *board) { b.stalled = why })
				kick(errors.New(why))
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

var errNoHead = errors.New("the master's agent does not tell its newest revision")

func (f *Follower) askHead(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.StallAfter)
	defer cancel()
	q := url.Values{"cluster": {f.cfg.Cluster}, "term": {strconv.FormatUint(f.cfg.Term(), 10)}}
	resp, err := f.cfg.Get(ctx, PathHead+"?"+q.Encode())
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return 0, errNoHead
	case resp.StatusCode != http.StatusOK:
		return 0, fmt.Errorf("%s (%s)", body, resp.Status)
	case err != nil:
		return 0, err
	}
	var r headReply
	if err := json.Unmarshal(body, &r); err != nil || r.Head < 0 {
		return 0, fmt.Errorf("malformed answer %.40q", body)
	}
	return r.Head, nil
}

// watch remembers a revision that the copy has yet to reach.
type watch struct {
	head    int64 // 0 = none
	since   time.Duration
	applied uint64
}

// look says why the stream has stalled, "" if it has not: for `after`, the copy has not
// reached a revision that the master had, and nothing came that would lead there.
func (w *watch) look(now time.Duration, head, revision int64, applied uint64, after time.Duration) string {
	switch {
	case w.head != 0 && revision < w.head && applied == w.applied:
		if now-w.since >= after {
			return fmt.Sprintf("the stream has stalled: the master had revision %d %v ago, the copy has %d", w.head, (now - w.since).Round(time.Second), revision)
		}
	case revision < head:
		*w = watch{head, now, applied}
	default:
		*w = watch{}
	}
	return ""
}

// progress counts what came of the stream, and whether it is being worked in.
type progress struct {
	applied   atomic.Uint64 // frames that bring the copy on
	busy      atomic.Bool   // the copy is being written
	confirmed confirmation
}
