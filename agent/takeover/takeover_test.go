package takeover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// host notes what is done to it, and fails or dies where it is told to.
type host struct {
	mu     sync.Mutex
	did    []string
	fail   string // this step fails
	active bool
	stuck  int           // so many stops do not work
	waits  chan struct{} // stops wait for it; closed by a kill
	term   uint64
}

var errBroken = errors.New("broken")

func (h *host) do(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if name == h.fail {
		return errBroken
	}
	h.did = append(h.did, name)
	return nil
}

func (h *host) Verify(context.Context) error              { return h.do("verify") }
func (h *host) Aside(_ context.Context, t uint64) error   { return h.do(fmt.Sprint("aside ", t)) }
func (h *host) Install(_ context.Context, t uint64) error { return h.do(fmt.Sprint("install ", t)) }
func (h *host) Bump(_ context.Context, t, from uint64) error {
	return h.do(fmt.Sprint("bump ", from, "→", t))
}
func (h *host) CopyTerm(context.Context) (uint64, error) { return h.term, nil }

func (h *host) Claim(context.Context, uint64) error { return h.do("claim") }
func (h *host) Release(context.Context) error       { return h.do("release") }
func (h *host) Announce(context.Context) error      { return h.do("announce") }

func (h *host) WaitReady(context.Context) error      { return h.do("readyz") }
func (h *host) Canary(context.Context, uint64) error { return h.do("canary") }

type plane struct{ *host }

func (p plane) Start(context.Context) error { return p.do("start") }
func (p plane) Kill(context.Context) error {
	if p.waits != nil {
		close(p.waits)
	}
	return p.do("kill")
}
func (p plane) EnterStandby(context.Context) error { return p.do("enter standby") }
func (p plane) LeaveStandby(context.Context) error { return p.do("leave standby") }
func (p plane) Stop(context.Context) error {
	if p.waits != nil {
		<-p.waits
	}
	p.mu.Lock()
	if p.stuck > 0 {
		p.stuck--
	} else {
		p.active = false
	}
	p.mu.Unlock()
	return p.do("stop")
}

func (p plane) AnyActive(context.Context) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.active, nil
}

// at makes a takeover over a journal on disk, as a new process does.
func at(t *testing.T, path string, h *host) *Takeover {
	t.Helper()
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{ControlPlane: plane{h}, Data: h, Address: h, API: h, StartTimeout: time.Minute, Journal: j, Log: slog.New(slog.DiscardHandler)})
}

// done is what was done, without the step that runs beside the others.
func (h *host) done() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(slices.DeleteFunc(slices.Clone(h.did), func(s string) bool { return s == "claim" }), ", ")
}

const whole = "verify, aside 2, install 2, bump 1→2, leave standby, start, readyz, canary"

func TestPromote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	h := &host{term: 1}
	steps, err := at(t, path, h).Promote(t.Context(), 2, false)
	if err != nil || h.done() != whole || !slices.Contains(h.did, "claim") {
		t.Fatalf("%v: %s", err, h.done())
	}
	if s := Summary(steps); !strings.HasPrefix(s, "promoted in ") || !strings.Contains(s, "vip ") {
		t.Error(s)
	}
	// The agent starts again within the term: nothing is restored a second time.
	again := &host{term: 1}
	if _, err := at(t, path, again).Promote(t.Context(), 2, true); err != nil || again.done() != "leave standby, start, readyz, canary" {
		t.Errorf("%v: %s", err, again.done())
	}
	// The same host follows itself after somebody else's term that never served.
	next := &host{term: 1}
	if _, err := at(t, path, next).Promote(t.Context(), 4, true); err != nil || next.done() != "bump 2→4, leave standby, start, readyz, canary" {
		t.Errorf("%v: %s", err, next.done())
	}
	if _, err := at(t, path, &host{}).Promote(t.Context(), 3, false); err == nil {
		t.Error("an older term was promoted")
	}
}

