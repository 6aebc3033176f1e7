package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/controlplane"
	"relevo.dev/relevo/agent/hooks"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/replica"
	"relevo.dev/relevo/health"
)

// testHost is a board: a disk with a datastore and a copy, a control plane that
// takes its time, PID 1's timer, and the fence. It outlives its agents.
type testHost struct {
	w             *world
	name, ip, dir string
	cfg           *config.Config

	agent *agent
	stop  context.CancelFunc
	done  chan error

	mu         sync.Mutex
	off        bool // no power: whatever an agent that is still ending does, does nothing
	restarting bool // systemd says that the agent comes back
	running    bool // the control plane
	stubborn   bool // it ignores being asked to stop
	apiErr     error
	startErr   error       // its control plane does not start
	note       lease.Lease // in /run
	own, copy  dataState   // on disk
	fresh      lease.Time
	stale      bool // the follower stands still
	guard      *time.Timer
	hang       chan struct{} // notes of the lease are not written until it is closed; nil = they are
	exited     int           // code with which the agent ended itself
	broken     []string      // units in failed state
	filled     uint64        // bytes of the file system of the datastore, of 1 GiB
	told       []hooks.Event // to this host's hook
	program    string        // version of its kube-apiserver; "" = nobody looks
	faults     []controlplane.Finding
	standing   int    // how often its standby units were started
	neighbour  string // where this host's table has the virtual IP
	mute       error  // why it can announce no address
}

// dataState is a datastore: its rows by revision, and the term that wrote it.
type dataState struct {
	Rows []uint64 `json:"rows"`
	Term uint64   `json:"term"`
}

func (d dataState) last() uint64 {
	if len(d.Rows) == 0 {
		return 0
	}
	return d.Rows[len(d.Rows)-1]
}

// boot starts the agent, as systemd does at boot.
func (h *testHost) boot() {
	ctx, cancel := context.WithCancel(context.Background())
	h.mu.Lock()
	h.off, h.restarting, h.fresh = false, false, 0
	h.mu.Unlock()
	h.w.tell("%s boots", h.name)
	done := make(chan error, 1)
	limits := health.DefaultThresholds()
	limits.Earliest = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC) // where fake time begins
	a := newAgent(h.cfg, Options{Health: limits, HealthRoot: h.w.machine, Units: h, Hooks: h.hook, HooksDir: filepath.Join(h.dir, "hooks.d"), HooksOwner: os.Getuid(), Version: "test", Log: h.logger(), Host: h.real, Net: h.w.netOf(h), Clock: h.w.now, Machine: uint64(h.ip[len(h.ip)-1]), Exit: h.exit, Probe: h.probe, Fence: h.w.device, Services: h.services})
	gone, err := a.wasRemoved() // as Run has it
	if err == nil && gone == nil {
		err = a.build(ctx)
	}
	if err != nil {
		h.w.t.Fatalf("build the agent of %s: %v", h.name, err)
	}
	h.stop, h.done, h.agent = cancel, done, a
	go func() {
		var err error
		if gone != nil {
			err = a.stayOut(ctx, *gone)
		} else {
			err = a.run(ctx)
		}
		h.fence()
		done <- err
	}()
}

// exit is how an agent ends itself; the process it ends here is nobody's.
func (h *testHost) exit(code int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.exited = code
}

// ended says whether an agent has ended itself.
func (h *testHost) ended() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.exited != 0
}

// probe is what a client on this host meets at another's API.
func (h *testHost) probe(_ context.Context, target string) error {
	for _, o := range h.w.hosts {
		o.mu.Lock()
		serves := !o.off && o.running && o.apiErr == nil
		o.mu.Unlock()
		if target != o.ip+":6443" || h.w.net.IsCut(h.ip, o.ip) || h.w.walled(o) {
			continue
		}
		if !serves {
			return errors.New("connection refused")
		}
		return nil
	}
	return errors.New("no route to host")
}

// ends waits until the agent has ended.
func (h *testHost) ends() {
	if h.done == nil {
		return
	}
	h.stop()
	if err := <-h.done; err != nil {
		h.w.t.Errorf("the agent of %s ended with: %v", h.name, err)
	}
	h.done, h.agent = nil, nil
}

