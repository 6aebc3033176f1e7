package health

import (
	"context"
	"errors"
	"fmt"

	"github.com/shirou/gopsutil/v3/mem"
)

func (m *Monitor) collectMemory(ctx context.Context, r *Report) error {
	v, err := mem.VirtualMemoryWithContext(ctx)
	if err != nil {
		return fmt.Errorf("read /proc/meminfo: %w", err)
	}
	// A file that is missing or has no such line comes as zeros without an error.
	if v.Total == 0 {
		return errors.New("/proc/meminfo is not there or has no MemTotal")
	}
	r.MemoryTotal = Of(float64(v.Total))
	if v.Available <= v.Total {
		r.MemoryAvailable = Of(float64(v.Available))
	}
	if v.SwapFree <= v.SwapTotal {
		r.SwapTotal = Of(float64(v.SwapTotal))
		r.SwapUsed = Of(float64(v.SwapTotal - v.SwapFree))
	}
	return nil
}
