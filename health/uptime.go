package health

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"strings"
)

// collectUptime reads one file; gopsutil's host.Info would run a program.
func (m *Monitor) collectUptime(_ context.Context, r *Report) error {
	b, err := readFile(filepath.Join(m.cfg.Proc, "uptime"))
	if err != nil {
		return absent(err, "there is no /proc/uptime")
	}
	first, _, _ := strings.Cut(string(b), " ")
	v, err := strconv.ParseFloat(strings.TrimSpace(first), 64)
	if err != nil || v < 0 {
		return errors.New("/proc/uptime does not begin with seconds")
	}
	r.Uptime = Of(v)
	return nil
}
