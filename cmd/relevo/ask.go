package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent/api"
)

// question is a command that asks the agent and shows the answer.
type question[T any] struct {
	use, short, long string
	args             cobra.PositionalArgs
	ask              func(ctx context.Context, c *api.Client, args []string) (T, error)
	show             func(p *page, answer T, args []string)
	code             func(answer T) int // nil: always exitOK
	flags            func(cmd *cobra.Command)
}

func (q question[T]) command(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: q.use, Short: q.short, Long: q.long, Args: q.args}
	if cmd.Args == nil {
		cmd.Args = cobra.NoArgs
	}
	if q.flags != nil {
		q.flags(cmd)
	}
	out := formatTable
	cmd.Flags().VarP(&out, "output", "o", "table, json or yaml")
	watch := cmd.Flags().BoolP("watch", "w", false, "show it again whenever it changes, until Ctrl-C")
	_ = cmd.RegisterFlagCompletionFunc("output", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return formats, cobra.ShellCompDirectiveNoFileComp
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		defer c.Close()
		if *watch {
			return q.watch(cmd.Context(), a, c, out, args)
		}
		v, err := q.ask(cmd.Context(), c, args)
		if err != nil {
			return err
		}
		text, err := q.render(a, out, v, args)
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(a.stdout, text)
		q.note(a, v)
		return err
	}
	return cmd
}

func (q question[T]) note(a *app, v T) {
	if q.code != nil {
		a.code = q.code(v)
	}
}

func (q question[T]) render(a *app, f format, v T, args []string) (string, error) {
	if f != formatTable {
		return encode(f, v)
	}
	p := &page{now: a.now(), colour: a.screen != nil && a.env("NO_COLOR") == "" && a.env("TERM") != "dumb"}
	q.show(p, v, args)
	return p.b.String(), nil
}

// watch asks every second. On a terminal the page stays where it is and only
// changes; elsewhere a new one is written after the last. The exit code is that of
// the last answer.
func (q question[T]) watch(ctx context.Context, a *app, c *api.Client, f format, args []string) error {
	live := a.screen != nil && f == formatTable
	if live {
		a.screen.open(a.stdout)
	}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	last := ""
	var lastErr error
	for {
		v, err := q.ask(ctx, c, args)
		if ctx.Err() != nil {
			break
		}
		text := ""
		if err == nil {
			q.note(a, v)
			text, err = q.render(a, f, v, args)
		}
		lastErr = err
		if err != nil && live {
			// The agent may restart under our eyes: keep looking.
			text = "relevo: " + clean(err.Error()) + "\n\n" + last
			a.screen.draw(a.stdout, text)
		} else if err != nil {
			return err
		} else if text != last {
			last = text
			if live {
				a.screen.draw(a.stdout, text)
			} else if f == formatYAML {
				fmt.Fprint(a.stdout, "---\n", text)
			} else {
				fmt.Fprint(a.stdout, text)
			}
		}
		select {
		case <-ctx.Done():
		case <-t.C:
			continue
		}
		break
	}
	if live {
		a.screen.close(a.stdout)
		fmt.Fprint(a.stdout, last)
	}
	return lastErr
}

func newStatusCommand(a *app) *cobra.Command {
	return question[api.Status]{
		use:   "status",
		short: "Say how the cluster is, problems first",
		long: "Say how the cluster is, problems first: who is master, who votes, how far each\n" +
			"standby is, and whether the loss of the master would be survived right now.\n\n" +
			"Exit code 3 if there are problems.",
		ask:  func(ctx context.Context, c *api.Client, _ []string) (api.Status, error) { return c.Status(ctx) },
		show: func(p *page, s api.Status, _ []string) { showStatus(p, s) },
		code: func(s api.Status) int {
			if s.Degraded() {
				return exitDegraded
			}
			return exitOK
		},
	}.command(a)
}

func newMembersCommand(a *app) *cobra.Command {
	return question[api.Members]{
		use:   "members",
		short: "List the hosts of the cluster",
		ask:   func(ctx context.Context, c *api.Client, _ []string) (api.Members, error) { return c.Members(ctx) },
		show:  func(p *page, m api.Members, _ []string) { showMembers(p, m) },
	}.command(a)
}

func newHealthCommand(a *app) *cobra.Command {
	return question[api.Health]{
		use:   "health [NODE]",
		short: "Say how the boards are",
		long:  "Say how the boards are, or one of them in detail.\n\nExit code 3 if a board needs somebody.",
		args:  cobra.MaximumNArgs(1),
		ask: func(ctx context.Context, c *api.Client, args []string) (api.Health, error) {
			h, err := c.Health(ctx)
			if err != nil || len(args) == 0 {
				return h, err
			}
			var names []string
			for _, n := range h.Nodes {
				if n.Node == args[0] {
					return api.Health{Nodes: []api.NodeHealth{n}}, nil
				}
				names = append(names, n.Node)
			}
			if len(names) == 0 {
				return h, errors.New("no board has reported yet")
			}
			return h, fmt.Errorf("no board is called %q; there are %s", args[0], strings.Join(names, ", "))
		},
		show: showHealth,
		code: func(h api.Health) int {
			if len(troubles(h)) > 0 {
				return exitDegraded
			}
			return exitOK
		},
	}.command(a)
}
