package health

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// tree writes files of a made-up host and returns a Monitor on it.
func tree(t testing.TB, files map[string]string) *Monitor {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"proc", "sys"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, files)
	return New(Config{Proc: filepath.Join(dir, "proc"), Sys: filepath.Join(dir, "sys"), Root: dir,
		Now: func() time.Time { return time.Unix(1000, 0) }})
}

func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// The numbers are those of a Pi 3 B+; the layout is that of the kernel.
var pi3 = map[string]string{
	"proc/stat":                              "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 25 0 25 200 0 0 0 0 0 0\ncpu1 25 0 25 200 0 0 0 0 0 0\ncpu2 25 0 25 200 0 0 0 0 0 0\ncpu3 25 0 25 200 0 0 0 0 0 0\nintr 1\nbtime 1\n",
	"proc/loadavg":                           "0.50 0.25 0.10 1/123 4567\n",
	"proc/meminfo":                           "MemTotal:         945364 kB\nMemFree:          100000 kB\nMemAvailable:     700000 kB\nBuffers: 10 kB\nCached: 10 kB\nSwapTotal:        102396 kB\nSwapFree:         100000 kB\n",
	"proc/uptime":                            "12345.67 40000.00\n",
	"proc/device-tree/model":                 "Raspberry Pi 3 Model B Plus Rev 1.3\x00",
	"sys/class/hwmon/hwmon0/name":            "cpu_thermal\n",
	"sys/class/hwmon/hwmon0/temp1_input":     "48312\n",
	"sys/class/hwmon/hwmon1/name":            "rpi_volt\n",
	"sys/class/hwmon/hwmon1/in0_lcrit_alarm": "0\n",
}

func TestPi3(t *testing.T) {
	m := tree(t, pi3)
	r := m.Collect(t.Context())
	if _, known := r.CPUPercent.Get(); known {
		t.Error("the first round cannot know how busy the processor is")
	}
	// 60 of the next 200 ticks are busy.
	write(t, m.cfg.Root, map[string]string{"proc/stat": "cpu  130 0 130 940 0 0 0 0 0 0\ncpu0 40 0 40 270 0 0 0 0 0 0\ncpu1 40 0 40 270 0 0 0 0 0 0\ncpu2 25 0 25 200 0 0 0 0 0 0\ncpu3 25 0 25 200 0 0 0 0 0 0\n"})
	r = m.Collect(t.Context())
	if len(r.Unknown) > 0 {
		t.Errorf("unknown: %+v", r.Unknown)
	}
	for _, c := range []struct {
		what string
		got  Value
		want float64
	}{
		{"cpu", r.CPUPercent, 30}, {"cpus", r.CPUs, 4},
		{"load1", r.Load1, 0.5}, {"load5", r.Load5, 0.25}, {"load15", r.Load15, 0.1},
		{"memory total", r.MemoryTotal, 945364 * 1024}, {"memory available", r.MemoryAvailable, 700000 * 1024},
		{"swap total", r.SwapTotal, 102396 * 1024}, {"swap used", r.SwapUsed, 2396 * 1024},
		{"temperature", r.Temperature, 48.312}, {"uptime", r.Uptime, 12345.67},
	} {
		v, known := c.got.Get()
		if !known || v < c.want-1e-6 || v > c.want+1e-6 {
			t.Errorf("%s is %v (known: %v), want %v", c.what, v, known, c.want)
		}
	}
	if r.Board.Model != "Raspberry Pi 3 Model B Plus Rev 1.3" {
		t.Errorf("model is %q", r.Board.Model)
	}
	if len(r.Disks) != 1 || r.Disks[0].ReadOnly != No {
		t.Errorf("disks: %+v", r.Disks)
	}
	if m.Latest().Uptime != r.Uptime {
		t.Error("Latest is not the newest report")
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b, &back); err != nil || !back.At.Equal(r.At) {
		t.Fatalf("%v: %s", err, b)
	}
	back.At = r.At
	if !reflect.DeepEqual(back, r) {
		t.Errorf("JSON changed it:\n%+v\n%+v", back, r)
	}
}

