package health

import "time"

// Report is what one round measured. In JSON an unknown value is null.
type Report struct {
	// At is the wall clock when the round began, for people.
	At    time.Time `json:"at"`
	Board Board     `json:"board"`
	Boot  Boot      `json:"boot"`
	// Uptime of the kernel in seconds, suspend counted. Source: /proc/uptime.
	Uptime Value `json:"uptime_seconds"`

	// CPUPercent is the busy share of all cores together since the round before,
	// 0 to 100; waiting for I/O counts as idle. IOWaitPercent is that wait.
	// Source: /proc/stat.
	CPUPercent    Value `json:"cpu_percent"`
	IOWaitPercent Value `json:"iowait_percent"`
	// CPUs is the number of cores that the kernel uses. Source: /proc/stat.
	CPUs Value `json:"cpus"`
	// CPUHertz is what the kernel asked the fastest core to run at, CPUMaxHertz the
	// most that the hardware can. Source: cpufreq.
	CPUHertz    Value `json:"cpu_hertz"`
	CPUMaxHertz Value `json:"cpu_max_hertz"`
	// Load is the mean number of runnable or stuck tasks over 1, 5 and 15
	// minutes. Source: /proc/loadavg.
	Load1  Value `json:"load1"`
	Load5  Value `json:"load5"`
	Load15 Value `json:"load15"`
	// Pressure: how long tasks had to wait. Source: /proc/pressure.
	Pressure Pressures `json:"pressure"`

	// Memory and swap in bytes. MemoryAvailable is the kernel's own estimate of
	// what could be used without swapping. Swap without a swap device is 0 of 0.
	// Source: /proc/meminfo.
	MemoryTotal     Value `json:"memory_total_bytes"`
	MemoryAvailable Value `json:"memory_available_bytes"`
	SwapTotal       Value `json:"swap_total_bytes"`
	SwapUsed        Value `json:"swap_used_bytes"`
	// SwapIn and SwapOut since the start of the kernel. Source: /proc/vmstat.
	SwapIn  Value `json:"swap_in_bytes_total"`
	SwapOut Value `json:"swap_out_bytes_total"`
	// OOMKills of the kernel since its start. Source: /proc/vmstat.
	OOMKills Value `json:"oom_kills_total"`
	// ZramData is what all compressed swap devices hold, ZramMemory what that takes
	// of the memory. Unknown without such a device. Source: mm_stat of zram.
	ZramData   Value `json:"zram_data_bytes"`
	ZramMemory Value `json:"zram_memory_bytes"`
	// MemoryCgroup: control groups can limit memory, which kubelet needs and a
	// Raspberry Pi has only with cgroup_enable=memory on the kernel's command line.
	MemoryCgroup Truth `json:"memory_cgroup"`

	// Disks are the file systems of / and, if it is another, of the agent's state.
	Disks []Disk `json:"disks,omitempty"`
	// Ext4 are all mounted ext4 file systems with what they count themselves.
	Ext4 []Ext4 `json:"ext4,omitempty"`
	// Drives are the whole block devices, without memory and loop devices.
	Drives []Drive `json:"drives,omitempty"`
	// Writes are those of the agent itself.
	Writes Writes `json:"writes"`

	// Temperature of the processor in degrees Celsius. Source: hwmon, else the
	// thermal zones.
	Temperature Value `json:"temperature_celsius"`
	// Cooling devices: fans, and the kernel's own limits on frequency.
	Cooling []Cooling `json:"cooling,omitempty"`
	Power   Power     `json:"power"`

	// Links are the network interfaces that have hardware behind them.
	Links []Link     `json:"links,omitempty"`
	Clock ClockState `json:"clock"`
	Units Units      `json:"units"`
	Agent Self       `json:"agent"`

	// Unknown says which collectors could not measure, and why.
	Unknown []Unknown `json:"unknown,omitempty"`
}

