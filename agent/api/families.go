package api

import (
	"fmt"
	"slices"

	"relevo.dev/relevo/health"
)

// Family is what there is to know of a metric before it has a value. docs/metrics.md is
// made from them.
type Family struct {
	Name   string
	Type   MetricType
	Labels []string
	Help   string
}

// Families are all metrics that an agent may show, in the order of the documentation:
// of the cluster, of the host, of the agent's process.
func Families() []Family { return slices.Clone(families) }

var families = []Family{
	{"relevo_build_info", Gauge, []string{"version"}, "Always 1; the version is in the label."},
	{"relevo_term", Gauge, nil, "Number of the present mastership; grows by one at each change of the master. Absent on a host that neither votes nor is a candidate."},
	{"relevo_is_master", Gauge, nil, "1 on the host that holds the master lease."},
	{"relevo_is_arbiter", Gauge, nil, "1 on the voter that grants the lease."},
	{"relevo_lease_remaining_seconds", Gauge, nil, "How long this master's lease holds without another renewal. Absent on other hosts, and while paused."},
	{"relevo_quorum", Gauge, nil, "1 if an arbiter is known, so that a majority of the voters is up. Absent on a host that neither votes nor is a candidate."},
	{"relevo_voters", Gauge, nil, "Voters in the raft configuration. Absent on a host that neither votes nor is a candidate."},
	{"relevo_paused", Gauge, nil, "1 while automatic failover is paused. Absent on a host that neither votes nor is a candidate."},
	{"relevo_failover_possible", Gauge, nil, "1 if the loss of the master would be survived now. Only the arbiter knows."},
	{"relevo_master_changes_total", Counter, []string{"kind"}, "Changes of the master that this agent has seen: automatic, or asked for by a person."},
	{"relevo_members", Gauge, []string{"status"}, "Hosts in the pool, by status."},
	{"relevo_member_condition", Gauge, []string{"node", "type"}, "1 for each condition of each member that holds, as it gossiped last; also of members that are lost."},
	{"relevo_standby_ready", Gauge, nil, "1 if this standby could be promoted, as it says itself."},
	{"relevo_replica_lag_seconds", Gauge, nil, "Seconds since this standby's copy had all that the master had."},
	{"relevo_replica_lag_revisions", Gauge, nil, "Revisions that this standby is behind, as last heard."},
	{"relevo_replica_revision", Gauge, nil, "Newest revision in this host's copy."},
	{"relevo_replica_stalled", Gauge, nil, "1 while this standby knows that its stream stood still and the master went on."},
	{"relevo_replica_verified", Gauge, nil, "1 if the last comparison of this host's copy with the master's datastore found no difference."},
	{"relevo_replica_verified_timestamp_seconds", Gauge, nil, "When that was, in seconds since 1970."},
	{"relevo_rehearsal_ok", Gauge, nil, "1 if the last rehearsal of a promotion on this host succeeded."},
	{"relevo_rehearsal_ready_seconds", Gauge, nil, "How long a promotion would have taken by that, from the copy to a canary that was read."},
	{"relevo_rehearsal_timestamp_seconds", Gauge, nil, "When that was, in seconds since 1970."},
	{"relevo_api_ready", Gauge, nil, "1 if the API of this master answers that it is ready."},
	{"relevo_hook_runs_total", Counter, []string{"result"}, "Runs of hooks: ok, failed; and skipped, events that a slow hook was not told."},

	{"relevo_host_condition", Gauge, []string{"type"}, "1 if the condition holds, 0 if surely not, absent if that is not known: see relevo health."},
	{"relevo_host_unknown", Gauge, []string{"what"}, "1 for each collector that cannot measure on this host; relevo health says why."},
	{"relevo_host_measured_timestamp_seconds", Gauge, nil, "When the newest round of measuring began, in seconds since 1970."},
	{"relevo_host_board_info", Gauge, []string{"model", "revision", "container"}, "Always 1; what the host is made of, and what it runs inside of."},
	{"relevo_host_boot_info", Gauge, []string{"cause"}, "Always 1; why the host booted: power-on, restart, watchdog, brownout, over-temperature, over-voltage, crash."},
	{"relevo_host_uptime_seconds", Gauge, nil, "Time since the kernel started."},

	{"relevo_host_under_voltage", Gauge, nil, "1 if the board gets less than 4.63 V, or did since the round before. Absent on boards that cannot tell."},
	{"relevo_host_under_voltages_total", Counter, nil, "How often the voltage fell too low since the agent started."},
	{"relevo_host_throttled", Gauge, []string{"by"}, "1 if the processor is slower than asked for, by the firmware or by the kernel."},
	{"relevo_host_supply_amperes", Gauge, nil, "What the power supply says that it can give. A Pi 5 asks it."},
	{"relevo_host_temperature_celsius", Gauge, nil, "Temperature of the processor."},
	{"relevo_host_cooling_state", Gauge, []string{"device", "type"}, "How hard a cooling device works: a fan, or the kernel's limit on the frequency."},
	{"relevo_host_cooling_state_max", Gauge, []string{"device", "type"}, "The most that a cooling device can."},

	{"relevo_host_cpus", Gauge, nil, "Processor cores that the kernel uses."},
	{"relevo_host_cpu_busy_ratio", Gauge, nil, "Share of the processor time of all cores that was busy in the last round, 0 to 1."},
	{"relevo_host_cpu_iowait_ratio", Gauge, nil, "Share of the processor time that was idle for want of a disk in the last round, 0 to 1."},
	{"relevo_host_cpu_frequency_hertz", Gauge, nil, "What the kernel asked the fastest core to run at."},
	{"relevo_host_cpu_frequency_max_hertz", Gauge, nil, "The most that the processor can run at."},
	{"relevo_host_load1", Gauge, nil, "Mean number of runnable or stuck tasks over 1 minute."},
	{"relevo_host_load5", Gauge, nil, "Mean number of runnable or stuck tasks over 5 minutes."},
	{"relevo_host_load15", Gauge, nil, "Mean number of runnable or stuck tasks over 15 minutes."},
	{"relevo_host_pressure_waiting_seconds_total", Counter, []string{"resource"}, "Time in which some tasks waited for cpu, memory or io. Absent without psi=1 on the kernel's command line."},
	{"relevo_host_pressure_stalled_seconds_total", Counter, []string{"resource"}, "Time in which all tasks waited for memory or io at once. Absent without psi=1."},

	{"relevo_host_memory_bytes", Gauge, nil, "Memory of the host, in bytes."},
	{"relevo_host_memory_available_bytes", Gauge, nil, "Memory that could be used without swapping, in bytes."},
	{"relevo_host_memory_cgroup", Gauge, nil, "1 if control groups can limit memory, as kubelet needs: cgroup_enable=memory on a Pi."},
	{"relevo_host_oom_kills_total", Counter, nil, "Programs that the kernel killed for lack of memory since it started."},
	{"relevo_host_swap_bytes", Gauge, nil, "Swap space of the host, in bytes."},
	{"relevo_host_swap_used_bytes", Gauge, nil, "Swap space in use, in bytes."},
	{"relevo_host_swap_in_bytes_total", Counter, nil, "Read back from swap since the kernel started, in bytes."},
	{"relevo_host_swap_out_bytes_total", Counter, nil, "Written to swap since the kernel started, in bytes."},
	{"relevo_host_zram_data_bytes", Gauge, nil, "What all compressed swap devices hold, in bytes."},
	{"relevo_host_zram_memory_bytes", Gauge, nil, "Memory that it takes compressed, in bytes."},

	{"relevo_host_filesystem_bytes", Gauge, []string{"path"}, "Size of the file system that holds path, in bytes."},
	{"relevo_host_filesystem_free_bytes", Gauge, []string{"path"}, "Space that is left for programs without privileges, in bytes."},
	{"relevo_host_filesystem_files", Gauge, []string{"path"}, "How many files (inodes) there can be."},
	{"relevo_host_filesystem_files_free", Gauge, []string{"path"}, "How many more files (inodes) there can be."},
	{"relevo_host_filesystem_readonly", Gauge, []string{"path"}, "1 if the kernel refuses writes to the file system that holds path."},
	{"relevo_host_ext4_errors_total", Counter, []string{"device"}, "Errors that an ext4 file system counted in its superblock, until e2fsck sets them back."},
	{"relevo_host_ext4_last_error_timestamp_seconds", Gauge, []string{"device"}, "When it met the last one, in seconds since 1970. Absent without one."},
	{"relevo_host_ext4_written_bytes_total", Counter, []string{"device"}, "Written since the file system was made, in bytes."},
	{"relevo_host_drive_read_bytes_total", Counter, []string{"drive"}, "Read from the drive since the kernel started, in bytes."},
	{"relevo_host_drive_written_bytes_total", Counter, []string{"drive"}, "Written to the drive since the kernel started, in bytes."},
	{"relevo_host_drive_busy_seconds_total", Counter, []string{"drive"}, "Time in which the drive had something to do."},
	{"relevo_host_drive_write_seconds", Gauge, []string{"drive"}, "How long one write took in the mean of the last round. Absent if there was none."},
	{"relevo_host_drive_flush_seconds", Gauge, []string{"drive"}, "How long one flush (fsync) took in the mean of the last round. Absent if there was none."},
	{"relevo_host_drive_in_flight", Gauge, []string{"drive"}, "Requests that the drive has not answered yet."},
	{"relevo_host_drive_errors_total", Counter, []string{"drive"}, "Errors of commands and transfers since the device was found, where the kernel tells."},
	{"relevo_host_drive_worn_ratio", Gauge, []string{"drive"}, "Share of the life that the maker of an eMMC promises, in steps of a tenth; 1.1 is beyond it."},
	{"relevo_host_drive_reserve_state", Gauge, []string{"drive"}, "Spare blocks of an eMMC: 1 normal, 2 80 % used, 3 90 % used."},
	{"relevo_host_own_writes_total", Counter, nil, "Durable writes of the agent that were measured."},
	{"relevo_host_own_writes_failed_total", Counter, nil, "Those of them that failed."},
	{"relevo_host_own_write_slowest_seconds", Gauge, nil, "The slowest of them since the round before, one under way included. Absent if there was none."},

	{"relevo_host_link_up", Gauge, []string{"link"}, "1 if the network interface is up."},
	{"relevo_host_link_speed_bytes_per_second", Gauge, []string{"link"}, "Speed that was negotiated. Absent for Wi-Fi."},
	{"relevo_host_link_carrier_changes_total", Counter, []string{"link"}, "How often the link came or went."},
	{"relevo_host_link_received_bytes_total", Counter, []string{"link"}, "Received, in bytes."},
	{"relevo_host_link_sent_bytes_total", Counter, []string{"link"}, "Sent, in bytes."},
	{"relevo_host_link_packets_total", Counter, []string{"link"}, "Packets both ways."},
	{"relevo_host_link_errors_total", Counter, []string{"link"}, "Damaged packets both ways."},
	{"relevo_host_link_drops_total", Counter, []string{"link"}, "Dropped packets both ways."},
	{"relevo_host_wifi_signal_dbm", Gauge, []string{"link"}, "How well the access point is heard, in dBm."},

	{"relevo_host_clock_synchronized", Gauge, nil, "1 if the clock follows a time server. Absent if nothing tells."},
	{"relevo_host_clock_rtc", Gauge, nil, "1 if the board has a clock that goes on without power."},
	{"relevo_host_clock_step_seconds", Gauge, nil, "How far the clock was set since the round before, forward positive."},
	{"relevo_host_units_failed", Gauge, nil, "systemd units in failed state."},
	{"relevo_host_unit_failed", Gauge, []string{"unit"}, "1 for each systemd unit in failed state, 20 at most."},

	{"go_goroutines", Gauge, nil, "Goroutines that exist."},
	{"process_cpu_seconds_total", Counter, nil, "Processor time used by the agent, in seconds."},
	{"process_resident_memory_bytes", Gauge, nil, "Memory of the agent that is in RAM, in bytes."},
	{"process_open_fds", Gauge, nil, "File descriptors that the agent has open."},
	{"process_max_fds", Gauge, nil, "File descriptors that it may have open."},
}

