package replica

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// host is a master: a datastore, a source, a server on loopback.
type host struct {
	w    *kinetest.Writer
	src  *Source
	url  string
	term atomic.Uint64
}

func newHost(t testing.TB, w *kinetest.Writer, cluster string, identity ...string) *host {
	t.Helper()
	h := &host{w: w}
	h.term.Store(1)
	h.src = NewSource(SourceConfig{Path: w.Path, Cluster: cluster, Identity: identity, Beat: 20 * time.Millisecond,
		Term: func() (uint64, bool) { t := h.term.Load(); return t, t != 0 }})
	run(t, h.src.Run)
	srv := httptest.NewServer(h.src)
	t.Cleanup(srv.CloseClientConnections)
	t.Cleanup(func() { go srv.Close() })
	h.url = srv.URL
	return h
}

// run runs f until the test ends, or until the returned function is called.
func run(t testing.TB, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func getter(url *atomic.Value) Getter {
	return func(ctx context.Context, uri string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url.Load().(string)+uri, nil)
		if err != nil {
			return nil, err
		}
		return http.DefaultClient.Do(req)
	}
}

func address(h *host) *atomic.Value {
	var v atomic.Value
	v.Store(h.url)
	return &v
}

func config(t *testing.T, get Getter) FollowerConfig {
	return FollowerConfig{Dir: filepath.Join(t.TempDir(), "replica"), Cluster: "home", Term: func() uint64 { return 1 }, Get: get,
		RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond, SyncEvery: 10 * time.Millisecond, ConfirmEvery: 5 * time.Millisecond}
}

func wait(t *testing.T, f *Follower, what string, cond func(Position) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := f.Wait(ctx, cond); err != nil {
		t.Fatalf("waiting for %s: %v; position %+v", what, err, f.Position())
	}
}

func fresh(w *kinetest.Writer) func(Position) bool {
	head := w.Head()
	return func(p Position) bool { return p.Complete && p.Revision == head && p.Err == "" && p.FreshAt > 0 }
}

// equal follows once more on a new stream, which brings compactions at once,
// and compares the copy with the source.
func equal(t *testing.T, f *Follower, w *kinetest.Writer) {
	t.Helper()
	f = NewFollower(f.cfg)
	stop := run(t, f.Run)
	wait(t, f, "the head", fresh(w))
	stop()
	if diff := kinetest.Diff(kinetest.Dump(t, f.CopyPath()), kinetest.Dump(t, w.Path)); diff != "" {
		t.Fatalf("the copy differs:\n%s", diff)
	}
	info, err := kine.Verify(t.Context(), f.CopyPath(), true)
	if err != nil {
		t.Fatal(err)
	}
	r, err := kine.OpenReader(t.Context(), w.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if s, err := r.Schema(t.Context()); err != nil || !reflect.DeepEqual(info.Schema, s) {
		t.Fatalf("the copy has the layout %q, the master %q, %v", info.Schema.Indexes, s.Indexes, err)
	}
}

// TestFollow: a first copy, a tail while somebody writes all the time and
// compacts, a stop, a start.
func TestFollow(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	r := rand.New(rand.NewPCG(1, 2))
	w.Random(r, 700)
	h := newHost(t, w, "home")
	cfg := config(t, getter(address(h)))
	for range 3 {
		f := NewFollower(cfg)
		stop := run(t, f.Run)
		w.Random(r, 100)
		wait(t, f, "the head", fresh(w))
		w.Random(r, 100)
		w.Put("/registry/last", fmt.Sprint(w.Head())) // the newest row cannot be compacted away
		wait(t, f, "the tail", fresh(w))
		stop()
		if p := f.Position(); p.Committed != p.Revision || p.Revision != w.Head() || p.Term != 1 || p.Lag() != 0 {
			t.Fatalf("%+v", p)
		}
		w.Random(r, 300) // while it is away
		w.Compact(w.Head())
		w.Put("/registry/end", fmt.Sprint(w.Head()))
	}
	equal(t, NewFollower(cfg), w)
}

// cutter ends every stream after a number of bytes, which grows.
type cutter struct {
	get Getter
	n   atomic.Int64
	max int64
}

func (c *cutter) Get(ctx context.Context, uri string) (*http.Response, error) {
	resp, err := c.get(ctx, uri)
	if n := c.n.Add(1); err == nil && n < c.max {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, n), resp.Body}
	}
	return resp, err
}

// TestCutAnywhere: streams that end after 1, 2, 3 … bytes; the copy grows all
// the same, and never holds anything but the master's rows.
func TestCutAnywhere(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	w.Random(rand.New(rand.NewPCG(3, 4)), 60)
	h := newHost(t, w, "home")
	c := &cutter{get: getter(address(h)), max: 450}
	cfg := config(t, c.Get)
	cfg.RetryMax = cfg.RetryMin
	f := NewFollower(cfg)
	stop := run(t, f.Run)
	wait(t, f, "the head", fresh(w))
	stop()
	if c.n.Load() < 60 {
		t.Fatalf("only %d streams", c.n.Load())
	}
	equal(t, f, w)
}

