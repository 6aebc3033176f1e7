package api

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"relevo.dev/relevo/health"
)

// ProcessMetrics are what the agent costs, under the names that every exporter
// uses. What cannot be read is left out.
func ProcessMetrics() []Metric {
	m := []Metric{One("go_goroutines", "Goroutines that exist.", Gauge, float64(runtime.NumGoroutine()))}
	var ru unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &ru) == nil {
		seconds := func(t unix.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
		m = append(m, One("process_cpu_seconds_total", "Processor time used by the agent, in seconds.", Counter, seconds(ru.Utime)+seconds(ru.Stime)))
	}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 {
			if pages, err := strconv.ParseFloat(f[1], 64); err == nil {
				m = append(m, One("process_resident_memory_bytes", "Memory of the agent that is in RAM, in bytes.", Gauge, pages*float64(os.Getpagesize())))
			}
		}
	}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		m = append(m, One("process_open_fds", "File descriptors that the agent has open.", Gauge, float64(len(fds))))
	}
	return m
}

// HealthMetrics shows a report of this host and its conditions. Values that are
// unknown are left out.
func HealthMetrics(r health.Report, conditions []health.Condition) []Metric {
	var out []Metric
	add := func(name, help string, v health.Value, labels ...Label) {
		n, ok := v.Get()
		if !ok {
			return
		}
		s := Sample{Labels: labels, Value: n}
		if len(out) > 0 && out[len(out)-1].Name == name {
			out[len(out)-1].Samples = append(out[len(out)-1].Samples, s)
			return
		}
		out = append(out, Metric{Name: name, Help: help, Type: Gauge, Samples: []Sample{s}})
	}
	if v, ok := r.CPUPercent.Get(); ok {
		add("relevo_host_cpu_busy_ratio", "Share of the processor time of all cores that was busy in the last round, 0 to 1.", health.Of(v/100))
	}
	add("relevo_host_cpus", "Processor cores that the kernel uses.", r.CPUs)
	add("relevo_host_load1", "Mean number of runnable tasks over 1 minute.", r.Load1)
	add("relevo_host_load5", "Mean number of runnable tasks over 5 minutes.", r.Load5)
	add("relevo_host_load15", "Mean number of runnable tasks over 15 minutes.", r.Load15)
	add("relevo_host_memory_bytes", "Memory of the host, in bytes.", r.MemoryTotal)
	add("relevo_host_memory_available_bytes", "Memory that could be used without swapping, in bytes.", r.MemoryAvailable)
	add("relevo_host_swap_bytes", "Swap space of the host, in bytes.", r.SwapTotal)
	add("relevo_host_swap_used_bytes", "Swap space in use, in bytes.", r.SwapUsed)
	add("relevo_host_temperature_celsius", "Temperature of the processor.", r.Temperature)
	add("relevo_host_uptime_seconds", "Time since the kernel started.", r.Uptime)
	for _, d := range r.Disks {
		add("relevo_host_filesystem_bytes", "Size of the file system that holds path, in bytes.", d.Total, Label{"path", d.Path})
	}
	for _, d := range r.Disks {
		add("relevo_host_filesystem_free_bytes", "Space that is left for programs without privileges, in bytes.", d.Free, Label{"path", d.Path})
	}
	for _, d := range r.Disks {
		if d.ReadOnly != health.Maybe {
			v := health.Of(0)
			if d.ReadOnly == health.Yes {
				v = health.Of(1)
			}
			add("relevo_host_filesystem_readonly", "1 if the kernel refuses writes to the file system that holds path.", v, Label{"path", d.Path})
		}
	}
	for _, c := range conditions {
		if c.Status != health.Maybe {
			v := health.Of(0)
			if c.Status == health.Yes {
				v = health.Of(1)
			}
			add("relevo_host_condition", "1 if the condition holds: see relevo health.", v, Label{"type", string(c.Type)})
		}
	}
	return out
}
