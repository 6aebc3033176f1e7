package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"relevo.dev/relevo/agent/replica/files"
	"relevo.dev/relevo/agent/replica/kine"
)

// Getter asks the current master: a GET of uri (path and query) on its peer
// port. The answer's body is read to the end or closed. An error if no master
// is known.
type Getter func(ctx context.Context, uri string) (*http.Response, error)

// FollowerConfig is what a Follower needs. Zero durations mean the default.
type FollowerConfig struct {
	// Dir is <data_dir>/replica; the copy is state.db in it, the identity below
	// identity/.
	Dir     string
	Cluster string
	// Term returns the highest term that this agent knows of. A stream of an
	// older one is refused.
	Term func() uint64
	Get  Getter
	// Identity are the files and folders that this host takes as identity;
	// empty: none is needed, and none is taken.
	Identity []string
	// MayMiss are those of Identity that need not be there, Needed files below it without
	// which it is not whole.
	MayMiss, Needed []string
	// Clock reads CLOCK_BOOTTIME; nil means the real one.
	Clock func() time.Duration
	Log   *slog.Logger
	// SyncEvery is how long rows may wait in memory before they are written, all at once,
	// with one fsync (default 30 s). If this agent is killed, or its host loses power,
	// they are asked for again; they are lost only if the master is lost for good within
	// that time, too.
	SyncEvery time.Duration
	// StallAfter is how long a stream may say nothing, not even a beat, before
	// it is given up (default 5 s).
	StallAfter time.Duration
	// ConfirmEvery is how often the master is asked, beside the stream, for its newest
	// revision (default 2 s).
	ConfirmEvery time.Duration
	// RetryMin and RetryMax bound the pause between two tries (250 ms, 5 s).
	RetryMin, RetryMax time.Duration
}

// Sizes at which the follower does not wait for the time to come.
const (
	commitBytes = 4 << 20  // rows in the open transaction
	tornBytes   = 64 << 20 // one transaction over a compacted stretch, at most
)

// Follower keeps the copy and the mirror up to date.
type Follower struct {
	cfg    FollowerConfig
	board  *board
	mirror *files.Mirror
	digest chan string // newest digest heard; capacity 1
	asks   chan asked

	progress

	// The rest belongs to Run's goroutine.
	checked bool // the copy was, entirely, since this agent started
	copy    *kine.Copy
	torn    bool  // the open transaction is no state that the master ever had
	kept    int64 // survivors were compared up to here, since the last mark
}

// CopyPath is where the copy lies, for Verify and Install.
func (f *Follower) CopyPath() string { return filepath.Join(f.cfg.Dir, "state.db") }

// MirrorDir is where the identity lies, for files.Install.
func (f *Follower) MirrorDir() string { return filepath.Join(f.cfg.Dir, "identity") }

// Identity is the mirror of the files.
func (f *Follower) Identity() *files.Mirror { return f.mirror }

// NewFollower prepares a follower; Run makes it live.
func NewFollower(cfg FollowerConfig) *Follower {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&cfg.SyncEvery, 30*time.Second)
	def(&cfg.StallAfter, 5*time.Second)
	def(&cfg.ConfirmEvery, 2*time.Second)
	def(&cfg.RetryMin, 250*time.Millisecond)
	def(&cfg.RetryMax, 5*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = bootTime
	}
	f := &Follower{cfg: cfg, board: newBoard(), digest: make(chan string, 1), asks: make(chan asked)}
	f.mirror = files.NewMirror(f.MirrorDir(), files.Spec{Roots: cfg.Identity, MayMiss: cfg.MayMiss, Needed: cfg.Needed})
	f.board.update(func(b *board) {
		b.mirrored = len(cfg.Identity) == 0
		b.streamed = "not connected to a master yet"
	})
	return f
}

func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// Run follows the master for ever: it reconnects, resumes, copies anew when
// the histories differ. It returns nil when ctx has ended, all that it had is
// committed and the copy is closed, so that it can be verified and installed.
// It may be run again.
func (f *Follower) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.runRows(ctx) })
	if len(f.cfg.Identity) > 0 {
		g.Go(func() error { return f.runIdentity(ctx) })
	}
	return g.Wait()
}

func (f *Follower) runRows(ctx context.Context) error {
	pause := f.cfg.RetryMin
	said := time.Duration(0)
	for ctx.Err() == nil {
		before := f.Position().FreshAt
		err := f.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		if f.Position().FreshAt != before {
			pause = f.cfg.RetryMin // it worked for a while
		}
		// Once, and again every minute: a master may be away for days.
		if now := f.cfg.Clock(); said == 0 || now > said+time.Minute || f.Position().FreshAt != before {
			said = now
			f.cfg.Log.Warn("not following the master", "revision", f.Position().Revision, "retry", pause, "err", err)
		}
		f.board.update(func(b *board) { b.streamed = errText(err, "the stream ended") })
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, f.cfg.RetryMax)
	}
	return nil
}

