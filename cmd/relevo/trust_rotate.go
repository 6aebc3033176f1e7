package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent/api"
)

func newRotateCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Change the keys that all members share",
		Long: "Change the keys that all members share, while everything goes on. Who is switched off\n" +
			"meanwhile gets the new ones when it is back, by its certificate.",
	}
	for _, what := range []struct{ what, short string }{
		{"gossip-key", "Change the key of the gossip, in three steps that every member follows"},
		{"tokens", "Withdraw all tokens that were made so far"},
	} {
		cmd.AddCommand(&cobra.Command{Use: what.what, Short: what.short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			done, err := a.order(cmd.Context(), api.Order{Verb: api.VerbRotate, To: what.what})
			if err == nil {
				fmt.Fprintln(a.stdout, clean(done.Text))
			}
			return err
		}})
	}
	cmd.AddCommand(question[api.Rotation]{
		use:   "status",
		short: "Say how far a change of keys is",
		ask:   func(ctx context.Context, c *api.Client, _ []string) (api.Rotation, error) { return c.Rotation(ctx) },
		show:  func(p *page, r api.Rotation, _ []string) { showRotation(p, r) },
	}.command(a))
	return cmd
}

func showRotation(p *page, r api.Rotation) {
	switch g := r.GossipKey; {
	case g.Stage == 0:
		p.text("Nothing is being changed.")
	case len(g.Behind) > 0:
		p.text("The gossip key: step %d of %d; %s has not followed yet.", g.Stage, g.Stages, strings.Join(g.Behind, ", "))
	default:
		p.text("The gossip key: step %d of %d; all who are there have followed.", g.Stage, g.Stages)
	}
	if len(r.Away) > 0 {
		p.text("Away, and following when they are back: %s.", strings.Join(r.Away, ", "))
	}
}