func TestRefusals(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	for _, tt := range []struct {
		name, cluster, want string
		term                uint64 // of the master
		known               uint64 // to the standby
	}{
		{"another cluster", "other", `this is cluster "other"`, 1, 1},
		{"an older term", "home", "older than 5", 4, 5},
		{"not the master", "home", "not the master", 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, w, tt.cluster)
			h.term.Store(tt.term)
			cfg := config(t, getter(address(h)))
			cfg.Term = func() uint64 { return tt.known }
			f := NewFollower(cfg)
			run(t, f.Run)
			wait(t, f, "the refusal", func(p Position) bool { return strings.Contains(p.Err, tt.want) })
			if p := f.Position(); p.Complete || p.Revision != 0 {
				t.Fatalf("%+v", p)
			}
		})
	}
	t.Run("frames of an older term", func(t *testing.T) {
		// The standby learns of the new term while the old master still sends.
		h := newHost(t, w, "home")
		var known atomic.Uint64
		known.Store(1)
		cfg := config(t, getter(address(h)))
		cfg.Term = known.Load
		f := NewFollower(cfg)
		run(t, f.Run)
		wait(t, f, "the head", fresh(w))
		known.Store(2)
		wait(t, f, "the refusal", func(p Position) bool {
			return strings.Contains(p.Err, "term 2") || strings.Contains(p.Err, "older than 2")
		})
		before := f.Position().Revision
		w.Put("/registry/late", "x")
		h.term.Store(2) // and back to normal
		wait(t, f, "the new term", func(p Position) bool { return p.Term == 2 && p.Err == "" && p.Revision > before })
	})
	t.Run("a layout of tomorrow", func(t *testing.T) {
		w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
		w.Exec(`ALTER TABLE kine ADD COLUMN tomorrow TEXT`)
		h := newHost(t, w, "home")
		f := NewFollower(config(t, getter(address(h))))
		run(t, f.Run)
		wait(t, f, "the refusal", func(p Position) bool { return strings.Contains(p.Err, "not a kine table that this version") })
	})
}

func TestCorruptCopy(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	w.Random(rand.New(rand.NewPCG(5, 6)), 300)
	h := newHost(t, w, "home")
	f := NewFollower(config(t, getter(address(h))))
	stop := run(t, f.Run)
	wait(t, f, "the head", fresh(w))
	stop()
	data, err := os.ReadFile(f.CopyPath())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.CopyPath(), data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	w.Put("/registry/x", "y")
	stop = run(t, f.Run)
	wait(t, f, "the head", fresh(w))
	stop()
	equal(t, f, w)
}

// TestReplacedDatastore: the file is moved away under a stream and another is
// put there.
func TestReplacedDatastore(t *testing.T) {
	dir := t.TempDir()
	w := kinetest.New(t, filepath.Join(dir, "state.db"), false)
	h := newHost(t, w, "home")
	f := NewFollower(config(t, getter(address(h))))
	stop := run(t, f.Run)
	wait(t, f, "the head", fresh(w))
	w.DB.Close()
	if _, err := kine.Aside(t.Context(), w.Path, 1); err != nil {
		t.Fatal(err)
	}
	wait(t, f, "the loss", func(p Position) bool { return p.Err != "" })
	w = kinetest.New(t, w.Path, false)
	w.Random(rand.New(rand.NewPCG(7, 8)), 50)
	w.Put("/registry/end", "1")
	wait(t, f, "the new head", fresh(w))
	stop()
	equal(t, f, w)
}

// TestIndexAdded: an index that kine makes while its datastore is being tailed is in the copy
// from the next stream on.
func TestIndexAdded(t *testing.T) {
	w := kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), false)
	w.Exec("DROP INDEX kine_id_deleted_index")
	f := NewFollower(config(t, getter(address(newHost(t, w, "home")))))
	stop := run(t, f.Run)
	wait(t, f, "the head", fresh(w))
	stop()
	w.Exec("CREATE INDEX kine_id_deleted_index ON kine (id,deleted)")
	w.Put("/registry/after", "1")
	equal(t, f, w)
}

// TestStall: a stream that says nothing is given up.
func TestStall(t *testing.T) {
	cfg := config(t, func(ctx context.Context, _ string) (*http.Response, error) {
		r, w := io.Pipe()
		context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) })
		return &http.Response{StatusCode: http.StatusOK, Body: r}, nil
	})
	cfg.StallAfter = 5 * time.Millisecond
	f := NewFollower(cfg)
	run(t, f.Run)
	wait(t, f, "the stall", func(p Position) bool { return strings.Contains(p.Err, "stalled") })
}

func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	pki := filepath.Join(dir, "etc", "pki")
	if err := os.MkdirAll(pki, 0o700); err != nil {
		t.Fatal(err)
	}
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(pki, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("ca.key", "secret")
	w := kinetest.New(t, filepath.Join(dir, "state.db"), false)
	h := newHost(t, w, "home", pki)
	cfg := config(t, getter(address(h)))
	cfg.Identity = []string{pki}
	f := NewFollower(cfg)
	stop := run(t, f.Run)
	wait(t, f, "the identity", fresh(w))
	first := f.Position().IdentityDigest
	put("ca.key", "secret 2")
	put("sa.pub", "public")
	wait(t, f, "the change", func(p Position) bool { return p.IdentityDigest != first && p.IdentityDigest != "" })
	second := f.Position().IdentityDigest
	// It vanishes on the master: said, and what was mirrored is kept.
	if err := os.Rename(pki, pki+".gone"); err != nil {
		t.Fatal(err)
	}
	wait(t, f, "the message", func(p Position) bool { return strings.Contains(p.Err, "cannot read its identity") })
	if p := f.Position(); !p.Complete || p.IdentityDigest != second {
		t.Fatalf("%+v", p)
	}
	stop()
	// After a restart without a master the mirror is still known.
	f = NewFollower(cfg)
	h.term.Store(0)
	run(t, f.Run)
	wait(t, f, "the mirror", func(p Position) bool { return p.Complete && p.IdentityDigest == second })
}
