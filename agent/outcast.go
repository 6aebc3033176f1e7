package agent

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"relevo.dev/relevo/agent/api"
)

// outcast is all that is left of the agent of a host that was removed: it answers who asks
// (api.Source), and has the control plane stopped.
type outcast struct {
	removal
	a *agent
}

// stayOut takes no part in the cluster until ctx ends. It goes on, and does not end with an
// error: systemd would start it again for ever, and nobody could ask it.
func (a *agent) stayOut(ctx context.Context, x removal) error {
	a.learn(x)
	o := &outcast{x, a}
	server, err := api.Listen(api.Config{Socket: a.cfg.Socket, Group: "relevo", Others: api.AccessRole(a.cfg.Access.Others), Listen: a.cfg.HTTP.Listen, Node: a.cfg.Node, Source: o, Log: a.log,
		Audit:  func(context.Context) (api.Audit, error) { return api.Audit{}, o.refusal() },
		Doctor: o.doctor})
	if err != nil {
		return err
	}
	a.notify.Status(x.text(a.id.Cluster()) + "; " + x.advice())
	a.notify.Ready()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error { return o.pulse(ctx) })
	if a.cfg.Candidate != nil {
		g.Go(func() error { return o.clear(ctx) })
	}
	return g.Wait()
}

// doctor finds that this host is no member; nobody else is asked.
func (o *outcast) doctor(context.Context) (api.Doctor, error) {
	return api.Doctor{Findings: []api.Finding{{Check: "membership", Result: api.FindingWrong, What: o.text(o.a.id.Cluster()), Do: o.advice()}}}, nil
}

// pulse tells systemd that this goes on.
func (o *outcast) pulse(ctx context.Context) error {
	t := time.NewTicker(o.a.cfg.LeaseTTL / 12)
	defer t.Stop()
	for {
		o.a.notify.Pulse(o.a.notify.Watchdog())
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// clear makes sure that this host is no master any more: no unit of the control plane, no
// virtual IP, no lease. It tries until that is so.
func (o *outcast) clear(ctx context.Context) error {
	for said := ""; ; {
		err := o.tryClear(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if err.Error() != said {
			o.a.log.Error("the control plane of this host, which was removed, is not surely off", "err", err)
			said = err.Error()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func (o *outcast) tryClear(ctx context.Context) error {
	a := o.a
	if a.host == nil {
		if err := a.buildHost(a.cfg.Interface); err != nil {
			return err
		}
	}
	h := a.host
	ctx, cancel := context.WithTimeout(ctx, a.cfg.LeaseTTL)
	defer cancel()
	active, err := h.ControlPlane.AnyActive(ctx)
	if err != nil {
		return err
	}
	if active {
		a.log.Warn("stopping the control plane of this host, which was removed")
		if err := h.ControlPlane.Kill(ctx); err != nil {
			return err
		}
	}
	// Also what waits for a Restart= of its own.
	if err := h.ControlPlane.Stop(ctx); err != nil {
		return err
	}
	if h.Address != nil {
		if err := h.Address.Release(ctx); err != nil {
			return err
		}
	}
	return h.LeaseNote.Remove()
}

func (o *outcast) refusal() error {
	return errors.New(o.text(o.a.id.Cluster()) + "; " + o.advice())
}

// Status is that this host was removed.
func (o *outcast) Status(context.Context) (api.Status, error) {
	a := o.a
	return api.Status{Cluster: a.id.Cluster(), ClusterID: a.id.ClusterID(), Node: a.cfg.Node, Version: a.opts.Version, Role: api.RoleMember,
		Removed:  &api.Removed{By: o.By, Why: o.Why, At: o.At.UTC()},
		Problems: []api.Problem{{Severity: api.Critical, What: o.text(a.id.Cluster()), Do: o.advice()}}}, nil
}

// Alive is true: the watchdog looks after the rest.
func (o *outcast) Alive(context.Context) error { return nil }

// Ready is never true.
func (o *outcast) Ready(context.Context) error { return o.refusal() }

// Metrics are none.
func (o *outcast) Metrics() []api.Metric { return nil }

// The other questions have no answer.

// Members are not known.
func (o *outcast) Members(context.Context) (api.Members, error) { return api.Members{}, o.refusal() }

// Services are not known.
func (o *outcast) Services(context.Context) (api.Services, error) {
	return api.Services{}, o.refusal()
}

// Browse looks at nothing.
func (o *outcast) Browse(context.Context) (api.Services, error) { return api.Services{}, o.refusal() }

// Health is not measured.
func (o *outcast) Health(context.Context) (api.Health, error) { return api.Health{}, o.refusal() }

// History is not known.
func (o *outcast) History(context.Context) (api.History, error) { return api.History{}, o.refusal() }

// Tokens are not known.
func (o *outcast) Tokens(context.Context) (api.Tokens, error) { return api.Tokens{}, o.refusal() }

// Rotation is not known.
func (o *outcast) Rotation(context.Context) (api.Rotation, error) {
	return api.Rotation{}, o.refusal()
}

// Explain explains nothing.
func (o *outcast) Explain(context.Context, uint64) (api.Explanation, error) {
	return api.Explanation{}, o.refusal()
}

// Do does nothing; who leaves a cluster that has removed it is through.
func (o *outcast) Do(_ context.Context, or api.Order) (api.Done, error) {
	if or.Verb == api.VerbLeave && !or.DryRun {
		return api.Done{Text: o.text(o.a.id.Cluster()) + ": there is nothing left to leave"}, nil
	}
	return api.Done{}, o.refusal()
}
