package health

import (
	"context"
	"errors"
	"fmt"

	"github.com/shirou/gopsutil/v3/disk"
	"golang.org/x/sys/unix"
)

func (m *Monitor) collectDisks(ctx context.Context, r *Report) error {
	paths := []string{m.cfg.Root}
	if m.cfg.DataDir != "" && !sameFilesystem(m.cfg.Root, m.cfg.DataDir) {
		paths = append(paths, m.cfg.DataDir)
	}
	var errs []error
	for _, p := range paths {
		d := Disk{Path: p}
		if u, err := disk.UsageWithContext(ctx, p); err != nil {
			errs = append(errs, fmt.Errorf("measure the file system of %s: %w", p, err))
		} else if u.Total > 0 {
			d.Total, d.Free = Of(float64(u.Total)), Of(float64(u.Free))
		}
		d.ReadOnly = readOnly(p)
		r.Disks = append(r.Disks, d)
	}
	return errors.Join(errs...)
}

func readOnly(path string) Truth {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Maybe
	}
	return TruthOf(st.Flags&unix.ST_RDONLY != 0)
}

// sameFilesystem says whether both are known to lie on one file system.
func sameFilesystem(a, b string) bool {
	var sa, sb unix.Stat_t
	return unix.Stat(a, &sa) == nil && unix.Stat(b, &sb) == nil && sa.Dev == sb.Dev
}
