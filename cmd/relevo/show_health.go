package main

import (
	"fmt"
	"math"
	"strings"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/health"
)

// troubles are the conditions that hold, as problems of their boards.
func troubles(h api.Health) []api.Problem {
	var out []api.Problem
	for _, n := range h.Nodes {
		for _, c := range n.Conditions {
			if c.Status == health.Yes {
				out = append(out, api.Problem{Severity: api.Warning, What: fmt.Sprintf("%s: %s", n.Node, dash(c.Message)), Do: c.Advice})
			}
		}
		if n.Report != nil {
			continue
		}
		for _, c := range n.Gossiped {
			out = append(out, api.Problem{Severity: api.Warning, What: n.Node + ": " + health.Words(c), Why: string(c) + ", as it gossiped last", Do: health.Advice(c)})
		}
	}
	return out
}

func showHealth(p *page, h api.Health, args []string) {
	if len(h.Nodes) == 0 {
		p.text("No board has reported yet.")
		return
	}
	if t := troubles(h); len(t) > 0 {
		showProblems(p, t)
		p.line()
	}
	if len(args) > 0 {
		for _, n := range h.Nodes {
			showBoard(p, n)
		}
		return
	}
	var rows [][]span
	for _, n := range h.Nodes {
		r := n.Report
		if r == nil {
			none := span{text: "-"}
			rows = append(rows, []span{{text: n.Node}, none, none, none, none, none, none, {text: "no report: " + dash(n.Why)}})
			continue
		}
		disk := "?"
		if len(r.Disks) > 0 {
			disk = free(r.Disks[0].Free, r.Disks[0].Total)
		}
		rows = append(rows, []span{{text: n.Node}, {text: number(r.CPUPercent, "%.0f %%")}, {text: number(r.Load1, "%.2f")},
			{text: free(r.MemoryAvailable, r.MemoryTotal)}, {text: disk}, {text: number(r.Temperature, "%.0f °C")}, {text: uptime(r.Uptime)}, {text: dash(r.Board.Model)}})
	}
	p.table([]string{"NODE", "CPU", "LOAD", "MEMORY FREE", "DISK FREE", "TEMP", "UP", "BOARD"}, rows)
}

// showBoard is one board in detail, with what could not be measured, and why.
func showBoard(p *page, n api.NodeHealth) {
	r := n.Report
	if r == nil {
		p.text("%s: no report: %s", n.Node, dash(n.Why))
		return
	}
	p.table(nil, boardFacts(p, n.Node, r))
	p.line()
	var rows [][]span
	for _, c := range n.Conditions {
		status := span{text: c.Status.String()}
		message := ""
		switch c.Status {
		case health.Yes:
			status.colour, message = yellow, c.Message
		case health.Maybe:
			status.colour, message = faint, c.Message
		}
		rows = append(rows, []span{{text: string(c.Type)}, status, {text: seconds(c.For)}, {text: weighs(c.Type)}, {text: message}})
	}
	if len(rows) > 0 {
		p.table([]string{"CONDITION", "HOLDS", "FOR", "LEASE", ""}, rows)
	}
}

// weighs says what a condition means for the lease.
func weighs(t health.Type) string {
	if health.WeightOf(t).StandbyAfter < 0 {
		return "-"
	}
	return "weighs"
}

