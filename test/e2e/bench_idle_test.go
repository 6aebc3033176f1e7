//go:build bench

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// serfVersion is the one that relevo is built with.
const serfVersion = "v0.11.0"

// usage is what a process has used so far.
type usage struct {
	rss      float64 // MB
	own      float64 // MB of it that are not pages of a file
	cpu      float64 // s
	switches float64
	written  float64 // kB, given to the block layer
}

// idle measures every agent over a minute, and a serf agent beside each.
func (b *bench) idle(p func(string, ...any)) {
	t, c := b.t, b.cluster()
	c.waitSteady(time.Minute)
	serf := b.buildSerf()
	for i, n := range c.nodes {
		ok(t, n.CopyIn(within(t, time.Minute), serf, "/usr/local/bin/serf", 0o755))
		args := []string{"systemd-run", "--unit=serf", "/usr/local/bin/serf", "agent", "-bind=" + n.IP.String() + ":7960", "-rpc-addr=127.0.0.1:7373"}
		if i > 0 {
			args = append(args, "-join="+c.nodes[0].IP.String()+":7960")
		}
		_, err := n.Run(within(t, time.Minute), args...)
		ok(t, err)
	}
	s, err := c.nodes[0].status(within(t, 10*time.Second))
	ok(t, err)
	// Not a synchronisation: what happens once after the start shall not count.
	time.Sleep(20 * time.Second)
	before := b.usages()
	begin := time.Now()
	time.Sleep(time.Minute)
	minutes := time.Since(begin).Minutes()
	after := b.usages()
	p("Over a minute without a change; `serf agent` on the same hosts, as a measure. Own memory is that part of RSS that cannot be given back: the rest are pages of the")
	p("program's file, of which the kernel maps more than are used while memory is plenty.\n")
	p("| process | RSS MB | own memory MB | CPU s/min | voluntary switches/s | written to disk kB/min |\n|---|---|---|---|---|---|")
	for _, n := range c.nodes {
		role := "voter or member only"
		switch {
		case s.Master.Node == n.Name:
			role = "master"
		case n.Name != "n4":
			role = "standby"
		}
		if s.Quorum.Leader == n.Name {
			role += ", arbiter"
		}
		for _, unit := range []string{"relevo", "serf"} {
			x, y := before[n.Name+unit], after[n.Name+unit]
			name := "serf agent on " + n.Name
			if unit == "relevo" {
				name = "relevo on " + n.Name + " (" + role + ")"
			}
			p("| %s | %.1f | %.1f | %.2f | %.0f | %.0f |", name, y.rss, y.own,
				(y.cpu-x.cpu)/minutes, (y.switches-x.switches)/minutes/60, (y.written-x.written)/minutes)
		}
	}
	for _, n := range c.nodes {
		_, err := n.Run(within(t, time.Minute), "systemctl", "stop", "serf.service")
		ok(t, err)
	}
}

func (b *bench) usages() map[string]usage {
	out := map[string]usage{}
	for _, n := range b.c.nodes {
		for _, unit := range []string{"relevo", "serf"} {
			pid, err := n.Run(within(b.t, 10*time.Second), "systemctl", "show", "--property=MainPID", "--value", unit+".service")
			ok(b.t, err)
			text, err := n.Script(within(b.t, 10*time.Second), fmt.Sprintf("cd /proc/%s; cat status io; cat task/*/status | grep ^voluntary; cut -d')' -f2 stat", strings.TrimSpace(pid)))
			ok(b.t, err)
			out[n.Name+unit] = parseUsage(text)
		}
	}
	return out
}

func parseUsage(text string) (u usage) {
	for l := range strings.Lines(text) {
		f := strings.Fields(l)
		if len(f) < 2 {
			continue
		}
		v, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			u.rss = v / 1000
		case "RssAnon:":
			u.own = v / 1000
		case "write_bytes:":
			u.written = v / 1000
		case "voluntary_ctxt_switches:":
			u.switches += v // of every thread; the process's own line is its first thread's
		case "S", "R", "D":
			ut, _ := strconv.ParseFloat(f[11], 64) // after the name: state is field 3 of proc(5)
			st, _ := strconv.ParseFloat(f[12], 64)
			u.cpu = (ut + st) / 100
		}
	}
	return u
}

func (b *bench) buildSerf() string {
	dir, err := filepath.Abs("../../.cache/serf-" + serfVersion)
	ok(b.t, err)
	bin := filepath.Join(dir, "serf")
	if _, err := os.Stat(bin); err == nil {
		return bin
	}
	cmd := exec.CommandContext(b.t.Context(), "go", "install", "github.com/hashicorp/serf/cmd/serf@"+serfVersion)
	cmd.Dir = os.TempDir()
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0", "GOFLAGS=-ldflags=-s")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("build a serf agent to compare with: %v\n%s", err, out)
	}
	return bin
}
