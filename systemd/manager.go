// Package systemd is what relevo asks of systemd: units over D-Bus, and
// notifications about itself. The unit files lie beside the code.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// State of a unit, in systemd's words.
type State struct {
	Unit     string
	Load     string // loaded, not-found, masked, bad-setting, error
	Active   string // active, activating, deactivating, inactive, failed, reloading
	Sub      string
	Result   string // success, exit-code, watchdog, …
	Restarts uint32
	// KillMode is how much of a service ends when it is stopped: control-group, mixed,
	// process, none; "" for other units.
	KillMode string
	// Delegate: the service looks after processes of others, as k3s does for containers.
	Delegate bool
}

// Outlived says that processes of the unit may go on when it is stopped.
func (s State) Outlived() bool { return s.KillMode == "process" || s.KillMode == "none" }

// Down says that nothing of the unit runs, surely.
func (s State) Down() bool { return s.Active == "inactive" || s.Active == "failed" }

// Manager talks to systemd. It connects when it is used, and again after the
// connection broke (systemd re-executed itself, D-Bus was restarted).
type Manager struct {
	mu   sync.Mutex
	conn *dbus.Conn
}

// NewManager makes a manager of the system's units.
func NewManager() *Manager { return &Manager{} }

// Close ends the connection.
func (m *Manager) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		m.conn.Close()
		m.conn = nil
	}
}

// connect prefers systemd's private socket: it is there without D-Bus, and the
// fence must not depend on more than it must. Only root may use it.
func (m *Manager) connect(ctx context.Context) (*dbus.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil && m.conn.Connected() {
		return m.conn, nil
	}
	// The connection outlives this call, so not ctx.
	c, err := dbus.NewSystemdConnectionContext(context.WithoutCancel(ctx))
	if err != nil {
		var err2 error
		if c, err2 = dbus.NewSystemConnectionContext(context.WithoutCancel(ctx)); err2 != nil {
			return nil, fmt.Errorf("reach systemd: %w", errors.Join(err, err2))
		}
	}
	m.conn = c
	return c, nil
}

// job starts one and waits for its end.
func (m *Manager) job(ctx context.Context, what, unit string, f func(*dbus.Conn, chan<- string) (int, error)) error {
	c, err := m.connect(ctx)
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, unit, err)
	}
	done := make(chan string, 1)
	if _, err := f(c, done); err != nil {
		return fmt.Errorf("%s %s: %w", what, unit, err)
	}
	select {
	case r := <-done:
		if r != "done" {
			return fmt.Errorf("%s %s: systemd says %q; `systemctl status %s` and `journalctl -u %s` tell why", what, unit, r, unit, unit)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s %s: %w", what, unit, ctx.Err())
	}
}

// Start starts a unit and waits until it is active.
func (m *Manager) Start(ctx context.Context, unit string) error {
	err := m.job(ctx, "start", unit, func(c *dbus.Conn, done chan<- string) (int, error) {
		return c.StartUnitContext(ctx, unit, "replace", done)
	})
	if err != nil {
		return err
	}
	// A unit whose condition failed is "done" and not active.
	s, err := m.State(ctx, unit)
	if err == nil && s.Down() {
		err = fmt.Errorf("start %s: it is %s (%s); `systemctl status %s` tells why", unit, s.Active, s.Result, unit)
		// systemd forgets at once that it was the condition: it is inactive, and "success".
		if s.Active == "inactive" && s.Result == "success" {
			err = refusedError{err}
		}
	}
	return err
}

// ErrRefused is what [Manager.Start] returns, wrapped, of a unit that was not started and has
// not failed: its ExecCondition= said no.
var ErrRefused = errors.New("its ExecCondition= says no")

type refusedError struct{ error }

func (refusedError) Is(target error) bool { return target == ErrRefused }

// Stop stops a unit and waits until it is down.
func (m *Manager) Stop(ctx context.Context, unit string) error {
	return m.job(ctx, "stop", unit, func(c *dbus.Conn, done chan<- string) (int, error) {
		return c.StopUnitContext(ctx, unit, "replace", done)
	})
}

// Kill sends SIGKILL to every process of a unit, or, if it is one of KillMode=process that
// has its cgroup delegated, to its main process alone: the others are not its own, like the
// containers of a k3s server, and outlive it. A unit without processes is no error.
func (m *Manager) Kill(ctx context.Context, unit string) error {
	c, err := m.connect(ctx)
	if err != nil {
		return fmt.Errorf("kill %s: %w", unit, err)
	}
	whom := dbus.All
	if s, err := m.State(ctx, unit); err == nil && s.KillMode == "process" && s.Delegate {
		whom = dbus.Main
	}
	err = c.KillUnitWithTarget(ctx, unit, whom, 9)
	var de godbus.Error
	if errors.As(err, &de) && (de.Name == "org.freedesktop.systemd1.NoSuchUnit" || de.Name == "org.freedesktop.systemd1.NoSuchProcess") {
		return nil
	}
	if err != nil && (err.Error() == "No matching processes to kill" || err.Error() == "No main process to kill") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill %s: %w", unit, err)
	}
	return nil
}

