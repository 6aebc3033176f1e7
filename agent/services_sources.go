package agent

import (
	"context"
	"fmt"
	"time"

	"relevo.dev/relevo/agent/catalog"
	"relevo.dev/relevo/agent/catalog/check"
	"relevo.dev/relevo/agent/catalog/files"
	"relevo.dev/relevo/avahi"
	"relevo.dev/relevo/systemd"
)

// curiousFor is how long this host looks for every type after somebody asked what the
// LAN offers.
const curiousFor = 20 * time.Second

// fileServices takes this host's services from its folder.
func (a *agent) fileServices(ctx context.Context) error {
	if a.cfg.Services.Dir == "" {
		return nil
	}
	units := systemd.NewManager()
	defer units.Close()
	src := &files.Source{
		Dir: a.cfg.Services.Dir, Node: a.cfg.Node, Log: a.log,
		Set: func(e []catalog.Entry, p []catalog.Problem) { a.catalog.Set(catalog.File, e, p) },
		Runner: check.New(func() string { return a.addr.Load().String() }, func(ctx context.Context, unit string) error {
			s, err := units.State(ctx, unit)
			switch {
			case err != nil:
				return err
			case s.Load != "loaded":
				return fmt.Errorf("it is %s", s.Load)
			case s.Active != "active" && s.Active != "reloading":
				return fmt.Errorf("it is %s", s.Active)
			}
			return nil
		}),
	}
	return src.Run(ctx)
}

// looksAround browses for every type while somebody wants to see what the LAN offers.
func (a *agent) looksAround(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.curious:
		}
		stop := a.board.Browse(avahi.AllTypes)
		t := time.NewTimer(curiousFor)
		for on := true; on; {
			select {
			case <-ctx.Done():
				on = false
			case <-a.curious:
				t.Reset(curiousFor)
			case <-t.C:
				on = false
			}
		}
		t.Stop()
		stop()
	}
}
