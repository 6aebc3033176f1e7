package health

import (
	"errors"
	"fmt"
	"time"
)

// Thresholds at which conditions begin. Where one ends lies a step on the safe side,
// and for how long a value has to be there before it counts is with the rules: a
// person changes numbers, not hysteresis.
type Thresholds struct {
	// DiskFreeShare and DiskFreeBytes: a file system with less free than the larger of
	// the two is full, but never one that is half empty. Defaults 0.05 and 256 MiB:
	// ext4 keeps 5 % for root, for the same reason; kubelet begins to throw pods out at
	// 10 % (nodefs.available), which should come first; and kine, a log and an upgrade
	// of a package need some hundred MiB whatever the size of the card.
	DiskFreeShare float64
	DiskFreeBytes float64
	// InodesFreeShare; default 0.05, at which kubelet evicts (nodefs.inodesFree).
	InodesFreeShare float64
	// SlowWriteSeconds for one write to be on the disk, in the mean of a round; default
	// 0.5. etcd wants 0.01 at the 99th percentile; SD cards that work take up to some
	// 0.1 under load, and dying ones seconds (k3s #2853 saw 7).
	SlowWriteSeconds float64
	// DriveErrors within 10 minutes; default 3: one is a bad contact.
	DriveErrors float64
	// WornPercent of its guaranteed life that an eMMC has used; default 90, the last
	// step before the end that it tells.
	WornPercent float64
	// HotCelsius; default 80, where the firmware of a Raspberry Pi begins to slow the
	// processor down (documentation, "Frequency management and thermal control").
	HotCelsius float64
	// MemoryFreeShare of the memory that could be used without swapping; default 0.05.
	// kubelet evicts at 100 MiB, which is a tenth of a 3 B+.
	MemoryFreeShare float64
	// MemoryStallPercent of the time in which all tasks wait for memory; default 10.
	// systemd-oomd kills at 60 by default: long before, a host of ours answers late.
	MemoryStallPercent float64
	// UnsyncedFor is how long the clock may do without a time server; default 15
	// minutes. timesyncd tries for some minutes after a boot; a clock of a Pi drifts a
	// few seconds a day.
	UnsyncedFor time.Duration
	// Earliest is before every date that can be; default 2026-01-01, before this code
	// was. A Pi without network begins in 1970, or where fake-hwclock left it.
	Earliest time.Time
	// JumpSeconds of the wall clock at once; default 5. timesyncd slews less than 0.4.
	JumpSeconds float64
	// CarrierChanges of a link within 10 minutes; default 6: unplugged and plugged
	// three times. A switch that restarts makes two to four.
	CarrierChanges float64
	// LinkErrorShare of packets within 10 minutes, and 100 at least; default 0.01. A
	// cable that is in order has none.
	LinkErrorShare float64
	// WeakDBm of the Wi-Fi; default -75: below some -70 access points fall back to slow
	// and lossy modes, at -80 most connections break.
	WeakDBm float64
}

// DefaultThresholds are explained at each field.
func DefaultThresholds() Thresholds {
	return Thresholds{
		DiskFreeShare: 0.05, DiskFreeBytes: 256 << 20, InodesFreeShare: 0.05, SlowWriteSeconds: 0.5, DriveErrors: 3, WornPercent: 90,
		HotCelsius: 80, MemoryFreeShare: 0.05, MemoryStallPercent: 10, UnsyncedFor: 15 * time.Minute,
		Earliest: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), JumpSeconds: 5, CarrierChanges: 6, LinkErrorShare: 0.01, WeakDBm: -75,
	}
}

// Validate says what of it can never have been meant.
func (t Thresholds) Validate() error {
	var errs []error
	in := func(what string, v, low, high float64) {
		if !(v >= low && v <= high) {
			errs = append(errs, fmt.Errorf("%s is %v: %v to %v is allowed", what, v, low, high))
		}
	}
	in("DiskFreeShare", t.DiskFreeShare, 0, 0.5)
	in("DiskFreeBytes", t.DiskFreeBytes, 0, 1<<50)
	in("InodesFreeShare", t.InodesFreeShare, 0, 0.5)
	in("SlowWriteSeconds", t.SlowWriteSeconds, 0.01, 60)
	in("DriveErrors", t.DriveErrors, 1, 1e6)
	in("WornPercent", t.WornPercent, 10, 110)
	in("HotCelsius", t.HotCelsius, 40, 120)
	in("MemoryFreeShare", t.MemoryFreeShare, 0, 0.5)
	in("MemoryStallPercent", t.MemoryStallPercent, 1, 100)
	in("UnsyncedFor (seconds)", t.UnsyncedFor.Seconds(), 0, 30*86400)
	in("JumpSeconds", t.JumpSeconds, 0.5, 86400)
	in("CarrierChanges", t.CarrierChanges, 2, 1000)
	in("LinkErrorShare", t.LinkErrorShare, 0.0001, 1)
	in("WeakDBm", t.WeakDBm, -110, -30)
	if y := t.Earliest.Year(); y < 1970 || y > 2100 {
		errs = append(errs, fmt.Errorf("the field Earliest is in the year %d: 1970 to 2100 is allowed", y))
	}
	return errors.Join(errs...)
}
