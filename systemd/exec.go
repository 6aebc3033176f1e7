package systemd

import (
	"context"
	"fmt"
)

// Exec is what a service runs, as systemd has read it: from the unit and its drop-ins.
type Exec struct {
	Path             string   // of the program; "" = none
	Args             []string // after the program's name
	Environment      []string // NAME=value
	EnvironmentFiles []string // paths; they need not be there
}

// Exec looks at the (last) ExecStart= of a service.
func (m *Manager) Exec(ctx context.Context, unit string) (Exec, error) {
	c, err := m.connect(ctx)
	if err != nil {
		return Exec{}, fmt.Errorf("look at %s: %w", unit, err)
	}
	p, err := c.GetUnitTypePropertiesContext(ctx, unit, "Service")
	if err != nil {
		return Exec{}, fmt.Errorf("look at %s: %w", unit, err)
	}
	var e Exec
	// a(sasbttttuii): path, arguments with the program's name first, and how it went.
	if list, ok := p["ExecStart"].([][]any); ok && len(list) > 0 {
		last := list[len(list)-1]
		if len(last) > 1 {
			e.Path, _ = last[0].(string)
			if args, ok := last[1].([]string); ok && len(args) > 0 {
				e.Args = args[1:]
			}
		}
	}
	e.Environment, _ = p["Environment"].([]string)
	// a(sb): path, and whether it may be missing.
	if list, ok := p["EnvironmentFiles"].([][]any); ok {
		for _, f := range list {
			if len(f) > 0 {
				if path, ok := f[0].(string); ok {
					e.EnvironmentFiles = append(e.EnvironmentFiles, path)
				}
			}
		}
	}
	return e, nil
}