// ResetFailed makes a failed unit an inactive one; any other is left as it is.
func (m *Manager) ResetFailed(ctx context.Context, unit string) error {
	s, err := m.State(ctx, unit)
	if err != nil || s.Active != "failed" {
		return err
	}
	c, err := m.connect(ctx)
	if err == nil {
		err = c.ResetFailedUnitContext(ctx, unit)
	}
	if err != nil {
		return fmt.Errorf("forget that %s failed: %w", unit, err)
	}
	return nil
}

// State looks at one unit.
func (m *Manager) State(ctx context.Context, unit string) (State, error) {
	c, err := m.connect(ctx)
	if err != nil {
		return State{}, fmt.Errorf("look at %s: %w", unit, err)
	}
	p, err := c.GetUnitPropertiesContext(ctx, unit)
	if err != nil {
		return State{}, fmt.Errorf("look at %s: %w", unit, err)
	}
	str := func(k string) string { s, _ := p[k].(string); return s }
	s := State{Unit: unit, Load: str("LoadState"), Active: str("ActiveState"), Sub: str("SubState")}
	if q, err := c.GetUnitTypePropertiesContext(ctx, unit, "Service"); err == nil {
		s.Result, _ = q["Result"].(string)
		s.Restarts, _ = q["NRestarts"].(uint32)
		s.KillMode, _ = q["KillMode"].(string)
		s.Delegate, _ = q["Delegate"].(bool)
	}
	return s, nil
}

// FailedUnits are the names of the units in failed state.
func (m *Manager) FailedUnits(ctx context.Context) ([]string, error) {
	c, err := m.connect(ctx)
	if err != nil {
		return nil, err
	}
	units, err := c.ListUnitsFilteredContext(ctx, []string{"failed"})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, u := range units {
		names = append(names, u.Name)
	}
	return names, nil
}

// Reload makes systemd read its unit files again.
func (m *Manager) Reload(ctx context.Context) error {
	c, err := m.connect(ctx)
	if err == nil {
		err = c.ReloadContext(ctx)
	}
	if err != nil {
		return fmt.Errorf("make systemd read its units again: %w", err)
	}
	return nil
}

// Restarting says whether a unit is being stopped only to be started again.
func (m *Manager) Restarting(ctx context.Context, unit string) bool {
	c, err := m.connect(ctx)
	if err != nil {
		return false
	}
	jobs, err := c.ListJobsContext(ctx)
	if err != nil {
		return false
	}
	for _, j := range jobs {
		if j.Unit == unit && (j.JobType == "restart" || j.JobType == "try-restart") {
			return true
		}
	}
	return false
}

// After makes PID 1 run a command once, in d from now, whatever becomes of us. The
// timer and the service have the given name; an older pair of it is replaced.
func (m *Manager) After(ctx context.Context, name string, d time.Duration, command ...string) error {
	m.Disarm(ctx, name)
	c, err := m.connect(ctx)
	if err != nil {
		return fmt.Errorf("arm %s.timer: %w", name, err)
	}
	type timer struct {
		Base string
		USec uint64
	}
	done := make(chan string, 1)
	props := []dbus.Property{
		dbus.PropDescription("relevo: stops the control plane when its lease runs out"),
		{Name: "TimersMonotonic", Value: godbus.MakeVariant([]timer{{"OnActiveSec", uint64(max(d, 0).Microseconds())}})},
		{Name: "AccuracyUSec", Value: godbus.MakeVariant(uint64(1000))},
		{Name: "RemainAfterElapse", Value: godbus.MakeVariant(false)},
	}
	aux := []dbus.PropertyCollection{{Name: name + ".service", Properties: []dbus.Property{
		dbus.PropDescription("relevo: stop the control plane, its lease ran out"),
		dbus.PropType("oneshot"),
		dbus.PropExecStart(command, false),
		{Name: "CollectMode", Value: godbus.MakeVariant("inactive-or-failed")},
		{Name: "DefaultDependencies", Value: godbus.MakeVariant(false)},
	}}}
	if _, err := c.StartTransientUnitAux(ctx, name+".timer", "replace", props, aux, done); err != nil {
		return fmt.Errorf("arm %s.timer: %w", name, err)
	}
	select {
	case r := <-done:
		if r != "done" {
			return fmt.Errorf("arm %s.timer: systemd says %q", name, r)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("arm %s.timer: %w", name, ctx.Err())
	}
}

// Disarm takes back what After armed, if it has not begun.
func (m *Manager) Disarm(ctx context.Context, name string) error {
	c, err := m.connect(ctx)
	if err != nil {
		return err
	}
	done := make(chan string, 1)
	if _, err := c.StopUnitContext(ctx, name+".timer", "replace", done); err != nil {
		var de godbus.Error
		if errors.As(err, &de) && de.Name == "org.freedesktop.systemd1.NoSuchUnit" {
			return nil
		}
		return fmt.Errorf("disarm %s.timer: %w", name, err)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
