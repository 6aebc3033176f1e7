package health

import (
	"context"
	"errors"
)

var (
	errNoLoad  = errors.New("there is no /proc/loadavg")
	errBadLoad = errors.New("/proc/loadavg does not begin with three loads")
)

func (m *Monitor) collectLoad(_ context.Context, r *Report) error {
	b, err := m.files.read("/proc/loadavg")
	if err != nil {
		return absent(err, errNoLoad)
	}
	var n [3]float64
	if numbers(b, n[:]) < 3 {
		return errBadLoad
	}
	r.Load1, r.Load5, r.Load15 = Of(n[0]), Of(n[1]), Of(n[2])
	return nil
}
