//go:build bench

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/test/hosts"
)

const (
	failovers = 10
	lossRuns  = 25
	bareRuns  = 5
	leaseTTL  = 6 * time.Second // the default
)

// sample is a series of measurements, in seconds unless said otherwise.
type sample []float64

func (s sample) at(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	c := slices.Sorted(slices.Values(s))
	return c[min(len(c)-1, int(q*float64(len(c))))]
}

func (s sample) row() string {
	return fmt.Sprintf("%.3f | %.3f | %.3f", s.at(0), s.at(0.5), s.at(1))
}

// part is a section of docs/benchmarks.md.
type part struct {
	title string
	make  func(p func(format string, args ...any))
}

// TestBench measures on the test's hosts and writes docs/benchmarks.md: all of it, or the
// parts whose titles match $BENCH; the others stay as they are.
func TestBench(t *testing.T) {
	wanted, err := regexp.Compile("(?i)" + os.Getenv("BENCH"))
	ok(t, err)
	b := &bench{t: t, steps: map[string]sample{}, wantBare: wanted.MatchString("Failover")}
	parts := []part{
		{"Failover: power cut of the master", b.failovers}, {"What is lost", b.lose}, {"Replication", b.replication},
		{"Idle cost", b.idle}, {"Size", b.size},
	}
	if wanted.MatchString("Replication") {
		b.alone = b.replicaBenchmarks("FirstCopy|Idle|Tailing")
	}
	const path = "../../docs/benchmarks.md"
	was := map[string]string{}
	old, err := os.ReadFile(path)
	ok(t, err)
	for _, section := range strings.Split(string(old), "\n## ")[1:] {
		title, text, _ := strings.Cut(section, "\n\n")
		was[title] = strings.TrimSpace(text)
	}
	for _, x := range parts {
		if !wanted.MatchString(x.title) {
			continue
		}
		var text strings.Builder
		before := load()
		x.make(func(format string, args ...any) { fmt.Fprintf(&text, format+"\n", args...) })
		was[x.title] = fmt.Sprintf("Measured on %s; load average of the machine %s before, %s after.\n\n%s", time.Now().UTC().Format("2006-01-02"), before, load(), strings.TrimSpace(text.String()))
		var doc strings.Builder // after each part: the next may fail
		fmt.Fprintf(&doc, head, runtime.NumCPU(), first(os.ReadFile("/proc/sys/kernel/osrelease")))
		for _, x := range parts {
			fmt.Fprintf(&doc, "\n## %s\n\n%s\n", x.title, was[x.title])
		}
		ok(t, os.WriteFile(path, []byte(doc.String()), 0o644))
		fmt.Printf("\n## %s\n\n%s\n", x.title, was[x.title])
	}
}

const head = `# Benchmarks

Made by ` + "`make bench`" + ` (as root; ` + "`make bench RUN=lost`" + ` measures one part anew): one machine with
%d cores for all four hosts, kernel %s. The hosts are containers with real systemd, avahi,
kine on SQLite and kube-apiserver; read ratios, not absolute figures: a Raspberry Pi is
slower, and its hosts do not share the cores. What else the machine had to do at the time
is in each part: an idle machine has a load average of about 1 while this runs.
`

type bench struct {
	t        *testing.T
	c        *cluster
	wantBare bool
	bare     sample

	total, silence  sample // power cut to the first write, longest time without one
	steps           map[string]sample
	lost, acked     []int
	lostAge         sample // ms that a lost write was acknowledged before the cut
	killAcked, gone int
	alone           map[string]float64 // of agent/replica, measured while there were no hosts
	killGap         sample
}

// cluster is set up when it is first needed.
func (b *bench) cluster() *cluster {
	if b.c == nil {
		o := options{extra: "max_failovers: 100\n", kine: true}
		if b.wantBare {
			o.bare = b.bareStart
		}
		b.c = newCluster(b.t, o)
	}
	return b.c
}

// bareStart is the start of the API server as relevo finds it, without relevo.
func (b *bench) bareStart(n *node) {
	t := b.t
	for range bareRuns {
		_, err := n.Run(within(t, time.Minute), append([]string{"systemctl", "stop"}, reversed(hosts.Units)...)...)
		ok(t, err)
		begin := time.Now()
		_, err = n.Run(within(t, time.Minute), append([]string{"systemctl", "start"}, hosts.Units...)...)
		ok(t, err)
		ok(t, hosts.Until(within(t, time.Minute), "/readyz", func(ctx context.Context) error {
			_, err := n.Run(ctx, "curl", "-sf", "--cacert", "/etc/kubernetes/pki/ca.crt", "https://127.0.0.1:6443/readyz")
			return err
		}))
		b.bare = append(b.bare, time.Since(begin).Seconds())
	}
	t.Logf("bare start of kine and the API server until /readyz: %s s", b.bare.row())
}

func reversed(s []string) []string {
	s = slices.Clone(s)
	slices.Reverse(s)
	return s
}

