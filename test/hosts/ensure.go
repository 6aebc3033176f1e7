package hosts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// SkipError says why hosts cannot be made on this machine. It is the reason to skip
// a test, not to fail it.
type SkipError struct{ Reason string }

func (e *SkipError) Error() string { return "no test hosts on this machine: " + e.Reason }

// Where things are kept and had from.
const (
	cacheEnv     = "RELEVO_TEST_CACHE"  // folder for base images, disks of running labs and logs
	mirrorEnv    = "RELEVO_TEST_MIRROR" // Debian mirror for debootstrap
	defaultCache = "/var/cache/relevo-test"
	suite        = "bookworm"
)

// basePackages are what a host has besides Debian's minimal system: what a
// Raspberry Pi OS Lite has and relevo or its tests look at.
var basePackages = []string{
	"avahi-daemon", "avahi-utils", "ca-certificates", "curl", "dbus", "iproute2",
	"iputils-arping", "iputils-ping", "libnss-mdns", "nftables", "procps", "systemd",
	"systemd-sysv",
}

// baseSetup turns a fresh Debian into the base of all hosts. It runs in sh with the
// image's folder as $1.
const baseSetup = `set -e
cd "$1"
# Every host gets its own.
: >etc/machine-id; rm -f var/lib/dbus/machine-id etc/hostname
# Nothing can be fetched from in there: no sources, no timers that would try.
: >etc/apt/sources.list
rm -rf var/lib/apt/lists/* var/cache/apt/archives/*.deb
for u in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer console-getty.service getty.target; do
	ln -sf /dev/null "etc/systemd/system/$u"
done
mkdir -p var/log/journal etc/systemd/journald.conf.d
printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\nSystemMaxUse=200M\nSyncIntervalSec=5s\n' >etc/systemd/journald.conf.d/rlv.conf
`

// tools are the programs the package runs, and the Debian package of each.
var tools = map[string]string{
	"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "ip": "iproute2",
	"nft": "nftables", "nsenter": "util-linux", "unshare": "util-linux",
	"mount": "mount", "journalctl": "systemd",
}

// Ensure makes the machine ready for labs: root, namespaces, tools (apt-get), and
// the base image (debootstrap, about 70 s, once). It writes what it does to out, and
// is quick when all is there. The error is a [*SkipError] if this machine cannot
// have hosts, anything else if something broke.
func Ensure(ctx context.Context, out io.Writer) error {
	_, err := Base(ctx, out)
	return err
}

