package health

import (
	"context"
	"errors"
)

var (
	errNoMeminfo  = errors.New("there is no /proc/meminfo")
	errBadMeminfo = errors.New("/proc/meminfo has no MemTotal")
)

func (m *Monitor) collectMemory(_ context.Context, r *Report) error {
	b, err := m.files.read("/proc/meminfo")
	if err != nil {
		return absent(err, errNoMeminfo)
	}
	var total, available, swap, swapFree Value
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		key, rest := field(l)
		var to *Value
		switch string(key) {
		case "MemTotal:":
			to = &total
		case "MemAvailable:":
			to = &available
		case "SwapTotal:":
			to = &swap
		case "SwapFree:":
			to = &swapFree
		default:
			continue
		}
		var kib [1]float64
		if numbers(rest, kib[:]) == 1 {
			*to = Of(kib[0] * 1024)
		}
	}
	if all, ok := total.Get(); !ok || all == 0 {
		return errBadMeminfo
	}
	r.MemoryTotal = total
	if available.v <= total.v {
		r.MemoryAvailable = available
	}
	if swap.known && swapFree.known && swapFree.v <= swap.v {
		r.SwapTotal, r.SwapUsed = swap, Of(swap.v-swapFree.v)
	}
	return nil
}
