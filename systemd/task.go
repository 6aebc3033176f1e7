package systemd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// Task is a program that PID 1 runs once, beside us: with nothing of our own limits on
// what may be done, and with limits of its own on what it may cost.
type Task struct {
	Unit        string // name of the transient service: x.service
	Description string
	Identifier  string // under which its output is in the journal
	Command     []string
	Env         []string // NAME=VALUE
	Input       []byte
	// Limit is after what time everything that it started is killed.
	Limit time.Duration
}

// What a task may take of a small board, and how many messages of it the journal keeps
// within ten minutes (a few times that where there is much space on the disk).
const (
	taskMemory   = 64 << 20 // where memory cgroups are on
	taskTasks    = 64
	taskMessages = 50
)

// RunTask runs a task to its end. The error says how it ended badly; what it printed is
// in the journal. If ctx ends first, the task goes on, within its limit.
func (m *Manager) RunTask(ctx context.Context, t Task) error {
	c, err := m.connect(ctx)
	if err != nil {
		return fmt.Errorf("run %s: %w", t.Command[0], err)
	}
	v := func(name string, value any) dbus.Property {
		return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
	}
	props := []dbus.Property{
		dbus.PropDescription(t.Description), dbus.PropType("oneshot"), dbus.PropExecStart(t.Command, false), v("Environment", t.Env),
		v("StandardInput", "data"), v("StandardInputData", t.Input), v("StandardOutput", "journal"), v("StandardError", "journal"),
		v("SyslogIdentifier", t.Identifier), v("LogRateLimitIntervalUSec", uint64((10 * time.Minute).Microseconds())), v("LogRateLimitBurst", uint32(taskMessages)),
		v("TimeoutStartUSec", uint64(t.Limit.Microseconds())), v("TimeoutStopUSec", uint64(time.Second.Microseconds())),
		v("KillMode", "control-group"), v("MemoryMax", uint64(taskMemory)), v("TasksMax", uint64(taskTasks)),
		v("CPUWeight", uint64(20)), v("IOWeight", uint64(20)), v("Nice", int32(10)), v("OOMScoreAdjust", int32(500)), v("LimitCORE", uint64(0)),
		v("CollectMode", "inactive-or-failed"),
	}
	done := make(chan string, 1)
	start := func() error {
		_, err := c.StartTransientUnitContext(ctx, t.Unit, "fail", props, done)
		return err
	}
	begin := time.Now()
	err = start()
	var de godbus.Error
	if errors.As(err, &de) && de.Name == "org.freedesktop.systemd1.UnitExists" {
		// Of an agent before us. Its event is older than ours.
		if err = m.Stop(ctx, t.Unit); err == nil {
			err = start()
		}
	}
	if err != nil {
		return fmt.Errorf("run %s as %s: %w", t.Command[0], t.Unit, err)
	}
	select {
	case r := <-done:
		switch {
		case r == "done":
			return nil
		case r == "timeout", r == "failed" && time.Since(begin) >= t.Limit: // systemd 252 says the latter
			return fmt.Errorf("it was killed after %v", t.Limit)
		case r == "failed":
			return errors.New("it failed")
		}
		return fmt.Errorf("systemd says %q", r)
	case <-ctx.Done():
		return ctx.Err()
	}
}