// shutdown is `systemctl stop relevo`.
func (h *testHost) shutdown() {
	h.w.tell("%s: the agent is told to stop", h.name)
	h.ends()
}

// crash is a power cut: links, connections, processes and what was in /run are gone.
func (h *testHost) crash() {
	h.unplug()
	h.ends()
	h.w.isolate(h, false)
}

// unplug is the moment of a power cut; the agent's goroutines are still there, and have
// no effect.
func (h *testHost) unplug() {
	h.w.tell("%s: power cut", h.name)
	h.w.isolate(h, true)
	h.w.net.Drop(h.ip)
	h.mu.Lock()
	h.off, h.restarting, h.running, h.note = true, true, false, lease.Lease{}
	h.mu.Unlock()
	h.w.dies(h)
}

// kill is SIGKILL for the agent alone: the control plane goes on, and the fence looks
// after it.
func (h *testHost) kill() {
	h.w.tell("%s: the agent is killed", h.name)
	h.mu.Lock()
	h.restarting = true
	h.mu.Unlock()
	h.w.net.Drop(h.ip)
	h.ends()
}

// fence is what ExecStopPost= and PID 1's timer do.
func (h *testHost) fence() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.off || h.note.Term == 0 || h.note.Deadline == lease.Forever {
		return
	}
	note := h.note
	tm := lease.Timings{TTL: h.cfg.LeaseTTL}
	h.guard = time.AfterFunc(note.Deadline-tm.StopBefore()-h.w.now(), func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.note == note {
			h.note = lease.Lease{}
			h.endLocked()
		}
	})
}

func (h *testHost) endLocked() {
	if h.running {
		h.running = false
		h.w.dies(h)
	}
}

// adopt makes the host one that ran a control plane before relevo came.
func (h *testHost) adopt(revision uint64) {
	h.running, h.own = true, dataState{Rows: []uint64{revision}}
	h.w.lives(h)
}

// write is a client's write: acknowledged if the host is the one that serves.
func (h *testHost) write() (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.off || !h.running {
		return 0, errOff
	}
	rev := h.own.last() + 1
	h.own.Rows = append(slices.Clip(h.own.Rows), rev)
	return rev, nil
}

// What tests look at while agents run.
func (h *testHost) rows() dataState {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.own
}

func (h *testHost) copied() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.copy.last()
}

func (h *testHost) leased() lease.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.note.Deadline
}

// deaf makes units that do not stop when they are asked to.
func (h *testHost) deaf() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stubborn = true
}

func (h *testHost) real(hc HostConfig) (*Host, error) {
	host := &Host{
		ControlPlane: (*testPlane)(h), Data: (*testData)(h), API: (*testAPI)(h), LeaseNote: (*testNote)(h), Guard: (*testGuard)(h),
		Address: (*testAddress)(h), Follower: &testFollower{h, hc}, Source: &testSource{h, hc}, Copy: &testCopy{h, hc}, Cluster: h.w.tidy, Rehearse: testRehearsal{h},
		Prepare: func(context.Context) error { return nil },
		Restarting: func(context.Context) bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.restarting
		},
	}
	if h.program != "" {
		host.Inspector = (*testInspector)(h)
	}
	return host, nil
}

// wait lets fake time pass.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type testPlane testHost

func (p *testPlane) Start(ctx context.Context) error {
	p.mu.Lock()
	if p.off {
		p.mu.Unlock()
		return errOff
	}
	if err := p.startErr; err != nil {
		p.mu.Unlock()
		return err
	}
	was := p.running
	p.running = true
	p.mu.Unlock()
	if !was {
		p.w.lives((*testHost)(p))
	}
	return wait(ctx, 500*time.Millisecond)
}

func (p *testPlane) Stop(ctx context.Context) error {
	p.mu.Lock()
	stubborn := p.stubborn && p.running
	p.mu.Unlock()
	if stubborn {
		<-ctx.Done()
		return ctx.Err()
	}
	if err := wait(ctx, 300*time.Millisecond); err != nil {
		return err
	}
	return p.Kill(ctx)
}

