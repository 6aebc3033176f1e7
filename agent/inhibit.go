package agent

import (
	"context"
	"fmt"
	"time"

	"relevo.dev/relevo/agent/lease"
)

// shutdownWhy is what people read in `systemd-inhibit --list`.
const shutdownWhy = "the mastership is given to a standby first, with all data"

// inhibitAgain is the pause before logind is asked once more; it may be restarted, or not
// be there at all.
const inhibitAgain = time.Minute

// inhibit hands the mastership over before the host is switched off or restarted, as long
// as logind waits. Without logind, or when its patience is over, systemd stops this agent,
// which goes on where it was.
func (a *agent) inhibit(ctx context.Context) error {
	if a.host == nil || a.host.Shutdowns == nil {
		return nil
	}
	said := ""
	for {
		err := a.host.Shutdowns(ctx, func(patience time.Duration) {
			a.log.Info("logind waits for a hand-over before a shutdown", "at_most", patience)
			said = ""
		}, func(ctx context.Context) {
			a.seenHere.note("is told that its host is about to be switched off")
			a.goingDown(ctx)
		})
		if err != nil && err.Error() != said && ctx.Err() == nil {
			said = err.Error()
			a.log.Info("logind does not wait for a hand-over before a shutdown; systemd waits when it stops the agent", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(inhibitAgain):
		}
	}
}

// goingDown gives the term back because the host goes down.
func (a *agent) goingDown(ctx context.Context) {
	if p := a.phase(); p == lease.Standby || p == lease.Named && a.quorum.State().Holder != a.cfg.Node {
		return
	}
	a.handOver(ctx, fmt.Sprintf("%s is being shut down", a.cfg.Node))
}
