package health

import (
	"context"
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

var errNoSelf = errors.New("there is no /proc/self")

// collectSelf measures the agent's own process.
func (m *Monitor) collectSelf(_ context.Context, r *Report) error {
	a := &r.Agent
	a.Goroutines = Of(float64(runtime.NumGoroutine()))
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil && limit.Cur < 1<<40 {
		a.FilesMax = Of(float64(limit.Cur))
	}
	open := -1.0 // the directory itself
	if m.files.each("/proc/self/fd", func([]byte) bool { open++; return true }) == nil {
		a.Files = Of(max(0, open))
	}
	b, err := m.files.read("/proc/self/statm")
	if err != nil {
		return absent(err, errNoSelf)
	}
	var n [2]float64 // pages: of the program, and of it in RAM
	if numbers(b, n[:]) == 2 {
		a.Memory = Of(n[1] * m.system.page)
	}
	return nil
}
