package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/systemd"
)

func TestWatchdogIsJudged(t *testing.T) {
	pi := []systemd.WatchdogDevice{{Name: "watchdog0", Identity: "Broadcom BCM2835 Watchdog timer", State: "inactive", Timeout: 15 * time.Second}}
	taken := []systemd.WatchdogDevice{{Name: "watchdog0", Identity: "x", State: "active", Timeout: 60 * time.Second}}
	for name, tc := range map[string]struct {
		w       systemd.Watchdog
		devices []systemd.WatchdogDevice
		kernel  [2]int
		result  string
		what    string
	}{
		"none":                       {systemd.Watchdog{}, nil, [2]int{6, 12}, resultWarning, "there is none"},
		"not used":                   {systemd.Watchdog{}, pi, [2]int{6, 12}, resultWarning, "nobody uses it"},
		"another program":            {systemd.Watchdog{}, taken, [2]int{6, 12}, resultOK, "armed by another program"},
		"armed":                      {systemd.Watchdog{Runtime: 10 * time.Second, Device: "/dev/watchdog0", Pinged: true}, pi, [2]int{6, 1}, resultOK, "armed by PID 1"},
		"silently not armed":         {systemd.Watchdog{Runtime: 60 * time.Second, Device: "/dev/watchdog0"}, pi, [2]int{6, 1}, resultWrong, "does not"},
		"too long for an old kernel": {systemd.Watchdog{Runtime: 60 * time.Second, Device: "/dev/watchdog0", Pinged: true}, pi, [2]int{6, 1}, resultWrong, "15 s"},
		"a new kernel pings for us":  {systemd.Watchdog{Runtime: 60 * time.Second, Device: "/dev/watchdog0", Pinged: true}, pi, [2]int{6, 8}, resultOK, "armed"},
	} {
		t.Run(name, func(t *testing.T) {
			if f := judgeWatchdog(tc.w, tc.devices, tc.kernel); f.Result != tc.result || !strings.Contains(f.What, tc.what) {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestWatchdogDevices(t *testing.T) {
	sys := t.TempDir()
	dir := filepath.Join(sys, "class/watchdog/watchdog0")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"identity": "Broadcom BCM2835 Watchdog timer\n", "state": "active\n", "timeout": "15\n", "max_timeout": "x\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got := systemd.WatchdogDevices(sys)
	want := systemd.WatchdogDevice{Name: "watchdog0", Identity: "Broadcom BCM2835 Watchdog timer", State: "active", Timeout: 15 * time.Second}
	if len(got) != 1 || got[0] != want {
		t.Errorf("%+v", got)
	}
	if n := systemd.WatchdogDevices(t.TempDir()); n != nil {
		t.Errorf("%+v", n)
	}
}

func TestDoctorNeedsAConfiguration(t *testing.T) {
	code, _, errs := relevo(t, nil, "doctor", "--config", filepath.Join(t.TempDir(), "none.yaml"))
	if code != 1 || !strings.Contains(errs, "none.yaml") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

func TestFenceIsJudged(t *testing.T) {
	if f := checkFence(nil); f.Result != resultOK {
		t.Errorf("none: %+v", f)
	}
	if f := checkFence([]string{"/bin/true"}); f.Result != resultOK && os.Geteuid() == 0 {
		t.Errorf("a program of root's: %+v", f)
	}
	dir := t.TempDir() // below /tmp, which is everybody's
	program := filepath.Join(dir, "plug")
	if err := os.WriteFile(program, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, part := range map[string]string{filepath.Join(dir, "none"): "no such file", dir: "is no program", program: "is no program"} {
		if f := checkFence([]string{path}); f.Result != resultWrong || !strings.Contains(f.What, part) {
			t.Errorf("%s: %+v", path, f)
		}
	}
	if err := os.Chmod(program, 0o777); err != nil {
		t.Fatal(err)
	}
	if f := checkFence([]string{program}); f.Result != resultWrong || !strings.Contains(f.What, "everybody") {
		t.Errorf("a program that everybody may write: %+v", f)
	}
}
