package health

import (
	"context"
	"errors"
)

var (
	errNoUptime  = errors.New("there is no /proc/uptime")
	errBadUptime = errors.New("/proc/uptime does not begin with seconds")
)

func (m *Monitor) collectUptime(_ context.Context, r *Report) error {
	b, err := m.files.read("/proc/uptime")
	if err != nil {
		return absent(err, errNoUptime)
	}
	var n [1]float64
	// Ten thousand days: what is more was no uptime.
	if numbers(b, n[:]) < 1 || n[0] > 864_000_000 {
		return errBadUptime
	}
	r.Uptime = Of(n[0])
	return nil
}
