package health

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// rule looks at a report for one type of condition. clear is how long all has to be
// well until it is over; source the collector that says why it is not known.
type rule struct {
	typ    Type
	clear  time.Duration
	source string
	look   func(*look, *Report)
}

// counted is the span in which things are counted that may happen once.
const counted = 10 * time.Minute

var rules = [...]rule{
	{ReadOnlyRoot, time.Minute, "disk", lookReadOnly},
	{FilesystemErrorsGrowing, 0, "ext4", lookErrorsGrowing},
	{DiskErrors, 0, "mmc", lookDriveErrors},
	{DiskFull, time.Minute, "disk", lookFull},
	{InodesFull, time.Minute, "disk", lookInodes},
	{DiskSlow, 5 * time.Minute, "drive", lookSlow},
	{ClockImplausible, 0, "clock", lookPlausible},
	{FilesystemErrors, 0, "ext4", lookErrors},
	{CardWornOut, 0, "mmc", lookWorn},
	{UnderVoltage, counted, "under-voltage", lookVoltage},
	{Throttled, 2 * time.Minute, "throttling", lookThrottled},
	{Hot, time.Minute, "temperature", lookHot},
	{MemoryPressure, time.Minute, "memory", lookMemory},
	{ClockNotSynchronized, 0, "clock", lookSynchronized},
	{ClockJumped, counted, "clock", lookJumped},
	{LinkFlapping, 0, "links", lookFlapping},
	{LinkErrors, 0, "links", lookLinkErrors},
	{WeakSignal, time.Minute, "wifi", lookSignal},
	{UnitFailed, time.Minute, "units", lookUnits},
}

func lookReadOnly(l *look, r *Report) {
	for i := range r.Disks {
		d := &r.Disks[i]
		switch {
		case d.ReadOnly == Maybe:
			l.unclear(d.Path, "", "")
		case d.ReadOnly == Yes && (d.State || d.Meant != Yes):
			l.bad(d.Path, 0, "WritesRefused", func() string {
				return fmt.Sprintf("the file system of %s is read-only", d.Path)
			})
		default: // a root that is meant so, beside a state that can be written, is in order
			l.fine(d.Path)
		}
	}
	n, _ := l.growth("writes", "", r.Writes.Failed, counted)
	l.event("writes", n >= 2, "WritesFail", func() string { // one may have had a cause of its own
		return fmt.Sprintf("%.0f writes of the agent to its own state failed in the last 10 minutes", n)
	})
}

// growingFor is how long new errors of a file system count as growing.
const growingFor = time.Hour

func lookErrorsGrowing(l *look, r *Report) {
	for i := range r.Ext4 {
		e := &r.Ext4[i]
		n, ok := l.growth(e.Device, "", e.Errors, growingFor)
		if !ok {
			l.unclear(e.Device, "", "")
			continue
		}
		// Errors from before the agent started: the superblock knows when.
		age := r.At.Sub(e.LastError)
		recent := !e.LastError.IsZero() && age >= 0 && age < growingFor
		if n > 0 || recent {
			total, _ := e.Errors.Get()
			l.bad(e.Device, 0, "NewErrors", func() string {
				return fmt.Sprintf("the file system on %s met new errors within the last hour, %.0f in all", e.Device, total)
			})
		} else {
			l.fine(e.Device)
		}
	}
}

func lookErrors(l *look, r *Report) {
	for i := range r.Ext4 {
		e := &r.Ext4[i]
		switch n, ok := e.Errors.Get(); {
		case !ok:
			l.unclear(e.Device, "", "")
		case n > 0:
			when := ""
			if !e.LastError.IsZero() {
				when = ", the last on " + e.LastError.Format("2006-01-02 15:04 MST")
			}
			l.bad(e.Device, 0, "NotRepaired", func() string {
				return fmt.Sprintf("the file system on %s has met %.0f errors%s", e.Device, n, when)
			})
		default:
			l.fine(e.Device)
		}
	}
}

func lookDriveErrors(l *look, r *Report) {
	for i := range r.Drives {
		d := &r.Drives[i]
		n, ok := l.growth(d.Name, "", d.Errors, counted)
		switch {
		case !ok:
			l.unclear(d.Name, "", "")
		case n >= l.j.t.DriveErrors:
			l.bad(d.Name, 0, "ErrorsCounted", func() string {
				return fmt.Sprintf("the drive %s answered with %.0f errors in the last 10 minutes", d.Name, n)
			})
		default:
			l.fine(d.Name)
		}
	}
}

func lookFull(l *look, r *Report) {
	for i := range r.Disks {
		d := &r.Disks[i]
		total, ok1 := d.Total.Get()
		free, ok2 := d.Free.Get()
		if !ok1 || !ok2 {
			l.unclear(d.Path, "", "")
			continue
		}
		if d.Meant == Yes && d.ReadOnly == Yes {
			l.fine(d.Path) // an image that is not written is always full
			continue
		}
		limit := min(max(total*l.j.t.DiskFreeShare, l.j.t.DiskFreeBytes), total/2)
		l.low(d.Path, free, limit, limit*1.5, 0, "SpaceLow", func() string {
			return fmt.Sprintf("%s has %.0f MB left of %.0f MB", d.Path, free/1e6, total/1e6)
		})
	}
}

