package main

import (
	"context"
	"net/netip"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/cloudy"
)

// agentLister knows all services that the agent knows; without the agent, those of files.
type agentLister struct {
	socket string
	files  cloudy.Lister
}

// listLimit is short: a page waits for the answer.
const listLimit = 3 * time.Second

// Entries implements cloudy.Lister.
func (l agentLister) Entries(ctx context.Context) ([]cloudy.Entry, error) {
	actx, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	c := api.NewClient(l.socket)
	defer c.Close()
	s, err := c.Services(actx)
	if err != nil {
		return l.files.Entries(ctx) // away, or not for this user: better than nothing
	}
	var out []cloudy.Entry
	for _, v := range s.Services {
		if v.Health == "failing" || v.Health == "refused" || v.Health == "checking" {
			continue
		}
		e := cloudy.Entry{Name: v.Name, Type: v.Type, Description: v.Description, Node: v.Node, Host: v.Host, MicroCloud: v.MicroCloud, Port: v.Port, TXT: v.TXT, Origin: v.Origin, Since: v.Since,
			Local: v.Origin != cloudy.OriginCloudy && !v.Public}
		if e.Origin != cloudy.OriginCloudy {
			e.Host = "" // as in the ring: NODE.CLOUD.local
		}
		for _, a := range v.Addresses {
			if ip, err := netip.ParseAddr(a); err == nil {
				e.Addrs = append(e.Addrs, ip)
			}
		}
		out = append(out, e)
	}
	return out, nil
}
