// Package hooks runs programs of the person who runs the cluster when something
// changed: a condition, a role, a member. They lie in a folder, get the facts in their
// environment and as JSON on their input, and have a limit of time.
//
// A hook can hang, fail or write without end, and nothing waits for it: each runs one
// event at a time, behind a queue that is bounded and in which a newer event about the
// same thing takes the place of the older one. Only files that root alone could have
// written are run, since they run as root.
package hooks

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// DefaultDir is where hooks lie.
const DefaultDir = "/etc/relevo/hooks.d"

// DefaultLimit is how long one run may take.
const DefaultLimit = 30 * time.Second

// Kinds of events.
const (
	Condition = "condition" // something is wrong with a host, or is no more
	Role      = "role"      // a host is the master, or is no more
	Member    = "member"    // a host came, was lost, or left
)

// Event is what happened. Its JSON is promised to hooks.
type Event struct {
	Event   string    `json:"event"`
	At      time.Time `json:"at"`
	Cluster string    `json:"cluster"`
	Host    string    `json:"host"` // on which the hook runs
	Node    string    `json:"node"` // about which it is told
	Subject string    `json:"subject"`

	Condition string `json:"condition,omitempty"` // UnderVoltage, …
	// Status of a condition: true, false. Of a member: alive, failed, left.
	Status  string `json:"status,omitempty"`
	Reason  string `json:"reason,omitempty"` // one word
	Message string `json:"message,omitempty"`
	Advice  string `json:"advice,omitempty"`

	Role string `json:"role,omitempty"` // master, standby, voter, member
	Was  string `json:"was,omitempty"`  // role or status before
	Term uint64 `json:"term,omitempty"` // of the mastership, as known on Host

	// Skipped is how many events this hook was not told before this one, because it
	// was too slow.
	Skipped int `json:"skipped"`
}

// env is the event for the environment. Texts come from other hosts: none has a line
// end or a zero byte.
func (e Event) env() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	for _, v := range [][2]string{
		{"EVENT", e.Event}, {"TIME", e.At.UTC().Format(time.RFC3339)}, {"CLUSTER", e.Cluster}, {"HOST", e.Host}, {"NODE", e.Node}, {"SUBJECT", e.Subject},
		{"CONDITION", e.Condition}, {"STATUS", e.Status}, {"REASON", e.Reason}, {"MESSAGE", e.Message}, {"ADVICE", e.Advice},
		{"ROLE", e.Role}, {"WAS", e.Was}, {"TERM", strconv.FormatUint(e.Term, 10)}, {"SKIPPED", strconv.Itoa(e.Skipped)},
	} {
		env = append(env, "RELEVO_"+v[0]+"="+oneLine(v[1]))
	}
	return env
}

// maxText bounds one text in the environment, in bytes.
const maxText = 1000

func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.ToValidUTF8(s[:min(len(s), maxText)], "")
}

// key is what it is about: a newer event with the same key makes an older one moot.
func (e Event) key() string { return e.Event + "\x00" + e.Node + "\x00" + e.Condition }

// Program runs a hook to its end; the error says how it ended badly. After limit
// everything that it started is killed.
type Program func(ctx context.Context, path string, env []string, stdin []byte, limit time.Duration) error

// Config of a [Runner].
type Config struct {
	Dir     string // absolute
	Run     Program
	Limit   time.Duration // 0 = DefaultLimit
	Owner   int           // user who must own folder and files
	Cluster string
	Host    string
	Log     *slog.Logger
}

// Bounds.
const (
	maxHooks   = 16
	maxEntries = 256 // of the folder
	maxWaiting = 32  // events for one hook
	rescan     = time.Minute
)

// Runner runs hooks. Its methods may be called by anybody at any time.
type Runner struct {
	cfg  Config
	kick chan struct{}

	mu    sync.Mutex
	fresh queue           // not given to the hooks yet
	hooks map[string]hook // by path
	bad   []Problem       // of the files
	runs  map[string]int  // by result
}

// hook is one file.
type hook struct {
	waiting *queue
	busy    bool
	failed  string // how the newest run ended badly
}

