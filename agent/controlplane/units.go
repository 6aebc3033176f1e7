package controlplane

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"relevo.dev/relevo/agent/durable"
	"relevo.dev/relevo/systemd"
)

// Manager is what is needed of systemd.
type Manager interface {
	Start(ctx context.Context, unit string) error
	Stop(ctx context.Context, unit string) error
	Kill(ctx context.Context, unit string) error
	State(ctx context.Context, unit string) (systemd.State, error)
	Reload(ctx context.Context) error
}

// Config of [Units].
type Config struct {
	Units        []string // in the order in which they start
	StandbyUnits []string // run while the host is a standby
	// StandbyIfThere: a standby unit that systemd does not have is left out. Not every
	// k3s server is a node of its own cluster while it stands by.
	StandbyIfThere bool
	Manager        Manager
	LeaseCommand   string // ExecCondition= of every unit
	DropInDir      string // /etc/systemd/system
	Log            *slog.Logger
}

// Units is a control plane of systemd units.
type Units struct{ cfg Config }

// New makes it.
func New(cfg Config) *Units { return &Units{cfg} }

// Names are the units in the order in which they start.
func (u *Units) Names() []string { return u.cfg.Units }

// Check says whether systemd knows every unit.
func (u *Units) Check(ctx context.Context) error {
	var errs []error
	for _, n := range slices.Concat(u.cfg.Units, u.cfg.StandbyUnits) {
		switch s, err := u.cfg.Manager.State(ctx, n); {
		case err != nil:
			errs = append(errs, err)
		case s.Load == notFound && u.cfg.StandbyIfThere && slices.Contains(u.cfg.StandbyUnits, n):
		case s.Load != "loaded":
			errs = append(errs, fmt.Errorf("unit %s is %s for systemd: install it, or correct candidate.control_plane in the configuration", n, s.Load))
		}
	}
	return errors.Join(errs...)
}

// startAgain is how long after a refusal a unit is started again.
const startAgain = 300 * time.Millisecond

// Start starts every unit in order; one that is active is left alone. One that is refused
// since the lease is nearly over is started again until ctx ends: the lease is renewed in a
// moment, or lost. To give the term back for that would cost the half minute for which a host
// rests whose promotion failed.
func (u *Units) Start(ctx context.Context) error {
	for _, n := range u.cfg.Units {
		err := u.cfg.Manager.Start(ctx, n)
		for errors.Is(err, systemd.ErrRefused) {
			select {
			case <-ctx.Done():
				return err
			case <-time.After(startAgain):
			}
			err = u.cfg.Manager.Start(ctx, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Stop stops every unit in reverse order. One that fails does not keep the others
// running.
func (u *Units) Stop(ctx context.Context) error {
	var errs []error
	for _, n := range slices.Backward(u.cfg.Units) {
		errs = append(errs, u.cfg.Manager.Stop(ctx, n))
	}
	return errors.Join(errs...)
}

// Kill kills the processes of all units at once. A unit that is stopped
// meanwhile stays down: a stop is queued behind the kill, so Restart= does not
// bring it back.
func (u *Units) Kill(ctx context.Context) error {
	errs := make([]error, len(u.cfg.Units))
	var wg sync.WaitGroup
	for i, n := range u.cfg.Units {
		wg.Go(func() { errs[i] = u.cfg.Manager.Kill(ctx, n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// AnyActive says whether some process of the control plane may be running. A unit
// that is starting or stopping counts, and so does one between two restarts; if
// systemd does not answer, that is an error, not a no.
func (u *Units) AnyActive(ctx context.Context) (bool, error) {
	for _, n := range u.cfg.Units {
		s, err := u.cfg.Manager.State(ctx, n)
		if err != nil {
			return true, err
		}
		if !s.Down() {
			return true, nil
		}
	}
	return false, nil
}

// Describe tells each unit's state, for people.
func (u *Units) Describe(ctx context.Context) string {
	var parts []string
	for _, n := range u.cfg.Units {
		s, err := u.cfg.Manager.State(ctx, n)
		if err != nil {
			return err.Error()
		}
		parts = append(parts, fmt.Sprintf("%s %s (%s)", n, s.Active, s.Sub))
	}
	return strings.Join(parts, ", ")
}

// notFound is what systemd says of a unit that it does not have.
const notFound = "not-found"

// EnterStandby starts what runs on a standby. Units of the control plane that were killed
// because they did not stop are no failures that anybody should look into.
func (u *Units) EnterStandby(ctx context.Context) error {
	var errs []error
	if m, ok := u.cfg.Manager.(interface {
		ResetFailed(ctx context.Context, unit string) error
	}); ok {
		for _, n := range u.cfg.Units {
			errs = append(errs, m.ResetFailed(ctx, n))
		}
	}
	return errors.Join(append(errs, u.standby(ctx, slices.Values(u.cfg.StandbyUnits), u.cfg.Manager.Start))...)
}

// LeaveStandby stops it again.
func (u *Units) LeaveStandby(ctx context.Context) error {
	return u.standby(ctx, backward(u.cfg.StandbyUnits), u.cfg.Manager.Stop)
}

func backward(l []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, n := range slices.Backward(l) {
			if !yield(n) {
				return
			}
		}
	}
}

func (u *Units) standby(ctx context.Context, units iter.Seq[string], do func(context.Context, string) error) error {
	var errs []error
	for n := range units {
		if u.cfg.StandbyIfThere {
			if s, err := u.cfg.Manager.State(ctx, n); err == nil && s.Load == notFound {
				continue
			}
		}
		errs = append(errs, do(ctx, n))
	}
	return errors.Join(errs...)
}

const dropInName = "50-relevo.conf"

func (u *Units) dropIn(whole bool) string {
	text := "# Written by relevo: without the master lease this unit does not start.\n" +
		"# `relevo status` tells who holds it; removing the package removes this file.\n" +
		"[Service]\nExecCondition=" + u.cfg.LeaseCommand + "\n"
	if whole {
		text += wholeUnit
	}
	return text
}

// wholeUnit is for units that would leave processes behind when they are stopped.
const wholeUnit = "# Nothing of it may outlive the lease.\nKillMode=control-group\n"

// InstallDropIns puts the lease in front of every service unit, and makes all processes of
// a unit end with it: what is left of the control plane without the lease is no less a
// second master for being a child. Not where the unit looks after others' processes
// (Delegate=): those are no control plane. Running units are not touched.
func (u *Units) InstallDropIns(ctx context.Context) error {
	changed := false
	for _, n := range u.cfg.Units {
		if !strings.HasSuffix(n, ".service") {
			continue
		}
		dir := filepath.Join(u.cfg.DropInDir, n+".d")
		path := filepath.Join(dir, dropInName)
		was, err := os.ReadFile(path)
		there := err == nil
		s, err := u.cfg.Manager.State(ctx, n)
		if err != nil { // the lease is what counts
			u.cfg.Log.Warn("whether a unit leaves processes behind is not known", "unit", n, "err", err)
		}
		// Once this file says it systemd does not tell any more what the unit's own says.
		whole := !s.Delegate && (s.Outlived() || there && strings.Contains(string(was), wholeUnit))
		if there && string(was) == u.dropIn(whole) {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("put the lease in front of %s: %w", n, err)
		}
		if err := durable.Replace(path, []byte(u.dropIn(whole)), 0o644); err != nil {
			return fmt.Errorf("put the lease in front of %s: %w", n, err)
		}
		u.cfg.Log.Info("unit is bound to the lease", "unit", n, "file", path, "with its children", whole)
		changed = true
	}
	if !changed {
		return nil
	}
	return u.cfg.Manager.Reload(ctx)
}
