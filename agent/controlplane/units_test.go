package controlplane

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

	"relevo.dev/relevo/systemd"
)

type fake struct {
	mu    sync.Mutex
	calls []string
	state map[string]string
	err   map[string]error
	mode  map[string]systemd.State // KillMode and Delegate
}

func (f *fake) do(what, unit, state string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, what+" "+unit)
	if err := f.err[what+" "+unit]; err != nil {
		return err
	}
	if state != "" {
		f.state[unit] = state
	}
	return nil
}
func (f *fake) Start(_ context.Context, u string) error { return f.do("start", u, "active") }
func (f *fake) Stop(_ context.Context, u string) error  { return f.do("stop", u, "inactive") }
func (f *fake) Kill(_ context.Context, u string) error  { return f.do("kill", u, "failed") }
func (f *fake) Reload(context.Context) error            { return f.do("reload", "", "") }
func (f *fake) State(_ context.Context, u string) (systemd.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.mode[u]
	s.Unit, s.Load, s.Active = u, "loaded", f.state[u]
	if s.Active == "" {
		s.Active, s.Load = "inactive", "not-found"
	}
	return s, f.err["state "+u]
}

func setup(t *testing.T) (*Units, *fake) {
	f := &fake{state: map[string]string{"a.service": "inactive", "b.service": "inactive"}, err: map[string]error{}}
	return New(Config{Units: []string{"a.service", "b.service"}, StandbyUnits: []string{"s.service"}, Manager: f,
		LeaseCommand: "/usr/bin/relevo lease held", DropInDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}), f
}

func TestOrder(t *testing.T) {
	u, f := setup(t)
	ctx := t.Context()
	if err := errors.Join(u.Start(ctx), u.Stop(ctx)); err != nil {
		t.Fatal(err)
	}
	want := []string{"start a.service", "start b.service", "stop b.service", "stop a.service"}
	if !slices.Equal(f.calls, want) {
		t.Errorf("%v", f.calls)
	}
}

// refusing is a systemd whose units' ExecCondition= says no so often; <0 = always.
type refusing struct {
	*fake
	left int
}

func (r *refusing) Start(ctx context.Context, u string) error {
	if r.left == 0 {
		return r.fake.Start(ctx, u)
	}
	r.left--
	_ = r.do("refuse", u, "")
	return fmt.Errorf("start %s: %w", u, systemd.ErrRefused)
}

// A unit that is refused, since the lease is nearly over, is started when it is renewed.
func TestStartAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, f := setup(t)
		r := &refusing{f, 3}
		u.cfg.Manager = r
		if err := u.Start(t.Context()); err != nil {
			t.Error(err)
		}
		if want := []string{"refuse a.service", "refuse a.service", "refuse a.service", "start a.service", "start b.service"}; !slices.Equal(f.calls, want) {
			t.Errorf("%v", f.calls)
		}
		r.left = -1
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := u.Start(ctx); !errors.Is(err, systemd.ErrRefused) || ctx.Err() == nil {
			t.Errorf("%v, %v", err, ctx.Err())
		}
	})
}

// A unit that will not stop must not keep the others running.
func TestStopGoesOn(t *testing.T) {
	u, f := setup(t)
	f.err["stop b.service"] = errors.New("busy")
	if err := u.Stop(t.Context()); err == nil || f.state["a.service"] != "inactive" || !slices.Contains(f.calls, "stop a.service") {
		t.Errorf("%v, %v", err, f.calls)
	}
}

func TestActiveOnTheSafeSide(t *testing.T) {
	u, f := setup(t)
	for state, active := range map[string]bool{"inactive": false, "failed": false, "active": true, "activating": true, "deactivating": true, "reloading": true} {
		f.state["b.service"] = state
		if got, err := u.AnyActive(t.Context()); err != nil || got != active {
			t.Errorf("%s: %v, %v", state, got, err)
		}
	}
	f.state["b.service"] = "inactive"
	f.err["state a.service"] = errors.New("no bus")
	if got, err := u.AnyActive(t.Context()); !got || err == nil {
		t.Errorf("systemd is silent, and nothing is active: %v, %v", got, err)
	}
}

func TestDropIns(t *testing.T) {
	u, f := setup(t)
	for range 2 {
		if err := u.InstallDropIns(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(f.calls); n != 1 {
		t.Errorf("reloaded %d times", n)
	}
	b, err := os.ReadFile(filepath.Join(u.cfg.DropInDir, "b.service.d", dropInName))
	if err != nil || !strings.Contains(string(b), "\nExecCondition=/usr/bin/relevo lease held\n") {
		t.Errorf("%q, %v", b, err)
	}
	if err := u.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "s.service is not-found") {
		t.Errorf("%v", err)
	}
}

// What a unit leaves behind when it is stopped must end with the lease, too; the
// containers of k3s are not the control plane.
func TestDropInsEndChildren(t *testing.T) {
	const line = "\nKillMode=control-group\n"
	for _, tt := range []struct {
		name string
		was  systemd.State
		want bool
	}{
		{"the default", systemd.State{KillMode: "control-group"}, false},
		{"SIGKILL for the children", systemd.State{KillMode: "mixed"}, false},
		{"children are left", systemd.State{KillMode: "process"}, true},
		{"all are left", systemd.State{KillMode: "none"}, true},
		{"others' processes", systemd.State{KillMode: "process", Delegate: true}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u, f := setup(t)
			f.mode = map[string]systemd.State{"b.service": tt.was}
			for range 2 { // the second time systemd tells what the drop-in says
				if err := u.InstallDropIns(t.Context()); err != nil {
					t.Fatal(err)
				}
				b, err := os.ReadFile(filepath.Join(u.cfg.DropInDir, "b.service.d", dropInName))
				if err != nil || strings.Contains(string(b), line) != tt.want {
					t.Errorf("%q, %v", b, err)
				}
				if tt.want {
					f.mode["b.service"] = systemd.State{KillMode: "control-group"}
				}
			}
			if n := len(f.calls); n != 1 {
				t.Errorf("reloaded %d times", n)
			}
		})
	}
}