func lookInodes(l *look, r *Report) {
	for i := range r.Disks {
		d := &r.Disks[i]
		total, ok1 := d.Inodes.Get()
		free, ok2 := d.InodesFree.Get()
		if !ok1 || !ok2 || total == 0 {
			l.unclear(d.Path, "NotCounted", "the file system of "+d.Path+" does not count inodes")
			continue
		}
		if d.Meant == Yes && d.ReadOnly == Yes {
			l.fine(d.Path)
			continue
		}
		limit := l.j.t.InodesFreeShare
		l.low(d.Path, free/total, limit, limit*1.5, 0, "InodesLow", func() string {
			return fmt.Sprintf("%s can take %.0f more files of %.0f, whatever the space", d.Path, free, total)
		})
	}
}

// slowFor is how long a disk has to be slow: less is the burst of an upgrade.
const slowFor = time.Minute

func lookSlow(l *look, r *Report) {
	slow := func(about string, v Value, what string) {
		s, ok := v.Get()
		if !ok {
			l.quiet(about) // nothing was written
			return
		}
		l.high(about, s, l.j.t.SlowWriteSeconds, l.j.t.SlowWriteSeconds/2, slowFor, "WritesSlow", func() string {
			return fmt.Sprintf("%s took %.1f s", what, s)
		})
	}
	for i := range r.Drives {
		if d := &r.Drives[i]; d.State {
			v := d.WriteSeconds
			if f, ok := d.FlushSeconds.Get(); ok && f > v.v {
				v = d.FlushSeconds
			}
			slow(d.Name, v, "a write to the drive "+d.Name)
		}
	}
	slow("agent", r.Writes.Slowest, "a write of the agent")
}

func lookWorn(l *look, r *Report) {
	for i := range r.Drives {
		d := &r.Drives[i]
		worn, ok1 := d.WornPercent.Get()
		reserve, ok2 := d.Reserve.Get()
		switch {
		case !ok1 && !ok2:
			l.unclear(d.Name, "", "")
		case worn >= l.j.t.WornPercent:
			l.bad(d.Name, 0, "LifeUsed", func() string {
				return fmt.Sprintf("%s has used %.0f %% of the life that its maker promises", d.Name, worn)
			})
		case reserve >= 2:
			l.bad(d.Name, 0, "SparesUsed", func() string {
				return fmt.Sprintf("%s has used %s of its spare blocks", d.Name, map[bool]string{true: "90 %", false: "80 %"}[reserve >= 3])
			})
		default:
			l.fine(d.Name)
		}
	}
}

func lookVoltage(l *look, r *Report) {
	switch r.Power.UnderVoltage {
	case Yes:
		l.bad("", 0, "BelowLimit", func() string {
			return "the board gets less than 4.63 V"
		})
	case No:
		l.fine("")
	default:
		l.unclear("", "", "")
	}
}

func lookThrottled(l *look, r *Report) {
	switch by := r.Power.ThrottledBy; r.Power.Throttled {
	case Yes:
		reason, why := "Slowed", "to stay cool"
		if by == "firmware" {
			why = "for low voltage or heat"
			if r.Power.UnderVoltage == Yes {
				why = "for low voltage"
			}
		}
		l.bad("", 30*time.Second, reason, func() string {
			return fmt.Sprintf("the %s slows the processor down %s", by, why)
		})
	case No:
		l.fine("")
	default:
		l.unclear("", "", "")
	}
}

// stuckFor is how long a hot sensor may say exactly the same: a processor at work
// never keeps its temperature to a thousandth of a degree.
const stuckFor = 30 * time.Minute

func lookHot(l *look, r *Report) {
	c, ok := r.Temperature.Get()
	if !ok {
		l.unclear("", "", "")
		return
	}
	same := l.j.temp.same(l.j.now, c)
	if c >= l.j.t.HotCelsius && same >= stuckFor {
		l.unclear("", "SensorStuck", fmt.Sprintf("the sensor has said exactly %.1f °C for half an hour", c))
		return
	}
	l.high("", c, l.j.t.HotCelsius, l.j.t.HotCelsius-5, 30*time.Second, "TooHot", func() string {
		return fmt.Sprintf("the processor has %.0f °C and slows down", c)
	})
}

