package agent

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
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
