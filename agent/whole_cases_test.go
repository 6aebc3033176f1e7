package agent

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/lease"
)

// founded is a cluster whose n1 ran a control plane before.
func founded(t *testing.T, names string, f func(t *testing.T, w *world)) {
	whole(t, names, func(t *testing.T, w *world) {
		w.hosts[0].adopt(100)
		w.start()
		w.steady("n1", 1)
		f(t, w)
	})
}

func TestWholeAdoption(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		starts := 0
		for _, l := range w.story() {
			if strings.Contains(l, "runs the control plane") {
				starts++
			}
		}
		if starts != 1 {
			t.Errorf("adoption started the control plane anew")
		}
		if got := w.host("n2").agent.quorum.State(); got.Term != 1 || got.Holder != "n1" {
			t.Errorf("n2 has %+v", got)
		}
	})
}

func TestWholePowerCut(t *testing.T) {
	founded(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		n1 := w.host("n1")
		rev, err := n1.write()
		if err != nil {
			t.Fatal(err)
		}
		w.until(10*time.Second, "the standbys have it", func() bool {
			return w.host("n2").copied() >= rev && w.host("n3").copied() >= rev
		})
		n1.crash()
		cut := time.Now()
		m := w.follows("n1", 2)
		// The lease of 6 s, what it takes to notice, and 1 s of starting in this world.
		if d := time.Since(cut); d > 12*time.Second {
			t.Errorf("a failover took %v of fake time", d)
		}
		if !hasRow(m.rows().Rows, rev) {
			t.Errorf("%s serves without revision %d: %v", m.name, rev, m.rows().Rows)
		}
		if m.rows().last() < rev+1_000_000 {
			t.Errorf("revisions did not jump: %v", m.rows().Rows)
		}
		// The old master comes back: as a standby, with the new data.
		n1.boot()
		w.until(time.Minute, "n1 follows", func() bool { return n1.copied() == m.rows().last() })
		w.ready(m.name, 2)
		if n1.agent.phase() != lease.Standby {
			t.Errorf("n1 is %v", n1.agent.phase())
		}
	})
}

func TestWholeCable(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		n1 := w.host("n1")
		w.isolate(n1, true)
		w.until(10*time.Second, "n1 stops by itself", func() bool { return w.master() == "" })
		m := w.follows("n1", 2)
		w.isolate(n1, false)
		w.ready(m.name, 2)
		w.until(time.Minute, "n1 is a standby", func() bool { return n1.agent.phase() == lease.Standby })
	})
}

// TestWholeDeaf: units that do not stop when they are asked to are killed in time.
func TestWholeDeaf(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		w.host("n1").deaf()
		w.isolate(w.host("n1"), true)
		w.follows("n1", 2)
	})
}

// TestWholeMinority: who is alone promotes nobody, and comes back by itself.
func TestWholeMinority(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		for _, h := range w.hosts {
			w.isolate(h, true)
		}
		w.until(10*time.Second, "n1 stops by itself", func() bool { return w.master() == "" })
		time.Sleep(10 * time.Minute)
		if m := w.master(); m != "" {
			t.Errorf("%s runs the control plane alone", m)
		}
		for _, h := range w.hosts {
			w.isolate(h, false)
		}
		// Everybody was alive, so the same holder goes on: its data is the newest.
		w.ready("n1", 1)
	})
}

func TestWholeAgentKilled(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		n1 := w.host("n1")
		story := len(w.story())
		n1.kill()
		n1.boot()
		w.until(2*time.Second, "the first renewal takes the fence's timer away", func() bool {
			n1.mu.Lock()
			defer n1.mu.Unlock()
			return n1.guard == nil
		})
		w.ready("n1", 1)
		for _, l := range w.story()[story:] {
			if strings.Contains(l, "control plane") {
				t.Errorf("the control plane was disturbed: %s", l)
			}
		}
		// And if it does not come back, the fence ends what runs.
		n1.kill()
		w.until(10*time.Second, "the fence stops the units", func() bool { return w.master() == "" })
		w.follows("n1", 2)
	})
}

// TestWholeStop: an orderly stop loses nothing and is sooner than any lease.
func TestWholeStop(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		n1 := w.host("n1")
		last, err := n1.write()
		if err != nil {
			t.Fatal(err)
		}
		asked := time.Now()
		n1.shutdown()
		m := w.follows("n1", 2)
		if d := time.Since(asked); d > 5*time.Second {
			t.Errorf("a planned change took %v of fake time", d)
		}
		if !hasRow(m.rows().Rows, last) {
			t.Errorf("the last write, %d, is lost: %v", last, m.rows().Rows)
		}
		if h := m.agent.quorum.State().History; h[len(h)-1].Automatic {
			t.Error("a planned change counts as a failover")
		}
		n1.boot()
		w.ready(m.name, 2)
	})
}

