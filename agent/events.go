package agent

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"time"

	"relevo.dev/relevo/agent/hooks"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/health"
	"relevo.dev/relevo/systemd"
)

// What hooks are told: what changed with this host's conditions, and what gossip says of
// the others, so that a hook on one host that is well tells of the one that is not.

// newHooks are nil where no hook may run: in the demo.
func (a *agent) newHooks() *hooks.Runner {
	c := hooks.Config{Dir: hooks.DefaultDir, Run: a.opts.Hooks, Cluster: a.cfg.Cluster, Host: a.cfg.Node, Log: a.log}
	switch {
	case a.opts.Hooks != nil:
		c.Dir, c.Owner = a.opts.HooksDir, a.opts.HooksOwner
	case a.opts.Host == nil:
		c.Run = unitHook(systemd.NewManager())
	default:
		return nil
	}
	return hooks.New(c)
}

// unitHook runs each hook as a service of systemd: the agent may do too little for one
// that writes to a LED or sends mail, and whatever it starts is killed with it.
func unitHook(m *systemd.Manager) hooks.Program {
	return func(ctx context.Context, path string, env []string, stdin []byte, limit time.Duration) error {
		name := filepath.Base(path)
		return m.RunTask(ctx, systemd.Task{Unit: "relevo-hook-" + name + ".service", Description: "relevo: the hook " + name, Identifier: "relevo-hook",
			Command: []string{path}, Env: env, Input: stdin, Limit: limit})
	}
}

// notices is what the hooks were told last of the members. It is the steward's.
type notices struct {
	members map[string]noticed
	own     map[health.Type]bool // conditions of this host that were told; judged's
}

type noticed struct {
	status member.Status
	role   string
	holds  []health.Type
}

// settled is how long after the start of the agent members that turn up are no news.
const settled = time.Minute

// tellMembers tells the hooks what changed since the last call.
func (a *agent) tellMembers(ms []member.Member) {
	if a.hooks == nil {
		return
	}
	n := &a.noticed
	if n.members == nil {
		n.members = map[string]noticed{}
	}
	for _, m := range ms {
		now := noticed{m.Status, cmp.Or(m.Tags[tagRole], "member"), gossiped(m)}
		was, known := n.members[m.Node]
		n.members[m.Node] = now
		if !known && time.Since(a.started) < settled {
			continue
		}
		if was.status != now.status {
			a.hooks.Post(hooks.Event{Event: hooks.Member, Node: m.Node, Status: string(now.status), Was: string(was.status), Role: now.role,
				Subject: m.Node + " is " + string(now.status), Term: a.term.Load()})
		}
		if !known {
			was = noticed{role: now.role}
		}
		if was.role != now.role {
			a.hooks.Post(hooks.Event{Event: hooks.Role, Node: m.Node, Role: now.role, Was: was.role, Subject: m.Node + " is " + now.role + " now, and was " + was.role, Term: a.term.Load()})
		}
		if m.Node == a.cfg.Node {
			continue // it knows its own conditions better
		}
		for _, c := range now.holds {
			if !slices.Contains(was.holds, c) {
				a.hooks.Post(a.conditionEvent(m.Node, health.Condition{Type: c, Status: health.Yes, Message: health.Words(c), Advice: health.Advice(c)}))
			}
		}
		for _, c := range was.holds {
			if !slices.Contains(now.holds, c) {
				a.hooks.Post(a.conditionEvent(m.Node, health.Condition{Type: c, Status: health.No}))
			}
		}
	}
}

// tellCondition tells the hooks of a condition of this host that begins, or is surely
// over; of one that cannot be seen any more there is nothing to tell.
func (a *agent) tellCondition(c health.Condition) {
	n := &a.noticed
	if n.own == nil {
		n.own = map[health.Type]bool{}
	}
	holds := c.Status == health.Yes
	if c.Status == health.Maybe || n.own[c.Type] == holds {
		return
	}
	n.own[c.Type] = holds
	a.hooks.Post(a.conditionEvent(a.cfg.Node, c))
}

func (a *agent) conditionEvent(node string, c health.Condition) hooks.Event {
	e := hooks.Event{Event: hooks.Condition, Node: node, Condition: string(c.Type), Status: "true", Reason: c.Reason, Message: c.Message, Advice: c.Advice,
		Subject: node + ": " + c.Message, Term: a.term.Load()}
	if c.Status != health.Yes {
		e.Status, e.Reason, e.Message, e.Advice = "false", "", "", ""
		e.Subject = node + ": no more " + string(c.Type)
	}
	e.Subject = cut(e.Subject, 200)
	return e
}
