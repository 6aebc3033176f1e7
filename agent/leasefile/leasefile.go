// Package leasefile is the note of the lease in /run: what the fence, the units'
// ExecCondition= and a restarted agent know of it. It lies on tmpfs, so it is gone
// after a reboot, as the lease is.
package leasefile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultPath is below the agent's RuntimeDirectory=.
const DefaultPath = "/run/relevo/lease"

// Forever is the deadline while the cluster is paused.
const Forever = time.Duration(1<<63 - 1)

// maxSize bounds the file: a term, times, and the names of some units.
const maxSize = 8 << 10

// Lease is the right to run the control plane.
type Lease struct {
	Node     string
	Term     uint64
	Deadline time.Duration // on this host's CLOCK_BOOTTIME
	TTL      time.Duration
	Units    []string   // in the order in which they start
	VIP      netip.Addr // goes with the lease; invalid = none
	// Start says that units may start: not while they are being stopped.
	Start bool
}

// Boottime reads CLOCK_BOOTTIME: it counts suspend and nobody can set it.
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// Linux has had it since 2.6.39; without it no lease can be kept.
		panic("CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(ts.Nano())
}

// Held says whether a unit may start at now: the lease is valid, and neither the
// agent nor the fence is stopping the units or about to.
func (l Lease) Held(now time.Duration) bool { return l.Term != 0 && l.Start && now < l.StopAt() }

// StopAt is when the fence begins to stop the units, KillAt when it kills them:
// the same moments as the agent's own (S5).
func (l Lease) StopAt() time.Duration { return l.Deadline - l.TTL/3 }

// KillAt is when whatever still runs is killed.
func (l Lease) KillAt() time.Duration { return l.Deadline - l.TTL/6 }

// Write replaces the file at once; nobody ever sees half of it. It is not synced:
// tmpfs has no disk.
func Write(path string, l Lease) error {
	var b strings.Builder
	vip := ""
	if l.VIP.IsValid() {
		vip = l.VIP.String()
	}
	fmt.Fprintf(&b, "term=%d\ndeadline=%d\nttl=%d\nnode=%s\nunits=%s\nvip=%s\nstart=%t\n", l.Term, int64(l.Deadline), int64(l.TTL), l.Node, strings.Join(l.Units, " "), vip, l.Start)
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("note the lease: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("note the lease: %w", err)
	}
	return nil
}

// Remove removes the file; it may be gone already.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the note of the lease: %w", err)
	}
	return nil
}

// Read reads the file. The error wraps fs.ErrNotExist if there is no lease.
func Read(path string) (Lease, error) {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return Lease{}, err
	}
	defer f.Close()
	l, err := Parse(f)
	if err != nil {
		return Lease{}, fmt.Errorf("the note of the lease, %s: %w", path, err)
	}
	return l, nil
}

// Parse reads a note. A damaged one is no lease.
func Parse(r io.Reader) (Lease, error) {
	var l Lease
	seen := map[string]bool{}
	sc := bufio.NewScanner(io.LimitReader(r, maxSize))
	for n := 1; sc.Scan(); n++ {
		k, v, ok := strings.Cut(sc.Text(), "=")
		if !ok || seen[k] {
			return Lease{}, fmt.Errorf("line %d: %q", n, sc.Text())
		}
		seen[k] = true
		var err error
		switch k {
		case "term":
			l.Term, err = strconv.ParseUint(v, 10, 64)
		case "deadline":
			err = parseNanos(v, &l.Deadline)
		case "ttl":
			err = parseNanos(v, &l.TTL)
		case "node":
			l.Node = v
		case "units":
			l.Units = strings.Fields(v)
		case "vip":
			if v != "" {
				l.VIP, err = netip.ParseAddr(v)
			}
		case "start":
			l.Start = v == "true"
		default:
			err = errors.New("unknown key")
		}
		if err != nil {
			return Lease{}, fmt.Errorf("line %d: %q: %w", n, sc.Text(), err)
		}
	}
	if err := sc.Err(); err != nil {
		return Lease{}, err
	}
	for _, k := range []string{"term", "deadline", "ttl", "node", "units", "vip", "start"} {
		if !seen[k] {
			return Lease{}, fmt.Errorf("%s is missing", k)
		}
	}
	if l.Term == 0 || l.TTL <= 0 || l.Node == "" {
		return Lease{}, errors.New("it is empty")
	}
	return l, nil
}

func parseNanos(s string, d *time.Duration) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil && n < 0 {
		err = errors.New("negative")
	}
	*d = time.Duration(n)
	return err
}
