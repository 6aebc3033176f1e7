package agent

import (
	"context"
	"os"
	"time"

	"relevo.dev/relevo/agent/lease"
)

// trouble is what a master finds wrong with its own API.
type trouble struct {
	why   string
	since lease.Time
}

// troubles tells what goes with a renewal.
func (a *agent) troubles() (why string, lasts, grace time.Duration) {
	if t := a.trouble.Load(); t != nil {
		why, lasts = t.why, a.clock()-t.since
		why = why[:min(len(why), maxWhy)]
	}
	return why, lasts, a.cfg.Candidate.ControlPlane.API.Grace
}

// watchAPI looks after the API and the address of a master. systemd restarts what fails;
// whether the host steps down if that does not help is for the arbiter to say, who is
// told with every renewal.
func (a *agent) watchAPI(ctx context.Context) error {
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if a.phase() != lease.Master {
			a.trouble.Store(nil)
			a.apiErr.Store(nil)
			continue
		}
		if a.host.Address != nil {
			if _, err := a.host.Address.Defend(ctx); err != nil && ctx.Err() == nil {
				a.log.Warn("virtual IP not defended", "err", err)
			}
		}
		asked := a.clock()
		cctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := a.host.API.Healthy(cctx)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		text, was := "", a.trouble.Load()
		switch {
		case err == nil && was != nil:
			a.log.Info("the API works again", "after", (a.clock() - was.since).Round(time.Second))
			a.seenHere.note("finds its API working again")
			a.trouble.Store(nil)
		case err != nil:
			text = err.Error()
			now := &trouble{text, asked}
			if was != nil {
				now.since = was.since
			} else {
				a.log.Warn("the API does not work", "err", err)
				a.seenHere.note("finds its API not working: %v", err)
			}
			a.trouble.Store(now)
		}
		a.apiErr.Store(&text)
	}
}

// hungFor, in TTLs, is how long the loop may stand still before the agent ends itself.
const hungFor = 3

// endIfHung ends an agent whose loop stands still. systemd's watchdog is quicker, but it
// does not look at a unit that has not said yet that it is ready, as after a restart in
// the middle of a blackout. The fence looks after what runs.
func (a *agent) endIfHung(ctx context.Context) error {
	t := time.NewTicker(a.cfg.LeaseTTL)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if still := a.clock() - lease.Time(a.turned.Load()); still > hungFor*a.cfg.LeaseTTL {
			a.log.Error("the agent's loop stands still: the process ends, and systemd starts it again", "for", still.Round(time.Second))
			exit := a.opts.Exit
			if exit == nil {
				exit = os.Exit
			}
			exit(3)
			return nil
		}
	}
}
