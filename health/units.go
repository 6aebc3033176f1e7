package health

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// UnitLister tells which systemd units are in failed state. It is asked every
// round, so it should be cheap while there are none, and must heed ctx.
type UnitLister interface {
	FailedUnits(ctx context.Context) ([]string, error)
}

const (
	unitsTimeout = 2 * time.Second
	maxUnits     = 20
)

func (m *Monitor) collectUnits(ctx context.Context, r *Report) error {
	if m.cfg.Units == nil {
		return nil // nobody wants to know
	}
	ctx, cancel := context.WithTimeout(ctx, unitsTimeout)
	defer cancel()
	names, err := m.cfg.Units.FailedUnits(ctx)
	if err != nil {
		return fmt.Errorf("ask systemd for failed units: %w", err)
	}
	r.Units.Known = true
	for _, name := range names[:min(len(names), maxUnits)] {
		r.Units.Failed = append(r.Units.Failed, printable(name, 100))
	}
	slices.Sort(r.Units.Failed)
	return nil
}
