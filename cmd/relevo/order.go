package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent/api"
)

// order is a command that makes the agent act, for who has the role for it: the agent
// asks the kernel who it is. See docs/roles.md.
type order struct {
	verb             api.Verb
	use, short, long string
	to, force        string // help of the flags; "" = there is none
	node             bool   // takes the name of a node as argument
	follow           bool   // waits for the new master
}

var orders = []order{
	{verb: api.VerbPause, use: "pause", short: "Stop automatic promotion, for maintenance",
		long: "Stop automatic promotion, for maintenance: the master keeps running, also when it\nloses the others, and nobody else is promoted."},
	{verb: api.VerbResume, use: "resume", short: "End a pause",
		long:  "End a pause. Until the holder has shown that it knows, nobody is promoted: it may\nstill run without a lease.",
		force: "do not wait for the holder: you vouch that no control plane runs any more"},
	{verb: api.VerbStepDown, use: "step-down", short: "Make the master stop; see switchover",
		long:   "Make the master stop. Without --force this is `relevo switchover`; with it the master\nstops even if nobody can follow, and what no standby has by then may be lost.",
		to:     "`node` that shall follow (default: the freshest)",
		force:  "stop the master whatever the checks say",
		follow: true},
	{verb: api.VerbFailover, use: "failover", short: "Promote a standby when nobody is promoted by itself",
		long: "Promote a standby when nobody is promoted by itself: after too many failovers, with\nfewer than three voters, with a copy that is too old. It never shortens the wait for\n" +
			"the old lease, so there are never two masters.",
		to:     "`node` to promote (default: the freshest)",
		force:  "skip readiness, lag, the limit of failovers and the number of voters; what the copy lacks is lost",
		follow: true},
	{verb: api.VerbAcknowledge, use: "acknowledge", short: "Say that the failovers so far were looked into",
		long: "Say that the failovers so far were looked into: they do not count against\nmax_failovers any more."},
	{verb: api.VerbLeave, use: "leave", short: "Take this host out of the cluster",
		long:  "Take this host out of the cluster, with its vote. A master hands over first.\n`apt remove relevo` does this by itself.",
		force: "leave even if the others have no quorum to replace this host's vote"},
	{verb: api.VerbRemove, use: "remove NODE", short: "Take a lost host out of the cluster", node: true,
		long: "Take a host out of the cluster that failed and does not come back; another gets its\n" +
			"vote. Its certificate is refused from then on, and the gossip key is changed.",
		force: "refuse it although it is alive, because it is not in your hands any more"},
}

func newOrderCommands(a *app) []*cobra.Command {
	var out []*cobra.Command
	for _, o := range orders {
		out = append(out, o.command(a))
	}
	return out
}

func (o order) command(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: o.use, Short: o.short, Long: o.long, Args: cobra.NoArgs}
	if o.node {
		cmd.Args = cobra.ExactArgs(1)
	}
	req := api.Order{Verb: o.verb}
	cmd.Flags().StringVar(&req.Why, "why", "", "`reason`, for the history and the log")
	if o.to != "" {
		cmd.Flags().StringVar(&req.To, "to", "", o.to)
	}
	if o.force != "" {
		cmd.Flags().BoolVar(&req.Force, "force", false, o.force)
	}
	limit := time.Minute
	if o.follow {
		cmd.Flags().DurationVar(&limit, "wait", limit, "how long to wait for the new master; 0 = do not")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.node {
			req.To = args[0]
		}
		if who := a.env("SUDO_USER"); who != "" {
			req.By = who
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		defer c.Close()
		begin := a.now()
		done, err := c.Do(cmd.Context(), req)
		if err != nil {
			return err
		}
		if done.Text != "" {
			fmt.Fprintln(a.stdout, clean(done.Text))
		}
		if !o.follow || limit <= 0 {
			return nil
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), limit)
		defer cancel()
		m, err := waitMaster(ctx, c, done.Term)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "%s is the master in term %d, after %v\n", clean(m.Node), m.Term, a.now().Sub(begin).Round(100*time.Millisecond))
		return nil
	}
	return cmd
}