func lookMemory(l *look, r *Report) {
	total, ok1 := r.MemoryTotal.Get()
	free, ok2 := r.MemoryAvailable.Get()
	if ok1 && ok2 && total > 0 {
		share := l.j.t.MemoryFreeShare
		l.low("available", free/total, share, share*1.5, time.Minute, "MemoryLow", func() string {
			return fmt.Sprintf("%.0f MB of %.0f MB memory are left", free/1e6, total/1e6)
		})
	} else {
		l.unclear("available", "", "")
	}
	if stall, ok := r.Pressure.Memory.Full60.Get(); ok {
		l.high("stall", stall, l.j.t.MemoryStallPercent, l.j.t.MemoryStallPercent/2, 0, "Stalled", func() string {
			return fmt.Sprintf("all programs waited for memory %.0f %% of the last minute", stall)
		})
	}
	n, _ := l.growth("killed", "", r.OOMKills, counted)
	l.event("killed", n > 0, "OutOfMemory", func() string {
		return fmt.Sprintf("the kernel killed %.0f programs for lack of memory in the last 10 minutes", n)
	})
}

// farFuture is after every date that can be.
const farFuture = 2100

func (t Thresholds) plausible(at time.Time) bool {
	return !at.Before(t.Earliest) && at.Year() < farFuture
}

func lookPlausible(l *look, r *Report) {
	switch {
	case r.At.IsZero():
		l.unclear("", "", "")
	case l.j.t.plausible(r.At):
		l.fine("")
	default:
		l.bad("", 0, "DateImpossible", func() string {
			return "the clock says that it is " + r.At.UTC().Format("2006-01-02 15:04 MST")
		})
	}
}

func lookSynchronized(l *look, r *Report) {
	switch r.Clock.Synchronized {
	case Yes:
		l.fine("")
	case No:
		l.bad("", l.j.t.UnsyncedFor, "NoTimeServer", func() string {
			return "the clock follows no time server"
		})
	default:
		l.unclear("", "", "")
	}
}

// settling is how long after a boot a host without a clock of its own may set it.
const settling = 600

func lookJumped(l *look, r *Report) {
	step, ok := r.Clock.Step.Get()
	step = max(-maxStep, min(maxStep, step))
	by := time.Duration(step * float64(time.Second))
	up, _ := r.Uptime.Get()
	switch {
	case !ok:
		l.unclear("", "", "")
	case math.Abs(step) < l.j.t.JumpSeconds:
		l.fine("")
	case !l.j.t.plausible(r.At.Add(-by)), r.Clock.RTC != Yes && up < settling:
		l.quiet("") // it came to its senses
	case step > 0:
		l.bad("", 0, "Set", func() string {
			return fmt.Sprintf("the clock was set forward by %v", by.Round(time.Second))
		})
	default:
		l.bad("", 0, "Set", func() string {
			return fmt.Sprintf("the clock was set back by %v", -by.Round(time.Second))
		})
	}
}

func lookFlapping(l *look, r *Report) {
	for i := range r.Links {
		k := &r.Links[i]
		n, ok := l.growth(k.Name, "", k.CarrierChanges, counted)
		switch {
		case !ok:
			l.unclear(k.Name, "", "")
		case n >= l.j.t.CarrierChanges:
			l.bad(k.Name, 0, "CarrierChanges", func() string {
				return fmt.Sprintf("the link %s came or went %.0f times in the last 10 minutes", k.Name, n)
			})
		default:
			l.fine(k.Name)
		}
	}
}

// fewErrors are too few to speak of a share.
const fewErrors = 100

func lookLinkErrors(l *look, r *Report) {
	for i := range r.Links {
		k := &r.Links[i]
		errs, ok1 := l.growth(k.Name, "errors", k.Errors, counted)
		packets, ok2 := l.growth(k.Name, "packets", k.Packets, counted)
		switch {
		case !ok1 || !ok2:
			l.unclear(k.Name, "", "")
		case errs >= fewErrors && errs >= packets*l.j.t.LinkErrorShare:
			l.bad(k.Name, 0, "PacketsDamaged", func() string {
				return fmt.Sprintf("%.0f of %.0f packets of %s were damaged in the last 10 minutes", errs, packets, k.Name)
			})
		default:
			l.fine(k.Name)
		}
	}
}

func lookSignal(l *look, r *Report) {
	for i := range r.Links {
		k := &r.Links[i]
		dbm, ok := k.Signal.Get()
		switch {
		case ok:
			l.low(k.Name, dbm, l.j.t.WeakDBm, l.j.t.WeakDBm+4, 2*time.Minute, "SignalWeak", func() string {
				return fmt.Sprintf("%s hears its access point with %.0f dBm", k.Name, dbm)
			})
		case wireless(k.Name):
			l.unclear(k.Name, "", "")
		default:
			l.fine(k.Name) // a cable has no signal to lose
		}
	}
}

func lookUnits(l *look, r *Report) {
	switch names := r.Units.Failed; {
	case !r.Units.Known:
		l.unclear("", "", "")
	case len(names) == 0:
		l.fine("")
	default:
		more := ""
		if n := len(names) - maxAbout; n > 0 {
			names, more = names[:maxAbout], fmt.Sprintf(" and %d more", n)
		}
		l.bad("", 0, "Failed", func() string {
			return "systemd could not keep running: " + strings.Join(names, ", ") + more
		})
	}
}
