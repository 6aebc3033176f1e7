package systemd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Watchdog is what PID 1 does with the hardware watchdog.
type Watchdog struct {
	Runtime time.Duration // RuntimeWatchdogSec=; 0 = PID 1 does not use one
	Device  string        // the one that it has; "" = none
	Pinged  bool          // it was told that the host lives, at least once
}

// WatchdogDevice is one of /sys/class/watchdog.
type WatchdogDevice struct {
	Name     string // watchdog0
	Identity string // "Broadcom BCM2835 Watchdog timer"
	State    string // active, inactive; "" = the kernel does not tell
	Timeout  time.Duration
	Most     time.Duration // max_timeout; 0 = the kernel does not tell
}

// Watchdog asks PID 1.
func (m *Manager) Watchdog(ctx context.Context) (Watchdog, error) {
	c, err := m.connect(ctx)
	if err != nil {
		return Watchdog{}, fmt.Errorf("ask systemd for its watchdog: %w", err)
	}
	get := func(name string) string {
		v, err := c.GetManagerProperty(name)
		if err != nil {
			return "" // an older systemd
		}
		// The text form of a D-Bus value: "@t 10000000", "\"/dev/watchdog0\"".
		if i := strings.LastIndexByte(v, ' '); i >= 0 && strings.HasPrefix(v, "@") {
			v = v[i+1:]
		}
		return strings.Trim(v, `"`)
	}
	usec, _ := strconv.ParseUint(get("RuntimeWatchdogUSec"), 10, 64)
	ping, _ := strconv.ParseUint(get("WatchdogLastPingTimestampMonotonic"), 10, 64)
	const infinity = 1<<64 - 1
	w := Watchdog{Device: get("WatchdogDevice"), Pinged: ping > 0 && ping != infinity}
	if usec != infinity {
		w.Runtime = time.Duration(usec) * time.Microsecond
	}
	return w, nil
}

// WatchdogDevices lists the hardware watchdogs below sys ("/sys").
func WatchdogDevices(sys string) []WatchdogDevice {
	dirs, err := filepath.Glob(filepath.Join(sys, "class/watchdog/watchdog*"))
	if err != nil {
		return nil
	}
	var out []WatchdogDevice
	for _, d := range dirs {
		read := func(name string) string {
			b, err := os.ReadFile(filepath.Join(d, name))
			if err != nil || len(b) > 256 {
				return ""
			}
			return strings.TrimSpace(string(b))
		}
		secs := func(name string) time.Duration {
			n, err := strconv.Atoi(read(name))
			if err != nil || n < 0 {
				return 0
			}
			return time.Duration(n) * time.Second
		}
		out = append(out, WatchdogDevice{Name: filepath.Base(d), Identity: read("identity"), State: read("state"), Timeout: secs("timeout"), Most: secs("max_timeout")})
	}
	return out
}

// Show reads properties of a unit, as text, as `systemctl show` has them; "" = none.
func (m *Manager) Show(ctx context.Context, unit string, names ...string) (map[string]string, error) {
	c, err := m.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", unit, err)
	}
	out := map[string]string{}
	for _, kind := range []string{"Unit", "Service"} {
		p, err := c.GetUnitTypePropertiesContext(ctx, unit, kind)
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", unit, err)
		}
		for _, n := range names {
			if v, ok := p[n]; ok {
				out[n] = fmt.Sprint(v)
			}
		}
	}
	return out, nil
}
