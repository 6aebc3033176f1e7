//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/test/hosts"
)

// writers are several clients that write at once; one alone waits for each answer.
type writers []*writer

func (c *cluster) startWriters(from *node, prefix string) writers {
	var ws writers
	for i := range 4 {
		ws = append(ws, c.startWriter(from, fmt.Sprintf("%s-%d", prefix, i)))
	}
	return ws
}

func (ws writers) count() (n int) {
	for _, w := range ws {
		n += w.count()
	}
	return n
}

// check ends them and returns what they miss.
func (ws writers) check(c *cluster, from *node) (missing []write) {
	c.t.Helper()
	for _, w := range ws {
		w.end()
	}
	for _, w := range ws {
		missing = append(missing, c.check(w, from)...)
	}
	return missing
}

// sameAsList: with nobody writing, a client's cache becomes what a fresh list is, without
// anything stale. client-go waits up to half a minute between two tries to reach an API.
func (c *cluster) sameAsList(i *informer, from *node) {
	c.t.Helper()
	begin := time.Now()
	ok(c.t, hosts.Until(within(c.t, 90*time.Second), "the informer's cache to be what a fresh list is", func(ctx context.Context) error {
		list, err := c.client(from, 30*time.Second).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		stale := 0
		for _, o := range list.Items {
			got, there, _ := i.store.GetByKey("default/" + o.GetName())
			if !there || got.(*unstructured.Unstructured).GetResourceVersion() != o.GetResourceVersion() {
				stale++
			}
		}
		if n := len(i.store.ListKeys()); stale > 0 || n != len(list.Items) {
			return fmt.Errorf("%d of its %d objects are stale or missing; a fresh list has %d", stale, n, len(list.Items))
		}
		return nil
	}))
	c.t.Logf("the informer's cache is what a fresh list is %.1f s after everything was in order", time.Since(begin).Seconds())
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.back) > 0 {
		c.t.Errorf("the informer saw resourceVersions go back: %v", i.back)
	}
	c.t.Logf("informer: %d objects as in a fresh list, %d watches answered with 410", len(i.store.ListKeys()), i.gone)
}

// standbyReady waits until a host is a ready standby.
func (c *cluster) standbyReady(name string) {
	c.t.Helper()
	ok(c.t, hosts.Until(within(c.t, 2*time.Minute), name+" to be a ready standby", func(ctx context.Context) error {
		s, err := c.nodes[3].status(ctx)
		if err != nil {
			return err
		}
		for _, b := range s.Standbys {
			if b.Node == name && b.Ready && b.LagRevisions != nil && *b.LagRevisions < 1000 {
				return nil
			}
		}
		return fmt.Errorf("the standbys are %+v", s.Standbys)
	}))
}

