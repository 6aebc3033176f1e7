package replica

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// change is one revision of a history: the whole log, from which nothing is compacted.
type change struct {
	rev     int64
	key     string
	value   string
	deleted bool
}

// history does random things to a datastore and remembers them.
type history struct {
	w           *kinetest.Writer
	r           *rand.Rand
	log         []change
	alive       map[string]bool
	compactions int
}

func (h *history) step() {
	key := fmt.Sprintf("/registry/configmaps/default/k%d", h.r.IntN(8))
	switch x := h.r.IntN(100); {
	case x < 25 && h.alive[key]:
		h.w.Delete(key)
		h.alive[key] = false
		h.log = append(h.log, change{h.w.Head(), key, "", true})
	case x < 85:
		value := fmt.Sprint(h.r.Int64()) + strings.Repeat("x", h.r.IntN(200))
		h.log = append(h.log, change{h.w.Put(key, value), key, value, false})
		h.alive[key] = true
	case x < 95:
		h.w.Compact(h.r.Int64N(h.w.Head())) // never the newest revision, as kine itself
		h.compactions++
	default: // kine leaves ids out, too
		h.w.Exec(`UPDATE sqlite_sequence SET seq=seq+1 WHERE name='kine'`)
	}
}

// apply brings a state to a revision, and returns the rest.
func apply(state map[string]string, log []change, rev int64) []change {
	for len(log) > 0 && log[0].rev <= rev {
		if c := log[0]; c.deleted {
			delete(state, c.key)
		} else {
			state[c.key] = c.value
		}
		log = log[1:]
	}
	return log
}