// kills ends the processes of the control plane, with kill -9, under writes.
func (b *bench) kills() {
	t, c := b.t, b.cluster()
	n4 := c.nodes[3]
	s := c.waitMaster(time.Minute, "", 0)
	m := c.node(s.Master.Node)
	for i := range 5 {
		w := c.startWriter(n4, fmt.Sprintf("kill%d", i))
		w.waitFor(t, 200, time.Minute)
		_, err := m.Run(within(t, 10*time.Second), append([]string{"systemctl", "kill", "--signal=KILL"}, hosts.Units...)...)
		ok(t, err)
		w.waitFor(t, 100, time.Minute)
		w.end()
		b.gone += len(c.check(w, n4))
		b.killAcked += w.count()
		b.killGap = append(b.killGap, w.gap.Seconds())
	}
	c.waitReady(time.Minute, m.Name, s.Master.Term)
}

// failover cuts the power of the master under writes.
func (b *bench) failover() {
	t, c := b.t, b.cluster()
	c.waitSteady(2 * time.Minute)
	n4 := c.nodes[3]
	s, err := n4.status(within(t, 10*time.Second))
	ok(t, err)
	m := c.node(s.Master.Node)
	w := c.startWriter(n4, fmt.Sprintf("term%d", s.Term))
	w.waitFor(t, 300, time.Minute)

	ok(t, m.LinkDown(within(t, 10*time.Second)))
	cut := time.Now()
	ok(t, m.PowerCut(within(t, 30*time.Second)))
	// Whoever comes with a new connection, as kubectl does.
	ok(t, hosts.Until(within(t, 2*time.Minute), "a write through the virtual IP", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := c.client(n4, time.Second).Create(ctx, configMap(fmt.Sprintf("first-%d", s.Term+1)), metav1.CreateOptions{})
		return err
	}))
	b.total = append(b.total, time.Since(cut).Seconds())
	w.waitFor(t, 20, time.Minute)
	w.end()
	b.silence = append(b.silence, w.gap.Seconds())
	missing := c.check(w, n4)
	b.lost, b.acked = append(b.lost, len(missing)), append(b.acked, w.count())
	for _, l := range missing {
		b.lostAge = append(b.lostAge, float64(cut.Sub(l.at).Microseconds())/1000)
	}
	c.waitMaster(time.Minute, "", s.Term+1)
	now, err := n4.status(within(t, 10*time.Second))
	ok(t, err)
	var h api.History
	ok(t, c.node(now.Master.Node).ask(within(t, 10*time.Second), &h, "history"))
	b.step("term committed, after the power cut", h.Changes[0].At.Sub(cut).Seconds())
	for _, st := range h.Changes[0].Steps {
		b.step(st.Name, st.Seconds)
	}
	ok(t, m.Boot(within(t, time.Minute)))
	c.waitReady(2*time.Minute, now.Master.Node, s.Term+1)
}

func (b *bench) step(name string, seconds float64) { b.steps[name] = append(b.steps[name], seconds) }

func (b *bench) failovers(p func(string, ...any)) {
	b.kills()
	for range failovers {
		b.failover()
	}
	p("%d times, with a client that writes all the while; seconds.\n", failovers)
	p("| step | least | median | most |\n|---|---|---|---|")
	p("| bare start of kine + kube-apiserver until /readyz, without relevo (%d times) | %s |", len(b.bare), b.bare.row())
	for _, name := range []string{"term committed, after the power cut", "verify", "aside", "install", "bump", "vip", "units", "readyz", "canary"} {
		if s := b.steps[name]; len(s) > 0 {
			p("| %s | %s |", name, s.row())
		}
	}
	p("| **power cut to the first write through the virtual IP** | %s |", b.total.row())
	p("| longest time without a write for the client that wrote before | %s |", b.silence.row())
	aim := leaseTTL.Seconds() + 1.5 + b.bare.at(0.5)
	p("\n`vip` runs beside `units`. Aim at the median: lease TTL (6 s) + 1.5 s + the bare start = %.3f s; measured %.3f s.\n", aim, b.total.at(0.5))
	lost, acked := 0, 0
	for i := range b.lost {
		lost, acked = lost+b.lost[i], acked+b.acked[i]
	}
	p("%d of %d acknowledged writes were lost in these failovers.", lost, acked)
	if lost > 0 {
		p("The oldest of them was acknowledged %.1f ms before the link went down.", b.lostAge.at(1))
	}
	p("Control plane killed with -9 (5 times, systemd restarts it): %d of %d acknowledged writes lost; %.1f s without a write at the median.", b.gone, b.killAcked, b.killGap.at(0.5))
}

func (b *bench) size(p func(string, ...any)) {
	t := b.t
	p("| architecture | binary MB | .deb MB |\n|---|---|---|")
	dist := filepath.Join(t.TempDir(), "dist")
	out, err := exec.CommandContext(t.Context(), "make", "-C", "../..", "deb", "DIST="+dist).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, arch := range []string{"armhf", "arm64", "amd64"} {
		debs, _ := filepath.Glob(filepath.Join(dist, "*_"+arch+".deb"))
		p("| %s | %.1f | %.1f |", arch, megabytes(t, filepath.Join(dist, "stage", "relevo-"+arch)), megabytes(t, debs[0]))
	}
}

func megabytes(t *testing.T, path string) float64 {
	st, err := os.Stat(path)
	ok(t, err)
	return float64(st.Size()) / 1e6
}

// load is the load average of the last minute.
func load() string { return strings.Fields(first(os.ReadFile("/proc/loadavg")))[0] }

func first(b []byte, _ error) string { return strings.TrimSpace(string(b)) }