// TestFirstMaster: what ran before relevo is taken as it is.
func TestFirstMaster(t *testing.T) {
	h := &host{}
	if _, err := at(t, filepath.Join(t.TempDir(), "journal"), h).Promote(t.Context(), 1, true); err != nil || h.done() != "leave standby, start, readyz, canary" {
		t.Errorf("%v: %s", err, h.done())
	}
}

// TestCutOff: a takeover that ends at any step, and goes on in a new process, does
// every durable step once, and in order.
func TestCutOff(t *testing.T) {
	for _, fail := range []string{"verify", "aside 2", "install 2", "bump 1→2", "leave standby", "start", "claim", "readyz", "canary"} {
		t.Run(fail, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal")
			h := &host{term: 1, fail: fail}
			if _, err := at(t, path, h).Promote(t.Context(), 2, false); !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "term 2") {
				t.Fatalf("%v", err)
			}
			h.fail = ""
			if _, err := at(t, path, h).Promote(t.Context(), 2, false); err != nil {
				t.Fatal(err)
			}
			for _, once := range []string{"aside 2", "install 2", "bump 1→2"} {
				if n := len(slices.DeleteFunc(slices.Clone(h.did), func(s string) bool { return s != once })); n != 1 {
					t.Errorf("%s was done %d times: %s", once, n, h.done())
				}
			}
			if i, j := slices.Index(h.did, "aside 2"), slices.Index(h.did, "install 2"); i > j {
				t.Errorf("the old data was put aside after the new came: %s", h.done())
			}
			if !strings.HasSuffix(h.done(), "readyz, canary") {
				t.Errorf("it did not come to its end: %s", h.done())
			}
		})
	}
}

// TestDemote goes on until nothing runs, whatever fails.
func TestDemote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{active: true, stuck: 5}
		tk := at(t, filepath.Join(t.TempDir(), "journal"), h)
		if err := tk.Demote(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(h.done(), "stop"); n != 6 || h.active || !strings.HasSuffix(h.done(), "enter standby") {
			t.Errorf("%d stops: %s", n, h.done())
		}
		// Cut off by the end of the agent, it does not claim to have stopped.
		h = &host{active: true, stuck: 1 << 30}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := at(t, filepath.Join(t.TempDir(), "journal"), h).Demote(ctx); err == nil || strings.Contains(h.done(), "enter standby") {
			t.Errorf("%v: %s", err, h.done())
		}
	})
}

// TestStopGrace: units that go on waiting for their clients are killed, others are not.
func TestStopGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{active: true, waits: make(chan struct{})}
		tk := at(t, filepath.Join(t.TempDir(), "journal"), h)
		tk.StopGrace = 2 * time.Second
		begin := time.Now()
		if err := tk.Demote(t.Context()); err != nil || h.active || time.Since(begin) != tk.StopGrace || !slices.Contains(h.did, "kill") {
			t.Errorf("%v after %v: %s", err, time.Since(begin), h.done())
		}
		h = &host{active: true}
		tk = at(t, filepath.Join(t.TempDir(), "journal"), h)
		tk.StopGrace = 2 * time.Second
		if err := tk.Demote(t.Context()); err != nil || slices.Contains(h.did, "kill") {
			t.Errorf("%v: %s", err, h.done())
		}
	})
}

func TestDamagedJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	for _, text := range []string{"", "{", `{"term":"x"}`, `{"term":1}{"term":2}`, `{"term":1,"new":true}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenJournal(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzJournal(f *testing.F) {
	f.Add(`{"term":2,"steps":[{"name":"aside","took_ns":1}],"own_term":1}`)
	f.Add(`{"term":2,"finished":true}`)
	path := filepath.Join(f.TempDir(), "journal")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if j, err := OpenJournal(path); err == nil && len(j.Steps) > maxJournal {
			t.Error("more steps than the file has room for")
		}
	})
}
