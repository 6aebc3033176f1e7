package health

import (
	"context"
	"errors"
	"strings"
	"time"
)

// drive is a whole block device.
type drive struct {
	name, kind    string
	errors        string // path; "" = it does not count
	worn, reserve Value
	state         bool
}

// driveTimes is what a drive had done by the round before.
type driveTimes struct {
	at               time.Duration
	done             float64 // commands of all kinds
	writes, writeMs  float64
	flushes, flushMs float64
	waiting          bool          // something was in flight
	stalled          time.Duration // since when it has not answered, if waiting
}

// sector is the unit of /proc/diskstats, whatever the drive's own is.
const sector = 512

// maxDrives bounds what one report shows.
const maxDrives = 8

var errNoDiskstats = errors.New("there is no /proc/diskstats")

func (m *Monitor) findDrives() {
	for _, name := range m.files.list("/sys/block") {
		// Memory, loop and optical devices have no life to watch; boot partitions of an
		// eMMC are part of it.
		switch {
		case len(m.has.drives) == maxDrives || strings.Contains(name, "boot") && strings.HasPrefix(name, "mmcblk"):
			continue
		case strings.HasPrefix(name, "loop"), strings.HasPrefix(name, "ram"), strings.HasPrefix(name, "zram"), strings.HasPrefix(name, "sr"),
			strings.HasPrefix(name, "fd"), strings.HasPrefix(name, "nbd"), strings.HasPrefix(name, "mtdblock"):
			continue
		}
		d := drive{name: name}
		m.findMMC(&d)
		m.has.drives = append(m.has.drives, d)
	}
}

// driveOf finds the whole device of a partition.
func (m *Monitor) driveOf(device string) string {
	for _, d := range m.has.drives {
		if device != "" && (d.name == device || m.files.exists("/sys/block/"+d.name+"/"+device)) {
			return d.name
		}
	}
	return ""
}

func (m *Monitor) collectDrives(_ context.Context, r *Report) error {
	if len(m.has.drives) == 0 {
		return nil // a container, mostly; Disks tells what there is to tell
	}
	r.Drives = make([]Drive, len(m.has.drives))
	for i, d := range m.has.drives {
		r.Drives[i] = Drive{Name: d.name, Kind: d.kind, State: d.state}
	}
	b, err := m.files.read("/proc/diskstats")
	if err != nil {
		return absent(err, errNoDiskstats)
	}
	now := m.cfg.Clock()
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		_, l = field(l)
		_, l = field(l)
		name, rest := field(l)
		for i := range r.Drives {
			if string(name) == r.Drives[i].Name {
				m.readDrive(rest, now, &r.Drives[i])
			}
		}
	}
	for name := range m.drive {
		if m.drive[name].at != now {
			delete(m.drive, name)
		}
	}
	return nil
}

// readDrive reads what follows the name in /proc/diskstats (kernel documentation,
// admin-guide/iostats): reads, merged, sectors, ms; writes, merged, sectors, ms; in
// flight, busy ms, weighted ms; since 4.18 four of discards; since 5.5 flushes, ms.
func (m *Monitor) readDrive(b []byte, now time.Duration, d *Drive) {
	var n [17]float64
	have := numbers(b, n[:])
	if have < 11 {
		return
	}
	d.Read, d.Written, d.Busy, d.InFlight = Of(n[2]*sector), Of(n[6]*sector), Of(n[9]/1000), Of(n[8])
	was, known := m.drive[d.Name]
	is := driveTimes{at: now, done: n[0] + n[4] + n[11] + n[15], writes: n[4], writeMs: n[7], flushes: n[15], flushMs: n[16], waiting: n[8] > 0, stalled: now}
	d.WriteSeconds = mean(known, is.writes-was.writes, is.writeMs-was.writeMs)
	if have == len(n) {
		d.FlushSeconds = mean(known, is.flushes-was.flushes, is.flushMs-was.flushMs)
	}
	if known && is.waiting && was.waiting && is.done == was.done {
		is.stalled = was.stalled
		d.WriteSeconds = Of((now - is.stalled).Seconds())
	}
	m.drive[d.Name] = is
}

// mean seconds of one command. The counters of milliseconds are of 32 bits.
func mean(known bool, count, ms float64) Value {
	if !known || count <= 0 || ms < 0 {
		return Value{}
	}
	return Of(ms / 1000 / count)
}