// Nothing of a host that tells nothing may come out as zero.
func TestAbsentIsUnknown(t *testing.T) {
	m := tree(t, nil)
	m.cfg.Root = filepath.Join(m.cfg.Root, "not there")
	r := m.Collect(t.Context())
	for what, v := range values(r) {
		if n, known := v.Get(); known {
			t.Errorf("%s is %v on a host that tells nothing", what, n)
		}
	}
	if len(r.Unknown) != 6 {
		t.Errorf("unknown: %+v", r.Unknown)
	}
	for _, c := range Conditions(r) {
		if c.Status != Maybe {
			t.Errorf("%s is %v on a host that tells nothing", c.Type, c.Status)
		}
	}
	b, _ := json.Marshal(r)
	if !strings.Contains(string(b), `"cpu_percent":null`) {
		t.Errorf("unknown is not null: %s", b)
	}
}

func values(r Report) map[string]Value {
	m := map[string]Value{"cpu": r.CPUPercent, "cpus": r.CPUs, "load1": r.Load1, "load5": r.Load5, "load15": r.Load15,
		"memory": r.MemoryTotal, "available": r.MemoryAvailable, "swap": r.SwapTotal, "swap used": r.SwapUsed,
		"temperature": r.Temperature, "uptime": r.Uptime}
	for _, d := range r.Disks {
		m[d.Path+" total"], m[d.Path+" free"] = d.Total, d.Free
	}
	return m
}

func TestGarbage(t *testing.T) {
	huge := strings.Repeat("9", maxFile*2)
	for _, text := range []string{"", "\n", "x", "nan nan nan", "-1 -1 -1", "cpu\ncpu0\n", "cpu0 a b c\n", "MemTotal: x kB\n", "\x00\xff", huge} {
		files := map[string]string{}
		for name := range pi3 {
			files[name] = text
		}
		m := tree(t, files)
		m.Collect(t.Context())
		for what, v := range values(m.Collect(t.Context())) {
			if n, known := v.Get(); known && !strings.Contains(what, "/") {
				t.Errorf("%s is %v after reading %.20q", what, n, text)
			}
		}
		if len(m.board.Model) > 90 {
			t.Errorf("the model has %d bytes", len(m.board.Model))
		}
	}
}

func TestTemperature(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  Value
	}{
		{"thermal zone only", map[string]string{
			"sys/class/thermal/thermal_zone0/type": "cpu-thermal\n", "sys/class/thermal/thermal_zone0/temp": "51000\n"}, Of(51)},
		{"processor before disk", map[string]string{
			"sys/class/hwmon/hwmon0/name": "nvme\n", "sys/class/hwmon/hwmon0/temp1_input": "70000\n",
			"sys/class/hwmon/hwmon1/name": "cpu_thermal\n", "sys/class/hwmon/hwmon1/temp1_input": "40000\n"}, Of(40)},
		{"hottest core", map[string]string{
			"sys/class/hwmon/hwmon0/name": "coretemp\n", "sys/class/hwmon/hwmon0/temp1_input": "30000\n",
			"sys/class/hwmon/hwmon0/temp2_input": "60000\n", "sys/class/hwmon/hwmon0/temp3_input": "50000\n"}, Of(60)},
		{"broken beside good", map[string]string{
			"sys/class/hwmon/hwmon0/name": "cpu_thermal\n", "sys/class/hwmon/hwmon0/temp1_input": "error\n",
			"sys/class/hwmon/hwmon1/name": "other\n", "sys/class/hwmon/hwmon1/temp1_input": "44000\n"}, Of(44)},
		{"impossible", map[string]string{
			"sys/class/hwmon/hwmon0/name": "cpu_thermal\n", "sys/class/hwmon/hwmon0/temp1_input": "850000\n",
			"sys/class/hwmon/hwmon0/temp2_input": "0\n"}, Value{}},
	} {
		if r := tree(t, c.files).Collect(t.Context()); r.Temperature != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, r.Temperature, c.want)
		}
	}
}

