package systemd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// Sandbox is a command that PID 1 runs once, walled in: a network of its own with nothing
// in it but loopback, read-only file systems, an empty /run and /tmp, no devices, the last
// in line for the processor and the disk, the first to go when memory is short.
type Sandbox struct {
	Name        string // of the service, without .service
	Description string
	Command     []string
	Write       []string      // folders that it may write to
	Memory      uint64        // bytes, where the kernel counts memory by control group; 0 = any
	Limit       time.Duration // it is killed after that
	BindsTo     string        // unit with which it ends
}

// RunSandbox runs the command until it has ended. If ctx ends, it is killed.
func (m *Manager) RunSandbox(ctx context.Context, s Sandbox) error {
	unit := s.Name + ".service"
	type mount struct{ Path, Options string }
	v := godbus.MakeVariant
	props := []dbus.Property{
		dbus.PropDescription(s.Description),
		dbus.PropType("oneshot"), // the job ends with the command
		dbus.PropExecStart(s.Command, false),
		{Name: "CollectMode", Value: v("inactive-or-failed")},
		{Name: "TimeoutStartUSec", Value: v(uint64(s.Limit.Microseconds()))},
		{Name: "TimeoutStopUSec", Value: v(uint64(time.Second.Microseconds()))},
		{Name: "StandardOutput", Value: v("null")},
		{Name: "StandardError", Value: v("null")},
		{Name: "PrivateNetwork", Value: v(true)},
		{Name: "PrivateTmp", Value: v(true)},
		{Name: "PrivateDevices", Value: v(true)},
		{Name: "ProtectSystem", Value: v("strict")},
		{Name: "ProtectHome", Value: v("yes")},
		{Name: "NoNewPrivileges", Value: v(true)},
		{Name: "ReadWritePaths", Value: v(s.Write)},
		{Name: "TemporaryFileSystem", Value: v([]mount{{"/run", "mode=0755"}})},
		{Name: "TasksMax", Value: v(uint64(512))},
		{Name: "OOMScoreAdjust", Value: v(int32(900))},
		{Name: "Nice", Value: v(int32(19))},
		{Name: "IOSchedulingClass", Value: v(int32(3))}, // idle
	}
	if s.Memory > 0 {
		props = append(props, dbus.Property{Name: "MemoryMax", Value: v(s.Memory)})
	}
	if s.BindsTo != "" {
		props = append(props, dbus.Property{Name: "BindsTo", Value: v([]string{s.BindsTo})}, dbus.Property{Name: "After", Value: v([]string{s.BindsTo})})
	}
	err := m.job(ctx, "run", unit, func(c *dbus.Conn, done chan<- string) (int, error) {
		return c.StartTransientUnitContext(ctx, unit, "fail", props, done)
	})
	if ctx.Err() != nil {
		err = errors.Join(err, m.EndSandbox(context.WithoutCancel(ctx), s.Name))
	}
	return err
}

// EndSandbox kills what RunSandbox started, if it still runs.
func (m *Manager) EndSandbox(ctx context.Context, name string) error {
	unit := name + ".service"
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := m.connect(ctx)
	if err != nil {
		return fmt.Errorf("end %s: %w", unit, err)
	}
	_ = c.KillUnitWithTarget(ctx, unit, dbus.All, 9) // no such unit: it has ended
	done := make(chan string, 1)
	if _, err := c.StopUnitContext(ctx, unit, "replace", done); err != nil {
		var de godbus.Error
		if errors.As(err, &de) && de.Name == "org.freedesktop.systemd1.NoSuchUnit" {
			return nil
		}
		return fmt.Errorf("end %s: %w", unit, err)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("end %s: %w", unit, ctx.Err())
	}
}

// CommandLine returns what a service starts with ExecStart=, and its Environment=.
func (m *Manager) CommandLine(ctx context.Context, unit string) (argv, env []string, err error) {
	c, err := m.connect(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("look at %s: %w", unit, err)
	}
	p, err := c.GetUnitTypePropertiesContext(ctx, unit, "Service")
	if err != nil {
		return nil, nil, fmt.Errorf("look at %s: %w", unit, err)
	}
	// a(sasbttttuii): path, argv, ignore failure, times, pid, code, status; argv[0] may be
	// another name than the path.
	list, _ := p["ExecStart"].([][]any)
	if len(list) != 1 || len(list[0]) < 2 {
		return nil, nil, fmt.Errorf("look at %s: it has %d commands in ExecStart=, not one", unit, len(list))
	}
	path, _ := list[0][0].(string)
	args, _ := list[0][1].([]string)
	if path == "" || len(args) == 0 {
		return nil, nil, fmt.Errorf("look at %s: its ExecStart= is not understood", unit)
	}
	env, _ = p["Environment"].([]string)
	return append([]string{path}, args[1:]...), env, nil
}
