package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent/api"
)

func newHistoryCommand(a *app) *cobra.Command {
	cmd := question[api.History]{
		use:   "history",
		short: "Tell the changes of master, newest first",
		long: "Tell the changes of master, newest first. With --audit: who did what from where, as\n" +
			"all members wrote it down: orders, also refused and denied ones, access, terms, votes.",
		ask:  func(ctx context.Context, c *api.Client, _ []string) (api.History, error) { return c.History(ctx) },
		show: func(p *page, h api.History, _ []string) { showHistory(p, h) },
	}.command(a)
	audit := question[api.Audit]{
		use:  "history",
		ask:  func(ctx context.Context, c *api.Client, _ []string) (api.Audit, error) { return c.Audit(ctx) },
		show: func(p *page, v api.Audit, _ []string) { showAudit(p, v) },
	}.command(a)
	var who bool
	cmd.Flags().BoolVar(&who, "audit", false, "who did what from where")
	terms := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !who {
			return terms(cmd, args)
		}
		for _, f := range []string{"output", "watch"} {
			if err := audit.Flags().Set(f, cmd.Flag(f).Value.String()); err != nil {
				return err
			}
		}
		audit.SetContext(cmd.Context())
		return audit.RunE(audit, args)
	}
	return cmd
}

func showAudit(p *page, v api.Audit) {
	if len(v.Records) == 0 {
		p.text("Nothing was written down yet.")
	}
	var rows [][]span
	for _, r := range v.Records {
		what := span{text: r.Outcome}
		if r.Outcome != api.Carried {
			what.colour = yellow
		}
		rows = append(rows, []span{{text: r.At.Local().Format(time.DateTime)}, {text: r.Node}, {text: dash(r.By)}, {text: dash(r.From)}, {text: r.Action}, {text: dash(r.Target)}, what, {text: r.Why}})
	}
	if len(rows) > 0 {
		p.table([]string{"TIME", "AT", "BY", "FROM", "ACTION", "TARGET", "OUTCOME", "WHY"}, rows)
	}
	for _, f := range v.Failed {
		p.text("no answer from %s", f)
	}
}
