package agent

import (
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
)

// TestWholeDoctor: the others try to get in, and say so; and say what keeps them out.
func TestWholeDoctor(t *testing.T) {
	founded(t, "n1 n2 v3", func(t *testing.T, w *world) {
		w.ready("n1", 1)
		n1 := w.host("n1")
		look := func() map[string]api.Finding {
			t.Helper()
			d, err := n1.agent.Doctor(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			out := map[string]api.Finding{}
			for _, f := range d.Findings {
				out[f.Check] = f
			}
			return out
		}
		for check, f := range look() {
			if f.Result != api.FindingOK {
				t.Errorf("all is well, and %s is %+v", check, f)
			}
		}
		// One that is cut off and not lost yet.
		w.isolate(w.host("v3"), true)
		if f := look()["ports"]; f.Result != api.FindingWrong || !strings.Contains(f.What, "v3 does not answer") || f.Do == "" {
			t.Errorf("%+v", f)
		}
		time.Sleep(time.Minute) // until gossip knows
		if f := look()["ports"]; f.Result != api.FindingOK || !strings.Contains(f.What, "n2 came in") {
			t.Errorf("what is lost is not asked: %+v", f)
		}
	})
}
