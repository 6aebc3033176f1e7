package health

import (
	"context"
	"errors"
	"strings"
)

var errNoVmstat = errors.New("there is no /proc/vmstat")

func (m *Monitor) findZram() {
	for _, name := range m.files.list("/sys/block") {
		if strings.HasPrefix(name, "zram") && len(m.has.zram) < 8 {
			m.has.zram = append(m.has.zram, "/sys/block/"+name+"/mm_stat")
		}
	}
}

func (m *Monitor) collectSwap(_ context.Context, r *Report) error {
	for _, path := range m.has.zram {
		b, err := m.files.read(path)
		if err != nil {
			m.gone()
			continue
		}
		// Bytes of data, compressed, and of memory in all that it takes.
		var n [3]float64
		if numbers(b, n[:]) == 3 {
			r.ZramData, r.ZramMemory = Of(r.ZramData.v+n[0]), Of(r.ZramMemory.v+n[2])
		}
	}
	b, err := m.files.read("/proc/vmstat")
	if err != nil {
		return absent(err, errNoVmstat)
	}
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		key, rest := field(l)
		var n [1]float64
		switch string(key) {
		case "pswpin":
			if numbers(rest, n[:]) == 1 {
				r.SwapIn = Of(n[0] * m.system.page)
			}
		case "pswpout":
			if numbers(rest, n[:]) == 1 {
				r.SwapOut = Of(n[0] * m.system.page)
			}
		case "oom_kill":
			if numbers(rest, n[:]) == 1 {
				r.OOMKills = Of(n[0])
			}
		}
	}
	return nil
}