// queue of events, in which a newer one replaces an older about the same thing.
type queue struct {
	events  []Event
	skipped int
}

func (q *queue) add(e Event, most int) {
	q.skipped += e.Skipped
	e.Skipped = 0
	if i := slices.IndexFunc(q.events, func(o Event) bool { return o.key() == e.key() }); i >= 0 {
		q.events = slices.Delete(q.events, i, i+1)
		q.skipped++
	}
	q.events = append(q.events, e)
	if n := len(q.events) - most; n > 0 {
		q.events = slices.Delete(q.events, 0, n)
		q.skipped += n
	}
}

func (q *queue) take() (Event, bool) {
	if len(q.events) == 0 {
		return Event{}, false
	}
	e := q.events[0]
	q.events = slices.Delete(q.events, 0, 1)
	e.Skipped, q.skipped = q.skipped, 0
	return e, true
}

// Problem is a hook that is not run, or that does not do its work.
type Problem struct{ Path, Why, Do string }

// New makes a runner.
func New(cfg Config) *Runner {
	if cfg.Limit <= 0 {
		cfg.Limit = DefaultLimit
	}
	return &Runner{cfg: cfg, kick: make(chan struct{}, 1), hooks: map[string]hook{}, runs: map[string]int{"ok": 0, "failed": 0, "skipped": 0}}
}

// Post tells the hooks of an event. It does not wait. On nil it does nothing.
func (r *Runner) Post(e Event) {
	if r == nil {
		return
	}
	e.Cluster, e.Host = r.cfg.Cluster, r.cfg.Host
	if e.At.IsZero() {
		e.At = time.Now()
	}
	r.mu.Lock()
	r.fresh.add(e, 4*maxWaiting)
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// Problems are those of now, by path.
func (r *Runner) Problems() []Problem {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := slices.Clone(r.bad)
	for path, h := range r.hooks {
		if h.failed != "" {
			out = append(out, Problem{path, h.failed, "correct it; `journalctl -t relevo-hook` has what it said"})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out
}

// Runs counts runs since the start, by how they ended: ok, failed, and skipped for
// events that a slow hook was not told.
func (r *Runner) Runs() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]int{}
	for k, n := range r.runs {
		out[k] = n
	}
	return out
}

// Run runs hooks until ctx ends. It waits for none that is still running.
func (r *Runner) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	t := time.NewTicker(rescan)
	defer t.Stop()
	for {
		r.scan()
		r.hand(ctx, g)
		select {
		case <-ctx.Done():
			return g.Wait()
		case <-r.kick:
		case <-t.C:
		}
	}
}

// hand gives fresh events to every hook.
func (r *Runner) hand(ctx context.Context, g *errgroup.Group) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		e, ok := r.fresh.take()
		if !ok {
			return
		}
		for path, h := range r.hooks {
			h.waiting.add(e, maxWaiting)
			if !h.busy {
				h.busy = true
				g.Go(func() error { r.work(ctx, path); return nil })
			}
			r.hooks[path] = h
		}
	}
}

// work runs one hook until nothing waits for it.
func (r *Runner) work(ctx context.Context, path string) {
	for {
		r.mu.Lock()
		h := r.hooks[path] // stays there while it is busy
		e, more := h.waiting.take()
		h.busy = more && ctx.Err() == nil
		r.hooks[path] = h
		r.mu.Unlock()
		if !h.busy {
			return
		}
		stdin, err := json.Marshal(e)
		if err == nil {
			err = r.cfg.Run(ctx, path, e.env(), append(stdin, '\n'), r.cfg.Limit)
		}
		if ctx.Err() != nil {
			return
		}
		r.mu.Lock()
		r.runs["skipped"] += e.Skipped
		h = r.hooks[path]
		h.failed = ""
		if err != nil {
			h.failed = "it did not end well: " + err.Error()
			r.runs["failed"]++
		} else {
			r.runs["ok"]++
		}
		r.hooks[path] = h
		r.mu.Unlock()
		if err != nil {
			r.cfg.Log.Warn("a hook did not end well", "hook", path, "event", e.Event, "node", e.Node, "err", err)
		}
	}
}
