package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := boot(t, boards(t)["pi4"])
		m := New(Config{Root: h.dir})
		ctx, cancel := context.WithCancel(t.Context())
		rounds, changes := 0, 0
		done := make(chan error)
		go func() {
			done <- m.Run(ctx, func(r Report, cs []Change) { rounds++; changes += len(cs) })
		}()
		time.Sleep(3 * time.Second) // of the bubble's clock
		synctest.Wait()
		// 2 s of low voltage between two rounds; the clock of the bubble stands meanwhile.
		h.put("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		h.put("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n")
		time.Sleep(30 * time.Second)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil || rounds != 4 {
			t.Errorf("%d rounds in 35 s, want 4; %v", rounds, err)
		}
		if c := find(m.Conditions(), UnderVoltage); c.Status != Yes || m.Latest().Power.UnderVoltages != Of(1) {
			t.Errorf("%+v, %+v", c, m.Latest().Power)
		}
		if changes == 0 {
			t.Error("no change was told")
		}
	})
}

// What the agent's own writes cost, and one that hangs.
func TestWriting(t *testing.T) {
	h := boot(t, nil)
	if r := h.next(); r.Writes.Slowest.known || r.Writes.Count != Of(0) {
		t.Errorf("%+v", r.Writes)
	}
	one := h.Writing()
	h.mono += 300 * time.Millisecond
	two := h.Writing()
	h.mono += 100 * time.Millisecond
	two(fmt.Errorf("write: %w", unix.EROFS))
	two(nil) // once is enough
	one(nil)
	if r := h.next(); r.Writes.Slowest != Of(0.4) || r.Writes.Count != Of(2) || r.Writes.Failed != Of(1) {
		t.Errorf("%+v", r.Writes)
	}
	if r := h.next(); r.Writes.Slowest.known {
		t.Errorf("nothing was written since: %+v", r.Writes)
	}
	h.Writing()(fmt.Errorf("write: %w", unix.ENOSPC))
	if r := h.next(); r.Writes.Count != Of(3) || r.Writes.Failed != Of(1) {
		t.Errorf("a full disk is no failing one: %+v", r.Writes)
	}
	hangs := h.Writing()
	h.next()
	if r := h.next(); r.Writes.Slowest != Of(20) || h.writes.idle() {
		t.Errorf("%+v", r.Writes)
	}
	for range 5 {
		h.next()
	}
	if got := holds(h.Conditions()); got != "DiskSlow" {
		t.Errorf("holds: %s", got)
	}
	hangs(nil)
	if !h.writes.idle() {
		t.Error("nothing is under way")
	}
}

// The probe writes only if it is asked for, not more often than it may, and the
// same block again.
func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := boot(t, fixture{"var/lib/relevo/": ""})
		run := func(every, d time.Duration) *Monitor {
			m := New(Config{Root: h.dir, DataDir: "/var/lib/relevo", Probe: every})
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			if err := m.Run(ctx, nil); err != nil {
				t.Error(err)
			}
			return m
		}
		file := filepath.Join(h.dir, "var/lib/relevo/health.probe")
		run(0, time.Hour)
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("written without being asked: %v", err)
		}
		m := run(time.Second, time.Hour+5*time.Second)
		if got := m.Latest().Writes.Count; got != Of(5) && got != Of(6) { // the last may come after the last round
			t.Errorf("%v probes in an hour", got)
		}
		if st, err := os.Stat(file); err != nil || st.Size() != probeSize {
			t.Errorf("%+v, %v", st, err)
		}
		if m.writes.failed != 0 {
			t.Errorf("%v failed", m.writes.failed)
		}
		h.remove("var")
		if m := run(time.Second, 11*time.Minute); m.writes.failed != 1 {
			t.Errorf("%v failed without a folder", m.writes.failed)
		}
	})
}

func TestSetThresholds(t *testing.T) {
	f := boards(t)["pi4"]
	h := boot(t, f)
	for range 6 {
		h.next()
	}
	if c := find(h.Conditions(), Hot); c.Status != No {
		t.Fatalf("%+v", c)
	}
	th := DefaultThresholds()
	th.HotCelsius = 50
	h.SetThresholds(th)
	for range 6 {
		h.next()
	}
	if c := find(h.Conditions(), Hot); c.Status != Yes {
		t.Errorf("%+v", c)
	}
}

// What goes over the network comes back the same.
func TestReportJSON(t *testing.T) {
	for name, f := range boards(t) {
		r := boot(t, f).two(f)
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back Report
		if err := json.Unmarshal(b, &back); err != nil || !back.At.Equal(r.At) {
			t.Fatalf("%s: %v: %s", name, err, b)
		}
		back.At = r.At
		if !reflect.DeepEqual(back, r) {
			t.Errorf("%s: JSON changed it:\n%+v\n%+v", name, back, r)
		}
		if len(b) > 8<<10 {
			t.Errorf("%s: the report has %d bytes", name, len(b))
		}
	}
	for _, text := range []string{`{"cpu_percent":"x"}`, `{"disks":[{"read_only":1}]}`} {
		if err := json.Unmarshal([]byte(text), new(Report)); err == nil {
			t.Errorf("%s was taken", text)
		}
	}
}

func TestThisHost(t *testing.T) {
	m := New(Config{DataDir: t.TempDir()})
	r, _ := m.Collect(t.Context())
	for what, v := range map[string]Value{"cpus": r.CPUs, "load": r.Load1, "memory": r.MemoryTotal, "uptime": r.Uptime, "own memory": r.Agent.Memory, "own files": r.Agent.Files, "disk": r.Disks[0].Total} {
		if !v.known {
			t.Errorf("%s is unknown on this host: %+v", what, r.Unknown)
		}
	}
	if last := r.Disks[len(r.Disks)-1]; !last.State {
		t.Errorf("the state lies nowhere: %+v", r.Disks)
	}
}
