package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/peer"
	"relevo.dev/relevo/test/memnet"
)

// Whole agents, with everything of them real but the host and the network, in a
// bubble of fake time. The hosts (whole_host_test.go) outlive their agents; the world
// sees every start and end of a control plane, and that there is never more than one.

type world struct {
	t       *testing.T
	net     *memnet.Network
	begin   time.Time
	machine string // of which health is measured: nothing is known of it
	hosts   []*testHost
	log     *tail

	mu    sync.Mutex
	live  *testHost // whose control plane runs
	two   int       // how often two ran
	past  []string  // the story, for failures
	tidy  *testCluster
	wall  map[string]bool // hosts whose API nobody else reaches
	fence func(ctx context.Context, o fenceOrder) error
	bad   bool // two are expected: a protection is switched off
	kube  *fakeKube
	lan   *testLAN // carries announcements; nil = none does
}

// whole runs a test in a bubble: names like "n1 n2 n3 v4", of which those with an n
// are candidates. n1 founds the cluster.
func whole(t *testing.T, names string, f func(t *testing.T, w *world)) {
	t.Parallel()
	bubble(t, names, f)
}

func bubble(t *testing.T, names string, f func(t *testing.T, w *world)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, net: memnet.New(), begin: time.Now(), machine: filepath.Join(dir, "machine"), log: &tail{}, kube: newFakeKube(), tidy: &testCluster{lost: map[string]bool{}}}
		if err := os.Mkdir(w.machine, 0o755); err != nil {
			t.Fatal(err)
		}
		var join []string
		for i := range strings.Fields(names) {
			join = append(join, fmt.Sprintf("10.0.0.%d", i+1))
		}
		for i, name := range strings.Fields(names) {
			h := &testHost{w: w, name: name, ip: join[i], dir: filepath.Join(dir, name)}
			h.cfg = testConfig(t, h, join)
			w.trust(h)
			w.hosts = append(w.hosts, h)
		}
		defer func() {
			for _, h := range w.hosts {
				h.crash()
			}
			time.Sleep(5 * time.Minute) // calls of libraries that nobody waits for end by their own limits
			if t.Failed() {
				t.Logf("%s\n%s", strings.Join(w.story(), "\n"), w.log.text())
			}
		}()
		f(t, w)
	})
}

func testConfig(t *testing.T, h *testHost, join []string) *config.Config {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster: home\nnode: %s\ndata_dir: %s\nadvertise: %s\njoin: [%s]\nmdns: {backend: off}\n", h.name, h.dir, h.ip, strings.Join(join, ", "))
	fmt.Fprintf(&b, "peer: {pki_dir: %[1]s/pki}\ngossip: {key_file: %[1]s/gossip.key}\n", h.dir)
	if h.name[0] == 'm' { // no voter, no candidate
		b.WriteString("voter: false\n")
	}
	if h.name[0] == 'n' {
		b.WriteString(`candidate:
  control_plane:
    kind: units
    units: [x.service]
    datastore: {kind: kine, path: /nowhere/state.db}
    api: {url: "https://127.0.0.1:6443", ca_file: /nowhere/ca.crt, token_file: /nowhere/token, start_timeout: 30s, grace: 30s}
`)
	}
	c, err := config.Parse(strings.NewReader(b.String()), "test")
	if err != nil {
		t.Fatal(err)
	}
	c.Socket, c.HTTP.Listen, c.Services.Dir = "", "", "" // real sockets do not know fake time
	return c
}

// trust makes the certificates: n1 founds the cluster and invites the others.
func (w *world) trust(h *testHost) {
	must := func(err error) {
		if err != nil {
			w.t.Fatal(err)
		}
	}
	must(os.MkdirAll(h.dir, 0o700))
	if len(w.hosts) == 0 {
		_, err := peer.Init(h.cfg.Peer.PKIDir, h.cfg.Gossip.KeyFile, "home", h.name)
		must(err)
		must(os.WriteFile(filepath.Join(h.dir, "bootstrap"), nil, 0o600))
		return
	}
	first := w.hosts[0].cfg
	text, err := peer.Invite(first.Peer.PKIDir, first.Gossip.KeyFile, h.name)
	must(err)
	_, err = peer.Accept(text, h.cfg.Peer.PKIDir, h.cfg.Gossip.KeyFile)
	must(err)
}

