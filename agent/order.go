package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/quorum"
)

// Do carries out what a person on this host asked for (api.Source): it goes to who
// can do it, the holder for a switchover, the arbiter for the rest.
func (a *agent) Do(ctx context.Context, o api.Order) (api.Done, error) {
	o.By += "@" + a.cfg.Node
	a.log.Warn("order", "verb", string(o.Verb), "to", o.To, "force", o.Force, "by", o.By, "why", o.Why)
	switch o.Verb {
	case api.VerbLeave:
		if o.DryRun {
			return api.Done{Text: a.cfg.Node + " may leave"}, a.mayLeave()
		}
		return a.leaveOnce(ctx, o)
	case api.VerbVerify, api.VerbRehearse:
		return a.checkStandbys(ctx, o)
	case api.VerbTokenCreate:
		if err := a.loop.awaitArbiter(ctx); err != nil {
			return api.Done{}, err
		}
		return a.createToken(ctx, o)
	}
	if o.Verb == api.VerbSwitchover || o.Verb == api.VerbStepDown {
		s, err := a.see(ctx)
		switch {
		case err != nil:
			return api.Done{}, err
		case s.Holder == "" || s.Released:
			return api.Done{}, errors.New("there is no master that could hand over")
		case s.Holder == a.cfg.Node:
			return a.order(ctx, a.cfg.Node, o)
		}
		var d api.Done
		err = a.port.PostJSON(ctx, s.Holder, pathOrder, o, &d)
		return d, err
	}
	if err := a.loop.awaitArbiter(ctx); err != nil {
		return api.Done{}, err
	}
	return toArbiter(ctx, a.loop, pathOrder, o, a.order)
}

// ordered is order for another member.
func (a *agent) ordered(ctx context.Context, from string, o api.Order) (api.Done, error) {
	d, err := a.order(ctx, from, o)
	if !o.DryRun {
		a.carried(from, o.By, o.Action(), o.To, o.Why, err)
	}
	return d, err
}

// order is what the holder or the arbiter does, for itself or for another member.
func (a *agent) order(ctx context.Context, from string, o api.Order) (api.Done, error) {
	if !strings.HasSuffix(o.By, "@"+from) {
		return api.Done{}, fmt.Errorf("an order of %q did not come from %s", o.By, from)
	}
	s := a.quorum.State()
	d := api.Done{Term: s.Term}
	switch o.Verb {
	case api.VerbPause:
		d.Text = "automatic promotion is off; the master keeps running, also without a quorum"
		return d, a.quorum.Apply(ctx, quorum.SetPause(true, false, o.By, o.Why))
	case api.VerbResume:
		d.Text = "automatic promotion comes back as soon as " + cmp.Or(s.Holder, "the holder") + " has shown that it knows"
		if o.Force {
			d.Text = "automatic promotion is on again"
		}
		return d, a.quorum.Apply(ctx, quorum.SetPause(false, o.Force, o.By, o.Why))
	case api.VerbAcknowledge:
		d.Text = fmt.Sprintf("the failovers up to term %d do not count any more", s.Term)
		return d, a.quorum.Apply(ctx, quorum.Acknowledge(s.Term))
	case api.VerbFailover:
		return a.orderFailover(ctx, o, d)
	case api.VerbSwitchover, api.VerbStepDown:
		return a.orderSwitchover(ctx, o, d)
	case api.VerbTokenCreate, api.VerbTokenRevoke:
		return a.orderToken(ctx, o, d)
	case api.VerbRotate:
		return a.orderRotate(ctx, o, d)
	case api.VerbRotateCancel:
		return a.cancelCA(ctx, o, d)
	case api.VerbRemove:
		return a.remove(ctx, o, d)
	case api.VerbReplace:
		return a.replace(ctx, o, d)
	}
	return d, fmt.Errorf("this agent does not know how to %q: is it older than the one that asks?", o.Verb)
}