func (p *testPlane) Kill(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	(*testHost)(p).endLocked()
	return nil
}

func (p *testPlane) AnyActive(context.Context) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running, nil
}

func (p *testPlane) EnterStandby(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.standing++
	return nil
}
func (p *testPlane) LeaveStandby(context.Context) error { return nil }

type testData testHost

func (d *testData) Verify(context.Context) error        { return nil }
func (d *testData) Aside(context.Context, uint64) error { return nil }
func (d *testData) CopyTerm(context.Context) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.copy.Term, nil
}

func (d *testData) Install(_ context.Context, term uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return errOff
	}
	d.own = dataState{Rows: d.copy.Rows, Term: term}
	return nil
}

func (d *testData) Bump(_ context.Context, term, from uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return errOff
	}
	d.own = dataState{Rows: append(slices.Clip(d.own.Rows), d.own.last()+1_000_000*max(1, term-from)), Term: term}
	return nil
}

func (d *testData) OwnRevision(context.Context) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.own.last(), nil
}

type testAPI testHost

func (a *testAPI) WaitReady(ctx context.Context) error { return wait(ctx, 300*time.Millisecond) }
func (a *testAPI) Canary(context.Context, uint64) error {
	_, err := (*testHost)(a).write()
	return err
}

func (a *testAPI) Healthy(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.apiErr == nil && !a.running {
		return errors.New("connection refused")
	}
	return a.apiErr
}

type testNote testHost

func (n *testNote) Write(term uint64, deadline lease.Time, _ bool) error {
	n.mu.Lock()
	hang := n.hang
	n.mu.Unlock()
	if hang != nil {
		<-hang
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.off {
		n.note = lease.Lease{Term: term, Deadline: deadline}
	}
	return nil
}

func (n *testNote) Remove() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.note = lease.Lease{}
	return nil
}

func (n *testNote) Read() (lease.Lease, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.note, nil
}

type testGuard testHost

func (g *testGuard) Arm(_ context.Context, in time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.guard != nil {
		g.guard.Stop()
	}
	g.guard = time.AfterFunc(in, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		(*testHost)(g).endLocked()
	})
	return nil
}

func (g *testGuard) Disarm(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.guard != nil {
		g.guard.Stop()
		g.guard = nil
	}
	return nil
}

// testSource gives the whole datastore away at each question, testFollower asks five
// times a second.
type testSource struct {
	h  *testHost
	hc HostConfig
}

func (s *testSource) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	term, ok := s.hc.Serving()
	if !ok {
		http.Error(w, "not the master", http.StatusServiceUnavailable)
		return
	}
	s.h.mu.Lock()
	d := dataState{Rows: s.h.own.Rows, Term: term}
	s.h.mu.Unlock()
	json.NewEncoder(w).Encode(d)
}

type testFollower struct {
	h  *testHost
	hc HostConfig
}

func (f *testFollower) Run(ctx context.Context) error {
	for {
		asked := f.h.w.now()
		d, err := f.get(ctx)
		f.h.mu.Lock()
		if err == nil && !f.h.off && !f.h.stale && d.Term >= f.h.copy.Term {
			f.h.copy, f.h.fresh = d, asked
		}
		f.h.mu.Unlock()
		if wait(ctx, 200*time.Millisecond) != nil {
			return nil
		}
	}
}

func (f *testFollower) get(ctx context.Context) (d dataState, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	resp, err := f.hc.Follow(ctx, pathReplica+"all")
	if err != nil {
		return d, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return d, fmt.Errorf("%s", resp.Status)
	}
	return d, json.NewDecoder(resp.Body).Decode(&d)
}

func (f *testFollower) Position() replica.Position {
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	return replica.Position{Revision: int64(f.h.copy.last()), HeadRevision: int64(f.h.copy.last()), FreshAt: f.h.fresh, Complete: len(f.h.copy.Rows) > 0, Term: f.h.copy.Term}
}
