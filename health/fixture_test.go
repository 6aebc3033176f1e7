package health

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shirou/gopsutil/v3/disk"
)

// today is the wall clock of the fixtures.
var today = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// fixture is the files of a made-up host, by path, and what system calls would say:
// "statfs" (path, total, free, inodes, free inodes, ro or rw), "adjtimex"
// (synchronized, unsynchronized, denied), "units" (failed ones). A path that begins
// with + is of the second round, one that ends with / a folder.
type fixture map[string]string

// boards reads testdata/NAME.txtar: a preamble for people, then "-- path --" and the
// text of each file.
func boards(t testing.TB) map[string]fixture {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) < 8 {
		t.Fatalf("%d boards: %v", len(paths), err)
	}
	out := map[string]fixture{}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		f, name := fixture{}, ""
		for l := range strings.Lines(string(b)) {
			if head, ok := strings.CutPrefix(l, "-- "); ok && strings.HasSuffix(l, " --\n") {
				name = strings.TrimSuffix(head, " --\n")
				f[name] = ""
			} else if name != "" {
				f[name] += l
			}
		}
		out[strings.TrimSuffix(filepath.Base(p), ".txtar")] = f
	}
	return out
}

// with returns a copy with other files; an empty path removes none.
func (f fixture) with(more fixture) fixture {
	out := maps.Clone(f)
	maps.Copy(out, more)
	return out
}

// host is a fixture put on disk, a Monitor on it, and its clocks.
type host struct {
	*Monitor
	t    testing.TB
	dir  string
	mono time.Duration
	wall time.Time
	calls
}

// calls are the answers to system calls.
type calls struct {
	disks    map[string]Disk
	adjtimex Truth // unsynchronized
	units    []string
	unitsErr error
}

func (h *host) FailedUnits(context.Context) ([]string, error) { return h.units, h.unitsErr }

// boot puts a fixture on disk.
func boot(t testing.TB, f fixture) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir(), wall: today}
	for _, d := range []string{"proc", "sys", "run", "etc"} {
		if err := os.MkdirAll(filepath.Join(h.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.files(f, "")
	h.Monitor = New(Config{Root: h.dir, DataDir: "/var/lib/relevo", Units: h,
		Now: func() time.Time { return h.wall }, Clock: func() time.Duration { return h.mono }})
	h.system = system{page: 4096,
		usage: func(_ context.Context, p string) (*disk.UsageStat, error) {
			d, ok := h.disks[p]
			if !ok {
				return nil, os.ErrNotExist
			}
			get := func(v Value) uint64 { return uint64(v.v) }
			return &disk.UsageStat{Total: get(d.Total), Free: get(d.Free), InodesTotal: get(d.Inodes), InodesFree: get(d.InodesFree)}, nil
		},
		readOnly:       func(p string) Truth { return h.disks[p].ReadOnly },
		resolve:        func(p string) string { return p },
		unsynchronized: func() Truth { return h.adjtimex },
	}
	return h
}

// files writes those of one round: prefix is "" or "+".
func (h *host) files(f fixture, prefix string) {
	h.t.Helper()
	for name, text := range f {
		if later := strings.HasPrefix(name, "+"); later != (prefix == "+") {
			continue
		}
		switch name = strings.TrimPrefix(name, "+"); name {
		case "statfs":
			h.disks = readStatfs(h.t, text)
		case "adjtimex":
			h.adjtimex = map[string]Truth{"synchronized": No, "unsynchronized": Yes}[strings.TrimSpace(text)]
		case "units":
			h.units = strings.Fields(text)
		default:
			h.put(name, text)
		}
	}
}

// put writes one file. In the device tree a text ends with a zero byte, and <0x10> is
// a number of 32 bits.
func (h *host) put(name, text string) {
	h.t.Helper()
	p := filepath.Join(h.dir, name)
	if strings.HasSuffix(name, "/") {
		if err := os.MkdirAll(p, 0o755); err != nil {
			h.t.Fatal(err)
		}
		return
	}
	if strings.HasPrefix(name, "proc/device-tree/") {
		text = strings.TrimSuffix(text, "\n")
		if n, err := strconv.ParseUint(strings.Trim(text, "<>"), 0, 32); err == nil && strings.HasPrefix(text, "<") {
			text = string(binary.BigEndian.AppendUint32(nil, uint32(n)))
		} else {
			text += "\x00"
		}
	}
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	if strings.HasSuffix(name, "timesync/synchronized") {
		if err := os.Chtimes(p, today, today.Add(-5*time.Minute)); err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h *host) remove(name string) {
	h.t.Helper()
	if err := os.RemoveAll(filepath.Join(h.dir, name)); err != nil {
		h.t.Fatal(err)
	}
}

func readStatfs(t testing.TB, text string) map[string]Disk {
	t.Helper()
	out := map[string]Disk{}
	for l := range strings.Lines(text) {
		var p, rw string
		var total, free, inodes, inodesFree float64
		if _, err := fmt.Sscan(l, &p, &total, &free, &inodes, &inodesFree, &rw); err != nil {
			t.Fatalf("statfs %q: %v", l, err)
		}
		out[p] = Disk{Total: Of(total), Free: Of(free), Inodes: Of(inodes), InodesFree: Of(inodesFree), ReadOnly: TruthOf(rw == "ro")}
	}
	return out
}

// next is a round, 10 s after the last.
func (h *host) next() Report {
	h.mono += 10 * time.Second
	h.wall = h.wall.Add(10 * time.Second)
	r, _ := h.Collect(h.t.Context())
	return r
}

// two rounds, as a fixture has them.
func (h *host) two(f fixture) Report {
	h.next()
	h.files(f, "+")
	return h.next()
}

// holds lists the conditions that are true.
func holds(cs []Condition) string {
	var out []string
	for _, c := range cs {
		if c.Status == Yes {
			out = append(out, string(c.Type))
		}
	}
	return strings.Join(out, " ")
}
