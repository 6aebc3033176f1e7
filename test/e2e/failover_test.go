//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/test/hosts"
)

// failover is the main job: the master loses its power, a standby takes over
// with the data, and the old master comes back as a standby.
func failover(t *testing.T, c *cluster) {
	m, n4 := c.nodes[0], c.nodes[3]

	w := c.startWriter(n4, "a")
	inf := c.startInformer(n4)
	w.waitFor(t, 300, time.Minute)
	inf.waitHas(t, w.newest().name, 30*time.Second)
	before := w.newest()

	cut := c.powerOff(m) // whatever is acknowledged later was on its way
	s := c.waitMaster(2*time.Minute, "", c.term+1)
	if s.Master.Node == m.Name {
		t.Fatalf("%s is without power and the master", m.Name)
	}
	w.waitFor(t, 50, time.Minute)
	t.Logf("power cut to master known to all: %.1f s", time.Since(cut).Seconds())

	// An informer that was in the old world must be sent to list anew, not left behind.
	inf.waitHas(t, w.newest().name, time.Minute)
	expired(t, c, before.rv)
	w.end()
	report(t, c.check(w, n4), cut)
	inf.mu.Lock()
	if len(inf.back) > 0 {
		t.Errorf("the informer saw resourceVersions go back: %v", inf.back)
	}
	t.Logf("informer: %d watches answered with 410, highest resourceVersion %d", inf.gone, inf.high)
	inf.mu.Unlock()

	browse(t, n4, s.Master.Node, c.term+1)
	history(t, n4, s.Master.Node, m.Name, c.term+1)

	// The old one has its units enabled, and power again.
	ok(t, m.Boot(within(t, time.Minute)))
	c.waitReady(2*time.Minute, s.Master.Node, c.term+1)
	c.waitStandby(2*time.Minute, m.Name)
	for _, u := range hosts.Units {
		if state, err := m.UnitState(within(t, 10*time.Second), u); err != nil || state == "active" {
			t.Errorf("%s on %s is %s (%v)", u, m.Name, state, err)
		}
	}
	c.noProblems()
}

// noProblems: after all that, nothing is wrong any more.
func (c *cluster) noProblems() {
	c.t.Helper()
	ok(c.t, hosts.Until(within(c.t, 30*time.Second), "no problems", func(ctx context.Context) error {
		st, err := c.nodes[3].status(ctx)
		if err == nil && st.Degraded() {
			err = fmt.Errorf("%+v", st.Problems)
		}
		return err
	}))
}

// expired: whoever asks for the changes since a revision of the old master is told
// that it is gone.
func expired(t *testing.T, c *cluster, rv uint64) {
	t.Helper()
	wi, err := c.client(c.nodes[3], 0).Watch(within(t, 30*time.Second), metav1.ListOptions{ResourceVersion: fmt.Sprint(rv)})
	if err == nil {
		defer wi.Stop()
		select {
		case e := <-wi.ResultChan():
			if e.Type != watch.Error {
				t.Errorf("a watch from the old revision %d was answered with %s %v", rv, e.Type, e.Object)
				return
			}
			err = apierrors.FromObject(e.Object)
		case <-within(t, 20*time.Second).Done():
			t.Errorf("a watch from the old revision %d hears nothing", rv)
			return
		}
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("a watch from the old revision %d was answered with %v", rv, err)
	}
}

// report prints what was lost, and fails if it is more than what was in flight.
func report(t *testing.T, missing []write, cut time.Time) {
	t.Helper()
	for _, m := range missing {
		age := cut.Sub(m.at)
		t.Logf("lost: %s, acknowledged %.1f ms before the power cut", m.name, float64(age.Microseconds())/1000)
		if age > time.Second {
			t.Errorf("%s was acknowledged %v before the power cut and is lost: more than was in flight", m.name, age)
		}
	}
}

// browse: avahi on another host shows where the API is now.
func browse(t *testing.T, n *node, master string, term uint64) {
	t.Helper()
	ok(t, hosts.Until(within(t, 30*time.Second), "avahi-browse to show the new master", func(ctx context.Context) error {
		out, err := n.Run(ctx, "avahi-browse", "-rpt", "_kubernetes._tcp")
		if err != nil {
			return err
		}
		var found []string
		for l := range strings.Lines(out) {
			if f := strings.Split(strings.TrimSpace(l), ";"); len(f) > 9 && f[0] == "=" && f[2] == "IPv4" {
				found = append(found, strings.Join(f[6:], ";"))
			}
		}
		want := fmt.Sprintf("term=%d", term)
		if len(found) != 1 || !strings.Contains(found[0], hosts.VIP+";6443;") || !strings.Contains(found[0], "node="+master) || !strings.Contains(found[0], want) {
			return fmt.Errorf("it shows %q", found)
		}
		t.Logf("avahi-browse on %s: %s", n.Name, found[0])
		return nil
	}))
	out, err := n.Run(within(t, 20*time.Second), "avahi-browse", "-rpt", "_relevo._tcp")
	ok(t, err)
	if !strings.Contains(out, "role=master") {
		t.Errorf("no _relevo._tcp has role=master:\n%s", out)
	}
}

// history tells the story, on every host.
func history(t *testing.T, n *node, master, before string, term uint64) {
	t.Helper()
	var h api.History
	ok(t, hosts.Until(within(t, 20*time.Second), "the history", func(ctx context.Context) error {
		if err := n.ask(ctx, &h, "history"); err != nil {
			return err
		}
		if len(h.Changes) < 2 || h.Changes[0].Term != term || h.Changes[0].Holder != master || h.Changes[0].Previous != before || h.Changes[1].Term != term-1 {
			return fmt.Errorf("it is %+v", h.Changes)
		}
		if h.Changes[0].Reason == "" || !h.Changes[0].Automatic {
			return errors.New("the change has no reason")
		}
		return nil
	}))
	out, err := n.Run(within(t, 10*time.Second), "relevo", "history")
	ok(t, err)
	t.Logf("relevo history on %s:\n%s", n.Name, out)
}
