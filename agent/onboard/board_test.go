package onboard

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestBoard(t *testing.T) {
	result := func(all []Finding, check string) string {
		for _, f := range all {
			if f.Check != check {
				continue
			}
			switch {
			case f.What == "":
				return "says nothing"
			case f.OK:
				return "ok"
			case f.Wrong && f.Do != "":
				return "wrong"
			case f.Do != "":
				return "warning"
			}
			return "unknown"
		}
		return "none"
	}
	for name, c := range map[string]struct {
		files     map[string]string
		candidate bool
		want      map[string]string
	}{
		"a voter": {map[string]string{"proc/swaps": "Filename Type Size Used Priority\n"}, false, map[string]string{"board": "none", "memory cgroup": "none", "swap": "ok"}},
		"a Pi OS": {map[string]string{"proc/meminfo": "MemTotal: 3884372 kB\n", "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n", "proc/cgroups": "#subsys_name hierarchy num_cgroups enabled\nmemory 0 80 0\n",
			"proc/swaps": "Filename Type Size Used Priority\n/var/swap file 102396 0 -2\n"}, true, map[string]string{"board": "ok", "memory cgroup": "wrong", "swap": "warning"}},
		"cgroup v2": {map[string]string{"sys/fs/cgroup/cgroup.controllers": "cpuset memory pids\n", "proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 102396 0 100\n"}, true, map[string]string{"memory cgroup": "ok", "swap": "ok"}},
		"cgroup v1": {map[string]string{"proc/cgroups": "memory\t3\t80\t1\n"}, true, map[string]string{"memory cgroup": "ok"}},
		"a Zero":    {map[string]string{"proc/meminfo": "MemTotal: 443080 kB\n"}, true, map[string]string{"board": "wrong", "memory cgroup": "unknown"}},
	} {
		all := Board(board(t, c.files), c.candidate)
		for check, want := range c.want {
			if got := result(all, check); got != want {
				t.Errorf("%s: %s is %s, want %s", name, check, got, want)
			}
		}
	}
	for want, f := range map[string]Finding{"warning": PowerSave("wlan0", true, nil), "ok": PowerSave("wlan0", false, nil)} {
		if got := result([]Finding{f}, "Wi-Fi"); got != want {
			t.Errorf("power save: %s, want %s", got, want)
		}
	}
	if f := PowerSave("wlan0", true, errors.New("x")); f.OK || f.Wrong {
		t.Errorf("%+v", f)
	}
}

func TestOwners(t *testing.T) {
	root := board(t, map[string]string{"a": "x", "b": "x"})
	if who := Owners(root, "/a", "/gone"); os.Getuid() == 0 && who != "" {
		t.Error(who)
	}
	if os.Getuid() != 0 {
		t.Skip("only root can give a file away")
	}
	if err := os.Chown(filepath.Join(root, "b"), 4711, -1); err != nil {
		t.Fatal(err)
	}
	if who := Owners(root, "/a", "/b"); who != "/b belongs to uid 4711" {
		t.Error(who)
	}
}
