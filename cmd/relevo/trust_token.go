package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent/api"
)

func newTokenCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and withdraw the tokens that let hosts join",
		Long: "Make, list and withdraw the tokens that let hosts join. A token says which cluster\n" +
			"is meant and holds a secret; who has it can join a host, until it is used up,\n" +
			"expired or withdrawn. Nobody keeps the secret: it is shown once.",
	}
	cmd.AddCommand(newTokenCreateCommand(a), newTokenRevokeCommand(a), question[api.Tokens]{
		use:   "list",
		short: "List the tokens, newest first",
		ask:   func(ctx context.Context, c *api.Client, _ []string) (api.Tokens, error) { return c.Tokens(ctx) },
		show:  func(p *page, t api.Tokens, _ []string) { showTokens(p, t) },
	}.command(a))
	return cmd
}

func newTokenCreateCommand(a *app) *cobra.Command {
	var spec api.TokenSpec
	var replace string
	ttl := 24 * time.Hour
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token, and print the line to type on the new host",
		Args:  cobra.NoArgs,
	}
	quiet := cmd.Flags().BoolP("quiet", "q", false, "print the token alone")
	cmd.Flags().DurationVar(&ttl, "ttl", ttl, "how long it is good")
	cmd.Flags().IntVar(&spec.Uses, "uses", 1, "how many hosts may join with it")
	cmd.Flags().StringVar(&spec.Node, "node", "", "the only `name` that may join with it (default: any that is free)")
	cmd.Flags().StringVar(&replace, "replace", "", "let a new board take the place of the dead member `NODE`, whose certificates end")
	cmd.MarkFlagsMutuallyExclusive("node", "replace")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if replace != "" {
			spec.Node, spec.Replace = replace, true
		}
		if ttl < time.Second {
			return fmt.Errorf("a token that is good for %v is good for nobody", ttl)
		}
		spec.TTL = ttl.Seconds()
		done, err := a.order(cmd.Context(), api.Order{Verb: api.VerbTokenCreate, Token: &spec})
		if err != nil {
			return err
		}
		if *quiet {
			fmt.Fprintln(a.stdout, clean(done.Token))
			return nil
		}
		whom := "one host"
		switch {
		case spec.Node != "":
			whom = spec.Node + " alone"
		case spec.Uses != 1:
			whom = fmt.Sprintf("%d hosts", spec.Uses)
		}
		fmt.Fprintf(a.stdout, "On the new host:\n\n  sudo relevo join %s\n\nThe token is %s, for %s.\n", clean(done.Token), clean(done.Text), whom)
		return nil
	}
	return cmd
}

func newTokenRevokeCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke ID",
		Short: "Withdraw a token, or all of them",
		Args:  cobra.MaximumNArgs(1),
	}
	all := cmd.Flags().Bool("all", false, "withdraw all that were made so far")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o := api.Order{Verb: api.VerbTokenRevoke}
		switch {
		case len(args) == 1 && !*all:
			o.To = args[0]
		case len(args) == 1 || !*all:
			return fmt.Errorf("which token: an ID as `relevo token list` shows it, or --all")
		}
		return a.tell(a.order(cmd.Context(), o))
	}
	return cmd
}

// tell prints what was done.
func (a *app) tell(done api.Done, err error) error {
	if err == nil {
		fmt.Fprintln(a.stdout, clean(done.Text))
	}
	return err
}

// order has the agent carry one out.
func (a *app) order(ctx context.Context, o api.Order) (api.Done, error) {
	if who := a.env("SUDO_USER"); who != "" {
		o.By = who
	}
	c, err := a.client()
	if err != nil {
		return api.Done{}, err
	}
	defer c.Close()
	return c.Do(ctx, o)
}

func showTokens(p *page, t api.Tokens) {
	if len(t.Tokens) == 0 {
		p.text("There are no tokens: `relevo token create` makes one.")
		return
	}
	var rows [][]span
	for _, k := range t.Tokens {
		who := dash(k.Node)
		if k.Replace {
			who += " (replaced)"
		}
		rows = append(rows, []span{{text: k.ID}, {text: k.State}, {text: fmt.Sprintf("%d of %d", k.Used, k.Uses)}, {text: k.Until.UTC().Format(time.RFC3339)}, {text: who}, {text: dash(k.By)}})
	}
	p.table([]string{"ID", "STATE", "USED", "GOOD UNTIL", "FOR", "MADE BY"}, rows)
}
