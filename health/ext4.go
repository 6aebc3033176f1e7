package health

import (
	"bytes"
	"context"
	"errors"
	"time"
)

type ext4Files struct{ name, errors, last, written string }

var errNoExt4 = errors.New("no ext4 file system is mounted")

func (m *Monitor) findExt4() {
	const dir = "/sys/fs/ext4/"
	mounted := m.mountedHere()
	for _, name := range m.files.list(dir) {
		if !mounted(name) {
			continue // of another container on this machine
		}
		// Beside the file systems there is a folder of what this kernel can.
		if p := dir + name + "/"; len(m.has.ext4) < maxDrives && m.files.exists(p+"errors_count") {
			m.has.ext4 = append(m.has.ext4, ext4Files{printable(name, 32), p + "errors_count", p + "last_error_time", p + "lifetime_write_kbytes"})
		}
	}
}

// mountedHere tells which devices are mounted where this process is: /sys shows those of
// the whole machine, also to a container. Where a source does not name its device
// (/dev/root, a device mapper) all count.
func (m *Monitor) mountedHere() func(device string) bool {
	b, err := m.files.read("/proc/self/mountinfo")
	if err != nil || bytes.Contains(b, []byte(" /dev/root ")) || bytes.Contains(b, []byte(" /dev/mapper/")) || bytes.Contains(b, []byte(" /dev/disk/")) {
		return func(string) bool { return true }
	}
	b = bytes.Clone(b)
	return func(device string) bool { return bytes.Contains(b, []byte(" /dev/"+device+" ")) }
}

func (m *Monitor) collectExt4(_ context.Context, r *Report) error {
	if len(m.has.ext4) == 0 {
		return errNoExt4
	}
	r.Ext4 = make([]Ext4, 0, len(m.has.ext4))
	for _, f := range m.has.ext4 {
		e := Ext4{Device: f.name}
		n, err := m.files.number(f.errors)
		if err != nil {
			m.gone()
		} else if n >= 0 {
			e.Errors = Of(n)
		}
		if n > 0 && err == nil {
			// Seconds since 1970; 0 = never.
			if at, ok := m.files.value(f.last).Get(); ok && at > 0 && at < 1e11 {
				e.LastError = time.Unix(int64(at), 0).UTC()
			}
		}
		if kib, ok := m.files.value(f.written).Get(); ok && kib >= 0 {
			e.Written = Of(kib * 1024)
		}
		r.Ext4 = append(r.Ext4, e)
	}
	return nil
}
