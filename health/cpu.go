package health

import (
	"context"
	"errors"
	"fmt"

	"github.com/shirou/gopsutil/v3/cpu"
)

// cpuTimes are seconds since boot, summed over all cores.
type cpuTimes struct {
	busy, all float64
	known     bool
}

func (m *Monitor) collectCPU(ctx context.Context, r *Report) error {
	before := m.cpu
	m.cpu = cpuTimes{}
	each, err := cpu.TimesWithContext(ctx, true)
	if err != nil {
		return fmt.Errorf("read the processor times: %w", err)
	}
	if len(each) == 0 {
		return errors.New("the kernel tells no processor times")
	}
	r.CPUs = Of(float64(len(each)))
	// The sum is taken here, so that one read of /proc/stat gives both. Guest
	// times are part of user and nice already.
	now := cpuTimes{known: true}
	for _, t := range each {
		busy := t.User + t.System + t.Nice + t.Irq + t.Softirq + t.Steal
		now.busy += busy
		now.all += busy + t.Idle + t.Iowait
	}
	m.cpu = now
	// A core that was switched off takes its times with it.
	if busy, all := now.busy-before.busy, now.all-before.all; before.known && all > 0 && busy >= 0 {
		r.CPUPercent = Of(min(100, 100*busy/all))
	}
	return nil
}