// Unknown is a value that could not be measured.
type Unknown struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Board is what the host is made of; "" = unknown. Source: the device tree of ARM
// boards, DMI of others.
type Board struct {
	Model    string `json:"model,omitempty"`    // "Raspberry Pi 4 Model B Rev 1.2"
	Serial   string `json:"serial,omitempty"`   // of the processor; of Raspberry Pis only
	Revision string `json:"revision,omitempty"` // revision code in hexadecimal, "c03112"
	// Container is what the host runs inside of ("docker", "systemd-nspawn"); "" = no
	// container that could be told.
	Container string `json:"container,omitempty"`
}

// Causes of a boot, as far as they are known.
const (
	BootPowerOn     = "power-on"         // power came
	BootRestart     = "restart"          // ordinary, or by the watchdog: a Pi cannot tell them apart
	BootWatchdog    = "watchdog"         // the hardware watchdog found the host hung
	BootBrownout    = "brownout"         // the power chip saw the voltage fall
	BootOverheat    = "over-temperature" // the power chip switched off
	BootOvervoltage = "over-voltage"
	BootCrash       = "crash" // the kernel left a dump
)

// Boot is how the kernel came to run.
type Boot struct {
	Cause string `json:"cause,omitempty"` // "" = unknown
}

// Pressures are the kernel's pressure stall information.
type Pressures struct {
	CPU    Pressure `json:"cpu"`
	Memory Pressure `json:"memory"`
	IO     Pressure `json:"io"`
}

// Pressure is the share of the time, 0 to 100, in which some or all tasks waited.
type Pressure struct {
	Some10  Value `json:"some10_percent"` // mean over 10 s
	Some60  Value `json:"some60_percent"` // over 60 s
	Full60  Value `json:"full60_percent"` // all tasks at once, over 60 s
	SomeAll Value `json:"some_seconds_total"`
	FullAll Value `json:"full_seconds_total"`
}

// Disk is one mounted file system.
type Disk struct {
	Path   string `json:"path"`             // where it was looked at
	Device string `json:"device,omitempty"` // "mmcblk0p2"; "" = none, or unknown
	Drive  string `json:"drive,omitempty"`  // name of the Drive below it; "" = unknown
	// Total and Free in bytes; Free is what a program without privileges may
	// still take. Inodes are how many files there can be. Source: statfs.
	Total      Value `json:"total_bytes"`
	Free       Value `json:"free_bytes"`
	Inodes     Value `json:"inodes"` // unknown where the file system does not count them
	InodesFree Value `json:"inodes_free"`
	// ReadOnly: writes are refused, as after errors on an SD card.
	ReadOnly Truth `json:"read_only"`
	// Meant: it was mounted read-only on purpose. Source: /etc/fstab, and the kind of
	// file system.
	Meant Truth `json:"read_only_meant"`
	State bool  `json:"state,omitempty"` // the agent's own state lies here
}

// Ext4 is what an ext4 file system counts in its superblock, over restarts.
type Ext4 struct {
	Device string `json:"device"` // "mmcblk0p2"
	// Errors since e2fsck set them back. Source: errors_count.
	Errors    Value     `json:"errors_total"`
	LastError time.Time `json:"last_error,omitzero"` // by the wall clock of then
	// Written since the file system was made. Source: lifetime_write_kbytes.
	Written Value `json:"written_bytes_total"`
}

