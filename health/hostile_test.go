package health

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// walk calls do for every Value and Truth of a report, with its path.
func walk(v reflect.Value, path string, do func(path string, v any)) {
	switch x := v.Interface().(type) {
	case Value, Truth:
		do(path, x)
		return
	case time.Time:
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			walk(v.Field(i), path+"."+v.Type().Field(i).Name, do)
		}
	case reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), path+"[]", do)
		}
	}
}

// Nothing of a host that tells nothing may come out as zero.
func TestAbsentIsUnknown(t *testing.T) {
	for _, root := range []string{"", "not there"} {
		h := boot(t, nil)
		h.Monitor.files = openRoot(filepath.Join(h.dir, root))
		h.two(nil)
		r := h.next()
		allowed := []string{".Agent.Goroutines", ".Agent.FilesMax", ".Writes.Count", ".Writes.Failed", ".Clock.Step"} // need no file
		seen := 0
		walk(reflect.ValueOf(r), "", func(path string, v any) {
			seen++
			if slices.Contains(allowed, path) {
				return
			}
			if v != (Value{}) && v != Maybe {
				t.Errorf("%s is %v on a host that tells nothing", path, v)
			}
		})
		if seen < 60 {
			t.Fatalf("only %d values were looked at", seen)
		}
		for _, what := range []string{"cpu", "load", "memory", "uptime", "pressure", "temperature", "under-voltage", "throttling", "ext4", "links", "clock", "agent"} {
			if !slices.ContainsFunc(r.Unknown, func(u Unknown) bool { return u.What == what && u.Why != "" }) {
				t.Errorf("%s is not said to be unknown: %+v", what, r.Unknown)
			}
		}
		for _, c := range h.Conditions() {
			known := []Type{ClockImplausible, ClockJumped, UnitFailed} // need no file
			if c.Status != Maybe && !slices.Contains(known, c.Type) {
				t.Errorf("%s is %v on a host that tells nothing", c.Type, c.Status)
			}
			if c.Status == Maybe && (c.Reason == "" || c.Message == "") {
				t.Errorf("%s is unknown without a reason: %+v", c.Type, c)
			}
		}
		b, _ := json.Marshal(r)
		if !strings.Contains(string(b), `"cpu_percent":null`) {
			t.Errorf("unknown is not null: %s", b)
		}
	}
}

// sane says what a value can never be, whatever the files say.
func sane(t *testing.T, r Report) {
	t.Helper()
	walk(reflect.ValueOf(r), "", func(path string, v any) {
		n, ok := v.(Value)
		if !ok || !n.known {
			return
		}
		x, _ := n.Get()
		if x < 0 && !strings.HasSuffix(path, "Temperature") && !strings.HasSuffix(path, "Signal") && !strings.HasSuffix(path, "Step") {
			t.Errorf("%s is %v", path, x)
		}
		if x > 100 && strings.Contains(path, "Percent") && !strings.Contains(path, "Worn") {
			t.Errorf("%s is %v", path, x)
		}
	})
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
	if len(r.Board.Model) > 90 || len(r.Drives) > maxDrives || len(r.Links) > maxLinks || len(r.Ext4) > maxDrives || len(r.Cooling) > maxCooling {
		t.Errorf("the report is not bounded: %+v", r)
	}
}

// Every file of every board, one after the other and all at once, as garbage.
func TestGarbage(t *testing.T) {
	huge := strings.Repeat("9", 2*maxFile)
	lines := strings.Repeat("eth0: 1 2 3 4 5 6 7 8 9 10 11 12\n", 20000)
	for _, board := range []string{"pi5", "zero2w"} {
		f := boards(t)[board]
		h := boot(t, f)
		h.two(f)
		for _, text := range []string{"", "\n", "x", "nan inf -inf", "-1 -1 -1 -1", "1e400", "0x", "cpu\ncpu0\n", "cpu0 a b c\n", "MemTotal: x kB\n", "\x00\xff\xfe", ": : :\n- - -\n", " - ext4\n", huge, lines} {
			for name := range f {
				if !strings.Contains(name, "/") || strings.HasSuffix(name, "/") || strings.HasPrefix(name, "+") {
					continue
				}
				h.put(name, text)
			}
			h.gone()
			sane(t, h.next())
			sane(t, h.next())
			other := New(Config{Root: h.dir, DataDir: "/var/lib/relevo"}) // what is read once, as garbage
			r, _ := other.Collect(t.Context())
			sane(t, r)
		}
		h.files(f, "")
		h.gone()
		if r := h.two(f); !r.Temperature.known || !r.MemoryTotal.known || len(r.Ext4) != 1 || !r.CPUPercent.known {
			t.Errorf("%s did not recover: %+v", board, r)
		}
	}
}