func TestWholeBlackout(t *testing.T) {
	founded(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		rev, err := w.host("n1").write()
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range w.hosts {
			h.crash()
		}
		// The standbys are quicker to boot than the master.
		for _, name := range []string{"n3", "v4", "n2"} {
			w.host(name).boot()
			time.Sleep(2 * time.Second)
		}
		time.Sleep(20 * time.Second)
		if m := w.master(); m != "" {
			t.Errorf("%s did not wait for the one with the newest data", m)
		}
		w.host("n1").boot()
		w.ready("n1", 1)
		if !hasRow(w.host("n1").rows().Rows, rev) {
			t.Error("data lost")
		}
	})
}

// TestWholeBlackoutWithoutMaster: the master's board stays dead; after a while the
// best copy has to do.
func TestWholeBlackoutWithoutMaster(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		rev, err := w.host("n1").write()
		if err != nil {
			t.Fatal(err)
		}
		w.until(10*time.Second, "the standbys have it", func() bool { return w.host("n2").copied() >= rev && w.host("n3").copied() >= rev })
		for _, h := range w.hosts {
			h.crash()
		}
		w.host("n2").boot()
		w.host("n3").boot()
		m := w.follows("n1", 2)
		if !hasRow(m.rows().Rows, rev) {
			t.Error("data lost")
		}
	})
}

func TestWholePause(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		n1, n2 := w.host("n1"), w.host("n2")
		if _, err := n2.agent.Do(t.Context(), api.Order{Verb: api.VerbPause, By: "ann"}); err != nil {
			t.Fatal(err)
		}
		w.until(10*time.Second, "the holder knows", func() bool { return n1.leased() == lease.Forever })
		w.isolate(n1, true)
		time.Sleep(5 * time.Minute)
		if m := w.master(); m != "n1" {
			t.Errorf("paused and alone, %q runs the control plane", m)
		}
		if _, err := n2.agent.Do(t.Context(), api.Order{Verb: api.VerbFailover, By: "ann", Force: true}); err == nil || !strings.Contains(err.Error(), "paused") {
			t.Errorf("failover while paused: %v", err)
		}
		// Resumed while the holder does not hear it: nobody follows until it does.
		if _, err := n2.agent.Do(t.Context(), api.Order{Verb: api.VerbResume, By: "ann"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if m := w.master(); m != "n1" {
			t.Errorf("resuming and alone, %q runs the control plane", m)
		}
		s, err := n2.agent.Status(t.Context())
		if err != nil || !slices.ContainsFunc(s.Problems, func(p api.Problem) bool { return strings.Contains(p.Do, "resume --force") }) {
			t.Errorf("the status does not tell the way out: %+v, %v", s.Problems, err)
		}
		w.isolate(n1, false)
		w.ready("n1", 1)
		w.isolate(n1, true)
		w.follows("n1", 2)
	})
}

// TestWholeSickAPI: a host that lives and an API that does not.
func TestWholeSickAPI(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		n1 := w.host("n1")
		n1.mu.Lock()
		n1.apiErr = errors.New("/readyz: etcd failed")
		n1.mu.Unlock()
		m := w.follows("n1", 2)
		h := m.agent.quorum.State().History
		if r := h[len(h)-1].Reason; !strings.Contains(r, "etcd failed") {
			t.Errorf("the reason is %q", r)
		}
	})
}

// TestWholeHang: a loop that stands still is found by the agent itself, also where
// systemd does not look.
func TestWholeHang(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		n1 := w.host("n1")
		n1.mu.Lock()
		n1.hang = make(chan struct{})
		n1.mu.Unlock()
		time.Sleep(4 * time.Second)
		if err := (*testPlane)(n1).Kill(t.Context()); err != nil { // PID 1's timer
			t.Error(err)
		}
		w.until(time.Minute, "the agent of n1 ends itself", n1.ended)
		n1.unplug()
		close(n1.hang)
		w.until(2*time.Minute, "another is the master", func() bool { m := w.master(); return m == "n2" || m == "n3" })
	})
}

// TestWholeLag: a standby that is far behind is not promoted by itself.
func TestWholeLag(t *testing.T) {
	founded(t, "n1 n2 v3", func(t *testing.T, w *world) {
		n1, n2 := w.host("n1"), w.host("n2")
		w.cut(n1, n2, true) // n2 gets nothing any more, and still reaches the voters
		time.Sleep(time.Minute)
		for range 5 {
			if _, err := n1.write(); err != nil {
				t.Fatal(err)
			}
		}
		n1.crash()
		w.cut(n1, n2, true)
		time.Sleep(3 * time.Minute)
		if m := w.master(); m != "" {
			t.Fatalf("%s was promoted a minute behind", m)
		}
		_, err := n2.agent.Do(t.Context(), api.Order{Verb: api.VerbFailover, By: "ann"})
		if err == nil || !strings.Contains(err.Error(), "nobody") {
			t.Errorf("failover to an old copy without --force: %v", err)
		}
		if _, err := n2.agent.Do(t.Context(), api.Order{Verb: api.VerbFailover, To: "n2", By: "ann", Force: true}); err != nil {
			t.Fatal(err)
		}
		w.follows("n1", 2)
	})
}

func hasRow(rows []uint64, rev uint64) bool {
	for _, r := range rows {
		if r == rev {
			return true
		}
	}
	return false
}
