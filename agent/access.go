package agent

import "relevo.dev/relevo/agent/api"

// denied is told of every attempt at what the role does not allow (api.Config).
func (a *agent) denied(w api.Who, action string, why error) {
	a.log.Warn("denied", "action", action, "by", w.Name, "from", w.From, "role", string(w.Role), "why", why)
}