// readCopy is what a promotion would find at this moment: the log, up to where it is
// compacted, and whether it calls itself complete.
func readCopy(t *testing.T, db *sql.DB) (log []change, compact, head int64, complete bool) {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if err := tx.QueryRow(`SELECT count(*) FROM relevo WHERE key='complete' AND value='yes'`).Scan(&complete); err != nil || !complete {
		return nil, 0, 0, false // not even the tables are there yet
	}
	rows, err := tx.Query(`SELECT id, name, prev_revision, deleted, value FROM kine ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var c change
		var prev int64
		var value []byte
		if err := rows.Scan(&c.rev, &c.key, &prev, &c.deleted, &value); err != nil {
			t.Fatal(err)
		}
		head = c.rev
		if c.key == "compact_rev_key" {
			compact = max(compact, prev)
		} else if strings.HasPrefix(c.key, "/registry/configmaps/") {
			c.value = string(value)
			log = append(log, c)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return log, compact, head, true
}

// audit compares what the copy says of every revision that the source can still tell, and
// of its own newest one in any case, with what was written. (Below the source's compaction
// it may lack rows before its own mark follows: those that it never saw, or whose keys were
// created anew. Nobody can ask for them: a promotion marks all of it compacted.) It returns
// the newest revision; 0 while there is no whole copy.
func (h *history) audit(t *testing.T, db *sql.DB) (head int64, revisions int) {
	t.Helper()
	got, compact, head, complete := readCopy(t, db)
	if !complete {
		return 0, 0
	}
	want := h.log
	has, should := map[string]string{}, map[string]string{}
	compact = max(compact, h.w.Int(`SELECT max(prev_revision) FROM kine WHERE name='compact_rev_key'`))
	for rev := min(compact, head); rev <= head; rev++ {
		got, want = apply(has, got, rev), apply(should, want, rev)
		if !maps.Equal(has, should) {
			t.Fatalf("at revision %d the copy (compacted up to %d, newest %d) has %d objects, %v,\nthe source had %d, %v", rev, compact, head, len(has), keys(has), len(should), keys(should))
		}
		revisions++
	}
	return head, revisions
}

func keys(m map[string]string) (out []string) {
	for k, v := range m {
		out = append(out, strings.TrimPrefix(k, "/registry/configmaps/default/")+"="+v[:min(8, len(v))])
	}
	return out
}

// breaker lets streams of rows end anywhere: refused, cut at a byte, cut after a frame.
type breaker struct {
	get    Getter
	breaks atomic.Int64
	off    atomic.Bool

	mu   sync.Mutex
	r    *rand.Rand
	away bool // no streams at all
	body io.Closer
}

var errBreak = errors.New("a break")

func (b *breaker) Get(ctx context.Context, uri string) (*http.Response, error) {
	if b.off.Load() || !strings.HasPrefix(uri, PathRows) {
		return b.get(ctx, uri)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	kind, n := b.r.IntN(8), b.r.IntN(2000)
	if b.away || kind == 0 {
		b.breaks.Add(1)
		return nil, errBreak
	}
	resp, err := b.get(ctx, uri)
	if err != nil {
		return nil, err
	}
	b.body = resp.Body
	var r io.Reader = resp.Body
	switch {
	case kind < 4:
		r = io.MultiReader(io.LimitReader(r, int64(n)), iotest.ErrReader(errBreak))
	case kind < 7:
		r = &someFrames{of: r, left: 1 + n%5}
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{r, resp.Body}
	if kind < 7 {
		b.breaks.Add(1)
	}
	return resp, err
}

// blackout begins or ends a time without any stream.
func (b *breaker) blackout(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away = on; on && b.body != nil {
		b.body.Close()
	}
}

// someFrames is a stream that breaks after a number of frames.
type someFrames struct {
	of   io.Reader
	left int
	rest []byte
}

func (s *someFrames) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		if s.left--; s.left < 0 {
			return 0, errBreak
		}
		fr, err := readFrame(s.of)
		if err != nil {
			return 0, err
		}
		s.rest = appendFrame(nil, fr)
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// TestEveryRevision: random histories of creates, updates, deletes and compactions, with
// streams that break anywhere and followers that start anew; whatever lies on the
// standby's disk meanwhile is, at every revision, what the source was.
func TestEveryRevision(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			h := &history{w: kinetest.New(t, filepath.Join(t.TempDir(), "state.db"), seed%4 == 3), r: rand.New(rand.NewPCG(seed, 4)), alive: map[string]bool{}}
			for range h.r.IntN(60) {
				h.step() // what a first copy begins with
			}
			b := &breaker{get: getter(address(newHost(t, h.w, "home"))), r: rand.New(rand.NewPCG(seed, 5))}
			cfg := config(t, b.Get)
			cfg.SyncEvery = 2 * cfg.RetryMin
			f := NewFollower(cfg)
			stop := run(t, f.Run)
			db, err := sql.Open("sqlite", "file://"+f.CopyPath()+"?mode=ro&_pragma=busy_timeout(30000)")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			heads, compared := map[int64]bool{}, 0
			look := func() {
				head, n := h.audit(t, db)
				compared += n
				if head > 0 {
					heads[head] = true
				}
			}
			wait(t, f, "the copy to be there", func(p Position) bool { return p.Committed > 0 })
			for i := range 80 {
				h.step()
				if h.r.IntN(3) > 0 { // else the copy may get several at once
					head := h.w.Head()
					wait(t, f, "the newest revision on disk", func(p Position) bool { return p.Complete && p.Committed >= head })
				}
				look()
				switch i % 10 {
				case 3: // behind, and what it has yet to see is compacted
					b.blackout(true)
					for range 12 {
						h.step()
					}
					h.w.Compact(h.w.Head() - 1)
					b.blackout(false)
				case 9:
					stop()
					look()
					f = NewFollower(cfg)
					stop = run(t, f.Run)
				}
			}
			stop()
			b.off.Store(true)
			equal(t, f, h.w)
			look()
			t.Logf("%d revisions, %d compactions, %d breaks; %d revisions were the newest on disk when looked at, %d states compared", len(h.log), h.compactions, b.breaks.Load(), len(heads), compared)
			if len(heads) < 30 || h.compactions < 3 || b.breaks.Load() < 10 {
				t.Error("that is not what this test is for")
			}
		})
	}
}