// follow opens the copy, then one stream, and applies it until it ends.
func (f *Follower) follow(ctx context.Context) (err error) {
	if err := f.open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close(ctx)) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	q := url.Values{"cluster": {f.cfg.Cluster}, "term": {strconv.FormatUint(f.cfg.Term(), 10)}, "after": {strconv.FormatInt(f.copy.Revision(), 10)}}
	resp, err := f.get(ctx, PathRows, q)
	if err != nil {
		return err
	}
	frames, failed := make(chan *frame), make(chan error, 2)
	g := errgroup.Group{}
	f.confirmed.reset()
	g.Go(func() error {
		f.runConfirm(ctx, func(err error) { failed <- err })
		return nil
	})
	g.Go(func() error {
		defer resp.Body.Close()
		for {
			fr, err := readFrame(resp.Body)
			if err != nil {
				failed <- err
				return nil
			}
			select {
			case frames <- fr:
			case <-ctx.Done():
				return nil
			}
		}
	})
	defer func() {
		cancel()
		resp.Body.Close() // ends a read that does not heed ctx
		err = errors.Join(err, g.Wait())
	}()
	return f.apply(ctx, frames, failed)
}

// get asks the master and turns a refusal into an error with its words.
func (f *Follower) get(ctx context.Context, path string, q url.Values) (*http.Response, error) {
	resp, err := f.cfg.Get(ctx, path+"?"+q.Encode())
	if err != nil {
		return nil, fmt.Errorf("ask the master for %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return nil, fmt.Errorf("the master refused %s: %s (%s)", path, strings.TrimSpace(string(text)), resp.Status)
	}
	return resp, nil
}

// apply is the loop of one stream: frames, the time to commit, silence.
func (f *Follower) apply(ctx context.Context, frames <-chan *frame, failed <-chan error) error {
	commit := time.NewTicker(f.cfg.SyncEvery)
	defer commit.Stop()
	silence := time.NewTimer(f.cfg.StallAfter)
	defer silence.Stop()
	first := true
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return fmt.Errorf("the stream broke: %w", err)
		case <-silence.C:
			return fmt.Errorf("the stream stalled: nothing came for %s", f.cfg.StallAfter)
		case <-commit.C:
			f.busy.Store(true)
			err := f.commit(ctx)
			f.busy.Store(false)
			if err != nil {
				return err
			}
			silence.Reset(f.cfg.StallAfter) // a card may take seconds for it: that was not the master's silence
		case a := <-f.asks:
			err := a.do(ctx)
			if errors.Is(err, errStreamAnew) {
				a.done <- nil
				return err
			}
			if a.done <- err; err != nil {
				return err
			}
		case fr := <-frames:
			if fr.term < f.cfg.Term() {
				return fmt.Errorf("refused a stream of term %d: term %d is known", fr.term, f.cfg.Term())
			}
			if first != (fr.kind == kindHeader) && fr.kind != kindError {
				return fmt.Errorf("%w: kind %d out of order", errFrame, fr.kind)
			}
			first = false
			f.busy.Store(true)
			err := f.one(ctx, fr)
			f.busy.Store(false)
			if err != nil {
				return err
			}
			if fr.kind == kindRows || fr.kind == kindSurvivors || fr.kind == kindMark {
				f.applied.Add(1)
			}
			silence.Reset(f.cfg.StallAfter)
		}
	}
}

// one applies one frame.
func (f *Follower) one(ctx context.Context, fr *frame) error {
	switch fr.kind {
	case kindHeader:
		return f.begin(ctx, fr)
	case kindRows:
		// Rows that were read after a compaction beyond what we have: what they
		// superseded, or their keys' last words, may be gone already.
		if fr.compact > f.copy.Revision() {
			f.torn = true
		}
		if err := f.copy.Apply(ctx, fr.rows); err != nil {
			return err
		}
		if f.torn && f.copy.Notes().Complete && f.copy.Dirty() > tornBytes {
			n := f.copy.Notes()
			n.Complete = false
			if err := f.copy.SetNotes(ctx, n); err != nil {
				return err
			}
			f.cfg.Log.Warn("too far behind for one transaction; the copy is not complete until it is over", "revision", f.copy.Revision())
		}
		if f.copy.Dirty() > commitBytes {
			return f.commit(ctx)
		}
		f.publish(nil)
	case kindSurvivors:
		if fr.after != 0 && fr.after != f.kept {
			return fmt.Errorf("%w: survivors after %d, expected after %d", errFrame, fr.after, f.kept)
		}
		f.kept = fr.upTo
		n, err := f.copy.Retain(ctx, fr.after, fr.upTo, fr.survivors)
		if errors.Is(err, kine.ErrHole) {
			return f.anew(ctx, err)
		}
		if n > 0 {
			f.cfg.Log.Info("followed a compaction", "compacted", fr.compact, "deleted", n)
		}
		return err
	case kindMark:
		var compact int64
		for _, c := range fr.compacts {
			compact = max(compact, c.Revision)
		}
		if want := min(compact, f.copy.Revision()); f.kept < want {
			return fmt.Errorf("%w: survivors up to %d, mark at %d", errFrame, f.kept, want)
		}
		f.kept = 0
		if err := f.copy.Mark(ctx, fr.compacts, fr.seq); err != nil {
			return err
		}
		f.torn = false
	case kindBeat:
		return f.beat(ctx, fr)
	case kindError:
		return fmt.Errorf("the master ended the stream: %s", fr.err)
	}
	return nil
}

