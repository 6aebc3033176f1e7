// Package check tries whether services answer, so that what does not is not announced.
//
// A check is a TCP connection, an HTTP request, a systemd unit that is active, or
// several of these together. One failure is no outage: a service that was well is
// failing after three in a row, and one that was failing is well again after two
// answers in a row. The first try decides at once.
package check

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"
)

// Spec is what is tried; at least one of TCP, HTTP and Unit is there, and all that are
// there must be well.
type Spec struct {
	TCP  string // host:port; "" host = this host's own address
	HTTP string // URL; "" host as above. Well is any answer below 400
	Unit string // a systemd unit; well is active

	Interval, Timeout time.Duration
}

// State of a service.
type State struct {
	Known bool // it was tried
	OK    bool
	Why   string // why it is not
}

// Tries in a row that change the state.
const (
	fall = 3
	rise = 2
)

// step is the state after one more try: err is what came out, n how many in a row said
// otherwise than the state before this one.
func (s State) step(err error, n int) (next State, row int) {
	ok := err == nil
	why := ""
	if !ok {
		why = err.Error()
	}
	switch {
	case !s.Known:
		return State{true, ok, why}, 0
	case ok == s.OK:
		return s, 0 // the first reason stays: others would be news to everybody
	case ok && n+1 >= rise, !ok && n+1 >= fall:
		return State{true, ok, why}, 0
	}
	return s, n + 1
}

// atOnce many tries run at a time: each is a socket, and the board has other work.
const atOnce = 8

// Runner tries services, each in its own time.
type Runner struct {
	// Host is this host's own address. A service that listens on loopback alone is not
	// there for the LAN.
	Host func() string
	// Unit says whether a systemd unit is active.
	Unit func(ctx context.Context, name string) error

	changes chan struct{} // buffered by one
	slots   chan struct{}
	http    *http.Client

	mu    sync.Mutex
	ctx   context.Context // of Run; nil before
	wg    sync.WaitGroup
	tasks map[string]*task
}

type task struct {
	spec  Spec
	stop  context.CancelFunc
	state State
}

// New makes a runner; nothing is tried before [Runner.Run].
func New(host func() string, unit func(ctx context.Context, name string) error) *Runner {
	return &Runner{Host: host, Unit: unit, changes: make(chan struct{}, 1), slots: make(chan struct{}, atOnce), tasks: map[string]*task{},
		http: &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10, DisableCompression: true,
				// The question is whether it answers, not who it is: boards have certificates of
				// their own making. Nothing is sent, and what comes is not read.
				TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			},
		}}
}

// Set declares everything that is to be tried, by keys of the caller's choice. What
// stays the same keeps its state.
func (r *Runner) Set(specs map[string]Spec) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, t := range r.tasks {
		if spec, ok := specs[key]; !ok || spec != t.spec {
			if t.stop != nil {
				t.stop()
			}
			delete(r.tasks, key)
		}
	}
	for key, spec := range specs {
		if r.tasks[key] == nil {
			t := &task{spec: spec}
			r.tasks[key] = t
			r.start(t)
		}
	}
}

// start runs a task if Run does; r.mu is held.
func (r *Runner) start(t *task) {
	if r.ctx == nil || r.ctx.Err() != nil {
		return
	}
	ctx, stop := context.WithCancel(r.ctx)
	t.stop = stop
	r.wg.Go(func() { r.repeat(ctx, t) })
}

// State of a key.
func (r *Runner) State(key string) State {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.tasks[key]; t != nil {
		return t.state
	}
	return State{}
}

// Changes signals that a state is another one.
func (r *Runner) Changes() <-chan struct{} { return r.changes }

// Run tries until ctx ends.
func (r *Runner) Run(ctx context.Context) {
	r.mu.Lock()
	r.ctx = ctx
	for _, t := range r.tasks {
		r.start(t)
	}
	r.mu.Unlock()
	<-ctx.Done()
	// Set starts nothing that lives any more; those that it did have ended with ctx.
	r.wg.Wait()
}

func (r *Runner) repeat(ctx context.Context, t *task) {
	row := 0
	for {
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		tctx, cancel := context.WithTimeout(ctx, t.spec.Timeout)
		err := r.try(tctx, t.spec)
		cancel()
		<-r.slots
		if ctx.Err() != nil {
			return
		}
		r.mu.Lock()
		was := t.state
		t.state, row = t.state.step(err, row)
		changed := t.state != was
		r.mu.Unlock()
		if changed {
			select {
			case r.changes <- struct{}{}:
			default:
			}
		}
		// Some more or less, or all checks of a board would meet for ever.
		pause := t.spec.Interval*9/10 + rand.N(t.spec.Interval/5+1)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// try makes one try of everything in s.
func (r *Runner) try(ctx context.Context, s Spec) error {
	if s.Unit != "" {
		if err := r.Unit(ctx, s.Unit); err != nil {
			return fmt.Errorf("unit %s: %w", s.Unit, err)
		}
	}
	if s.TCP != "" {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.hosted(s.TCP))
		if err != nil {
			return short(err)
		}
		c.Close()
	}
	if s.HTTP != "" {
		return r.get(ctx, s.HTTP)
	}
	return nil
}

// hosted fills in this host's own address.
func (r *Runner) hosted(hostport string) string {
	if host, port, err := net.SplitHostPort(hostport); err == nil && host == "" {
		return net.JoinHostPort(r.Host(), port)
	}
	return hostport
}

func (r *Runner) get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.URL.Host = r.hosted(req.URL.Host)
	req.Header.Set("User-Agent", "relevo")
	res, err := r.http.Do(req)
	if err != nil {
		return short(err)
	}
	defer res.Body.Close()
	io.Copy(io.Discard, io.LimitReader(res.Body, 4<<10))
	if res.StatusCode >= 400 {
		return fmt.Errorf("%s answers %s", req.URL.Redacted(), res.Status)
	}
	return nil
}

// short leaves out what people do not need twice, and what differs from try to try:
// the port that this end had.
func short(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Addr != nil {
		return fmt.Errorf("%s: %w", op.Addr, op.Err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no answer in time")
	}
	return err
}