// TestSwitchover: planned changes of every kind lose nothing.
func TestSwitchover(t *testing.T) {
	c := newCluster(t, options{grace: 5 * time.Second, extra: "max_failovers: 100\n"})
	n4 := c.nodes[3]
	c.waitSteady(time.Minute)
	inf := c.startInformer(n4)

	c.run("dry run", func(t *testing.T) {
		out, err := n4.Run(within(t, time.Minute), "relevo", "switchover", "--dry-run", "--to", "n2")
		t.Logf("%s", out)
		ok(t, err)
		for _, check := range []string{"quorum", "pause", "master", "standby", "data", "identity", "version", "units", "space", "certificates", "health", "virtual IP", "inhibitors"} {
			if !slices.ContainsFunc(strings.Split(out, "\n"), func(l string) bool {
				return strings.HasPrefix(l, "ok      "+check) || check == "health" && strings.Contains(l, check)
			}) {
				t.Errorf("the check %q is not ok", check)
			}
		}
		// And what speaks against it is found.
		_, err = c.node("n2").Run(within(t, 10*time.Second), "systemctl", "mask", "kine.service")
		if err != nil { // the unit is a file in /etc
			_, err = c.node("n2").Script(within(t, 10*time.Second), "mv /etc/systemd/system/kine.service /root; systemctl daemon-reload")
			ok(t, err)
		}
		var p api.Done
		out, err = n4.Run(within(t, time.Minute), "relevo", "switchover", "--dry-run", "--to", "n2")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(out, "kine.service is not-found") {
			t.Errorf("without a unit on n2: %v\n%s%+v", err, out, p)
		}
		if _, err := n4.Run(within(t, time.Minute), "relevo", "switchover", "--to", "n2"); err == nil || !strings.Contains(err.Error(), "not switched over: units") {
			t.Errorf("and it would be done: %v", err)
		}
		_, err = c.node("n2").Script(within(t, 10*time.Second), "mv /root/kine.service /etc/systemd/system/; systemctl daemon-reload")
		ok(t, err)
	})

	c.run("under writes", func(t *testing.T) {
		ws := c.startWriters(n4, "switch")
		begin := time.Now()
		ws[0].waitFor(t, 300, time.Minute)
		t.Logf("%.0f writes/s before", float64(ws.count())/time.Since(begin).Seconds())
		out, err := n4.Run(within(t, 2*time.Minute), "relevo", "switchover", "--to", "n2", "--why", "test")
		ok(t, err)
		t.Log(strings.TrimSpace(out))
		c.waitMaster(time.Minute, "n2", 2)
		ws[0].waitFor(t, 50, time.Minute)
		if missing := ws.check(c, n4); len(missing) > 0 {
			t.Errorf("a switchover lost %d writes: %v", len(missing), missing)
		}
		c.sameAsList(inf, n4)
		out, err = n4.Run(within(t, 10*time.Second), "relevo", "history")
		ok(t, err)
		t.Log(out)
		if !strings.Contains(out, "switchover asked for by root@n4: test; n2 has everything: revision") || !strings.Contains(out, "equal checksum") {
			t.Error("the history does not prove it")
		}
	})

	c.run("reboot of the master", func(t *testing.T) {
		c.waitSteady(time.Minute)
		ws := c.startWriters(n4, "reboot")
		ws[0].waitFor(t, 200, time.Minute)
		n2 := c.node("n2")
		_, err := n2.Run(within(t, 30*time.Second), "systemctl", "reboot")
		ok(t, err)
		m := c.waitMasterOf(time.Minute, n4, 3)
		ws[0].waitFor(t, 50, time.Minute)
		if missing := ws.check(c, n4); len(missing) > 0 {
			t.Errorf("a reboot lost %d writes: %v", len(missing), missing)
		}
		c.standbyReady("n2")
		c.waitReady(2*time.Minute, m, 3)
		c.sameAsList(inf, n4)
		var h api.History
		ok(t, n4.ask(within(t, 10*time.Second), &h, "history"))
		t.Logf("the history says: %s", h.Changes[0].Reason)
		if h.Changes[0].Automatic || !strings.Contains(h.Changes[0].Reason, "has everything: revision") {
			t.Errorf("a reboot was no planned change: %+v", h.Changes[0])
		}
	})
}

// rounds of TestLoss: NEMESIS=N makes N of each.
func rounds() int {
	if n, err := strconv.Atoi(os.Getenv("NEMESIS")); err == nil && n > 0 {
		return n
	}
	return 1
}

