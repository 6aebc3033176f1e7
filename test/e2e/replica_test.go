//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"relevo.dev/relevo/agent/api"
)

// replica is the tail that can be trusted: lag under writes, a tampered copy that is
// found, named and healed, and a rehearsal with the real programs.
func replica(t *testing.T, c *cluster) {
	c.waitSteady(time.Minute)
	m, sb, n4 := c.nodes[0], c.nodes[1], c.nodes[3]
	client := c.client(n4, 5*time.Second)
	object := configMap("tampered")
	ok(t, unstructured.SetNestedField(object.Object, "AAAA-as-the-master-has-it", "data", "value"))
	_, err := client.Create(within(t, time.Minute), object, metav1.CreateOptions{})
	ok(t, err)

	c.run("lag under writes", func(t *testing.T) {
		var ws []*writer
		for i := range 8 {
			ws = append(ws, c.startWriter(n4, fmt.Sprintf("w%d", i)))
		}
		begin, ctx := time.Now(), within(t, time.Minute)
		var lags []float64
		for len(lags) < 100 {
			s, err := n4.status(ctx)
			ok(t, err)
			for _, st := range s.Standbys {
				if st.LagSeconds != nil {
					lags = append(lags, *st.LagSeconds)
				}
			}
		}
		n := 0
		for _, w := range ws {
			w.end()
			n += w.count()
		}
		slices.Sort(lags)
		t.Logf("%.0f writes/s; lag of %d looks: median %.3f s, most %.3f s", float64(n)/time.Since(begin).Seconds(), len(lags), lags[len(lags)/2], lags[len(lags)-1])
	})

	verify := func(t *testing.T, args ...string) api.Verification {
		var d api.Done
		ok(t, n4.ask(within(t, time.Minute), &d, append([]string{"replica", "verify", sb.Name}, args...)...))
		if len(d.Verified) != 1 || d.Verified[0].Error != "" {
			t.Fatalf("%+v", d)
		}
		t.Logf("%+v", d.Verified[0])
		return d.Verified[0]
	}

	c.run("a tampered row is found, named and healed", func(t *testing.T) {
		if v := verify(t); !v.Equal || v.Rows == 0 {
			t.Fatalf("before: %+v", v)
		}
		// Behind the agent's back, as a card does it: SQLite's own check finds nothing.
		_, err := sb.Script(within(t, time.Minute), `set -e; systemctl stop relevo; cd /var/lib/relevo/replica; grep -qa AAAA-as state.db
			LC_ALL=C sed -i s/AAAA-as-the-master-has-it/BBBB-as-the-master-has-it/ state.db; systemctl start --no-block relevo`)
		ok(t, err)
		c.waitStandby(time.Minute, sb.Name)
		v := verify(t, "--compare-only")
		if v.Equal || v.Healing || len(v.Differences) != 1 || v.Differences[0].Key != "/registry/configmaps/default/tampered" || v.Differences[0].Where != "not the same" {
			t.Fatalf("%+v", v)
		}
		s, err := n4.status(within(t, 10*time.Second))
		ok(t, err)
		if !slices.ContainsFunc(s.Problems, func(p api.Problem) bool {
			return p.Severity == api.Critical && strings.Contains(p.What, "the copy on "+sb.Name+" is not what the master has")
		}) {
			t.Errorf("status says nothing of it: %+v", s.Problems)
		}
		if v := verify(t); v.Equal || !v.Healing {
			t.Fatalf("%+v", v)
		}
		c.waitStandby(time.Minute, sb.Name)
		if v := verify(t); !v.Equal {
			t.Fatalf("after: %+v", v)
		}
	})

	rehearse := func(t *testing.T) api.Rehearsal {
		var d api.Done
		ok(t, n4.ask(within(t, 3*time.Minute), &d, "rehearse", sb.Name))
		if len(d.Rehearsed) != 1 {
			t.Fatalf("%+v", d)
		}
		t.Logf("%+v", d.Rehearsed[0])
		return d.Rehearsed[0]
	}

	c.run("a rehearsal with the real programs", func(t *testing.T) {
		// A host that was the master has what it left then.
		look := "set +e; ls -d /var/lib/relevo/rehearsal /etc/kubernetes/pki; ls -l --full-time /var/lib/kine/state.db; systemctl is-active relevo-rehearsal; pgrep -l kine; pgrep -l kube-apiserver; true"
		before, err := sb.Script(within(t, 10*time.Second), look)
		ok(t, err)
		w := c.startWriter(n4, "rehearsed")
		r := rehearse(t)
		if !r.OK || r.Depth != "control plane" {
			t.Fatalf("%+v", r)
		}
		w.waitFor(t, 20, time.Minute)
		w.end()
		if missing := c.check(w, n4); len(missing) > 0 {
			t.Errorf("lost %v", missing)
		}
		if got := c.audit.Running(); len(got) != 1 || got[0] != m.Name {
			t.Errorf("%v run the control plane", got)
		}
		out, err := sb.Script(within(t, 10*time.Second), look)
		if err != nil || out != before || strings.Contains(out, "rehearsal\n") || !strings.HasSuffix(out, "inactive\n") {
			t.Errorf("left behind: %q, %v, before: %q", out, err, before)
		}
		out, err = n4.Script(within(t, 10*time.Second), "relevo status || true")
		ok(t, err)
		if !strings.Contains(out, "last rehearsed") || !strings.Contains(out, "ready in") {
			t.Errorf("status does not tell:\n%s", out)
		}
	})

	c.run("a rehearsal that fails is a problem", func(t *testing.T) {
		_, err := sb.Script(within(t, 10*time.Second), "mv /usr/local/bin/kine /usr/local/bin/kine.away")
		ok(t, err)
		r := rehearse(t)
		if r.OK || !strings.Contains(r.Error, "kine") {
			t.Fatalf("%+v", r)
		}
		s, err := n4.status(within(t, 10*time.Second))
		ok(t, err)
		if !slices.ContainsFunc(s.Problems, func(p api.Problem) bool {
			return strings.Contains(p.What, "rehearsal of a promotion on "+sb.Name+" failed")
		}) {
			t.Errorf("status says nothing of it: %+v", s.Problems)
		}
		_, err = sb.Script(within(t, 10*time.Second), "mv /usr/local/bin/kine.away /usr/local/bin/kine")
		ok(t, err)
		if r := rehearse(t); !r.OK {
			t.Fatalf("%+v", r)
		}
	})

	c.run("the master's loss cuts a rehearsal off", func(t *testing.T) {
		done := make(chan error, 1)
		go func() {
			_, err := n4.Run(within(t, 3*time.Minute), "relevo", "rehearse", sb.Name)
			done <- err
		}()
		ok(t, sb.WaitUnit(within(t, time.Minute), "relevo-rehearsal.service", "activating"))
		ok(t, m.PowerCut(within(t, 30*time.Second)))
		next := c.waitMasterOf(time.Minute, n4, c.term+1)
		<-done // whatever it says
		ok(t, m.Boot(within(t, time.Minute)))
		c.waitReady(2*time.Minute, next, c.term+1)
	})
}
