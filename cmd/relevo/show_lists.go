package main

import (
	"fmt"
	"strings"

	"relevo.dev/relevo/agent/api"
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
		if n.Copy != "" && n.Copy != api.CopyFresh {
			role.text += ", " + string(n.Copy)
			role.colour = yellow
		}
		rows = append(rows, []span{{text: n.Node}, role, status, {text: vote}, {text: n.Address}, {text: dash(n.Version)}, {text: dash(p.ago(n.Since))}, {yellow, words(n.Conditions)}})
	}
	p.table([]string{"NODE", "ROLE", "STATUS", "VOTE", "ADDRESS", "VERSION", "SINCE", "CONDITIONS"}, rows)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
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
