package replica

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// stuck is a master whose reader sees an old state of the database while stands is set:
// its stream goes on, and says that this is all there is.
type stuck struct {
	get    Getter
	stands atomic.Bool
	head   atomic.Int64 // newest revision that its reader sees
	heads  atomic.Int64 // answers of PathHead; below 0 it is refused with 404
}

func (s *stuck) Get(ctx context.Context, uri string) (*http.Response, error) {
	if strings.HasPrefix(uri, PathHead) && s.heads.Add(1) < 0 {
		return &http.Response{StatusCode: http.StatusNotFound, Status: "404", Body: io.NopCloser(strings.NewReader("no such page"))}, nil
	}
	resp, err := s.get(ctx, uri)
	if err != nil || !strings.HasPrefix(uri, PathRows) {
		return resp, err
	}
	r, w := io.Pipe()
	from := resp.Body
	go func() {
		in := bufio.NewReader(from)
		for {
			fr, err := readFrame(in)
			if err != nil {
				w.CloseWithError(err)
				return
			}
			said := &fr.head
			if fr.kind == kindHeader {
				said = &fr.header.head
			}
			switch stands := s.stands.Load(); {
			case fr.kind != kindHeader && fr.kind != kindBeat:
				if stands {
					continue // rows that this reader does not see
				}
			case stands:
				*said = s.head.Load()
			default:
				s.head.Store(*said)
			}
			if _, err := w.Write(appendFrame(nil, fr)); err != nil {
				from.Close()
				return
			}
		}
	}()
	resp.Body = struct {
		io.Reader
		io.Closer
	}{r, closers{r, from}}
	return resp, nil
}

type closers []io.Closer

func (c closers) Close() (err error) {
	for _, x := range c {
		err = errors.Join(err, x.Close())
	}
	return err
}

// TestStallIsSeen: beats go on, and rows do not come. The copy must not be called fresh,
// the reason is said, and it is over when rows come again.
func TestStallIsSeen(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	h := newHost(t, w, "home")
	s := &stuck{get: getter(address(h))}
	cfg := config(t, s.Get)
	cfg.StallAfter = 200 * time.Millisecond
	f := NewFollower(cfg)
	run(t, f.Run)
	wait(t, f, "the head", fresh(w))
	s.stands.Store(true)
	w.Put("/registry/unseen", "1")
	wait(t, f, "the stall", func(p Position) bool {
		return strings.Contains(p.Stalled, "the stream has stalled") && p.Err == p.Stalled
	})
	at := f.Position()
	if at.Revision == w.Head() {
		t.Fatal("the test wants a copy that is behind")
	}
	asked := s.heads.Load()
	wait(t, f, "more questions", func(Position) bool { return s.heads.Load() > asked+5 })
	if p := f.Position(); p.FreshAt != at.FreshAt || p.Stalled == "" {
		t.Fatalf("a copy that is behind is called fresh: %+v, before %+v", p, at)
	}
	s.stands.Store(false)
	wait(t, f, "the end of it", func(p Position) bool { return fresh(w)(p) && p.Stalled == "" && p.FreshAt > at.FreshAt })
}

// TestOldMaster: an agent that cannot be asked beside the stream is followed all the same.
func TestOldMaster(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	h := newHost(t, w, "home")
	s := &stuck{get: getter(address(h))}
	s.heads.Store(-1 << 40)
	f := NewFollower(config(t, s.Get))
	run(t, f.Run)
	w.Put("/registry/x", "1")
	wait(t, f, "the head", fresh(w))
}

// TestUnconfirmed: a master that does not answer beside the stream makes no copy fresh.
func TestUnconfirmed(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	h := newHost(t, w, "home")
	get := getter(address(h))
	f := NewFollower(config(t, func(ctx context.Context, uri string) (*http.Response, error) {
		if strings.HasPrefix(uri, PathHead) {
			return nil, errors.New("no route to host")
		}
		return get(ctx, uri)
	}))
	run(t, f.Run)
	wait(t, f, "the doubt", func(p Position) bool {
		return p.Revision == w.Head() && strings.Contains(p.Err, "does not confirm") && strings.Contains(p.Err, "no route")
	})
	if p := f.Position(); p.FreshAt != 0 {
		t.Fatalf("%+v", p)
	}
}

func TestWatch(t *testing.T) {
	const after = 5 * time.Second
	type look struct {
		at             time.Duration
		head, revision int64
		applied        uint64
	}
	for _, tt := range []struct {
		name  string
		looks []look
		want  bool
	}{
		{"nothing is written", []look{{1, 7, 7, 0}, {100 * after, 7, 7, 0}}, false},
		{"it stands still", []look{{0, 8, 7, 0}, {after, 9, 7, 0}}, true},
		{"not for long", []look{{0, 8, 7, 0}, {after - 1, 9, 7, 0}}, false},
		{"it comes on", []look{{0, 8, 7, 0}, {after, 9, 7, 1}, {after + after/2, 10, 7, 2}}, false},
		{"it came on, and then not", []look{{0, 8, 7, 0}, {after, 9, 7, 1}, {2 * after, 10, 7, 1}}, true},
		{"the first was reached", []look{{0, 8, 7, 0}, {after, 9, 8, 0}, {after + 1, 9, 8, 0}}, false},
	} {
		var w watch
		got := ""
		for _, l := range tt.looks {
			got = w.look(l.at, l.head, l.revision, l.applied, after)
		}
		if (got != "") != tt.want {
			t.Errorf("%s: %q", tt.name, got)
		}
	}
}

func TestHeadIsRefused(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	h := newHost(t, w, "home")
	ask := func() int {
		rec := httptest.NewRecorder()
		h.src.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, PathHead+"?cluster=home&term=1", nil))
		return rec.Code
	}
	if c := ask(); c != http.StatusOK {
		t.Fatalf("%d", c)
	}
	h.src.Pause() // the datastore is being moved: nobody may have it open
	if c := ask(); c != http.StatusServiceUnavailable {
		t.Fatalf("%d", c)
	}
}
