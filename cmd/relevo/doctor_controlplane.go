package main

import (
	"context"

	"relevo.dev/relevo/agent"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/systemd"
)

// checkControlPlane looks whether this host could take over: programs, versions, k3s's
// settings, certificates.
func checkControlPlane(ctx context.Context, m *systemd.Manager, cfg *config.Config) []finding {
	active := true
	for _, u := range cfg.Candidate.ControlPlane.Units {
		s, err := m.State(ctx, u)
		if err != nil {
			return []finding{{"control plane", resultUnknown, err.Error(), ""}}
		}
		active = active && !s.Down()
	}
	version, found := agent.Examine(ctx, cfg, m, active)
	var out []finding
	for _, f := range found {
		result := resultWarning
		if f.Blocks {
			result = resultWrong
		}
		out = append(out, finding{"control plane", result, f.What, f.Do})
	}
	if len(out) == 0 {
		what := "nothing would keep this host from taking over"
		if active {
			what = "nothing that a standby would stumble over"
		}
		if version != "" {
			what = version + "; " + what
		}
		out = append(out, finding{"control plane", resultOK, what, ""})
	}
	return out
}