// begin checks whether this master's history continues ours.
func (f *Follower) begin(ctx context.Context, fr *frame) error {
	h := &fr.header
	if h.version != version {
		return fmt.Errorf("the master speaks version %d of the replication stream, this agent %d: install the same version of relevo on both", h.version, version)
	}
	if h.cluster != f.cfg.Cluster {
		return fmt.Errorf("refused a stream of cluster %q: this is %q", h.cluster, f.cfg.Cluster)
	}
	if err := h.schema.Valid(); err != nil {
		return fmt.Errorf("the master's datastore: %w: this agent is too old to copy it", err)
	}
	n, pos := f.copy.Notes(), f.copy.Revision()
	var why error
	switch {
	case n.Cluster != "" && n.Cluster != f.cfg.Cluster:
		why = fmt.Errorf("it is a copy of cluster %q", n.Cluster)
	case h.head < pos:
		why = fmt.Errorf("it has revision %d, the master only %d", pos, h.head)
	case pos > 0 && h.hasAnchor:
		why = f.copy.CheckAnchor(ctx, h.anchor)
	}
	for _, fork := range h.forks {
		if fork.Contains(pos) {
			why = fmt.Errorf("it has revisions %d to %d, which the promotion of term %d did not have", fork.From+1, pos, fork.Term)
		}
	}
	if why != nil {
		return f.anew(ctx, why)
	}
	if err := f.copy.Begin(ctx, h.schema); err != nil {
		return err
	}
	n.Cluster, n.Term, n.Forks = f.cfg.Cluster, fr.term, h.forks
	if err := f.copy.SetNotes(ctx, n); err != nil {
		return err
	}
	f.cfg.Log.Info("following the master", "term", fr.term, "revision", pos, "head", h.head, "schema", h.schema.String())
	f.publish(func(b *board) { b.pos.HeadRevision = h.head; b.pos.Term = fr.term })
	return nil
}

// beat notes that we have everything, and on the first time that the copy is
// complete.
func (f *Follower) beat(ctx context.Context, fr *frame) error {
	whole := !f.torn && f.copy.Revision() >= fr.head
	if n := f.copy.Notes(); whole && (!n.Complete || n.Term != fr.term) {
		first := !n.Complete
		if err := f.copy.Index(ctx); errors.Is(err, kine.ErrHole) {
			return f.anew(ctx, err)
		} else if err != nil {
			return err
		}
		n.Complete, n.Term = true, fr.term
		if err := f.copy.SetNotes(ctx, n); err != nil {
			return err
		}
		if first {
			if err := f.commit(ctx); err != nil {
				return err
			}
			f.cfg.Log.Info("the first copy is complete", "revision", f.copy.Revision())
		}
	}
	now := f.cfg.Clock()
	confirmed, doubt := f.confirmed.allows(now, f.copy.Revision(), 2*f.cfg.StallAfter)
	f.publish(func(b *board) {
		b.pos.HeadRevision, b.pos.Term, b.streamed = fr.head, fr.term, doubt
		if whole && confirmed {
			b.pos.FreshAt, b.stalled = now, ""
		}
		if fr.err != "" {
			b.identity = "the master cannot read its identity: " + fr.err
		}
	})
	if fr.identity != "" {
		select { // the newest digest only
		case <-f.digest:
		default:
		}
		f.digest <- fr.identity
	}
	return nil
}

// publish brings the copy's position onto the board.
func (f *Follower) publish(more func(*board)) {
	f.board.update(func(b *board) {
		b.pos.Revision = f.copy.Revision()
		if f.torn {
			b.pos.Revision = b.pos.Committed // what a promotion would get
		}
		b.copied = f.copy.Notes().Complete
		if more != nil {
			more(b)
		}
	})
}

// commit ends the open transaction, with an fsync, if what is in it is a state that the
// master had, or the copy is marked as incomplete anyway.
func (f *Follower) commit(ctx context.Context) error {
	if f.torn && f.copy.Notes().Complete || !f.copy.Open() {
		return nil
	}
	if err := f.copy.Commit(ctx); err != nil {
		return err
	}
	f.publish(func(b *board) { b.pos.Committed = f.copy.Revision() })
	return nil
}
