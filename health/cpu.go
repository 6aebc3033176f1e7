package health

import (
	"bytes"
	"context"
	"errors"
)

// cpuTimes are ticks since boot, of all cores.
type cpuTimes struct {
	busy, wait, all float64
	known           bool
}

var (
	errNoStat = errors.New("there is no /proc/stat")
	errNoCPU  = errors.New("/proc/stat tells no processor times")
)

func (m *Monitor) collectCPU(_ context.Context, r *Report) error {
	before := m.cpu
	m.cpu = cpuTimes{}
	b, err := m.files.read("/proc/stat")
	if err != nil {
		return absent(err, errNoStat)
	}
	cores := 0
	var now cpuTimes
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		if !bytes.HasPrefix(l, []byte("cpu")) {
			break
		}
		name, rest := field(l)
		if len(name) > 3 {
			cores++
			continue
		}
		// user nice system idle iowait irq softirq steal; guest is part of user. The
		// first line counts cores that were switched off since, too.
		var t [8]float64
		if n := numbers(rest, t[:]); n >= 5 {
			now.busy = t[0] + t[1] + t[2] + t[5] + t[6] + t[7]
			now.wait = t[4]
			now.all = now.busy + t[3] + t[4]
			now.known = now.all > 0
		}
	}
	if cores == 0 || !now.known {
		return errNoCPU
	}
	r.CPUs = Of(float64(cores))
	m.cpu = now
	busy, wait, all := now.busy-before.busy, now.wait-before.wait, now.all-before.all
	if before.known && all > 0 && busy >= 0 {
		r.CPUPercent = Of(min(100, 100*busy/all))
		r.IOWaitPercent = Of(min(100, 100*max(0, wait)/all)) // the kernel may take waiting back
	}
	return nil
}
