package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent/config"
)

// Exit codes. They are promised to scripts.
const (
	exitOK       = 0
	exitError    = 1
	exitUsage    = 2 // the command line is wrong; nothing was done
	exitDegraded = 3 // the question was answered, and the answer has problems
)

// app is what a command has to do with the world.
type app struct {
	stdout, stderr io.Writer
	now            func() time.Time
	env            func(string) string
	screen         *screen // nil if stdout is no terminal
	stdin          *os.File
	tick           time.Duration // of top; 0 = topEvery

	socket  string
	context string // file of an access; "" = the socket
	ran     bool   // a command began: what fails then is no longer the command line
	code    int    // of a command that did its work
}

// run carries out one command line and returns the exit code.
func run(ctx context.Context, args []string, a *app) int {
	root := newRootCommand(a)
	root.SetArgs(append([]string{}, args...)) // nil would mean os.Args to cobra
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetContext(ctx)
	cmd, err := root.ExecuteC()
	switch {
	case err == nil:
		return a.code
	case !a.ran:
		fmt.Fprintf(a.stderr, "relevo: %s\nSee `%s --help`.\n", cleanLines(err.Error()), cmd.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(a.stderr, "relevo: %s\n", cleanLines(err.Error())) // much of it is another's word
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return exitError
}

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "relevo",
		Short: "A Kubernetes master that survives the loss of its board",
		Long: "relevo turns a handful of boards into a cluster that finds itself and survives the\n" +
			"loss of its only Kubernetes master.\n\n" +
			"Begin with `relevo status`. Exit codes: 0 all is well, 1 error, 2 wrong command\n" +
			"line, 3 answered, but there are problems.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	socket := a.env("RELEVO_SOCKET")
	if socket == "" {
		socket = config.DefaultSocket
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", socket, "the agent's socket, also $RELEVO_SOCKET")
	root.PersistentFlags().StringVar(&a.context, "context", a.env("RELEVO_CONTEXT"), "`file` that relevo access create made: ask over the network; also $RELEVO_CONTEXT")

	root.AddGroup(&cobra.Group{ID: "ask", Title: "Ask the cluster:"}, &cobra.Group{ID: "act", Title: "Act (as operator or admin):"}, &cobra.Group{ID: "build", Title: "Build the cluster:"}, &cobra.Group{ID: "host", Title: "On this host:"})
	for _, g := range []struct {
		id   string
		cmds []*cobra.Command
	}{
		{"ask", []*cobra.Command{newStatusCommand(a), newMembersCommand(a), newServicesCommand(a), newHealthCommand(a), newTopCommand(a), newHistoryCommand(a), newExplainCommand(a)}},
		{"act", append(newOrderCommands(a), newSwitchoverCommand(a), newReplicaCommand(a))},
		{"build", []*cobra.Command{newInitCommand(a), newJoinCommand(), newRenameCommand(a), newFirstbootCommand(a), newTokenCommand(a), newRotateCommand(a), newInviteCommand(a), newAccessCommand(a)}},
		{"host", []*cobra.Command{newAgentCommand(a), newConfigCommand(a), newKubernetesCommand(a), newLeaseCommand(), newFenceCommand(), newDoctorCommand(a), newDiffLostCommand(a), newVersionCommand(a)}},
	} {
		for _, c := range g.cmds {
			c.GroupID = g.id
			root.AddCommand(c)
		}
	}
	root.AddCommand(newRehearseCommand(a), newRehearsalCommand(), newPacketSocketCommand(a))
	root.SetHelpCommandGroupID("host")
	root.SetCompletionCommandGroupID("host")
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	a.mark(root)
	return root
}

// mark notes, for every command below cmd, when it begins; and makes groups refuse
// words that they do not know.
func (a *app) mark(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		a.mark(c)
	}
	if !cmd.Runnable() {
		cmd.Args = unknownCommand
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	if f := cmd.RunE; f != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			a.ran = true
			return f(cmd, args)
		}
	}
	if f := cmd.Run; f != nil && cmd.RunE == nil {
		cmd.Run = func(cmd *cobra.Command, args []string) {
			a.ran = true
			f(cmd, args)
		}
	}
}

func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	msg := fmt.Sprintf("unknown command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		msg += ": did you mean " + strings.Join(near, " or ") + "?"
	}
	return errors.New(msg)
}
