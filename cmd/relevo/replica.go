package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent"
	"relevo.dev/relevo/agent/api"
)

// check is a command that has standbys check their copies, and waits for what comes of
// it: an operator's, since it costs the boards something, and a copy may be made anew.
type check struct {
	verb             api.Verb
	use, short, long string
	keep             string // help of --compare-only; "" = there is none
	bad              func(d api.Done) bool
}

func newReplicaCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "replica", Short: "Check the copies that standbys keep"}
	cmd.AddCommand(check{
		verb: api.VerbVerify, use: "verify [NODE]", short: "Compare a standby's copy with the master's datastore",
		long: "Compare the copy of a standby (default: of each) with the master's datastore, row by\n" +
			"row, by checksums of ranges: little goes over the network. A copy that differs is set\n" +
			"aside and copied again; until that is done its host is not ready to take over.\n\n" +
			"The agents do this by themselves every candidate.replica.verify_interval.\n" +
			"Exit code 3 if a copy differs, or could not be compared.",
		keep: "do not copy again what differs",
		bad: func(d api.Done) bool {
			for _, v := range d.Verified {
				if !v.Equal {
					return true
				}
			}
			return false
		},
	}.command(a))
	return cmd
}

func (k check) command(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: k.use, Short: k.short, Long: k.long, Args: cobra.MaximumNArgs(1)}
	req := api.Order{Verb: k.verb}
	out := formatTable
	cmd.Flags().VarP(&out, "output", "o", "table, json or yaml")
	if k.keep != "" {
		cmd.Flags().BoolVar(&req.Keep, "compare-only", false, k.keep)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
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
		done, err := c.Do(cmd.Context(), req)
		if err != nil {
			return err
		}
		if k.bad(done) {
			a.code = exitDegraded
		}
		var text string
		if out != formatTable {
			if text, err = encode(out, done); err != nil {
				return err
			}
		} else {
			p := &page{now: a.now()}
			for line := range strings.Lines(done.Text) {
				p.text("%s", strings.TrimSuffix(line, "\n"))
			}
			text = p.b.String()
		}
		_, err = fmt.Fprint(a.stdout, text)
		return err
	}
	return cmd
}

// checked says what is known of a standby's copy, "" if nothing.
func checked(p *page, st api.Standby) string {
	var parts []string
	if v := st.Verified; v != nil {
		switch {
		case v.Equal:
			parts = append(parts, "verified "+ago(p, v.At))
		case v.Error != "":
			parts = append(parts, "could not be verified "+ago(p, v.At)+": "+v.Error)
		default:
			parts = append(parts, "differed from the master "+ago(p, v.At))
		}
	}
	if r := st.Rehearsed; r != nil {
		text := "last rehearsed " + ago(p, r.At)
		switch {
		case !r.OK:
			text += ", and failed"
		default:
			text += ", ready in " + seconds(r.ReadySeconds)
			if r.Why != "" {
				text += " (" + r.Depth + " alone)"
			}
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

// showChecks tells of each standby how far its copy was checked.
func showChecks(p *page, standbys []api.Standby) {
	for _, st := range standbys {
		if text := checked(p, st); text != "" {
			p.text("%s: %s", st.Node, text)
		}
	}
}

func ago(p *page, at time.Time) string {
	if s := p.ago(at); s != "" {
		return s + " ago"
	}
	return "at a time that is not known"
}

func newRehearseCommand(a *app) *cobra.Command {
	cmd := check{
		verb: api.VerbRehearse, use: "rehearse [NODE]", short: "Try a promotion on a standby, beside what it does",
		long: "Try a promotion on a standby (default: on each), beside what it does: its copy is\n" +
			"restored into a scratch folder, checked entirely and jumped ahead, and where the memory\n" +
			"allows it the programs of its own units are started on that, in a network in which\n" +
			"there is nothing else. They must become ready and serve what the last promotion wrote.\n\n" +
			"The agents do this by themselves every candidate.rehearsal.every.\n" +
			"Exit code 3 if it failed.",
		bad: func(d api.Done) bool {
			for _, r := range d.Rehearsed {
				if !r.OK {
					return true
				}
			}
			return false
		},
	}.command(a)
	cmd.GroupID = "act"
	return cmd
}

// newRehearsalCommand is what runs in the sandbox of a rehearsal.
func newRehearsalCommand() *cobra.Command {
	return &cobra.Command{Use: "rehearsal SPEC", Hidden: true, GroupID: "host", Args: cobra.ExactArgs(1), Short: "The inside of a rehearsal; the agent starts it",
		RunE: func(cmd *cobra.Command, args []string) error { return agent.InsideRehearsal(cmd.Context(), args[0]) }}
}
