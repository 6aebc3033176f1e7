package replica

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"relevo.dev/relevo/agent/replica/files"
	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/replica/verify"
)

// Paths that Source serves.
const (
	PathRows     = "/v1/replica/rows"
	PathIdentity = "/v1/replica/identity"
	PathFile     = "/v1/replica/identity/file"
)

// SourceConfig is what a Source needs.
type SourceConfig struct {
	// Path is kine's SQLite file.
	Path string
	// Cluster is the name of the cluster; a standby of another is refused.
	Cluster string
	// Term returns the term that this host holds, and whether it has state to
	// give away as master: also while it drains its log after its control plane
	// died, until it released the term. While it is not serving, the datastore
	// is not opened. See Pause for promotion.
	Term func() (term uint64, serving bool)
	// Identity are the files and folders that make up the identity.
	Identity []string
	// MayMiss are those of Identity that need not be there, Needed files below it that
	// must be.
	MayMiss, Needed []string
	Log             *slog.Logger
	// Beat is how often an idle stream says that it lives, and how often the
	// datastore is looked at if inotify says nothing; 0 means 1 s.
	Beat time.Duration
}

// Source serves the master's state to standbys. It only ever reads.
type Source struct {
	cfg  SourceConfig
	scan *files.Scanner
	sums *verify.Handler

	opening sync.Mutex // one at a time opens and closes the reader
	paused  bool       // guarded by opening

	mu      sync.Mutex
	reader  *kine.Reader
	bad     *kine.Reader  // reader that gave an error: to be opened anew
	why     error         // why there is no reader
	wake    chan struct{} // closed when something may have changed
	done    chan struct{} // closed when Run ends: streams end
	streams int
	counted chan struct{} // streams has changed
}

// NewSource prepares a source; Run makes it live.
func NewSource(cfg SourceConfig) *Source {
	if cfg.Beat <= 0 {
		cfg.Beat = time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Source{cfg: cfg, scan: files.NewScanner(files.Spec{Roots: cfg.Identity, MayMiss: cfg.MayMiss, Needed: cfg.Needed}, 2*cfg.Beat), why: errNotRunning, wake: make(chan struct{}), done: make(chan struct{}), counted: make(chan struct{}, 1)}
	s.sums = verify.NewHandler(s.answer)
	return s
}

var errNotRunning = errors.New("the agent's replication source is not running")

// Run keeps the datastore open, notices when it is replaced, and wakes the
// streams when it changes. It returns nil when ctx ends; the streams end with
// it. Run it once.
func (s *Source) Run(ctx context.Context) error {
	defer s.stop()
	scanCtx, stopScan := context.WithCancel(ctx)
	var scan sync.WaitGroup
	scan.Go(func() { _ = s.scan.Run(scanCtx) })
	defer scan.Wait()
	defer stopScan()
	w, err := newWaker(s.cfg.Path)
	if err != nil { // out of inotify instances
		s.cfg.Log.Warn("inotify is not to be had; the datastore's log is looked at 100 times a second", "err", err)
	}
	defer w.close()
	tick := time.NewTicker(s.cfg.Beat)
	defer tick.Stop()
	for {
		s.reopen(ctx)
		w.set(s.Streams() > 0)
		for check := false; !check; {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				check = true
			case <-s.counted:
				w.set(s.Streams() > 0)
			case <-w.errors(): // overflow: the poll sees it
			case now := <-w.timer.C:
				if w.fired(now) {
					s.broadcast()
				}
			case ev, ok := <-w.events():
				if !ok {
					return errors.New("the inotify watch of the datastore ended")
				}
				check = w.heard(ev)
			}
		}
	}
}

// reopen makes reader fit what lies on disk.
func (s *Source) reopen(ctx context.Context) {
	s.opening.Lock()
	defer s.opening.Unlock()
	_, serving := s.cfg.Term()
	r, _, _ := s.current()
	s.mu.Lock()
	bad := s.bad != nil && s.bad == s.reader
	s.mu.Unlock()
	switch {
	case s.paused || !serving:
		s.release(errNotServing)
		return
	case r != nil:
		err := r.Current()
		if err == nil && !bad {
			return
		}
		s.cfg.Log.Info("the datastore is opened anew", "path", s.cfg.Path, "why", errText(err, "reading failed"))
		s.release(errors.Join(err, errors.New("the datastore is being opened anew")))
	}
	r, err := kine.OpenReader(ctx, s.cfg.Path)
	s.set(r, err)
}

var errNotServing = errors.New("this agent is not the master")

