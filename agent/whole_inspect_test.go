package agent

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/controlplane"
)

// testInspector looks at a board's control plane.
type testInspector testHost

func (i *testInspector) Look(context.Context) (controlplane.Facts, []controlplane.Finding) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return controlplane.Facts{Kind: "units", Programs: []controlplane.Program{{Name: "kube-apiserver", Version: i.program}}}, slices.Clone(i.faults)
}

// install puts another version on a board.
func (h *testHost) install(version string, faults ...controlplane.Finding) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.program, h.faults = version, faults
}

// why is the reason that a standby is not ready, as status tells; "" if it is.
func (w *world) why(name string) string {
	st, err := w.host("v4").agent.Status(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range st.Standbys {
		if s.Node == name && !s.Ready {
			return s.Why
		}
	}
	return ""
}

// TestWholeSkew: a standby that is older than the master is not promoted, also when the
// master is lost and the standby's agent was started anew meanwhile; a newer one is, and
// status says before what that means.
func TestWholeSkew(t *testing.T) {
	whole(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		n1, n2, n3 := w.host("n1"), w.host("n2"), w.host("n3")
		n1.install("v1.34.1")
		n2.install("v1.33.9")
		n3.install("v1.35.0")
		n1.adopt(100)
		w.start()
		w.steady("n1", 1)
		w.until(3*time.Minute, "n2 to be told", func() bool {
			return w.why("n2") == "kube-apiserver v1.33.9 here, v1.34.1 on the master: an older one must not take over a newer one's data: upgrade here first"
		})
		w.until(3*time.Minute, "the warning about n3", func() bool {
			st, err := w.host("v4").agent.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range st.Problems {
				if strings.HasPrefix(p.What, "n3: kube-apiserver v1.35.0 here, v1.34.1 on the master: a failover to this host is an upgrade") {
					return w.why("n3") == ""
				}
			}
			return false
		})
		// A dry run tells both versions, whoever is asked for.
		for to, want := range map[string]string{
			"n2": "wrong kube-apiserver v1.33.9 here, v1.34.1 on the master: an older one must not take over",
			"n3": "warning kube-apiserver v1.35.0 here, v1.34.1 on the master: a failover to this host is an upgrade",
		} {
			d, err := order(w, "v4", api.Order{Verb: api.VerbSwitchover, To: to, DryRun: true})
			if err != nil || d.Plan == nil || !slices.ContainsFunc(d.Plan.Checks, func(c api.Check) bool {
				return c.Check == "programs" && strings.HasPrefix(string(c.Result)+" "+c.What, want)
			}) {
				t.Errorf("to %s: %+v, %v", to, d.Plan, err)
			}
		}
		// Only the old one is there when the master is lost: nobody is promoted.
		n3.crash()
		n1.crash()
		n2.kill()
		n2.boot()
		time.Sleep(3 * time.Minute)
		if m := w.master(); m != "" {
			t.Fatalf("%s is the master", m)
		}
		n3.boot()
		if m := w.follows("n1", 2); m != n3 {
			t.Errorf("%s is the master", m.name)
		}
	})
}

// TestWholeBlocked: what a board finds wrong with itself keeps it from being promoted as
// long as it lasts.
func TestWholeBlocked(t *testing.T) {
	whole(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		n2, n3 := w.host("n2"), w.host("n3")
		for _, h := range w.hosts[:3] {
			h.install("v1.34.1")
		}
		w.host("n1").adopt(100)
		w.start()
		w.steady("n1", 1)
		gone := controlplane.Finding{Blocks: true, What: "the unit kine.service is not-found", Do: "install it"}
		n2.install("v1.34.1", gone)
		n3.install("v1.34.1", gone)
		w.until(time.Minute, "both to be not ready", func() bool {
			return w.why("n2") == sentence(gone) && w.why("n3") == sentence(gone)
		})
		n3.install("v1.34.1")
		w.until(time.Minute, "n3 to be ready", func() bool { return w.why("n3") == "" })
		w.host("n1").crash()
		if m := w.follows("n1", 2); m != n3 {
			t.Errorf("%s is the master", m.name)
		}
	})
}

// TestWholeStandbyUnits: a host that boots as a standby starts what runs on one, once
// another is the master.
func TestWholeStandbyUnits(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		stands := func(h *testHost) int {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.standing
		}
		if stands(w.host("n1")) != 0 || stands(w.host("n2")) != 1 {
			t.Errorf("n1 started them %d times, n2 %d times", stands(w.host("n1")), stands(w.host("n2")))
		}
		w.host("n1").crash()
		m := w.follows("n1", 2)
		w.host("n1").boot()
		w.until(time.Minute, "n1 to stand by", func() bool { return stands(w.host("n1")) == 1 })
		if stands(m) != 1 {
			t.Errorf("%s, the master, started them again: %d", m.name, stands(m))
		}
	})
}
