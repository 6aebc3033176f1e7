package agent

import (
	"context"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/replica/rehearse"
)

// testRehearsal takes three seconds.
type testRehearsal struct{ h *testHost }

func (r testRehearsal) Clean(context.Context) error { return nil }

func (r testRehearsal) Rehearse(ctx context.Context, _ uint64) rehearse.Report {
	return rehearse.Report{Depth: rehearse.ControlPlane, Ready: 2 * time.Second, Err: wait(ctx, 3*time.Second)}
}

// checked has a standby verify its copy and rehearse, as a person on another host asks.
func checked(t *testing.T, from *agent, node string) {
	t.Helper()
	d, err := from.Do(t.Context(), api.Order{Verb: api.VerbVerify, To: node, By: "root"})
	if err != nil || len(d.Verified) != 1 || !d.Verified[0].Equal || !strings.Contains(d.Text, "equal to the master") {
		t.Errorf("verify: %+v, %v", d, err)
	}
	d, err = from.Do(t.Context(), api.Order{Verb: api.VerbRehearse, To: node, By: "root"})
	if err != nil || len(d.Rehearsed) != 1 || !d.Rehearsed[0].OK || d.Rehearsed[0].ReadySeconds != 2 {
		t.Errorf("rehearse: %+v, %v", d, err)
	}
}

// TestWholeChecks: who may be asked, and what the end of the master does to a rehearsal.
func TestWholeChecks(t *testing.T) {
	founded(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		v4 := w.host("v4").agent
		checked(t, v4, "n2")
		for node, want := range map[string]string{"n1": "is the master", "v4": "keeps no copy", "n9": "no member"} {
			if _, err := v4.Do(t.Context(), api.Order{Verb: api.VerbVerify, To: node, By: "root"}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("verify %s: %v", node, err)
			}
		}
		s, err := v4.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, st := range s.Standbys {
			if st.Node == "n2" && (st.Verified == nil || !st.Verified.Equal || st.Rehearsed == nil || !st.Rehearsed.OK) {
				t.Errorf("status: %+v", st)
			}
		}
	})
}