// TestLoss: at random moments under writes (a) kine and the API server die and do not come
// back, with the agent alive: it drains the log and hands over, and nothing is lost; (b) the
// power of the host is cut: what is lost is what was in flight, and `relevo diff-lost` on
// the old master, when it is back, lists exactly that.
func TestLoss(t *testing.T) {
	c := newCluster(t, options{grace: 3 * time.Second, extra: "max_failovers: 100\n"})
	n4 := c.nodes[3]
	inf := c.startInformer(n4)
	for i := range rounds() {
		c.run(fmt.Sprintf("%02d the control plane is killed", i), func(t *testing.T) {
			c.waitSteady(2 * time.Minute)
			m := c.mustMaster()
			s, err := n4.status(within(t, 10*time.Second))
			ok(t, err)
			ws := c.startWriters(n4, fmt.Sprintf("kill%d", i))
			ws[0].waitFor(t, 200, time.Minute)
			_, err = m.Script(within(t, 20*time.Second), "mv /usr/local/bin/kine /root/; systemctl kill --signal=KILL "+strings.Join(hosts.Units, " "))
			ok(t, err)
			next := c.waitMasterOf(time.Minute, n4, s.Term+1)
			ws[0].waitFor(t, 50, time.Minute)
			if missing := ws.check(c, n4); len(missing) > 0 {
				t.Errorf("the agent of %s was alive, and %d acknowledged writes are lost: %v", m.Name, len(missing), missing)
			}
			_, err = m.Script(within(t, 20*time.Second), "mv /root/kine /usr/local/bin/")
			ok(t, err)
			c.waitReady(2*time.Minute, next, s.Term+1)
			c.acknowledge(t)
		})
		c.run(fmt.Sprintf("%02d power cut", i), func(t *testing.T) {
			c.waitSteady(2 * time.Minute)
			m := c.mustMaster()
			s, err := n4.status(within(t, 10*time.Second))
			ok(t, err)
			ws := c.startWriters(n4, fmt.Sprintf("cut%d", i))
			ws[0].waitFor(t, 200, time.Minute)
			// For a moment the standbys get nothing, so that something is lost surely.
			for _, n := range c.nodes[:3] {
				if n != m {
					ok(t, c.lab.Cut(within(t, 10*time.Second), m.Host, n.Host))
				}
			}
			c.rest(t, 300*time.Millisecond)
			ok(t, m.LinkDown(within(t, 30*time.Second)))
			cut := time.Now()
			ok(t, m.PowerCut(within(t, 30*time.Second)))
			ok(t, c.lab.Heal(within(t, 10*time.Second)))
			next := c.waitMasterOf(time.Minute, n4, s.Term+1)
			ws[0].waitFor(t, 50, time.Minute)
			missing := ws.check(c, n4)
			oldest := time.Duration(0)
			for _, w := range missing {
				oldest = max(oldest, cut.Sub(w.at))
			}
			t.Logf("%d acknowledged writes lost, the oldest %v before the cut", len(missing), oldest.Round(time.Millisecond))
			if oldest > 10*time.Second { // max_lag
				t.Error("that is more than max_lag allows")
			}
			ok(t, m.Boot(within(t, time.Minute)))
			c.waitReady(2*time.Minute, next, s.Term+1)
			c.standbyReady(m.Name)
			diffLost(t, c, m, s.Term+1, fmt.Sprintf("cut%d-", i), ws, missing)
			c.sameAsList(inf, n4)
			c.acknowledge(t)
		})
	}
}

// diffLost compares what clients miss with what the old master lists.
func diffLost(t *testing.T, c *cluster, old *node, term uint64, prefix string, ws writers, missing []write) {
	t.Helper()
	var answer struct {
		Reports []struct {
			Objects []struct {
				Resource string `json:"resource"`
				Name     string `json:"name"`
				Op       string `json:"op"`
				Now      string `json:"now"`
			} `json:"objects"`
			More int `json:"writes_not_listed"`
		} `json:"reports"`
	}
	// What the copy knows of the promotion waits in memory for a while, as its rows do.
	ok(t, hosts.Until(within(t, 90*time.Second), "diff-lost to know the term", func(ctx context.Context) error {
		return old.ask(ctx, &answer, "diff-lost", fmt.Sprint(term))
	}))
	listed := map[string]bool{}
	for _, r := range answer.Reports {
		if r.More > 0 {
			t.Errorf("%d more are not listed", r.More)
		}
		for _, o := range r.Objects {
			if o.Resource == "configmaps" && strings.HasPrefix(o.Name, prefix) {
				listed[o.Name] = true
				if o.Now != "absent" {
					t.Errorf("%s is listed as lost, and is %s", o.Name, o.Now)
				}
			}
		}
	}
	for _, w := range missing {
		if !listed[w.name] {
			t.Errorf("%s was acknowledged and is lost, and diff-lost does not list it", w.name)
		}
	}
	acked := map[string]bool{}
	for _, w := range ws {
		for _, a := range w.acked {
			acked[a.name] = true
		}
	}
	for _, w := range missing {
		delete(acked, w.name)
	}
	flying := 0
	for name := range listed {
		if acked[name] {
			t.Errorf("diff-lost lists %s, which is there", name)
		}
		flying++
	}
	t.Logf("diff-lost on %s lists %d: the %d that were acknowledged, and %d whose answer was still on its way", old.Name, len(listed), len(missing), flying-len(missing))
	if len(missing) == 0 {
		t.Log("nothing was lost this time: the comparison says nothing")
	}
}
