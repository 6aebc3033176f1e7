package main

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/avahi"
)

// Long enough for everybody to answer: avahi-daemon knows most at once, without it a
// first round finds the types and a second one what there is of them.
const (
	lookAvahi    = 5 * time.Second
	lookZeroconf = 16 * time.Second
)

func newServicesCommand(a *app) *cobra.Command {
	var browse bool
	var kind, node string
	var look time.Duration
	return question[api.Services]{
		use:   "services",
		short: "List what the cluster offers, and what else there is in the LAN",
		long: "List the services of all members: the agents' own, those of files in\n" +
			"/etc/relevo/services.d, of Kubernetes, and of Cloudy's ring. HEALTH is ok (its check\n" +
			"passes), unchecked, checking, failing (then it is not announced) or refused (it cannot\n" +
			"be announced; WHY tells).\n\n" +
			"With --browse: what others announce in the LAN, so that a board without an agent is\n" +
			"seen, too. That takes some seconds.",
		flags: func(cmd *cobra.Command) {
			cmd.Flags().BoolVar(&browse, "browse", false, "what others announce in the LAN")
			cmd.Flags().StringVar(&kind, "type", "", "only this type, such as http or _http._tcp")
			cmd.Flags().StringVar(&node, "node", "", "only what this host offers")
			cmd.Flags().DurationVar(&look, "for", -1, "how long to look with --browse; less than 0s: 5s, 16s without avahi-daemon")
		},
		ask: func(ctx context.Context, c *api.Client, _ []string) (v api.Services, err error) {
			if browse {
				v, err = lookAround(ctx, c, look)
			} else {
				v, err = c.Services(ctx)
			}
			v.Services = slices.DeleteFunc(v.Services, func(s api.Service) bool {
				t := strings.TrimSuffix(strings.TrimSuffix(s.Type, "._tcp"), "._udp")
				return kind != "" && kind != s.Type && "_"+kind != t || node != "" && node != s.Node && node != s.Host
			})
			return v, err
		},
		show: func(p *page, s api.Services, _ []string) {
			if browse {
				showBrowsed(p, s)
			} else {
				showServices(p, s)
			}
		},
	}.command(a)
}

// lookAround asks until everybody had the time to answer.
func lookAround(ctx context.Context, c *api.Client, look time.Duration) (v api.Services, err error) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for begin := time.Now(); ; {
		if v, err = c.Browse(ctx); err != nil {
			return v, err
		}
		limit := look
		if limit < 0 {
			if limit = lookAvahi; v.Backend == "zeroconf" {
				limit = lookZeroconf
			}
		}
		if time.Since(begin) >= limit || v.Backend == "off" {
			return v, nil
		}
		select {
		case <-ctx.Done():
			return v, ctx.Err()
		case <-t.C:
		}
	}
}

func showBrowsed(p *page, s api.Services) {
	if s.Backend == "off" {
		p.text("mDNS is switched off in the configuration (mdns.backend).")
		return
	}
	if len(s.Services) == 0 {
		p.text("Nobody else announces anything.")
		return
	}
	var rows [][]span
	for _, v := range s.Services {
		rows = append(rows, []span{{text: v.Name}, {text: avahi.TypeName(v.Type)}, {text: v.Type}, {text: dash(v.Host)}, {text: dash(reached(v))}})
	}
	p.table([]string{"NAME", "WHAT", "TYPE", "HOST", "ADDRESS"}, rows)
}

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
