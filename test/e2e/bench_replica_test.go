//go:build bench

package e2e

import (
	"fmt"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// losses are power cuts of the master while eight clients write to kine 400 times a
// second and both standbys follow.
type losses struct {
	acked, lost int
	none        int    // rounds without a loss
	age         sample // ms that the oldest lost write of a round was acknowledged before the cut; 0 = none lost
	writes      sample // a second
}

func (b *bench) lose(p func(string, ...any)) {
	var l losses
	for i := range lossRuns {
		b.loss(&l, i)
	}
	l.write(p)
	m := b.replicaBenchmarks("Cut")
	p("The same without hosts, more often (`go test ./agent/replica -bench Cut`): the cable of a real kine and of its agent's stream is pulled %.0f times under %.0f writes/s; %.0f of %.0f", m["Cut rounds"], m["Cut writes/s"], m["Cut lost"], m["Cut acked"])
	p("acknowledged writes are not in the copy, in %.0f rounds none.\n", m["Cut rounds-without"])
	p("| median | 90th percentile | 99th percentile | most |\n|---|---|---|---|")
	p("| %.1f | %.1f | **%.1f** | %.1f |", m["Cut ms-median"], m["Cut ms-p90"], m["Cut ms-p99"], m["Cut ms-most"])
}

func (b *bench) loss(l *losses, i int) {
	t, c := b.t, b.cluster()
	c.waitSteady(2 * time.Minute)
	n4 := c.nodes[3]
	s, err := n4.status(within(t, 10*time.Second))
	ok(t, err)
	m := c.node(s.Master.Node)
	begin := time.Now()
	k := c.startKineWriters(n4, fmt.Sprintf("loss%d", i))
	k.writers[0].waitFor(t, 100, time.Minute)
	rate := float64(k.count()) / time.Since(begin).Seconds()
	cut := c.powerOff(m)
	k.writers[0].waitFor(t, 20, 2*time.Minute)
	missing := k.check(c)
	age := 0.0
	for _, l := range missing {
		age = max(age, ms(cut.Sub(l.at)))
	}
	t.Logf("round %d: %.0f writes/s, %d lost, the oldest acknowledged %.1f ms before the cut", i, rate, len(missing), age)
	if len(missing) == 0 {
		l.none++
	}
	l.acked, l.lost, l.age, l.writes = l.acked+k.count(), l.lost+len(missing), append(l.age, age), append(l.writes, rate)
	next := c.waitMasterOf(2*time.Minute, n4, s.Term+1)
	ok(t, m.Boot(within(t, time.Minute)))
	c.waitReady(2*time.Minute, next, s.Term+1)
	c.acknowledge(t)
}

func (l *losses) write(p func(string, ...any)) {
	p("Power cut at full replication: %d rounds, %d clients that write to kine itself through the virtual IP, %.0f writes/s at the median; the link goes", len(l.age), kineClients, l.writes.at(0.5))
	p("down first, for clients and standbys in the same instant. %d of %d acknowledged writes were lost. Age of the oldest lost write of a round (0 where", l.lost, l.acked)
	p("nothing was lost: %d rounds; nor is an answer older that was read a moment after the cut), by the clients' clock, in ms; aim: 50 at the 99th percentile.\n", l.none)

	p("| least | median | 90th percentile | most |\n|---|---|---|---|")
	p("| %.1f | %.1f | %.1f | %.1f |\n", l.age.at(0), l.age.at(0.5), l.age.at(0.9), l.age.at(1))
}

// lag is what standbys say of themselves under writes.
type lag struct {
	writes     float64 // a second
	secs, rows sample
}

func (b *bench) lagUnder(ws writers) (l lag) {
	t, c := b.t, b.cluster()
	begin := time.Now()
	for end := begin.Add(20 * time.Second); time.Now().Before(end); {
		s, err := c.nodes[3].status(within(t, 10*time.Second))
		if err != nil {
			continue
		}
		for _, st := range s.Standbys {
			if st.LagSeconds != nil && st.LagRevisions != nil {
				l.secs = append(l.secs, *st.LagSeconds)
				l.rows = append(l.rows, float64(*st.LagRevisions))
			}
		}
	}
	ws.end()
	l.writes = float64(ws.count()) / time.Since(begin).Seconds()
	return l
}

func (l *lag) row(what string) string {
	return fmt.Sprintf("| %s | %.0f | %.3f | %.3f | %.3f | %.0f / %.0f / %.0f |", what, l.writes,
		l.secs.at(0.5), l.secs.at(0.95), l.secs.at(1), l.rows.at(0.5), l.rows.at(0.95), l.rows.at(1))
}

func (b *bench) replication(p func(string, ...any)) {
	c := b.cluster()
	k := c.startKineWritersEvery(c.nodes[3], "paced", 2*kinePace)
	paced := b.lagUnder(k.writers)
	var ws writers
	for i := range 8 {
		ws = append(ws, c.startWriter(c.nodes[3], fmt.Sprintf("lag%d", i)))
	}
	busy := b.lagUnder(ws)
	p("Lag of both standbys as `relevo status` tells it, over 20 s, everything on %d cores; aim: under 0.25 s at 200 writes/s.\n", runtime.NumCPU())
	p("| load | writes/s | lag, median, s | 95th percentile | most | in revisions |\n|---|---|---|---|---|---|")
	p("%s", paced.row("eight clients of kine, paced"))
	p("%s", busy.row("eight clients of the API server, as fast as it goes"))
	m := b.alone
	p("\nWhat follows was measured before the hosts were there. The master's write throughput with one standby that tails (kine, four clients, 1 KiB a write; the standby takes everything and stores nothing: it would be")
	p("another board): 0.4 s without, 0.4 s with one, 0.4 s without, %.0f times in one run. Each time with a standby has, compared with its two neighbours, a share, of which", m["Tailing/shared rounds"])
	p("the median and the middle half are here; control is the two neighbours compared with one another. CPU is the time that a write costs kine (and the API server), and all else: the")
	p("clients, and the master's end of the stream. Aim: 0.95.\n")
	p("| processors | share | control | writes/s without, with | CPU of the servers, µs | of all else, µs |\n|---|---|---|---|---|---|")
	for _, x := range []struct{ name, what string }{
		{"shared", "everything on all, which the clients keep busy"},
		{"board", "the standby on its own, all else on one, which the clients keep busy"},
		{"apart", "kine on one, all else on the others"},
		{"api", "the standby on its own, all else on one, with the API server, whose clients keep it busy"},
	} {
		v := func(unit string) float64 { return m["Tailing/"+x.name+" "+unit] }
		p("| %s | **%.3f** (%.3f to %.3f) | %.3f (%.3f to %.3f) | %.0f, %.0f | %.0f, %.0f | %.0f, %.0f |", x.what, v("ratio"), v("ratio-p25"), v("ratio-p75"), v("control"), v("control-p25"), v("control-p75"),
			v("writes/s-alone"), v("writes/s-tailed"), v("server-µs-alone"), v("server-µs-tailed"), v("own-µs-alone"), v("own-µs-tailed"))
	}
	p("")
	p("First copy of 100 000 rows of 1 KiB over loopback: %.1f s, %.1f MB of the agent's memory at most, %.0f MB written; aims: 20 s, 32 MB.\n", m["FirstCopy s"], m["FirstCopy MB-peak"], m["FirstCopy MB-written"])
	p("What a standby writes for an idle API server, which renews two leases every 10 s: %.0f kB/min with a `sync_interval` of 1 s, %.0f with 30 s (the default), %.0f with 60 s.",
		m["Idle/1s kB/min"], m["Idle/30s kB/min"], m["Idle/60s kB/min"])
}

// replicaBenchmarks runs some of agent/replica: benchmark and unit to value.
func (b *bench) replicaBenchmarks(which string) map[string]float64 {
	out, err := exec.CommandContext(b.t.Context(), "go", "test", "../../agent/replica", "-run", "^$", "-bench", which, "-benchtime", "1x", "-timeout", "20m").CombinedOutput()
	b.t.Logf("%s", out)
	ok(b.t, err)
	m := map[string]float64{}
	for l := range strings.Lines(string(out)) {
		f := strings.Fields(l)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(f[0], "Benchmark"), "-")
		for i := 2; i+1 < len(f); i += 2 {
			m[name+" "+f[i+1]], _ = strconv.ParseFloat(f[i], 64)
		}
	}
	return m
}
