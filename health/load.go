package health

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// collectLoad reads the file itself: gopsutil's load panics when it is short.
func (m *Monitor) collectLoad(_ context.Context, r *Report) error {
	b, err := readFile(filepath.Join(m.cfg.Proc, "loadavg"))
	if err != nil {
		return absent(err, "there is no /proc/loadavg")
	}
	f := strings.Fields(string(b))
	if len(f) < 3 {
		return fmt.Errorf("/proc/loadavg has %d fields, not 5", len(f))
	}
	for i, v := range []*Value{&r.Load1, &r.Load5, &r.Load15} {
		n, err := strconv.ParseFloat(f[i], 64)
		if err != nil || n < 0 {
			return fmt.Errorf("/proc/loadavg: field %d is no load", i+1)
		}
		*v = Of(n)
	}
	return nil
}
