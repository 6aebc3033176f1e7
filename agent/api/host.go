package api

import "relevo.dev/relevo/health"

// HealthMetrics shows a report of this host and its conditions. Values that are
// unknown are left out.
func HealthMetrics(r health.Report, conditions []health.Condition) []Metric {
	var s Set
	for _, c := range conditions {
		s.Truth("relevo_host_condition", c.Status, string(c.Type))
	}
	if r.At.IsZero() {
		return s.Metrics() // nothing was measured yet
	}
	for _, u := range r.Unknown {
		s.Add("relevo_host_unknown", 1, u.What)
	}
	s.Add("relevo_host_measured_timestamp_seconds", float64(r.At.UnixMilli())/1000)
	if b := r.Board; b != (health.Board{}) {
		s.Add("relevo_host_board_info", 1, b.Model, b.Revision, b.Container)
	}
	if r.Boot.Cause != "" {
		s.Add("relevo_host_boot_info", 1, r.Boot.Cause)
	}
	s.Value("relevo_host_uptime_seconds", r.Uptime)
	s.power(&r)
	s.load(&r)
	s.disks(&r)
	s.links(&r)
	s.Truth("relevo_host_clock_synchronized", r.Clock.Synchronized)
	s.Truth("relevo_host_clock_rtc", r.Clock.RTC)
	s.Value("relevo_host_clock_step_seconds", r.Clock.Step)
	if r.Units.Known {
		s.Add("relevo_host_units_failed", float64(len(r.Units.Failed)))
		for _, u := range r.Units.Failed {
			s.Add("relevo_host_unit_failed", 1, u)
		}
	}
	s.Value("process_max_fds", r.Agent.FilesMax)
	return s.Metrics()
}

// ratio of a percentage.
func ratio(v health.Value) health.Value { return scaled(v, 0.01) }

func scaled(v health.Value, by float64) health.Value {
	n, ok := v.Get()
	if !ok {
		return v
	}
	return health.Of(n * by)
}

func (s *Set) power(r *health.Report) {
	p := r.Power
	s.Truth("relevo_host_under_voltage", p.UnderVoltage)
	s.Value("relevo_host_under_voltages_total", p.UnderVoltages)
	s.Truth("relevo_host_throttled", p.Throttled, p.ThrottledBy)
	s.Value("relevo_host_supply_amperes", p.SupplyAmperes)
	s.Value("relevo_host_temperature_celsius", r.Temperature)
	for _, c := range r.Cooling {
		s.Value("relevo_host_cooling_state", c.State, c.Name, c.Type)
		s.Value("relevo_host_cooling_state_max", c.Max, c.Name, c.Type)
	}
}

func (s *Set) load(r *health.Report) {
	s.Value("relevo_host_cpus", r.CPUs)
	s.Value("relevo_host_cpu_busy_ratio", ratio(r.CPUPercent))
	s.Value("relevo_host_cpu_iowait_ratio", ratio(r.IOWaitPercent))
	s.Value("relevo_host_cpu_frequency_hertz", r.CPUHertz)
	s.Value("relevo_host_cpu_frequency_max_hertz", r.CPUMaxHertz)
	s.Value("relevo_host_load1", r.Load1)
	s.Value("relevo_host_load5", r.Load5)
	s.Value("relevo_host_load15", r.Load15)
	for _, p := range []struct {
		resource string
		health.Pressure
	}{{"cpu", r.Pressure.CPU}, {"memory", r.Pressure.Memory}, {"io", r.Pressure.IO}} {
		s.Value("relevo_host_pressure_waiting_seconds_total", p.SomeAll, p.resource)
		s.Value("relevo_host_pressure_stalled_seconds_total", p.FullAll, p.resource)
	}
	s.Value("relevo_host_memory_bytes", r.MemoryTotal)
	s.Value("relevo_host_memory_available_bytes", r.MemoryAvailable)
	s.Truth("relevo_host_memory_cgroup", r.MemoryCgroup)
	s.Value("relevo_host_oom_kills_total", r.OOMKills)
	s.Value("relevo_host_swap_bytes", r.SwapTotal)
	s.Value("relevo_host_swap_used_bytes", r.SwapUsed)
	s.Value("relevo_host_swap_in_bytes_total", r.SwapIn)
	s.Value("relevo_host_swap_out_bytes_total", r.SwapOut)
	s.Value("relevo_host_zram_data_bytes", r.ZramData)
	s.Value("relevo_host_zram_memory_bytes", r.ZramMemory)
}

func (s *Set) disks(r *health.Report) {
	for _, d := range r.Disks {
		s.Value("relevo_host_filesystem_bytes", d.Total, d.Path)
		s.Value("relevo_host_filesystem_free_bytes", d.Free, d.Path)
		s.Value("relevo_host_filesystem_files", d.Inodes, d.Path)
		s.Value("relevo_host_filesystem_files_free", d.InodesFree, d.Path)
		s.Truth("relevo_host_filesystem_readonly", d.ReadOnly, d.Path)
	}
	for _, e := range r.Ext4 {
		s.Value("relevo_host_ext4_errors_total", e.Errors, e.Device)
		if !e.LastError.IsZero() {
			s.Add("relevo_host_ext4_last_error_timestamp_seconds", float64(e.LastError.Unix()), e.Device)
		}
		s.Value("relevo_host_ext4_written_bytes_total", e.Written, e.Device)
	}
	for _, d := range r.Drives {
		s.Value("relevo_host_drive_read_bytes_total", d.Read, d.Name)
		s.Value("relevo_host_drive_written_bytes_total", d.Written, d.Name)
		s.Value("relevo_host_drive_busy_seconds_total", d.Busy, d.Name)
		s.Value("relevo_host_drive_write_seconds", d.WriteSeconds, d.Name)
		s.Value("relevo_host_drive_flush_seconds", d.FlushSeconds, d.Name)
		s.Value("relevo_host_drive_in_flight", d.InFlight, d.Name)
		s.Value("relevo_host_drive_errors_total", d.Errors, d.Name)
		s.Value("relevo_host_drive_worn_ratio", ratio(d.WornPercent), d.Name)
		s.Value("relevo_host_drive_reserve_state", d.Reserve, d.Name)
	}
	s.Value("relevo_host_own_writes_total", r.Writes.Count)
	s.Value("relevo_host_own_writes_failed_total", r.Writes.Failed)
	s.Value("relevo_host_own_write_slowest_seconds", r.Writes.Slowest)
}

func (s *Set) links(r *health.Report) {
	for _, l := range r.Links {
		s.Truth("relevo_host_link_up", l.Up, l.Name)
		s.Value("relevo_host_link_speed_bytes_per_second", scaled(l.Speed, 1.0/8), l.Name)
		s.Value("relevo_host_link_carrier_changes_total", l.CarrierChanges, l.Name)
		s.Value("relevo_host_link_received_bytes_total", l.Received, l.Name)
		s.Value("relevo_host_link_sent_bytes_total", l.Sent, l.Name)
		s.Value("relevo_host_link_packets_total", l.Packets, l.Name)
		s.Value("relevo_host_link_errors_total", l.Errors, l.Name)
		s.Value("relevo_host_link_drops_total", l.Drops, l.Name)
		s.Value("relevo_host_wifi_signal_dbm", l.Signal, l.Name)
	}
}