// waitMaster waits for a working master in a term after an older one.
func waitMaster(ctx context.Context, c *api.Client, after uint64) (*api.Master, error) {
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	var last error
	for {
		s, err := c.Status(ctx)
		switch {
		case err != nil:
			last = err
		case s.Master != nil && s.Master.Term > after && s.Master.API == "ok":
			return s.Master, nil
		case len(s.Problems) > 0:
			last = fmt.Errorf("%s: %s", s.Problems[0].What, s.Problems[0].Why)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no new master yet: %w; `relevo status --watch` and `relevo explain` tell how it goes on", last)
		case <-t.C:
		}
	}
}

func newExplainCommand(a *app) *cobra.Command {
	var term uint64
	cmd := question[api.Explanation]{
		use:   "explain",
		short: "Say why the master is the master, and what would happen without it",
		long: "Say why the master of a term is the master, what would happen if it were lost now,\n" +
			"what is weighed for that, and how each member sees it.",
		ask: func(ctx context.Context, c *api.Client, _ []string) (api.Explanation, error) {
			return c.Explain(ctx, term)
		},
		show: func(p *page, e api.Explanation, _ []string) { showExplanation(p, e) },
	}.command(a)
	cmd.Flags().Uint64Var(&term, "term", 0, "`number` of the term (default: the present one)")
	return cmd
}

// showTimeline prints what the members saw, and how long before or after the change.
func showTimeline(p *page, e api.Explanation) {
	if len(e.Timeline) == 0 {
		return
	}
	p.text("What the members saw, and how long before or after the first knew of term %d:", e.Term)
	for _, s := range e.Timeline {
		at := s.At.Local().Format("15:04:05.000")
		if !e.Knew.IsZero() {
			at += fmt.Sprintf(" %+9.3fs", s.At.Sub(e.Knew).Seconds())
		}
		p.text("  %s  %-10s %s", at, clean(s.Node), clean(s.Text))
	}
	p.line()
}

func showExplanation(p *page, e api.Explanation) {
	if e.Change == nil {
		p.text("There was no master yet.")
	} else {
		showHistory(p, api.History{Changes: []api.Change{*e.Change}})
	}
	p.line()
	switch {
	case e.Arbiter == "":
		p.text("Now: no arbiter is known, so nobody is promoted and a master without one stops itself.")
	case e.Over && e.Possible:
		p.text("Now, says the arbiter %s: the term is over, and %s is promoted.", e.Arbiter, e.To)
	case e.Over:
		p.text("Now, says the arbiter %s: the term is over, and nobody is promoted:", e.Arbiter)
	case e.Possible:
		p.text("Now, says the arbiter %s: if no renewal came any more, %s would be promoted in %s.", e.Arbiter, e.To, seconds(e.Wait))
	default:
		p.text("Now, says the arbiter %s: if no renewal came any more, nobody would be promoted:", e.Arbiter)
	}
	if !e.Possible {
		for _, w := range e.Why {
			p.text("  because %s", w)
		}
	}
	for _, n := range append(slices.Clone(e.Holder), e.Notes...) {
		p.text("  - %s", n)
	}
	p.line()
	showTimeline(p, e)
	var rows [][]span
	for _, v := range e.Views {
		left := "-"
		if v.LeaseRemaining != nil {
			left = seconds(*v.LeaseRemaining)
		}
		rows = append(rows, []span{{text: v.Node}, {text: fmt.Sprint(v.Term)}, {text: v.Phase}, {text: dash(v.Arbiter)}, {text: left}, {text: dash(v.Copy)}})
	}
	p.table([]string{"MEMBER", "TERM", "PHASE", "ITS ARBITER", "LEASE LEFT", "ITS COPY"}, rows)
	for _, f := range e.Failed {
		p.text("no answer from %s", f)
	}
}
