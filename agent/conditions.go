package agent

import (
	"cmp"
	"context"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/health"
	"relevo.dev/relevo/systemd"
)

// How this host's health is measured, and how every member knows of every other's: a
// digest is a tag of the gossip, and the details are asked for.

func (a *agent) healthConfig() health.Config {
	c := health.Config{Root: a.opts.HealthRoot, DataDir: a.cfg.DataDir, Clock: a.clock, Thresholds: a.opts.Health, Units: a.opts.Units, Probe: a.cfg.Health.Probe}
	if c.Thresholds == (health.Thresholds{}) {
		c.Thresholds = thresholds(a.cfg.Health)
	}
	if c.Units == nil && a.opts.Host == nil {
		c.Units = systemd.NewManager()
	}
	return c
}

// thresholds are the configured ones.
func thresholds(c config.Health) health.Thresholds {
	t := health.DefaultThresholds()
	share := func(percent int) float64 { return float64(percent) / 100 }
	t.DiskFreeShare, t.DiskFreeBytes = share(c.DiskFreePercent), float64(c.DiskFreeMB)*(1<<20)
	t.InodesFreeShare, t.MemoryFreeShare = share(c.InodesFreePercent), share(c.MemoryFreePercent)
	t.SlowWriteSeconds, t.DriveErrors, t.WornPercent = c.SlowWrite.Seconds(), float64(c.DriveErrors), float64(c.WornPercent)
	t.HotCelsius, t.MemoryStallPercent = float64(c.HotCelsius), float64(c.MemoryStallPercent)
	t.UnsyncedFor, t.JumpSeconds = c.UnsyncedFor, c.ClockJump.Seconds()
	t.CarrierChanges, t.LinkErrorShare, t.WeakDBm = float64(c.CarrierChanges), share(c.LinkErrorPercent), float64(c.WeakSignalDBm)
	return t
}

// judged is called after each round of this host's health.
func (a *agent) judged(_ health.Report, changes []health.Change) {
	for _, c := range changes {
		a.tellCondition(c.Condition)
		switch {
		case c.Status == health.Yes:
			a.log.Warn("condition of this host", "type", string(c.Type), "reason", c.Reason, "message", c.Message)
			a.seenHere.note("finds of itself: %s (%s)", c.Message, c.Type)
		case c.Was == health.Yes:
			a.log.Info("condition of this host is over", "type", string(c.Type), "now", c.Status.String())
			a.seenHere.note("finds of itself that %s is over", c.Type)
		}
	}
	if len(changes) > 0 {
		select {
		case a.news <- struct{}{}:
		default:
		}
	}
}

// gossiped are the conditions that hold, as a member said last; none if it said nothing
// that can be read.
func gossiped(m member.Member) []health.Type {
	g, err := health.ParseDigest(m.Tags[tagHealth])
	if err != nil {
		return nil
	}
	return g.Types
}

// Health is every member's report, and of those that do not answer what they gossiped.
func (a *agent) Health(ctx context.Context) (api.Health, error) {
	answers, failed := a.askAll(ctx)
	out := api.Health{Nodes: []api.NodeHealth{}}
	there := map[string]bool{}
	for _, m := range a.shown() {
		if m.Status == member.Left {
			continue
		}
		n := api.NodeHealth{Node: m.Node, Gossiped: gossiped(m), Role: api.Role(cmp.Or(m.Tags[tagRole], "member")), Status: string(m.Status)}
		if s, ok := answers[m.Node]; ok {
			answered(&n, s)
		} else if err := failed[m.Node]; err != nil {
			n.Why = err.Error()
		} else {
			n.Why = "gossip says that it is " + n.Status
		}
		there[m.Node] = true
		out.Nodes = append(out.Nodes, n)
	}
	if !there[a.cfg.Node] { // not in the pool yet
		n := api.NodeHealth{Node: a.cfg.Node}
		answered(&n, answers[a.cfg.Node])
		out.Nodes = append(out.Nodes, n)
	}
	sortFew(out.Nodes, func(x, y api.NodeHealth) int { return cmp.Compare(x.Node, y.Node) })
	return out, nil
}

func answered(n *api.NodeHealth, s summary) {
	n.Report, n.Conditions, n.Role = &s.Health, s.Conditions, s.Role
	if s.Standby != nil {
		n.LagSeconds = s.Standby.LagSeconds
	}
}
