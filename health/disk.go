package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/shirou/gopsutil/v3/disk"
	"golang.org/x/sys/unix"
)

// mount is a file system that is looked at.
type mount struct {
	path    string // as we were asked
	point   string // where it is mounted; "" = unknown
	kind    string // ext4
	device  string // mmcblk0p2; "" = none, or unknown
	drive   string
	meant   Truth  // read-only on purpose
	state   bool   // the agent's state lies here
	options string // path of ext4's own list of options; "" = none
}

func (m *Monitor) findMounts() {
	mounts := []mount{{path: "/"}}
	if d := m.cfg.DataDir; d != "" {
		mounts = append(mounts, mount{path: path.Clean(m.system.resolve(d))})
	}
	if b, err := m.files.read("/proc/self/mountinfo"); err == nil {
		readMountinfo(b, mounts)
	}
	if last := len(mounts) - 1; last > 0 && mounts[last].point != "" && mounts[last].point == mounts[0].point {
		mounts = mounts[:1]
	}
	mounts[len(mounts)-1].state = m.cfg.DataDir != ""
	for i := range mounts {
		t := &mounts[i]
		t.device = m.deviceOf(t.device)
		t.drive = m.driveOf(t.device)
		t.meant = meantReadOnly(m.static.fstab, t.point, t.kind)
		if t.kind == "ext4" && t.device != "" {
			t.options = "/proc/fs/ext4/" + t.device + "/options"
		}
		for k := range m.has.drives {
			if t.state && t.drive != "" && m.has.drives[k].name == t.drive {
				m.has.drives[k].state = true
			}
		}
	}
	m.has.mounts = mounts
}

// readMountinfo finds where each path is mounted. Of a line it takes the device
// numbers, the mount point, the kind and the source:
// "36 35 179:2 / /mnt rw,noatime master:1 - ext4 /dev/root rw".
func readMountinfo(b []byte, mounts []mount) {
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		head, tail, ok := bytes.Cut(l, []byte(" - "))
		if !ok {
			continue
		}
		_, head = field(head)
		_, head = field(head)
		device, head := field(head)
		_, head = field(head)
		at, _ := field(head)
		kind, tail := field(tail)
		source, _ := field(tail)
		point := unescape(string(at))
		for i := range mounts {
			t := &mounts[i]
			// The last of several mounts at one place covers the others.
			if under(t.path, point) && len(point) >= len(t.point) {
				t.point, t.kind = point, string(kind)
				// A kind of file system that spans devices has numbers of its own.
				t.device = string(device) + " " + string(source)
			}
		}
	}
}

func under(p, dir string) bool {
	return dir == "/" || p == dir || strings.HasPrefix(p, dir+"/")
}

// unescape reads the octal escapes of blanks in mount points.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// deviceOf finds the name of a block device from "179:2 /dev/root".
func (m *Monitor) deviceOf(s string) string {
	numbers, source, _ := strings.Cut(s, " ")
	if b, err := m.files.read("/sys/dev/block/" + numbers + "/uevent"); err == nil && numbers != "" {
		for len(b) > 0 {
			var l []byte
			l, b = line(b)
			if name, ok := bytes.CutPrefix(l, []byte("DEVNAME=")); ok {
				return path.Base(printable(string(name), 32))
			}
		}
	}
	if name, ok := strings.CutPrefix(source, "/dev/"); ok && m.files.exists("/sys/class/block/"+path.Base(name)) {
		return path.Base(name)
	}
	return ""
}

var errMeasure = errors.New("the file system cannot be measured")

func (m *Monitor) collectDisks(ctx context.Context, r *Report) error {
	r.Disks = make([]Disk, 0, len(m.has.mounts))
	var errs error
	for _, t := range m.has.mounts {
		d := Disk{Path: t.path, Device: t.device, Drive: t.drive, Meant: t.meant, State: t.state}
		u, err := m.system.usage(ctx, t.path)
		switch {
		case err != nil:
			errs = errors.Join(errs, fmt.Errorf("measure the file system of %s: %w", t.path, err))
		case u.Total == 0 || u.Free > u.Total:
			errs = errMeasure
		default:
			d.Total, d.Free = Of(float64(u.Total)), Of(float64(u.Free))
			if u.InodesTotal > 0 && u.InodesFree <= u.InodesTotal {
				d.Inodes, d.InodesFree = Of(float64(u.InodesTotal)), Of(float64(u.InodesFree))
			}
		}
		d.ReadOnly = m.system.readOnly(t.path)
		// Since 6.12 ext4 does not tell the rest of the kernel when it stopped to write
		// after errors, but shows it here.
		if d.ReadOnly == No && t.options != "" {
			if b, err := m.files.read(t.options); err == nil && (hasLine(b, "emergency_ro") || hasLine(b, "shutdown")) {
				d.ReadOnly = Yes
			}
		}
		r.Disks = append(r.Disks, d)
	}
	return errs
}

func hasLine(b []byte, want string) bool {
	for len(b) > 0 {
		var l []byte
		if l, b = line(b); string(l) == want {
			return true
		}
	}
	return false
}

// system is what is asked of the kernel without a file.
type system struct {
	usage          func(ctx context.Context, path string) (*disk.UsageStat, error)
	readOnly       func(path string) Truth
	resolve        func(path string) string // symbolic links
	unsynchronized func() Truth             // the kernel's clock has no time server
	page           float64                  // bytes; 16 KiB on a Pi 5
}

// realSystem asks for paths below root.
func realSystem(root string) system {
	at := func(p string) string { return path.Join("/", root, p) }
	return system{
		// gopsutil reckons space and inodes from one statfs call.
		usage: func(ctx context.Context, p string) (*disk.UsageStat, error) { return disk.UsageWithContext(ctx, at(p)) },
		readOnly: func(p string) Truth {
			var st unix.Statfs_t
			if err := unix.Statfs(at(p), &st); err != nil {
				return Maybe
			}
			return TruthOf(st.Flags&unix.ST_RDONLY != 0)
		},
		resolve:        func(p string) string { return resolve(root, p) },
		unsynchronized: unsynchronized,
		page:           float64(os.Getpagesize()),
	}
}
