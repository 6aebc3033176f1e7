package health

import (
	"testing"

	"golang.org/x/sys/unix"
)

// maxAllocations of one round: the garbage collector of an ARMv6 board shares its
// only core with what the board is for.
const maxAllocations = 200

// allocations in the mean of a minute's rounds, and in the dearest of them, in which
// the host is searched for what there is.
func allocations(h *host) (mean, most float64) {
	mean = testing.AllocsPerRun(60, func() { h.next() })
	for i := range 18 {
		if i%6 == 0 {
			h.next()
		}
		most = max(most, testing.AllocsPerRun(1, func() { h.next() }))
	}
	return mean, most
}

func TestCost(t *testing.T) {
	for name, f := range boards(t) {
		t.Run(name, func(t *testing.T) {
			h := boot(t, f)
			h.two(f)
			mean, most := allocations(h)
			if most > maxAllocations {
				t.Errorf("%.0f allocations in a round, %d are allowed", most, maxAllocations)
			}
			t.Logf("%.0f allocations in a round, %.0f in the dearest", mean, most)
		})
	}
}

// A host on which everything is wrong, and that has the most of everything. Once a
// minute it may cost more: messages are made anew then.
func TestCostAtWorst(t *testing.T) {
	f := boards(t)["pi4"].with(worstCase())
	h := boot(t, f)
	h.two(f)
	mean, most := allocations(h)
	if mean > maxAllocations {
		t.Errorf("%.0f allocations in a round, %d are allowed", mean, maxAllocations)
	}
	t.Logf("%.0f allocations in a round, %.0f in the dearest", mean, most)
	if got := len(h.Latest().Links); got != maxLinks {
		t.Errorf("%d links", got)
	}
}

func worstCase() fixture {
	f := fixture{
		"statfs": "/ 1000000000 1000000 1000 1 ro", "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1\n", "sys/class/hwmon/hwmon0/temp1_input": "91000\n",
		"proc/meminfo": "MemTotal: 1000000 kB\nMemAvailable: 1000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n", "units": "a.service b.service c.service d.service",
		"adjtimex": "unsynchronized",
	}
	dev := "Inter-|\n face |\n"
	for _, n := range "abcdefghijklmnopqrstuvwxyz" {
		f["sys/class/net/enp"+string(n)+"/device/"] = ""
		f["sys/class/net/enp"+string(n)+"/operstate"] = "up\n"
		f["sys/class/net/enp"+string(n)+"/carrier_changes"] = "3\n"
		dev += "enp" + string(n) + ": 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
		f["sys/fs/ext4/dm-"+string(n)+"/errors_count"] = "3\n"
		f["sys/fs/ext4/dm-"+string(n)+"/last_error_time"] = "1795175000\n"
	}
	f["proc/net/dev"] = dev
	return f
}

// What a round costs on each board's files.
func BenchmarkBoards(b *testing.B) {
	for name, f := range boards(b) {
		b.Run(name, func(b *testing.B) {
			h := boot(b, f)
			h.two(f)
			b.ReportAllocs()
			for b.Loop() {
				h.next()
			}
		})
	}
}

// What a round costs on this host, in processor time as well, which other programs do not
// lengthen.
func BenchmarkThisHost(b *testing.B) {
	m := New(Config{DataDir: b.TempDir()})
	b.ReportAllocs()
	before, n := cpuTime(b), 0
	for b.Loop() {
		m.Collect(b.Context())
		n++
	}
	b.ReportMetric((cpuTime(b)-before)*1000/float64(n), "cpu-ms/op")
}

// cpuTime that this process has used, in seconds.
func cpuTime(b *testing.B) float64 {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}