func TestConditions(t *testing.T) {
	status := func(r Report) string {
		var s []string
		for _, c := range Conditions(r) {
			s = append(s, c.Status.String())
			if (c.Status == Yes) != (c.Message != "" && c.Do != "") {
				t.Errorf("%+v: a message and what to do belong to yes, and only to yes", c)
			}
		}
		return strings.Join(s, " ")
	}
	disk := func(total, free float64, ro Truth) Disk {
		return Disk{Path: "/", Total: Of(total), Free: Of(free), ReadOnly: ro}
	}
	for _, c := range []struct {
		r    Report
		want string // ReadOnlyRoot DiskFull Hot MemoryPressure
	}{
		{Report{Disks: []Disk{disk(32e9, 20e9, No)}, Temperature: Of(50), MemoryTotal: Of(1e9), MemoryAvailable: Of(5e8)}, "no no no no"},
		{Report{Disks: []Disk{disk(32e9, 1e9, Yes)}, Temperature: Of(80), MemoryTotal: Of(1e9), MemoryAvailable: Of(4e7)}, "yes yes yes yes"},
		{Report{Disks: []Disk{disk(32e9, 20e9, No), disk(1e9, 1e8, No)}}, "no yes unknown unknown"},
		{Report{Disks: []Disk{disk(32e9, 20e9, No), disk(1e9, 9e8, Yes)}}, "yes no unknown unknown"},
		{Report{Disks: []Disk{disk(1e8, 9e7, No)}}, "no no unknown unknown"}, // small but empty
		{Report{MemoryTotal: Of(1e9)}, "unknown unknown unknown unknown"},
	} {
		if got := status(c.r); got != c.want {
			t.Errorf("got %s, want %s for %+v", got, c.want, c.r)
		}
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := tree(t, pi3)
		ctx, cancel := context.WithCancel(t.Context())
		rounds := 0
		done := make(chan error)
		go func() { done <- m.Run(ctx, func(Report) { rounds++ }) }()
		time.Sleep(35 * time.Second) // of the bubble's clock
		synctest.Wait()
		cancel()
		if err := <-done; err != nil || rounds != 4 {
			t.Errorf("%d rounds in 35 s, want 4; %v", rounds, err)
		}
	})
}

func TestThisHost(t *testing.T) {
	m := New(Config{DataDir: t.TempDir()})
	r := m.Collect(t.Context())
	for _, what := range []string{"cpus", "load1", "memory", "uptime"} {
		if _, known := values(r)[what].Get(); !known {
			t.Errorf("%s is unknown on this host: %+v", what, r.Unknown)
		}
	}
}

func BenchmarkCollect(b *testing.B) {
	m := New(Config{DataDir: b.TempDir()})
	b.ReportAllocs()
	for b.Loop() {
		m.Collect(b.Context())
	}
}

func FuzzCollect(f *testing.F) {
	f.Add(pi3["proc/stat"], pi3["proc/meminfo"], pi3["proc/loadavg"], pi3["sys/class/hwmon/hwmon0/temp1_input"])
	f.Add("cpu\ncpu0\n", "MemTotal:\n", "", "x")
	f.Fuzz(func(t *testing.T, stat, meminfo, small, temp string) {
		m := tree(t, map[string]string{"proc/stat": stat, "proc/meminfo": meminfo, "proc/loadavg": small, "proc/uptime": small,
			"proc/device-tree/model": small, "sys/class/hwmon/hwmon0/name": small, "sys/class/hwmon/hwmon0/temp1_input": temp})
		m.Collect(t.Context())
		r := m.Collect(t.Context())
		if p, known := r.CPUPercent.Get(); known && (p < 0 || p > 100) {
			t.Errorf("cpu is %v %%", p)
		}
		Conditions(r)
		if _, err := json.Marshal(r); err != nil {
			t.Error(err)
		}
	})
}
