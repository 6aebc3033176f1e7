package agent

import (
	"context"
	"strings"

	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/health"
)

// reloads reads the configuration again whenever that is asked for. A mistake in the
// file changes nothing.
func (a *agent) reloads(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.opts.Reload:
		}
		a.notify.Reloading()
		a.reload(ctx)
		a.notify.Ready()
	}
}

func (a *agent) reload(ctx context.Context) {
	next, err := config.Load(a.opts.ConfigPath)
	if err != nil {
		a.log.Error("configuration not taken over, the old one stays", "file", a.opts.ConfigPath, "err", err)
		return
	}
	now, waiting := a.live.Load().Reload(next)
	a.live.Store(now)
	if a.opts.Health == (health.Thresholds{}) {
		a.monitor.SetThresholds(thresholds(now.Health))
	}
	if a.opts.Level != nil {
		a.opts.Level.Set(now.Log.Level)
	}
	err = a.loop.view(ctx, func() {
		a.loop.arbiter.SetPolicy(policy(now))
	})
	if err != nil {
		return // the agent ends
	}
	if len(waiting) > 0 {
		a.log.Warn("configuration taken over but for what needs a restart of the agent", "file", a.opts.ConfigPath, "restart_for", strings.Join(waiting, ","))
		return
	}
	a.log.Info("configuration taken over", "file", a.opts.ConfigPath)
}