// One garbage file spoils what it tells and nothing else.
func TestOneGarbageFile(t *testing.T) {
	f := boards(t)["pi4"]
	h := boot(t, f)
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if !strings.Contains(name, "/") || strings.HasSuffix(name, "/") || strings.HasPrefix(name, "+") {
			continue
		}
		h.put(name, "rubbish \xff")
		h.gone()
		r := h.next()
		h.put(name, f[name])
		sane(t, r)
		known := 0
		for _, v := range []Value{r.MemoryTotal, r.Load1, r.Uptime, r.Temperature, r.CPUHertz, r.Pressure.CPU.Some10, r.SwapIn} {
			if v.known {
				known++
			}
		}
		if known < 6 {
			t.Errorf("%s as garbage leaves only %d of 7 values", name, known)
		}
	}
}

// Files that vanish between two rounds are unknown in the next, and there again when
// they are.
func TestVanishing(t *testing.T) {
	f := boards(t)["pi4"]
	h := boot(t, f)
	h.two(f)
	for _, dir := range []string{"sys/class/hwmon", "sys/class/net", "sys/fs/ext4", "sys/block", "sys/devices", "proc/pressure", "proc"} {
		h.remove(dir)
		sane(t, h.next())
		sane(t, h.next())
	}
	if r := h.next(); r.Temperature != Of(54.53) || r.Ext4 != nil || r.Links != nil || r.CPUPercent.known {
		t.Errorf("%+v", r) // the thermal zone is still there
	}
	h.files(f, "")
	h.mono += inventoryEvery
	if r := h.two(f); len(r.Ext4) != 1 || len(r.Links) != 2 || !r.CPUPercent.known {
		t.Errorf("did not come back: %+v", r)
	}
}

// What hangs when it is opened or read must not hang us.
func TestFIFO(t *testing.T) {
	h := boot(t, nil)
	if err := unix.Mkfifo(filepath.Join(h.dir, "proc/loadavg"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(h.dir, "proc/uptime"), 0o700); err != nil {
		t.Fatal(err)
	}
	if r := h.next(); r.Load1.known || r.Uptime.known {
		t.Errorf("%+v", r)
	}
}

// A file without end is read as far as it may be, and the buffer stays as large.
func TestReadIsBounded(t *testing.T) {
	h := boot(t, fixture{"proc/huge": strings.Repeat("x", 9*maxFile)})
	for range 2 {
		b, err := h.Monitor.files.read("/proc/huge")
		if err != nil || len(b) != maxFile || cap(h.Monitor.files.buf) > 2*maxFile {
			t.Errorf("%d bytes in a buffer of %d, %v", len(b), cap(h.Monitor.files.buf), err)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a\x00b": "a", " a b \nc": "a b", "a\x1b[31mb\u202e": "a?[31mb?", "\xff\xfe": "??", strings.Repeat("é", 50): strings.Repeat("é", 10),
	} {
		if got := printable(in, 20); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzFiles(f *testing.F) {
	b := boards(f)["pi4"]
	f.Add("proc/stat", b["proc/stat"])
	f.Add("proc/meminfo", b["proc/meminfo"])
	f.Add("proc/diskstats", b["proc/diskstats"])
	f.Add("proc/net/dev", b["proc/net/dev"])
	f.Add("proc/net/wireless", boards(f)["zerow"]["proc/net/wireless"])
	f.Add("proc/self/mountinfo", b["proc/self/mountinfo"])
	f.Add("proc/pressure/io", b["proc/pressure/io"])
	f.Add("etc/fstab", b["etc/fstab"])
	f.Add("sys/dev/block/8:2/uevent", "DEVNAME=../../../etc\n")
	f.Add("sys/block/sda/device/ioerr_cnt", "# Data CRC Errors Occurred:\t 9\n")
	f.Add("sys/class/hwmon/hwmon0/temp1_input", "85000")
	f.Fuzz(func(t *testing.T, name, text string) {
		if _, ok := b[name]; !ok {
			return
		}
		h := boot(t, b)
		h.next()
		h.put(name, text)
		h.gone()
		sane(t, h.next())
		sane(t, h.next())
		other, _ := New(Config{Root: h.dir, DataDir: "/var/lib/relevo"}).Collect(t.Context())
		sane(t, other)
	})
}
