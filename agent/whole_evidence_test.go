package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/lease"
)

func (w *world) walled(h *testHost) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wall[h.name]
}

func (w *world) setWall(h *testHost, on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wall = map[string]bool{h.name: on}
}

// TestWholeUnreachableAPI: the master finds nothing wrong, and nobody else reaches its
// API. It steps down, since a standby is ready; and the timeline tells who saw what.
func TestWholeUnreachableAPI(t *testing.T) {
	founded(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		time.Sleep(time.Minute) // everybody has reached it before
		w.setWall(w.host("n1"), true)
		m := w.follows("n1", 2)
		h := m.agent.quorum.State().History
		last := h[len(h)-1]
		if !strings.Contains(last.Reason, "not reached through the network") || !last.Automatic {
			t.Errorf("automatic: %v, reason: %q", last.Automatic, last.Reason)
		}
		e, err := w.host("v4").agent.Explain(t.Context(), 2)
		if err != nil {
			t.Fatal(err)
		}
		var story strings.Builder
		for _, s := range e.Timeline {
			story.WriteString(s.Node + " " + s.Text + "\n")
		}
		for _, part := range []string{"v4 does not reach the API of n1", "n1 stops its control plane", "gives term 2 to " + m.name, m.name + " is master in term 2"} {
			if !strings.Contains(story.String(), part) {
				t.Errorf("the timeline does not tell %q:\n%s", part, story.String())
			}
		}
		if e.Knew.IsZero() {
			t.Error("nobody knows when the term began")
		}
	})
}

// TestWholeOneWitness: what one host alone does not reach, or what nobody ever reached,
// is no reason to change the master.
func TestWholeOneWitness(t *testing.T) {
	whole(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		w.setWall(w.host("n1"), true) // before anybody has asked
		w.hosts[0].adopt(100)
		w.start()
		w.steady("n1", 1)
		time.Sleep(5 * time.Minute)
		w.setWall(w.host("n1"), false)
		time.Sleep(time.Minute)
		w.cut(w.host("v4"), w.host("n1"), true)
		time.Sleep(5 * time.Minute)
		if m := w.master(); m != "n1" || w.host("n1").agent.term.Load() != 1 {
			t.Errorf("%q is the master in term %d", m, w.host("n1").agent.term.Load())
		}
	})
}

// device is a fence device that the test may have set.
func (w *world) device(ctx context.Context, o fenceOrder) error {
	w.mu.Lock()
	f := w.fence
	w.mu.Unlock()
	return f(ctx, o)
}

func fenced(t *testing.T, device func(w *world, ctx context.Context, o fenceOrder) error, f func(t *testing.T, w *world)) {
	whole(t, "n1 n2 n3", func(t *testing.T, w *world) {
		w.fence = func(ctx context.Context, o fenceOrder) error { return device(w, ctx, o) }
		for _, h := range w.hosts {
			h.cfg.Fence = config.Fence{Command: []string{"/bin/false"}, Timeout: 10 * time.Second}
		}
		w.hosts[0].adopt(100)
		w.start()
		w.steady("n1", 1)
		f(t, w)
	})
}

// TestWholeFenceDevice: a host that is switched off, and confirmed to be, is followed
// before its lease is over.
func TestWholeFenceDevice(t *testing.T) {
	var asked []fenceOrder
	fenced(t, func(w *world, ctx context.Context, o fenceOrder) error {
		asked = append(asked, o)
		w.host(o.Node).unplug()
		return wait(ctx, 300*time.Millisecond)
	}, func(t *testing.T, w *world) {
		n1 := w.host("n1")
		n1.deaf() // or it has stopped by itself before
		w.isolate(n1, true)
		cut, tm := w.now(), lease.Timings{TTL: 6 * time.Second}
		m := w.follows("n1", 2)
		h := m.agent.quorum.State().History
		if !strings.Contains(h[len(h)-1].Reason, "the fence confirmed") {
			t.Errorf("the reason is %q", h[len(h)-1].Reason)
		}
		if len(asked) != 1 || asked[0].Node != "n1" || asked[0].Term != 1 || asked[0].Address != n1.ip || asked[0].Cluster != "home" {
			t.Errorf("the device was told %+v", asked)
		}
		if d := w.now() - cut; d > tm.Wait() {
			t.Errorf("with the fence the API is back after %v, which is more than the lease", d)
		}
	})
}

// TestWholeFenceFails: without its word the lease is waited for, and with a device that
// never answers as well.
func TestWholeFenceFails(t *testing.T) {
	for name, device := range map[string]func(w *world, ctx context.Context, o fenceOrder) error{
		"refuses": func(*world, context.Context, fenceOrder) error { return errors.New("no such socket") },
		"hangs":   func(_ *world, ctx context.Context, _ fenceOrder) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			fenced(t, device, func(t *testing.T, w *world) {
				w.host("n1").deaf()
				w.isolate(w.host("n1"), true)
				m := w.follows("n1", 2)
				h := m.agent.quorum.State().History
				if r := h[len(h)-1].Reason; strings.Contains(r, "fence") || !strings.Contains(r, "did not renew") {
					t.Errorf("the reason is %q", r)
				}
			})
		})
	}
}
