package agent

import (
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/member"
)

// TestWholeMetrics: what running agents show is what docs/metrics.md, made from
// api.Families, says that they show; and the figures are right.
func TestWholeMetrics(t *testing.T) {
	founded(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		w.host("n3").setBroken("lamp.service")
		time.Sleep(time.Minute)
		w.host("n1").crash()
		m := w.follows("n1", 2)
		w.until(2*time.Minute, "a failover is possible again, and n1 is known to be lost", func() bool {
			j, err := m.agent.askArbiter(t.Context())
			return err == nil && j.Possible && !slices.ContainsFunc(m.agent.pool.Members(), func(o member.Member) bool { return o.Node == "n1" && o.Status == member.Alive })
		})
		for _, n := range []string{"n2", "n3"} {
			if n != m.name {
				checked(t, m.agent, n)
			}
		}
		shown := map[string][]api.Sample{}
		values := func(h *testHost, name string, labels ...string) []float64 {
			var out []float64
			for _, f := range h.agent.Metrics() {
				for _, s := range f.Samples {
					have := []string{}
					for _, l := range s.Labels {
						have = append(have, l.Value)
					}
					if f.Name == name && (len(labels) == 0 || slices.Equal(have, labels)) {
						out = append(out, s.Value)
					}
				}
			}
			return out
		}
		var arbiter *testHost
		for _, h := range w.hosts {
			if h.agent == nil {
				continue
			}
			if h.agent.quorum.IsLeader() {
				arbiter = h
			}
			for _, f := range h.agent.Metrics() {
				i := slices.IndexFunc(api.Families(), func(k api.Family) bool { return k.Name == f.Name })
				if i < 0 {
					t.Errorf("%s shows %s, which docs/metrics.md does not have: add it to agent/api/families.go and run go test ./agent/api -update", h.name, f.Name)
					continue
				}
				want := api.Families()[i]
				if f.Help != want.Help || f.Type != want.Type {
					t.Errorf("%s shows %s as %s, %q", h.name, f.Name, f.Type, f.Help)
				}
				for _, s := range f.Samples {
					var labels []string
					for _, l := range s.Labels {
						labels = append(labels, l.Name)
					}
					if !slices.Equal(labels, want.Labels) {
						t.Errorf("%s shows %s with the labels %v", h.name, f.Name, labels)
					}
				}
				shown[f.Name] = append(shown[f.Name], f.Samples...)
			}
		}
		for _, f := range api.Families() {
			if strings.HasPrefix(f.Name, "relevo_") && !strings.HasPrefix(f.Name, "relevo_host_") && len(shown[f.Name]) == 0 {
				t.Errorf("nobody shows %s", f.Name)
			}
		}
		other := w.host("n2")
		if m == other {
			other = w.host("n3")
		}
		for _, c := range []struct {
			what string
			got  []float64
			want float64
		}{
			{"term", values(m, "relevo_term"), 2},
			{"master", values(m, "relevo_is_master"), 1},
			{"master, of a standby", values(other, "relevo_is_master"), 0},
			{"automatic changes", values(m, "relevo_master_changes_total", "automatic"), 1},
			{"changes asked for", values(other, "relevo_master_changes_total", "asked"), 0},
			{"lost members", values(other, "relevo_members", "failed"), 1},
			{"members", values(other, "relevo_members", "alive"), 3},
			{"voters", values(other, "relevo_voters"), 3},
			{"n3's unit, as n2 knows", values(w.host("n2"), "relevo_member_condition", "n3", "UnitFailed"), 1},
			{"n3's unit", values(w.host("n3"), "relevo_host_unit_failed", "lamp.service"), 1},
			{"standby ready", values(other, "relevo_standby_ready"), 1},
			{"failover possible", values(arbiter, "relevo_failover_possible"), 1},
		} {
			if len(c.got) != 1 || c.got[0] != c.want {
				t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
			}
		}
		if l := values(m, "relevo_lease_remaining_seconds"); len(l) != 1 || l[0] <= 0 || l[0] > m.cfg.LeaseTTL.Seconds() {
			t.Errorf("the lease of the master has %v seconds left", l)
		}
		if l := values(other, "relevo_lease_remaining_seconds"); len(l) != 0 {
			t.Errorf("the lease of a standby has %v seconds left", l)
		}
	})
}
