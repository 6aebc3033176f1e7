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
			return a.tell(a.order(cmd.Context(), api.Order{Verb: api.VerbRotate, To: what.what}))
		}})
	}
	cmd.AddCommand(newRotateCACommand(a), question[api.Rotation]{
		use:   "status",
		short: "Say how far a change of keys is",
		ask:   func(ctx context.Context, c *api.Client, _ []string) (api.Rotation, error) { return c.Rotation(ctx) },
		show:  func(p *page, r api.Rotation, _ []string) { showRotation(p, r) },
	}.command(a))
	return cmd
}

func newRotateCACommand(a *app) *cobra.Command {
	o := api.Order{Verb: api.VerbRotate, To: "ca"}
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Change the CA of the cluster: all certificates are issued anew by another",
		Long: "Change the CA of the cluster, for instance after a voter was stolen, which had the\n" +
			"CA's key (`relevo remove` it first). All members come to believe the new CA beside\n" +
			"the old one; then each gets a certificate by the new one, on its own key; then the\n" +
			"old one goes. Nothing stops meanwhile. For a member that is switched off, and for\n" +
			"nobody else, the old one is believed until it is back or removed.\n\n" +
			"Tokens that were not used are withdrawn. The files that `relevo access create` made\n" +
			"end with the old CA: make them anew.\n\n" +
			"Until the new CA issues, which is a matter of seconds if all who are there answer,\n" +
			"--cancel takes the change back.",
		Example: "  sudo relevo rotate ca\n  relevo rotate status\n  sudo relevo rotate ca --finish",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&o.Finish, "finish", false, "end a change that waits for members: they have to join again with a token")
	cancel := cmd.Flags().Bool("cancel", false, "take a change back that has just begun, before the new CA issues")
	cmd.Flags().BoolVar(&o.Force, "force", false, "with --finish: also leave out members that are there")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.Force && !o.Finish {
			return fmt.Errorf("--force is for --finish only")
		}
		if *cancel && o.Finish {
			return fmt.Errorf("--finish ends a change, --cancel takes it back: not both")
		}
		if *cancel {
			o.Verb = api.VerbRotateCancel
		}
		return a.tell(a.order(cmd.Context(), o))
	}
	return cmd
}

func showRotation(p *page, r api.Rotation) {
	if r.GossipKey.Stage == 0 && r.CA.Stage == 0 {
		p.text("Nothing is being changed.")
	}
	showStep(p, "The gossip key", r.GossipKey)
	showStep(p, "The CA", r.CA.RotationStep)
	if r.CA.Stage == 1 {
		p.text("The new CA is believed, and issues nothing yet: `relevo rotate ca --cancel` takes it back.")
	}
	if len(r.CA.Missing) > 0 && r.CA.Stage > 1 {
		p.text("Without a certificate of the new CA: %s. For them the old one is believed until they are back or removed; `relevo rotate ca --finish` ends it.", strings.Join(r.CA.Missing, ", "))
	}
	if len(r.CA.Access) > 0 {
		p.text("Accesses whose files end with the old CA: %s; `relevo access create` makes them anew.", strings.Join(r.CA.Access, ", "))
	}
	if len(r.Away) > 0 {
		p.text("Away, and following when they are back: %s.", strings.Join(r.Away, ", "))
	}
}

func showStep(p *page, what string, s api.RotationStep) {
	switch {
	case s.Stage == 0:
	case len(s.Behind) > 0:
		p.text("%s: step %d of %d; not followed yet: %s.", what, s.Stage, s.Stages, strings.Join(s.Behind, ", "))
	default:
		p.text("%s: step %d of %d; all who are there have followed.", what, s.Stage, s.Stages)
	}
}