func (w *world) now() lease.Time { return time.Hour + time.Since(w.begin) }

func (w *world) host(name string) *testHost {
	return w.hosts[slices.IndexFunc(w.hosts, func(h *testHost) bool { return h.name == name })]
}

// start switches all hosts on.
func (w *world) start() {
	for _, h := range w.hosts {
		h.boot()
	}
}

// tell notes a piece of the story.
func (w *world) tell(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note(format, args...)
}

func (w *world) note(format string, args ...any) {
	w.past = append(w.past, fmt.Sprintf("%8.3f  ", time.Since(w.begin).Seconds())+fmt.Sprintf(format, args...))
}

// lives and dies are told by the hosts. Two that live are what must never be.
func (w *world) lives(h *testHost) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note("%s runs the control plane", h.name)
	if w.live != nil && w.live != h {
		w.two++
		if !w.bad {
			w.t.Errorf("TWO MASTERS: %s runs the control plane, and so does %s", h.name, w.live.name)
		}
	}
	w.live = h
}

func (w *world) dies(h *testHost) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.live == h {
		w.live = nil
		w.note("%s does not run it any more", h.name)
	}
}

// story is what happened so far.
func (w *world) story() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.past)
}

func (w *world) master() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.live == nil {
		return ""
	}
	return w.live.name
}

// until waits, in fake time, for something to become true.
func (w *world) until(limit time.Duration, what string, ok func() bool) {
	w.t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Since(begin) > limit {
			w.t.Fatalf("after %v of fake time still not: %s", limit, what)
		}
	}
}

// ready waits until a host is the master in a term, and its loss would be survived.
func (w *world) ready(name string, term uint64) {
	w.t.Helper()
	w.until(2*time.Minute, fmt.Sprintf("%s is the master in term %d and may be lost", name, term), func() bool {
		a := w.host(name).agent
		if w.master() != name || a == nil || a.phase() != lease.Master || a.term.Load() != term {
			return false
		}
		j, err := a.askArbiter(w.t.Context())
		return err == nil && j.Possible
	})
	w.tell("%s is the master in term %d, a failover is possible", name, term)
}

// steady is ready with the arbiter on another host than the master.
func (w *world) steady(name string, term uint64) {
	w.t.Helper()
	w.ready(name, term)
	w.until(2*time.Minute, "the arbiter moves away from the master", func() bool {
		l := w.host(name).agent.quorum.Leader()
		return l != "" && l != name
	})
	w.ready(name, term)
}

// follows waits for another master, and returns it.
func (w *world) follows(not string, term uint64) *testHost {
	w.t.Helper()
	w.until(3*time.Minute, fmt.Sprintf("another than %s is the master in term %d", not, term), func() bool {
		m := w.master()
		return m != "" && m != not && w.host(m).agent.phase() == lease.Master && w.host(m).agent.term.Load() == term
	})
	return w.host(w.master())
}

// isolate cuts a host off from all others, both ways, or heals that.
func (w *world) isolate(h *testHost, cut bool) {
	w.tell("%s cut off: %v", h.name, cut)
	for _, o := range w.hosts {
		if o != h {
			w.cut(h, o, cut)
		}
	}
}

func (w *world) cut(a, b *testHost, cut bool) {
	set := w.net.Heal
	if cut {
		set = w.net.Cut
	}
	set(a.ip, b.ip)
	set(b.ip, a.ip)
}

// netOf is the network as one host has it.
func (w *world) netOf(h *testHost) *Net {
	return &Net{
		Listen: w.net.Listen,
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return w.net.Dialer(h.ip)(ctx, network, addr)
		},
		Gossip: func(ip string, port int) (memberlist.NodeAwareTransport, error) { return w.net.NewGossip(ip, port) },
		Board:  w.lan.board(h),
	}
}

// tail keeps the end of what the agents log.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (l *tail) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(b))
	if len(l.lines) > 400 {
		l.lines = l.lines[200:]
	}
	return len(b), nil
}

func (l *tail) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "")
}

func (h *testHost) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(h.w.log, nil)).With("host", h.name)
}

var errOff = errors.New("the host is off")
