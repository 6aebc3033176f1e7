package main

import (
	"net"
	"strconv"
	"strings"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/avahi"
)

func showServices(p *page, s api.Services) {
	if len(s.Problems) > 0 {
		showProblems(p, s.Problems)
		p.line()
	}
	if len(s.Services) == 0 {
		p.text("No service is announced.")
		return
	}
	var rows [][]span
	for _, v := range s.Services {
		rows = append(rows, []span{{text: v.Name}, {text: avahi.TypeName(v.Type)}, {text: v.Type}, {text: dash(v.Node)}, {text: dash(reached(v))}, {text: dash(v.Origin)},
			healthOf(v), {text: dash(p.ago(v.Since))}, {text: v.Why}})
	}
	p.table([]string{"NAME", "WHAT", "TYPE", "NODE", "ADDRESS", "ORIGIN", "HEALTH", "SINCE", "WHY"}, rows)
}

// reached is where a service is reached; the first address of several.
func reached(v api.Service) string {
	if len(v.Addresses) == 0 {
		return ""
	}
	if v.Port == 0 {
		return v.Addresses[0]
	}
	at := net.JoinHostPort(v.Addresses[0], strconv.Itoa(v.Port))
	return at + strings.Repeat(" …", min(1, len(v.Addresses)-1))
}

func healthOf(v api.Service) span {
	switch v.Health {
	case "failing", "refused":
		return span{red, v.Health}
	case "checking":
		return span{yellow, v.Health}
	}
	return span{text: dash(v.Health)}
}
