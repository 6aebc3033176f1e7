package main

import (
	"fmt"
	"strings"

	"relevo.dev/relevo/agent/api"
)

// showStatus is for the person who was woken at night: the first line says whether
// all is well, then what is wrong and what to do about it, then the facts.
func showStatus(p *page, s api.Status) {
	if s.Removed != nil { // there is nothing else to say
		p.line(span{bold, s.Cluster}, span{text: ": "}, span{red, "REMOVED"}, span{text: " — " + s.Node + " is no member any more"})
		p.line()
		showProblems(p, s.Problems)
		return
	}
	word := span{green, "OK"}
	if s.Degraded() {
		word = span{yellow, "DEGRADED"}
		for _, pr := range s.Problems {
			if pr.Severity == api.Critical {
				word.colour = red
			}
		}
	}
	p.line(span{bold, s.Cluster}, span{text: ": "}, word, span{text: " — " + summary(s)})
	if s.Degraded() {
		p.line()
		showProblems(p, s.Problems)
	}
	p.line()
	p.table(nil, facts(p, s))
	if len(s.Standbys) > 0 {
		p.line()
		p.table([]string{"STANDBY", "READY", "LAG", "REVISION", "WHY NOT"}, standbys(p, s))
		showChecks(p, s.Standbys)
	}
}

// summary is the state in one line.
func summary(s api.Status) string {
	var parts []string
	switch {
	case s.Master != nil:
		parts = append(parts, fmt.Sprintf("%s is master in term %d", s.Master.Node, s.Master.Term))
	case s.Term > 0:
		parts = append(parts, fmt.Sprintf("nobody is master (term %d is over)", s.Term))
	default:
		parts = append(parts, "there was no master yet")
	}
	ready := 0
	for _, st := range s.Standbys {
		if st.Ready {
			ready++
		}
	}
	if ready == 0 {
		parts = append(parts, "no standby ready")
	} else {
		parts = append(parts, count(ready, "standby", "standbys")+" ready")
	}
	if s.Pause != nil {
		parts = append(parts, s.Pause.Phase)
	}
	return strings.Join(parts, ", ")
}

// showProblems says what is wrong, why, and what to do, the worst first as they
// come.
func showProblems(p *page, problems []api.Problem) {
	for _, pr := range problems {
		colour := yellow
		if pr.Severity == api.Critical {
			colour = red
		}
		p.line(span{text: "  "}, span{colour, fmt.Sprintf("%-8s", pr.Severity)}, span{text: "  "}, span{bold, pr.What})
		if pr.Why != "" {
			p.text("            why: %s", pr.Why)
		}
		if pr.Do != "" {
			p.text("            do:  %s", pr.Do)
		}
	}
}

// facts are the lines between problems and standbys.
func facts(p *page, s api.Status) [][]span {
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

	if m := s.Master; m == nil {
		row("Master", "none")
	} else {
		lease, since, url := "", "", m.APIURL
		if m.LeaseRemaining != nil {
			lease = "lease " + seconds(*m.LeaseRemaining) + " left"
		}
		if ago := p.ago(m.Since); ago != "" {
			since = " since " + ago
		}
		state := m.API
		switch state {
		case "":
		case "ok":
			state = "API works"
		default:
			state = "API does not work: " + state
		}
		row("Master", m.Node+since, lease, url, state)
	}

	switch f := s.Failover; {
	case f.Possible && f.To != "":
		row("Failover", "would go to "+f.To)
	case f.Possible:
		row("Failover", "possible")
	case len(f.Why) == 0:
		row("Failover", "not possible")
	default:
		row("Failover", "not possible: "+f.Why[0])
		for _, w := range f.Why[1:] {
			row("", w)
		}
	}

	q := s.Quorum
	arbiter := "no arbiter"
	if q.Leader != "" {
		arbiter = "arbiter " + q.Leader
	}
	have := ""
	if !q.HaveQuorum {
		have = "no quorum"
	}
	row("Quorum", fmt.Sprintf("%d of %s online", q.Online, count(q.Voters, "voter", "voters")), have, arbiter)

	if v := s.VIP; v != nil {
		where := ""
		if v.Held {
			where = "on this host"
			if v.Interface != "" {
				where += " (" + v.Interface + ")"
			}
		} else if v.Holder != "" {
			where = "with " + v.Holder
		}
		row("Address", v.Address, where)
	}
	if ps := s.Pause; ps != nil {
		text := ps.Phase
		if ps.By != "" {
			text += " by " + ps.By
		}
		if ago := p.ago(ps.Since); ago != "" {
			text += " since " + ago
		}
		if ps.Why != "" {
			text += ": " + ps.Why
		}
		row("Pause", text)
	}
	for _, n := range s.Neighbours {
		row("Neighbour", fmt.Sprintf("the cluster %s (%.8s…) is on this network too", n.Cluster, n.ClusterID), strings.Join(n.Nodes, ", "))
	}
	id := s.ClusterID
	if len(id) > 12 {
		id = id[:12]
	}
	if id != "" {
		id = "cluster id " + id
	}
	row("This host", s.Node, string(s.Role), "relevo "+s.Version, id)
	return rows
}

func standbys(p *page, s api.Status) [][]span {
	var rows [][]span
	for _, st := range s.Standbys {
		ready := span{green, "yes"}
		if !st.Ready {
			ready = span{red, "no"}
		}
		revision, lag := "?", "?"
		if st.Revision != nil {
			revision = fmt.Sprint(*st.Revision)
		}
		switch {
		case st.LagRevisions != nil && st.LagSeconds != nil && *st.LagRevisions > 0:
			lag = fmt.Sprintf("%s (%s)", seconds(*st.LagSeconds), revisions(*st.LagRevisions))
		case st.LagSeconds != nil:
			lag = seconds(*st.LagSeconds)
		case st.LagRevisions != nil:
			lag = revisions(*st.LagRevisions)
		}
		why := st.Why
		if st.Never {
			why = strings.TrimPrefix(why+"; a person only", "; ")
		}
		rows = append(rows, []span{{text: st.Node}, ready, {text: lag}, {text: revision}, {text: why}})
	}
	return rows
}

func revisions(n uint64) string { return count(int(min(n, 1<<30)), "revision", "revisions") }
