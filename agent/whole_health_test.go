package agent

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/hooks"
	"relevo.dev/relevo/health"
)

// FailedUnits is what systemd says on this host.
func (h *testHost) FailedUnits(context.Context) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.broken, nil
}

func (h *testHost) setBroken(units ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken = units
}

// knows says whether a host knows of a condition of another, by gossip.
func (h *testHost) knows(node string, c health.Type) bool {
	m, _ := h.agent.Members(context.Background())
	return slices.ContainsFunc(m.Members, func(m api.Member) bool { return m.Node == node && slices.Contains(m.Conditions, c) })
}

// TestWholeConditions: a condition of one host is known on every host within two rounds,
// and of a host that is lost it stays known.
func TestWholeConditions(t *testing.T) {
	const rounds = 2 * 10 * time.Second
	founded(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		everywhere := func(want bool) func() bool {
			return func() bool {
				return !slices.ContainsFunc(w.hosts, func(h *testHost) bool { return h.agent != nil && h.knows("n3", health.UnitFailed) != want })
			}
		}
		n3 := w.host("n3")
		n3.setBroken("lamp.service")
		w.until(rounds, "everybody knows that a unit of n3 failed", everywhere(true))
		s, err := w.host("v4").agent.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(s.Problems, func(p api.Problem) bool {
			return p.What == "n3: systemd could not keep running: lamp.service" && p.Do != ""
		}) {
			t.Errorf("the status does not tell: %+v", s.Problems)
		}
		e, err := w.host("n1").agent.Explain(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(e.Timeline, func(s api.Sight) bool { return s.Node == "n3" && strings.Contains(s.Text, "lamp.service") }) {
			t.Errorf("explain does not tell: %+v", e.Timeline)
		}

		n3.crash()
		w.until(time.Minute, "n3 is lost", func() bool {
			m, _ := w.host("n1").agent.Members(t.Context())
			return slices.ContainsFunc(m.Members, func(m api.Member) bool { return m.Node == "n3" && m.Status == "failed" })
		})
		h, err := w.host("n1").agent.Health(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(h.Nodes, func(n api.NodeHealth) bool { return n.Node == "n3" })
		if i < 0 || h.Nodes[i].Report != nil || h.Nodes[i].Why != "gossip says that it is failed" || !slices.Contains(h.Nodes[i].Gossiped, health.UnitFailed) {
			t.Fatalf("what is known of a lost host: %+v", h.Nodes)
		}
		s, err = w.host("n1").agent.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(s.Problems, func(p api.Problem) bool { return p.What == "n3: a systemd unit has failed" }) {
			t.Errorf("the status does not tell what a lost host said: %+v", s.Problems)
		}

		n3.setBroken()
		n3.boot()
		w.until(2*time.Minute, "everybody knows that n3 is well again", everywhere(false))
	})
}

// hook is what every hook of this host does: it notes what it was told.
func (h *testHost) hook(_ context.Context, _ string, _ []string, stdin []byte, _ time.Duration) error {
	var e hooks.Event
	if err := json.Unmarshal(stdin, &e); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = append(h.told, e)
	return nil
}

// heard says whether the hook was told something.
func (h *testHost) heard(is func(e hooks.Event) bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.told, is)
}

// TestWholeHooks: a hook on one host hears of its own conditions, of those of the others,
// of a member that is lost and comes back, and of the change of master; and of nothing
// while nothing changes.
func TestWholeHooks(t *testing.T) {
	founded(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		v4 := w.host("v4")
		dir := filepath.Join(v4.dir, "hooks.d")
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "all"), nil, 0o755)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		v4.mu.Lock()
		if len(v4.told) > 0 {
			t.Errorf("told, while nothing changed: %+v", v4.told)
		}
		v4.mu.Unlock()

		w.host("n3").setBroken("lamp.service")
		v4.setBroken("door.service")
		w.until(20*time.Second, "the hook hears of both", func() bool {
			return v4.heard(func(e hooks.Event) bool {
				return e.Event == hooks.Condition && e.Node == "n3" && e.Host == "v4" && e.Condition == "UnitFailed" && e.Status == "true" && e.Message != "" && e.Advice != "" && e.Term == 1
			}) && v4.heard(func(e hooks.Event) bool {
				return e.Node == "v4" && e.Condition == "UnitFailed" && e.Reason == "Failed" && strings.Contains(e.Message, "door.service")
			})
		})
		w.host("n3").setBroken()
		w.until(2*time.Minute, "the hook hears that it is over", func() bool {
			return v4.heard(func(e hooks.Event) bool { return e.Node == "n3" && e.Status == "false" && e.Message == "" })
		})

		w.host("n1").crash()
		m := w.follows("n1", 2)
		w.until(time.Minute, "the hook hears of the new master and of the loss", func() bool {
			return v4.heard(func(e hooks.Event) bool {
				return e.Event == hooks.Role && e.Node == m.name && e.Role == "master" && e.Was == "standby" && e.Term == 2
			}) && v4.heard(func(e hooks.Event) bool {
				return e.Event == hooks.Member && e.Node == "n1" && e.Status == "failed" && e.Was == "alive"
			})
		})
		w.host("n1").boot()
		w.until(time.Minute, "the hook hears that it is back", func() bool {
			return v4.heard(func(e hooks.Event) bool { return e.Event == hooks.Member && e.Node == "n1" && e.Status == "alive" })
		})
	})
}
