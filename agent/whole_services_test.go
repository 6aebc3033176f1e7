package agent

import (
	"slices"
	"testing"
	"time"

	"relevo.dev/relevo/agent/catalog"
)

// offers says whether an agent's view has a service, of a node.
func (h *testHost) offers(name, node string) bool {
	if h.agent == nil {
		return false
	}
	s, err := h.agent.Services(h.w.t.Context())
	if err != nil {
		return false
	}
	for _, v := range s.Services {
		if v.Name == name && v.Node == node && len(v.Addresses) > 0 {
			return true
		}
	}
	return false
}

// TestWholeServices: what one member offers, all see within moments; it goes with its
// member; and the Kubernetes API is offered by who is the master, under the same name.
func TestWholeServices(t *testing.T) {
	founded(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		all := func(name, node string, want bool) func() bool {
			return func() bool {
				return !slices.ContainsFunc(w.hosts, func(h *testHost) bool { return h.agent != nil && h.offers(name, node) != want })
			}
		}
		w.until(10*time.Second, "everybody sees the agents' own", func() bool {
			return all("n1", "n1", true)() && all("n2", "n2", true)() && all("n3", "n3", true)() && all("home", "n1", true)()
		})
		w.host("n2").agent.catalog.Set(catalog.File, []catalog.Entry{{ID: "x", Name: "Shop", Type: "_http._tcp", Port: 80}}, []catalog.Problem{{Text: "y.yaml:1:1: bad"}})
		w.until(4*time.Second, "everybody sees the shop of n2", all("Shop", "n2", true))
		if s, err := w.host("n3").agent.Services(t.Context()); err != nil || len(s.Problems) != 1 || s.Problems[0].What != "n2: y.yaml:1:1: bad" {
			t.Errorf("n3 tells %v, %v", s.Problems, err)
		}
		w.host("n2").agent.catalog.Set(catalog.File, nil, nil)
		w.until(4*time.Second, "nobody sees it any more", all("Shop", "n2", false))

		v4 := w.host("v4")
		v4.agent.catalog.Set(catalog.File, []catalog.Entry{{ID: "x", Name: "Door", Type: "_http._tcp", Port: 80}}, nil)
		w.until(4*time.Second, "everybody sees the door of v4", all("Door", "v4", true))
		left := time.Now()
		if err := v4.agent.pool.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.until(4*time.Second, "what leaves takes its services along", func() bool { return !w.host("n1").offers("Door", "v4") && !w.host("n3").offers("Door", "v4") })
		w.tell("gone %v after it left", time.Since(left))
		v4.shutdown()

		w.host("n3").agent.catalog.Set(catalog.File, []catalog.Entry{{ID: "x", Name: "Files", Type: "_smb._tcp", Port: 445}}, nil)
		w.until(4*time.Second, "everybody sees the files of n3", all("Files", "n3", true))
		w.steady("n1", 1) // if v4 voted, somebody else does now
		w.host("n1").crash()
		m := w.follows("n1", 2)
		w.until(30*time.Second, "the API is offered by the new master, and n1 by nobody", func() bool {
			return all("home", m.name, true)() && all("home", "n1", false)() && all("n1", "n1", false)()
		})
		if !all("Files", "n3", true)() {
			t.Error("the files of n3 went with n1")
		}
	})
}