// Base is the folder of the base image: Debian with systemd, D-Bus, avahi and the tools
// of avahi-utils, not to be written to. It does what [Ensure] does, if that was not done.
func Base(ctx context.Context, out io.Writer) (base string, err error) {
	if os.Geteuid() != 0 {
		return "", &SkipError{"real hosts need root (namespaces, mounts, cgroups); run it as root"}
	}
	if err := ensureTools(ctx, out, tools); err != nil {
		return "", err
	}
	if err := probe(ctx); err != nil {
		return "", err
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	unlock, err := lock(ctx, filepath.Join(cache, "base.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	sum := sha256.Sum256([]byte(suite + "\n" + strings.Join(basePackages, "\n") + "\n" + baseSetup))
	base = filepath.Join(cache, "base-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(base); err == nil {
		return base, nil
	}
	return base, debootstrap(ctx, out, base)
}

// EnsureCompiler makes sure that there is a C compiler: Go's race detector needs one,
// and kine, whose SQLite is in C. The error is a [*SkipError] if it cannot be had.
func EnsureCompiler(ctx context.Context, out io.Writer) error {
	need := map[string]string{"gcc": "gcc"}
	if _, err := os.Stat("/usr/include/stdlib.h"); err != nil {
		need["the headers of the C library"] = "libc6-dev"
	}
	return ensureTools(ctx, out, need)
}

// Unpacked finds a program, or takes it out of its Debian package, which is not
// installed: that would start its service. It returns the program's folder, for PATH,
// "" if it is in it already.
func Unpacked(ctx context.Context, out io.Writer, program, pkg string) (dir string, err error) {
	if _, err := exec.LookPath(program); err == nil {
		return "", nil
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	root := filepath.Join(cache, "unpacked", pkg)
	dir = filepath.Join(root, "usr/bin")
	if _, err := os.Stat(filepath.Join(dir, program)); err == nil {
		return dir, nil
	}
	unlock, err := lock(ctx, aptLock)
	if err != nil {
		return "", err
	}
	defer unlock()
	fmt.Fprintf(out, "taking %s out of the package %s\n", program, pkg)
	const get = `set -e; rm -rf "$1.new"; mkdir -p "$1.new"; cd "$1.new"
apt-get download -q "$2" || { apt-get update -q; apt-get download -q "$2"; }
dpkg-deb -x ./*.deb .; rm -f ./*.deb; rm -rf "$1"; mv "$1.new" "$1"`
	if text, err := exec.CommandContext(ctx, "sh", "-c", get, "sh", root, pkg).CombinedOutput(); err != nil {
		return "", &SkipError{fmt.Sprintf("the package %s cannot be had: %v\n%s", pkg, err, lastLines(string(text), 5))}
	}
	return dir, nil
}

func ensureTools(ctx context.Context, out io.Writer, tools map[string]string) error {
	var want, names []string
	for tool, pkg := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			names = append(names, tool)
			if !slices.Contains(want, pkg) {
				want = append(want, pkg)
			}
		}
	}
	if len(want) == 0 {
		return nil
	}
	slices.Sort(want)
	slices.Sort(names)
	if _, err := exec.LookPath("apt-get"); err != nil {
		return &SkipError{fmt.Sprintf("missing %s, and no apt-get to install %s",
			strings.Join(names, ", "), strings.Join(want, ", "))}
	}
	unlock, err := lock(ctx, aptLock)
	if err != nil {
		return err
	}
	defer unlock()
	fmt.Fprintf(out, "installing %s (apt-get)\n", strings.Join(want, ", "))
	install := append([]string{"install", "-y", "-q", "--no-install-recommends"}, want...)
	if _, err := apt(ctx, install...); err == nil {
		return nil
	}
	// The package lists may be old or not there.
	if text, err := apt(ctx, "update", "-q"); err != nil {
		fmt.Fprintf(out, "apt-get update: %v\n%s\n", err, lastLines(text, 5))
	}
	if text, err := apt(ctx, install...); err != nil {
		return &SkipError{fmt.Sprintf("apt-get could not install %s: %v\n%s", strings.Join(want, ", "), err, lastLines(text, 10))}
	}
	return nil
}

// aptLock: apt-get does not wait for another one.
const aptLock = "/run/lock/rlv-apt.lock"

func apt(ctx context.Context, args ...string) (string, error) {
	c := exec.CommandContext(ctx, "apt-get", args...)
	c.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	text, err := c.CombinedOutput()
	return string(text), err
}

// probe tries the kernel features that containers inside containers often lack.
func probe(ctx context.Context) error {
	const try = `set -e
mount --make-rprivate /
d=$(mktemp -d); mount -t tmpfs rlv-probe "$d"; mkdir "$d/l" "$d/u" "$d/w" "$d/m" "$d/c"
mount -t overlay rlv-probe -o lowerdir="$d/l",upperdir="$d/u",workdir="$d/w" "$d/m"
mount -t cgroup2 cgroup2 "$d/c"; test -w "$d/c/cgroup.procs"
umount "$d/c" "$d/m" "$d"; rmdir "$d"`
	text, err := exec.CommandContext(ctx, "unshare", "--mount", "--net", "sh", "-c", try).CombinedOutput()
	if err != nil {
		return &SkipError{fmt.Sprintf("namespaces, overlay mounts or cgroup2 are not allowed here: %v: %s", err, lastLines(string(text), 3))}
	}
	return nil
}

func debootstrap(ctx context.Context, out io.Writer, base string) error {
	tmp := base + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return fmt.Errorf("remove a half-made base image: %w", err)
	}
	mirror := os.Getenv(mirrorEnv)
	if mirror == "" {
		mirror = "http://deb.debian.org/debian"
	}
	fmt.Fprintf(out, "building the base image %s from %s (debootstrap, about 70 s, once)\n", base, mirror)
	start := time.Now()
	c := exec.CommandContext(ctx, "debootstrap", "--variant=minbase",
		"--include="+strings.Join(basePackages, ","), suite, tmp, mirror)
	if text, err := c.CombinedOutput(); err != nil {
		return &SkipError{fmt.Sprintf("debootstrap of %s from %s failed (%s names another mirror): %v\n%s",
			suite, mirror, mirrorEnv, err, lastLines(string(text), 10))}
	}
	if text, err := exec.CommandContext(ctx, "sh", "-c", baseSetup, "sh", tmp).CombinedOutput(); err != nil {
		return fmt.Errorf("set up the base image %s: %w: %s", tmp, err, text)
	}
	if err := os.Rename(tmp, base); err != nil {
		return fmt.Errorf("put the base image in place: %w", err)
	}
	fmt.Fprintf(out, "base image ready after %.0f s\n", time.Since(start).Seconds())
	return nil
}

// cacheDir is the folder for everything large that outlives a test.
func cacheDir() (string, error) {
	dir := os.Getenv(cacheEnv)
	if dir == "" {
		dir = defaultCache
	}
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("%s=%s: give an absolute path", cacheEnv, dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache folder (%s names another): %w", cacheEnv, err)
	}
	return dir, nil
}

// lock takes an exclusive lock on a file, waiting for it until ctx ends. The kernel
// frees it when the process dies.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	err = Until(ctx, "lock "+path, func(context.Context) error {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return errors.New("another test process holds it")
		}
		return err
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// lastLines shortens the output of a program to its end, where the reason is.
func lastLines(text string, n int) string {
	lines := bytes.Split(bytes.TrimSpace([]byte(text)), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], []byte("\n")))
}