// Set collects samples for families by name. The zero Set is empty.
type Set struct {
	order []string
	m     map[string]*Metric
}

// Add notes a value, with one value for each label of the family.
func (s *Set) Add(name string, v float64, labels ...string) {
	if s.m == nil {
		s.m = map[string]*Metric{}
	}
	i := slices.IndexFunc(families, func(f Family) bool { return f.Name == name })
	f := Family{Name: name}
	if i >= 0 {
		f = families[i]
	}
	m := s.m[name]
	if m == nil {
		m = &Metric{Name: name, Help: f.Help, Type: f.Type} // without help: refused when it is written, and told
		s.m[name] = m
		s.order = append(s.order, name)
	}
	sample := Sample{Value: v}
	for i, l := range labels {
		key := fmt.Sprintf("label%d", i)
		if i < len(f.Labels) {
			key = f.Labels[i]
		}
		sample.Labels = append(sample.Labels, Label{key, l})
	}
	m.Samples = append(m.Samples, sample)
}

// Value notes a value that may be unknown: then it has no sample.
func (s *Set) Value(name string, v health.Value, labels ...string) {
	if n, ok := v.Get(); ok {
		s.Add(name, n, labels...)
	}
}

// Bool notes 1 or 0.
func (s *Set) Bool(name string, v bool, labels ...string) {
	n := 0.0
	if v {
		n = 1
	}
	s.Add(name, n, labels...)
}

// Truth notes 1 or 0, and nothing for what is unknown.
func (s *Set) Truth(name string, v health.Truth, labels ...string) {
	if v != health.Maybe {
		s.Bool(name, v == health.Yes, labels...)
	}
}

// Metrics are the families that have samples.
func (s *Set) Metrics() []Metric {
	var out []Metric
	for _, name := range s.order {
		out = append(out, *s.m[name])
	}
	return out
}
