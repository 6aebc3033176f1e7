package main

import (
	"fmt"
	"strconv"
	"strings"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/health"
)

func showMembers(p *page, m api.Members) {
	if len(m.Members) == 0 {
		p.text("There are no members yet: the agent has not joined.")
		return
	}
	var rows [][]span
	for _, n := range m.Members {
		status := span{text: n.Status}
		if n.Status == "failed" {
			status.colour = red
		}
		vote := "-"
		switch {
		case n.Arbiter:
			vote = "arbiter"
		case n.Voter:
			vote = "voter"
		}
		role := span{text: string(n.Role)}
		if n.Role == api.RoleMaster {
			role.colour = bold
		}
		rows = append(rows, []span{{text: n.Node}, role, status, {text: vote}, {text: n.Address}, {text: dash(n.Version)}, {text: dash(p.ago(n.Since))}})
	}
	p.table([]string{"NODE", "ROLE", "STATUS", "VOTE", "ADDRESS", "VERSION", "SINCE"}, rows)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func showServices(p *page, s api.Services) {
	if len(s.Services) == 0 {
		p.text("No service is announced.")
		return
	}
	var rows [][]span
	for _, v := range s.Services {
		rows = append(rows, []span{{text: v.Name}, {text: v.Type}, {text: dash(strings.Join(v.Addresses, " "))},
			{text: strconv.Itoa(v.Port)}, {text: dash(v.Node)}, {text: dash(v.Origin)}})
	}
	p.table([]string{"NAME", "TYPE", "ADDRESS", "PORT", "NODE", "ORIGIN"}, rows)
}

func showHistory(p *page, h api.History) {
	if len(h.Changes) == 0 {
		p.text("There was no master yet.")
		return
	}
	const indent = "        "
	for i, c := range h.Changes {
		if i > 0 {
			p.line()
		}
		how := "asked for"
		if c.Automatic {
			how = "automatic"
		}
		if c.By != "" {
			how += " by " + c.By
		}
		what := " became master"
		if c.Previous != "" && c.Previous != c.Holder {
			what = " took over from " + c.Previous
		}
		p.line(span{bold, fmt.Sprintf("term %-3d", c.Term)}, span{bold, c.Holder}, span{text: what + ", "},
			span{text: c.At.In(p.now.Location()).Format("2006-01-02 15:04:05") + " (" + p.ago(c.At) + " ago), " + how})
		if c.Reason != "" {
			p.text(indent+"%s", c.Reason)
		}
		for _, n := range c.Notes {
			p.text(indent+"- %s", n)
		}
		var steps []string
		for _, s := range c.Steps {
			t := s.Name + " " + seconds(s.Seconds)
			if s.Error != "" {
				t += " failed: " + s.Error
			}
			steps = append(steps, t)
		}
		if len(steps) > 0 {
			p.text(indent+"steps: %s", strings.Join(steps, ", "))
		}
	}
}

// troubles are the conditions that hold, as problems of their boards.
func troubles(h api.Health) []api.Problem {
	var out []api.Problem
	for _, n := range h.Nodes {
		for _, c := range n.Conditions {
			if c.Status == health.Yes {
				out = append(out, api.Problem{Severity: api.Warning, What: fmt.Sprintf("%s: %s", n.Node, dash(c.Message)), Do: c.Advice})
			}
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

// showBoard is one board in detail, with what could not be measured.
func showBoard(p *page, n api.NodeHealth) {
	r := n.Report
	if r == nil {
		p.text("%s: no report: %s", n.Node, dash(n.Why))
		return
	}
	swap := "none"
	if total, ok := r.SwapTotal.Get(); !ok {
		swap = "?"
	} else if total > 0 {
		used, _ := r.SwapUsed.Get()
		swap = size(used) + " used of " + size(total)
	}
	rows := [][]span{
		{{faint, "Node"}, {bold, n.Node}},
		{{faint, "Board"}, {text: dash(r.Board.Model)}},
		{{faint, "Measured"}, {text: p.ago(r.At) + " ago"}},
		{{faint, "Up"}, {text: uptime(r.Uptime)}},
		{{faint, "CPU"}, {text: number(r.CPUPercent, "%.0f %%") + " of " + number(r.CPUs, "%.0f cores")}},
		{{faint, "Load"}, {text: number(r.Load1, "%.2f") + " " + number(r.Load5, "%.2f") + " " + number(r.Load15, "%.2f")}},
		{{faint, "Memory"}, {text: free(r.MemoryAvailable, r.MemoryTotal) + " free"}},
		{{faint, "Swap"}, {text: swap}},
		{{faint, "Temperature"}, {text: number(r.Temperature, "%.1f °C")}},
	}
	for _, d := range r.Disks {
		rows = append(rows, []span{{faint, "Disk"}, {text: d.Path + ": " + free(d.Free, d.Total) + " free, read-only: " + d.ReadOnly.String()}})
	}
	for _, u := range r.Unknown {
		rows = append(rows, []span{{faint, "Not known"}, {text: u.What + ": " + u.Why}})
	}
	p.table(nil, rows)
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