// Drive is a whole block device.
type Drive struct {
	Name string `json:"name"`           // "mmcblk0"
	Kind string `json:"kind,omitempty"` // SD or MMC; "" = other
	// Since the start of the kernel. Source: /proc/diskstats.
	Read    Value `json:"read_bytes_total"`
	Written Value `json:"written_bytes_total"`
	Busy    Value `json:"busy_seconds_total"`
	// WriteSeconds and FlushSeconds are how long one write and one flush took in the
	// mean since the round before, waiting in the queue counted; unknown if there was
	// none. If the drive has not answered at all: since when it has not.
	WriteSeconds Value `json:"write_seconds"`
	FlushSeconds Value `json:"flush_seconds"`
	InFlight     Value `json:"in_flight"`
	// Errors of commands and transfers since the device was found. Source: err_stats
	// of mmc (kernel 6.0, debugfs), ioerr_cnt of SCSI and USB.
	Errors Value `json:"errors_total"`
	// WornPercent of the guaranteed life, in steps of 10 (110 = beyond it), and
	// Reserve, the state of the spare blocks: 1 normal, 2 80 % used, 3 90 % used.
	// Only eMMC tells. Source: life_time, pre_eol_info.
	WornPercent Value `json:"worn_percent"`
	Reserve     Value `json:"reserve_state"`
	State       bool  `json:"state,omitempty"` // the agent's own state lies here
}

// Writes are the durable writes that the agent does anyway.
type Writes struct {
	// Slowest since the round before, one that has not come back yet included.
	// Unknown if there was none.
	Slowest Value `json:"slowest_seconds"`
	Count   Value `json:"count_total"`
	Failed  Value `json:"failed_total"`
}

// Cooling is a cooling device. Source: /sys/class/thermal.
type Cooling struct {
	Name  string `json:"name"` // "cooling_device0"
	Type  string `json:"type"` // pwm-fan, cpufreq-cpu0, Processor
	State Value  `json:"state"`
	Max   Value  `json:"max"`
}

// Power is the supply, and what comes of a bad one.
type Power struct {
	// UnderVoltage: less than 4.63 V (±5 %) now, or since the round before. Unknown
	// on boards without the circuit: the Zero family, the first A and B, other makes.
	UnderVoltage Truth `json:"under_voltage"`
	// UnderVoltages is how often it began since the agent started.
	UnderVoltages Value `json:"under_voltages_total"`
	// Throttled: the processor is slower than asked for, by the firmware (power or
	// heat) or by the kernel (heat).
	Throttled   Truth  `json:"throttled"`
	ThrottledBy string `json:"throttled_by,omitempty"` // firmware, kernel
	// SupplyAmperes is what the supply says that it can give; a Pi 5 asks it.
	SupplyAmperes Value `json:"supply_amperes"`
}

// Link is a network interface. Counters are since it came up in the kernel.
type Link struct {
	Name string `json:"name"`
	Up   Truth  `json:"up"` // Source: operstate
	// Speed that was negotiated, in bits per second; unknown for Wi-Fi.
	Speed          Value `json:"speed_bits_per_second"`
	CarrierChanges Value `json:"carrier_changes_total"`
	Received       Value `json:"received_bytes_total"`
	Sent           Value `json:"sent_bytes_total"`
	Packets        Value `json:"packets_total"` // both ways
	Errors         Value `json:"errors_total"`  // both ways
	Drops          Value `json:"drops_total"`   // both ways
	// Signal of the access point, in dBm. Source: /proc/net/wireless.
	Signal Value `json:"signal_dbm"`
}

// ClockState is the wall clock.
type ClockState struct {
	// Synchronized with a time server. Source: systemd-timesyncd's mark, else what
	// other programs told the kernel.
	Synchronized Truth `json:"synchronized"`
	// RTC: a clock that goes on without power. Only a Pi 5 has one.
	RTC Truth `json:"rtc"`
	// Step is how far the clock was set since the round before, forward positive.
	Step Value `json:"step_seconds"`
}

// Units are the systemd units in failed state.
type Units struct {
	Known  bool     `json:"known"`
	Failed []string `json:"failed,omitempty"`
}

// Self is the agent's own process.
type Self struct {
	Memory     Value `json:"memory_bytes"` // in RAM
	Goroutines Value `json:"goroutines"`
	Files      Value `json:"open_files"`
	FilesMax   Value `json:"open_files_max"`
}