// release closes the reader, if there is one; opening is held.
func (s *Source) release(why error) {
	r, _, _ := s.current()
	s.set(nil, why)
	if r == nil {
		return
	}
	if err := r.Close(); err != nil {
		s.cfg.Log.Warn("closing the datastore failed", "path", s.cfg.Path, "err", err)
	}
}

// Pause lets go of the datastore before it returns, and does not open it
// before Resume: so that it can be moved aside and restored. Streams end.
func (s *Source) Pause() {
	s.opening.Lock()
	defer s.opening.Unlock()
	s.paused = true
	s.release(errNotServing)
}

// Resume ends a Pause; the datastore is opened within SourceConfig.Beat, if
// this host is serving.
func (s *Source) Resume() {
	s.opening.Lock()
	defer s.opening.Unlock()
	s.paused = false
}

func errText(err error, otherwise string) string {
	if err == nil {
		return otherwise
	}
	return err.Error()
}

func (s *Source) set(r *kine.Reader, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reader == r && s.why != nil && why != nil && s.why.Error() == why.Error() {
		return // as before
	}
	if why != nil && why != errNotServing && why != errNotRunning {
		s.cfg.Log.Warn("the datastore cannot be followed", "path", s.cfg.Path, "err", why)
	}
	s.reader, s.bad, s.why = r, nil, why
	close(s.wake)
	s.wake = make(chan struct{})
}

func (s *Source) broadcast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams == 0 {
		return
	}
	close(s.wake)
	s.wake = make(chan struct{})
}

// stop ends the streams and lets go of the datastore.
func (s *Source) stop() {
	close(s.done)
	s.opening.Lock()
	defer s.opening.Unlock()
	s.release(errNotRunning)
}

// current returns the reader, and a channel that is closed when there may be
// something new.
func (s *Source) current() (*kine.Reader, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reader, s.wake, s.why
}

// answer answers a comparison's query with the reader of the streams: between two of its
// short transactions they go on.
func (s *Source) answer(ctx context.Context, q kine.Query) (kine.Reply, error) {
	r, _, why := s.current()
	if r == nil {
		return kine.Reply{}, why
	}
	return r.Answer(ctx, q)
}

// Err says why standbys cannot follow, nil if they can.
func (s *Source) Err() error {
	_, _, err := s.current()
	return err
}

// Identity looks at the files that are given to standbys.
func (s *Source) Identity() *files.Scanner { return s.scan }

// Streams is how many standbys follow at the moment.
func (s *Source) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams
}

func (s *Source) count(n int) {
	s.mu.Lock()
	s.streams += n
	s.mu.Unlock()
	select {
	case s.counted <- struct{}{}:
	default: // Run has not looked yet
	}
}

// spoiled notes that a reader failed, so that it is opened anew.
func (s *Source) spoiled(r *kine.Reader) {
	s.mu.Lock()
	s.bad = r
	s.mu.Unlock()
}

// ServeHTTP answers GET on the paths above, and on verify.Path. Every request carries cluster= and
// term=; 409 if they do not fit, 503 with a line of text if there is nothing to
// give at the moment.
func (s *Source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	q := r.URL.Query()
	if c := q.Get("cluster"); c != s.cfg.Cluster {
		http.Error(w, "this is cluster "+strconv.Quote(s.cfg.Cluster)+", not "+strconv.Quote(c), http.StatusConflict)
		return
	}
	theirs, err := strconv.ParseUint(q.Get("term"), 10, 64)
	if err != nil {
		http.Error(w, "term is missing or not a number", http.StatusBadRequest)
		return
	}
	term, serving := s.cfg.Term()
	switch {
	case !serving:
		http.Error(w, "this agent is not the master", http.StatusServiceUnavailable)
		return
	case theirs > term:
		http.Error(w, "this agent is in term "+strconv.FormatUint(term, 10)+", older than "+strconv.FormatUint(theirs, 10), http.StatusConflict)
		return
	}
	switch r.URL.Path {
	case PathRows:
		after, err := strconv.ParseInt(q.Get("after"), 10, 64)
		if err != nil || after < 0 {
			http.Error(w, "after is missing or not a revision", http.StatusBadRequest)
			return
		}
		s.serveRows(w, r, after)
	case PathHead:
		s.serveHead(w, r)
	case verify.Path:
		s.sums.ServeHTTP(w, r)
	case PathIdentity:
		s.scan.ServeManifest(w, r)
	case PathFile:
		s.scan.ServeFile(w, r)
	default:
		http.NotFound(w, r)
	}
}
