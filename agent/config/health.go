package config

import (
	"strconv"
	"time"
)

// Health is at which values a condition of this host begins; reference.yaml says why at
// these. How much better a value has to be until it ends, and how long it has to be
// there, are no keys.
type Health struct {
	DiskFreePercent    int           // of a file system, and
	DiskFreeMB         int           // MiB: the larger of the two
	InodesFreePercent  int           // of the files that a file system can have
	SlowWrite          time.Duration // for one write to be on the disk
	DriveErrors        int           // within 10 minutes
	WornPercent        int           // of an eMMC's life
	HotCelsius         int
	MemoryFreePercent  int
	MemoryStallPercent int           // of the time in which all programs wait for memory
	UnsyncedFor        time.Duration // that the clock may do without a time server
	ClockJump          time.Duration
	CarrierChanges     int // of a link within 10 minutes
	LinkErrorPercent   int // of packets within 10 minutes
	WeakSignalDBm      int // of the Wi-Fi
	// Probe writes 4 KiB to DataDir this often, to see how slow the disk is when nothing
	// else writes; 0 = never, else 10 minutes at least.
	Probe time.Duration
}

func healthDefaults() Health {
	return Health{
		DiskFreePercent: 5, DiskFreeMB: 256, InodesFreePercent: 5, SlowWrite: 500 * time.Millisecond, DriveErrors: 3, WornPercent: 90, HotCelsius: 80,
		MemoryFreePercent: 5, MemoryStallPercent: 10, UnsyncedFor: 15 * time.Minute, ClockJump: 5 * time.Second, CarrierChanges: 6, LinkErrorPercent: 1, WeakSignalDBm: -75,
	}
}

func health(h *Health) []field {
	return []field{
		value("disk_free_percent", integer(&h.DiskFreePercent, 0, 50)),
		value("disk_free_mb", integer(&h.DiskFreeMB, 0, 1<<20)),
		value("inodes_free_percent", integer(&h.InodesFreePercent, 0, 50)),
		value("slow_write", duration(&h.SlowWrite, 10*time.Millisecond, time.Minute)),
		value("drive_errors", integer(&h.DriveErrors, 1, 1e6)),
		value("worn_percent", integer(&h.WornPercent, 10, 110)),
		value("hot_celsius", integer(&h.HotCelsius, 40, 120)),
		value("memory_free_percent", integer(&h.MemoryFreePercent, 0, 50)),
		value("memory_stall_percent", integer(&h.MemoryStallPercent, 1, 100)),
		value("unsynced_for", duration(&h.UnsyncedFor, 0, 30*24*time.Hour)),
		value("clock_jump", duration(&h.ClockJump, 500*time.Millisecond, 24*time.Hour)),
		value("carrier_changes", integer(&h.CarrierChanges, 2, 1000)),
		value("link_error_percent", integer(&h.LinkErrorPercent, 1, 100)),
		value("weak_signal_dbm", integer(&h.WeakSignalDBm, -110, -30)),
		value("probe", orZero(&h.Probe, duration(&h.Probe, 10*time.Minute, 24*time.Hour))),
	}
}

func (w *writer) health(h Health) {
	num := func(key string, v int) { w.raw(1, key, strconv.Itoa(v)) }
	w.raw(0, "health", "")
	num("disk_free_percent", h.DiskFreePercent)
	num("disk_free_mb", h.DiskFreeMB)
	num("inodes_free_percent", h.InodesFreePercent)
	w.raw(1, "slow_write", Short(h.SlowWrite))
	num("drive_errors", h.DriveErrors)
	num("worn_percent", h.WornPercent)
	num("hot_celsius", h.HotCelsius)
	num("memory_free_percent", h.MemoryFreePercent)
	num("memory_stall_percent", h.MemoryStallPercent)
	w.raw(1, "unsynced_for", Short(h.UnsyncedFor))
	w.raw(1, "clock_jump", Short(h.ClockJump))
	num("carrier_changes", h.CarrierChanges)
	num("link_error_percent", h.LinkErrorPercent)
	num("weak_signal_dbm", h.WeakSignalDBm)
	w.raw(1, "probe", Short(h.Probe))
}