// boardFacts are what was measured. What the board does not have is not shown.
func boardFacts(p *page, node string, r *health.Report) [][]span {
	var rows [][]span
	row := func(name string, parts ...string) {
		var have []string
		for _, t := range parts {
			if t != "" {
				have = append(have, t)
			}
		}
		rows = append(rows, []span{{faint, name}, {text: strings.Join(have, ", ")}})
	}
	rows = append(rows, []span{{faint, "Node"}, {bold, node}})
	row("Board", dash(r.Board.Model), with("serial ", r.Board.Serial), with("in a container of ", r.Board.Container))
	row("Measured", p.ago(r.At)+" ago")
	row("Up", uptime(r.Uptime), with("after ", r.Boot.Cause))
	row("CPU", number(r.CPUPercent, "%.0f %%")+" of "+number(r.CPUs, "%.0f cores"), known(r.IOWaitPercent, "%.0f %% waiting for I/O"), frequency(r))
	row("Load", number(r.Load1, "%.2f")+" "+number(r.Load5, "%.2f")+" "+number(r.Load15, "%.2f"))
	if _, ok := r.Pressure.CPU.Some60.Get(); ok {
		row("Waiting", "for the CPU "+number(r.Pressure.CPU.Some60, "%.0f %%"), "for memory "+number(r.Pressure.Memory.Some60, "%.0f %%"), "for I/O "+number(r.Pressure.IO.Some60, "%.0f %%")+" of the last minute")
	}
	row("Memory", free(r.MemoryAvailable, r.MemoryTotal)+" free", known(r.OOMKills, "%.0f programs killed for lack of it"))
	row("Swap", swap(r), zram(r))
	row("Temperature", number(r.Temperature, "%.1f °C"), cooling(r))
	row("Power", "under-voltage: "+r.Power.UnderVoltage.String(), known(r.Power.UnderVoltages, "%.0f times since the agent started"), "slowed down: "+r.Power.Throttled.String(), known(r.Power.SupplyAmperes, "the supply gives %.1f A"))
	for _, d := range r.Disks {
		row("Disk", d.Path+": "+free(d.Free, d.Total)+" free", "read-only: "+d.ReadOnly.String(), with("on ", d.Device))
	}
	for _, e := range r.Ext4 {
		row("ext4", e.Device+": "+number(e.Errors, "%.0f errors"))
	}
	for _, d := range r.Drives {
		row("Drive", d.Name, known(d.WriteSeconds, "a write %.3f s"), known(d.FlushSeconds, "a flush %.3f s"), known(d.Errors, "%.0f errors"), known(d.WornPercent, "%.0f %% of its life used"))
	}
	row("Own writes", number(r.Writes.Count, "%.0f"), known(r.Writes.Slowest, "slowest lately %.3f s"), known(r.Writes.Failed, "%.0f failed"))
	for _, l := range r.Links {
		row("Link", l.Name, map[health.Truth]string{health.Yes: "up", health.No: "down"}[l.Up], speed(l.Speed), known(l.Signal, "%.0f dBm"), known(l.CarrierChanges, "%.0f changes"), known(l.Errors, "%.0f errors"))
	}
	row("Clock", "synchronized: "+r.Clock.Synchronized.String(), "goes on without power: "+r.Clock.RTC.String())
	row("Kubernetes", "memory cgroup: "+r.MemoryCgroup.String())
	if r.Units.Known {
		row("Failed units", dash(strings.Join(r.Units.Failed, " ")))
	}
	row("Agent", known(health.Of(mega(r.Agent.Memory)), "%.0f MB of memory"), number(r.Agent.Files, "%.0f files open"))
	for _, u := range r.Unknown {
		row("Not known", u.What+": "+u.Why)
	}
	return rows
}

// with puts words before a text that is there.
func with(words, text string) string {
	if text == "" {
		return ""
	}
	return words + text
}

// known is a value in words, "" if it is not known.
func known(v health.Value, format string) string {
	if n, ok := v.Get(); ok {
		return fmt.Sprintf(format, n)
	}
	return ""
}

// mega is a value in millions; NaN, so nothing known, if it is not known.
func mega(v health.Value) float64 {
	n, ok := v.Get()
	if !ok {
		return math.NaN()
	}
	return n / 1e6
}

func frequency(r *health.Report) string {
	now, ok := r.CPUHertz.Get()
	if !ok {
		return ""
	}
	return fmt.Sprintf("%.0f MHz", now/1e6) + with(" of ", known(health.Of(mega(r.CPUMaxHertz)), "%.0f"))
}

func swap(r *health.Report) string {
	total, ok := r.SwapTotal.Get()
	if !ok {
		return "?"
	}
	if total == 0 {
		return "none"
	}
	used, _ := r.SwapUsed.Get()
	return size(used) + " used of " + size(total)
}

func zram(r *health.Report) string {
	data, ok := r.ZramData.Get()
	if !ok {
		return ""
	}
	memory, _ := r.ZramMemory.Get()
	return size(data) + " compressed into " + size(memory) + " of memory"
}

func cooling(r *health.Report) string {
	var parts []string
	for _, c := range r.Cooling {
		if state, ok := c.State.Get(); ok && state > 0 {
			parts = append(parts, fmt.Sprintf("%s at %.0f of %s", c.Type, state, number(c.Max, "%.0f")))
		}
	}
	return strings.Join(parts, ", ")
}

func speed(v health.Value) string {
	n, ok := v.Get()
	if !ok {
		return ""
	}
	return fmt.Sprintf("%.0f Mbit/s", n/1e6)
}

// words are conditions in one cell.
func words(types []health.Type) string {
	var out []string
	for _, t := range types {
		out = append(out, string(t))
	}
	return strings.Join(out, " ")
}

func number(v health.Value, format string) string {
	n, ok := v.Get()
	if !ok {
		return "?"
	}
	return fmt.Sprintf(format, n)
}

func free(part, whole health.Value) string {
	a, ok1 := part.Get()
	b, ok2 := whole.Get()
	if !ok1 || !ok2 {
		return "?"
	}
	return size(a) + " of " + size(b)
}

func uptime(v health.Value) string {
	n, ok := v.Get()
	if !ok {
		return "?"
	}
	return seconds(n)
}
