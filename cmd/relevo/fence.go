package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent"
	"relevo.dev/relevo/agent/controlplane"
	"relevo.dev/relevo/agent/leasefile"
	"relevo.dev/relevo/agent/vip"
	"relevo.dev/relevo/systemd"
)

func newLeaseCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "lease", Short: "Look at this host's master lease"}
	file := cmd.PersistentFlags().String("file", leasefile.DefaultPath, "where the agent notes the lease")
	cmd.AddCommand(&cobra.Command{
		Use:   "held",
		Short: "Exit 0 if this host holds the master lease, 1 if not",
		Long: "Exit 0 if this host holds the master lease now, 1 if not.\n\n" +
			"The units of the control plane ask it before they start (ExecCondition=), so that\n" +
			"nothing starts them without the lease: no boot, no Restart=, no person.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return leaseHeld(*file, leasefile.Boottime())
		},
	})
	return cmd
}

// errNotHeld says that the unit must not start; systemd shows it in the unit's log.
var errNotHeld = errors.New("this host does not hold the master lease")

func leaseHeld(file string, now time.Duration) error {
	const advice = "; `relevo status` tells who does"
	l, err := leasefile.Read(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w%s", errNotHeld, advice)
	case err != nil:
		return fmt.Errorf("%w: %w%s", errNotHeld, err, advice)
	case now >= l.Deadline:
		return fmt.Errorf("%w any more: that of term %d ran out %v ago%s", errNotHeld, l.Term, (now - l.Deadline).Round(time.Millisecond), advice)
	case !l.Held(now):
		return fmt.Errorf("%w for much longer: the control plane is being stopped%s", errNotHeld, advice)
	}
	return nil
}

func newFenceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fence",
		Short: "Make sure that the control plane stops when the lease runs out",
		Long: "Make sure that the control plane of this host stops when its lease runs out.\n\n" +
			"systemd runs it whenever the agent ends (ExecStopPost=). While the lease has time the\n" +
			"control plane keeps running and a timer of PID 1 stops it at the end of the lease; an\n" +
			"agent that is back by then renews the lease and takes the timer away. Without a lease\n" +
			"nothing is stopped: then nothing of ours runs here.",
		Args: cobra.NoArgs,
	}
	file := cmd.Flags().String("file", leasefile.DefaultPath, "where the agent notes the lease")
	now := cmd.Flags().Bool("now", false, "stop at once if the lease has not been renewed (what the timer runs)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		m := systemd.NewManager()
		defer m.Close()
		f := fence{file: *file, clock: leasefile.Boottime, systemd: m, out: cmd.ErrOrStderr(), log: cmd.Context(), release: releaseVIP}
		return f.run(*now)
	}
	return cmd
}

// fencer is what the fence asks of systemd.
type fencer interface {
	controlplane.Manager
	After(ctx context.Context, name string, d time.Duration, command ...string) error
}

type fence struct {
	file    string
	clock   func() time.Duration
	systemd fencer
	out     io.Writer
	log     context.Context
	release func(vip netip.Addr) error
}

func (f *fence) run(now bool) error {
	l, err := leasefile.Read(f.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		// Who damaged it is unknown, and so is what it allowed. The units cannot start
		// again without it; what runs is the agent's to stop when it is back.
		return fmt.Errorf("fence: %w", err)
	}
	left := l.StopAt() - f.clock()
	switch {
	case l.Deadline == leasefile.Forever:
		fmt.Fprintf(f.out, "fence: the cluster is paused; the control plane keeps running\n")
		return nil
	case left > 0 && now:
		return nil // renewed while the timer went off
	case left > 0:
		exe, err := os.Executable()
		if err != nil {
			exe = "/usr/bin/relevo"
		}
		ctx, cancel := context.WithTimeout(f.log, left)
		defer cancel()
		if err = f.systemd.After(ctx, agent.FenceTimer, left, exe, "fence", "--now", "--file", filepath.Clean(f.file)); err == nil {
			fmt.Fprintf(f.out, "fence: the lease of term %d lasts: the control plane keeps running, and stops in %v unless the agent is back\n",
				l.Term, left.Round(time.Millisecond))
			return nil
		}
		// Without a timer there is nobody to stop it later.
		fmt.Fprintf(f.out, "fence: %v; stopping now\n", err)
	}
	return f.stop(l)
}

func releaseVIP(ip netip.Addr) error {
	a, err := vip.New(vip.Config{Prefix: netip.PrefixFrom(ip, ip.BitLen()), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	return a.Release(context.Background())
}

// stop stops the units, and kills them in time if they do not.
func (f *fence) stop(l leasefile.Lease) error {
	fmt.Fprintf(f.out, "fence: the lease of term %d runs out: stopping %s\n", l.Term, strings.Join(l.Units, ", "))
	u := controlplane.New(controlplane.Config{Units: l.Units, Manager: f.systemd})
	grace := max(0, l.KillAt()-f.clock())
	ctx, cancel := context.WithTimeout(f.log, grace)
	err := u.Stop(ctx)
	cancel()
	if err != nil {
		fmt.Fprintf(f.out, "fence: %v; killing\n", err)
		ctx, cancel := context.WithTimeout(f.log, 10*time.Second)
		defer cancel()
		if err = u.Kill(ctx); err != nil {
			return fmt.Errorf("fence: %w", err)
		}
		if err = u.Stop(ctx); err != nil { // Restart= must not bring them back
			return fmt.Errorf("fence: %w", err)
		}
	}
	if is, err := leasefile.Read(f.file); err == nil && is.Deadline != l.Deadline {
		return nil // renewed meanwhile: the agent is back
	}
	if l.VIP.IsValid() && f.release != nil {
		// The next master asks for it, and a host without an agent would go on answering.
		if err := f.release(l.VIP); err != nil {
			fmt.Fprintf(f.out, "fence: %v\n", err)
		}
	}
	return leasefile.Remove(f.file)
}
