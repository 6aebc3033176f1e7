package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent/api"
)

func newSwitchoverCommand(a *app) *cobra.Command {
	req := api.Order{Verb: api.VerbSwitchover}
	limit := time.Minute
	out := formatTable
	cmd := &cobra.Command{
		Use:   "switchover",
		Short: "Move the mastership to a standby, without loss",
		Long: "Move the mastership to a standby, without loss. First everything is checked: quorum,\n" +
			"data, identity, space, health and so on. Then the control plane stops, the standby gets\n" +
			"the last of the data, both compare their checksums, and only then the term is given to\n" +
			"it. If the standby is lost on the way, another that has everything follows, or else the\n" +
			"old master goes on.\n\n" +
			"With --dry-run nothing is changed: every check is listed. Exit code 3 if it would not\n" +
			"be done.",
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.StringVar(&req.To, "to", "", "`node` that shall follow (default: the freshest)")
	f.StringVar(&req.Why, "why", "", "`reason`, for the history and the log")
	f.BoolVar(&req.DryRun, "dry-run", false, "only look whether it would be done")
	f.DurationVar(&limit, "wait", limit, "how long to wait for the new master; 0 = do not")
	f.VarP(&out, "output", "o", "table, json or yaml; of --dry-run")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
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
		switch {
		case err != nil:
			return err
		case req.DryRun && done.Plan == nil:
			return fmt.Errorf("the master's agent knows no --dry-run: is it older than this one?")
		case req.DryRun:
			return a.showPlan(*done.Plan, out)
		}
		fmt.Fprintln(a.stdout, clean(done.Text))
		if limit <= 0 {
			return nil
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), limit)
		defer cancel()
		m, err := waitMaster(ctx, c, done.Term)
		if err != nil {
			return err
		}
		took := a.now().Sub(begin).Round(100 * time.Millisecond)
		if done.Plan != nil && m.Node == done.Plan.From {
			return fmt.Errorf("nobody had everything, so %s goes on as the master, in term %d, after %v; `relevo explain` tells why", m.Node, m.Term, took)
		}
		fmt.Fprintf(a.stdout, "%s is the master in term %d, after %v\n", clean(m.Node), m.Term, took)
		return nil
	}
	return cmd
}

// showPlan prints every check.
func (a *app) showPlan(plan api.Plan, out format) error {
	if !plan.Possible {
		a.code = exitDegraded
	}
	if out != formatTable {
		text, err := encode(out, plan)
		if err == nil {
			_, err = fmt.Fprint(a.stdout, text)
		}
		return err
	}
	p := &page{now: a.now(), colour: a.screen != nil && a.env("NO_COLOR") == ""}
	var found []finding
	for _, c := range plan.Checks {
		found = append(found, finding{c.Check, c.Result, c.What, c.Do})
	}
	showFindings(p, found)
	p.line()
	if plan.Possible {
		p.text("A switchover from %s to %s would be done.", plan.From, plan.To)
	} else {
		p.text("A switchover from %s to %s would be refused.", plan.From, dash(plan.To))
	}
	_, err := fmt.Fprint(a.stdout, p.b.String())
	return err
}
