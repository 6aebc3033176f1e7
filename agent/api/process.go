package api

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ProcessMetrics are what the agent costs, under the names that every exporter
// uses. What cannot be read is left out.
func ProcessMetrics() []Metric {
	var m Set
	m.Add("go_goroutines", float64(runtime.NumGoroutine()))
	var ru unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &ru) == nil {
		seconds := func(t unix.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
		m.Add("process_cpu_seconds_total", seconds(ru.Utime)+seconds(ru.Stime))
	}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 {
			if pages, err := strconv.ParseFloat(f[1], 64); err == nil {
				m.Add("process_resident_memory_bytes", pages*float64(os.Getpagesize()))
			}
		}
	}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		m.Add("process_open_fds", float64(len(fds)))
	}
	return m.Metrics()
}