// leave takes this host out of the cluster. Told says whether anybody knows, if there is
// anybody; without force it does not leave otherwise.
func (a *agent) leave(ctx context.Context, o api.Order) (d api.Done, told bool, err error) {
	s := a.quorum.State()
	d.Term = s.Term
	if err := a.mayLeave(); err != nil && !o.Force {
		return d, false, fmt.Errorf("%w; --force leaves all the same", err)
	}
	// Longer than a question may take: the person waits, and so does `apt remove`.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handOverLimit(a.cfg.LeaseTTL))
	defer cancel()
	a.handOver(ctx, a.cfg.Node+" leaves the cluster")
	if a.quorum.IsLeader() {
		if to := a.heir(); to != "" {
			if err := a.quorum.TransferTo(ctx, to); err != nil {
				a.log.Warn("the arbiter's office not handed on", "to", to, "err", err)
			}
		}
	}
	heard, others := a.sayGoodbye(ctx)
	told = heard > 0 || others == 0
	if !told && !o.Force {
		a.trust.leaving.Store(false)
		return d, false, fmt.Errorf("none of the %d other members heard that %s leaves, and they would count it on; try again when it reaches them (`relevo doctor` helps); --force leaves all the same", others, a.cfg.Node)
	}
	if err := a.pool.Leave(ctx); err != nil {
		return d, told, err
	}
	d.Text = a.cfg.Node + " has left; the others replace its vote within seconds. `systemctl disable --now relevo` stops the agent"
	if !told {
		d.Text = fmt.Sprintf("%s has left, but none of the %d other members heard it: they take it for lost until `relevo remove %[1]s` is typed on one of them. `systemctl disable --now relevo` stops the agent", a.cfg.Node, others)
	}
	return d, told, nil
}

// mayLeave says why the others could not replace this host's vote, nil if they could.
func (a *agent) mayLeave() error {
	if !a.isServer() {
		return nil // it has no vote, and raft tells it of no quorum
	}
	if a.quorum.Leader() == "" {
		return errors.New("without a quorum the others cannot replace this host's vote")
	}
	if !a.isVoter(a.cfg.Node) {
		return nil
	}
	if a.heir() == "" && !slices.ContainsFunc(a.shown(), func(m member.Member) bool { return m.Node != a.cfg.Node && m.Status != member.Left }) {
		return nil // there are no others
	}
	return a.restStands(a.cfg.Node)
}

// heir is a voter that is there and is not this host.
func (a *agent) heir() string {
	servers, err := a.quorum.Servers()
	if err != nil {
		return ""
	}
	for _, s := range servers {
		if m, ok := a.member(s.Node); ok && s.Voter && s.Node != a.cfg.Node && m.Status == member.Alive {
			return s.Node
		}
	}
	return ""
}

func noteOf(notes []string, node string) string {
	for _, n := range notes {
		if strings.HasPrefix(n, node+": ") {
			return n
		}
	}
	return ""
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

// orderFailover is asked of the arbiter.
func (a *agent) orderFailover(ctx context.Context, o api.Order, d api.Done) (api.Done, error) {
	var err error
	verr := a.loop.view(ctx, func() {
		now := a.clock()
		m := a.loop.arbiter
		alive, known := m.Alive(now)
		switch s := a.quorum.State(); {
		case !m.Leading() || !known && !s.Released:
			err = errors.New("the arbiter has just changed and has not heard everybody yet: try again in some seconds")
			return
		case alive && !s.Released:
			err = fmt.Errorf("%s is alive and renews its lease: `relevo switchover` moves the mastership without loss", s.Holder)
			return
		case s.Pause.Phase != quorum.Running:
			err = fmt.Errorf("the cluster is %s: `relevo resume` first (--force, if the holder is surely off)", s.Pause.Phase)
			return
		}
		a.loop.step(a.loop.base, lease.Failover{To: o.To, By: o.By, Why: cmp.Or(o.Why, "no reason given"), Force: o.Force})
		j := m.Judge(now)
		switch {
		case !j.Possible && !j.Due:
			m.Withdraw()
			err = fmt.Errorf("nobody can be promoted: %s; --force with --to skips readiness, lag, the flap limit and the number of voters, and what the chosen copy lacks is lost", strings.Join(j.Why, "; "))
		case now < j.WaitUntil && !j.Over:
			d.Text = fmt.Sprintf("%s is promoted in %v, when the old lease has surely run out; %s", j.To, (j.WaitUntil - now).Round(100*time.Millisecond), noteOf(j.Notes, j.To))
		default:
			d.Text = fmt.Sprintf("%s is being promoted; %s", j.To, noteOf(j.Notes, j.To))
		}
	})
	return d, errors.Join(verr, err)
}
