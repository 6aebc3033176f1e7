package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/systemd"
)

func newAgentCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the agent of this host",
		Long: "Run the agent of this host until it is told to stop. systemd does this with\n" +
			"relevo.service; there is one agent a host.",
		Args: cobra.NoArgs,
	}
	path := cmd.Flags().String("config", config.DefaultPath, "the configuration")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig(*path)
		if err != nil {
			return err
		}
		var level slog.LevelVar
		level.Set(cfg.Log.Level)
		journal := underJournal(a.env("JOURNAL_STREAM"), a.stderr)
		log := newLogger(a.stderr, &level, journal)
		opts := agent.Options{Version: version(), Log: log, ConfigPath: *path, Level: &level}
		if journal {
			opts.Journal = systemd.Journal
		}
		hup := make(chan os.Signal, 1)
		signal.Notify(hup, syscall.SIGHUP)
		defer signal.Stop(hup)
		opts.Reload = hup
		return agent.Run(cmd.Context(), cfg, opts)
	}
	return cmd
}

func newConfigCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Look at the configuration"}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "check [FILE]",
			Short: "Say what is wrong in a configuration",
			Long: "Say what is wrong in a configuration, with line and column. Nothing is changed, and\n" +
				"the agent is not asked. FILE is " + config.DefaultPath + " if it is left out.",
			Args: cobra.MaximumNArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				path := configPath(args)
				if _, err := loadConfig(path); err != nil {
					return err
				}
				fmt.Fprintf(a.stdout, "%s: OK\n", path)
				return nil
			},
		},
		&cobra.Command{
			Use:   "show [FILE]",
			Short: "Show a configuration with all defaults filled in",
			Args:  cobra.MaximumNArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				c, err := loadConfig(configPath(args))
				if err != nil {
					return err
				}
				fmt.Fprint(a.stdout, c.YAML())
				return nil
			},
		})
	return cmd
}

func configPath(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return config.DefaultPath
}

// loadConfig puts a head before errors that have a line each.
func loadConfig(path string) (*config.Config, error) {
	c, err := config.Load(path)
	var at *config.Error
	if errors.As(err, &at) {
		return nil, fmt.Errorf("the configuration is not usable:\n%w", err)
	}
	return c, err
}
