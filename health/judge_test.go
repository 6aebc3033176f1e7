package health

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// well is the report of a host on which nothing is wrong.
func well() Report {
	return Report{
		At: today, Uptime: Of(86400),
		MemoryTotal: Of(1e9), MemoryAvailable: Of(5e8), OOMKills: Of(0), Pressure: Pressures{Memory: Pressure{Full60: Of(0)}},
		Disks:       []Disk{{Path: "/", Total: Of(32e9), Free: Of(20e9), Inodes: Of(2e6), InodesFree: Of(1e6), ReadOnly: No, State: true}},
		Ext4:        []Ext4{{Device: "mmcblk0p2", Errors: Of(0)}},
		Drives:      []Drive{{Name: "mmcblk0", WriteSeconds: Of(0.01), Errors: Of(0), WornPercent: Of(10), Reserve: Of(1), State: true}},
		Writes:      Writes{Slowest: Of(0.02), Failed: Of(0)},
		Temperature: Of(50), Power: Power{UnderVoltage: No, Throttled: No},
		Links: []Link{{Name: "eth0", Up: Yes, CarrierChanges: Of(2), Packets: Of(1e6), Errors: Of(0)}, {Name: "wlan0", CarrierChanges: Of(1), Packets: Of(1e6), Errors: Of(0), Signal: Of(-50)}},
		Clock: ClockState{Synchronized: Yes, Step: Of(0), RTC: No}, Units: Units{Known: true},
	}
}

// stage plays reports to a judge, one every 10 s.
type stage struct {
	*Judge
	t       testing.TB
	typ     Type
	clock   time.Duration
	r       Report
	changes []Change // of typ
}

func newStage(t testing.TB, typ Type) *stage {
	return &stage{Judge: NewJudge(DefaultThresholds()), t: t, typ: typ, r: well()}
}

// play goes on for d; each round begins with change.
func (s *stage) play(d time.Duration, change func(r *Report)) Condition {
	for range d / (10 * time.Second) {
		change(&s.r)
		for _, c := range s.Observe(s.clock, &s.r) {
			if c.Type == s.typ {
				s.changes = append(s.changes, c)
			}
		}
		s.clock += 10 * time.Second
		s.r.At = s.r.At.Add(10 * time.Second)
	}
	return find(s.Conditions(), s.typ)
}

func still(*Report) {}

// act is some time of a play, and what is so at its end.
type act struct {
	lasts  time.Duration
	change func(*Report)
	want   Truth
}

// Each condition, from all well to so and back, with what must not make it flap.
func TestConditions(t *testing.T) {
	set := func(f func(r *Report, v float64), v float64) func(*Report) { return func(r *Report) { f(r, v) } }
	free := func(r *Report, v float64) { r.Disks[0].Free = Of(v) }
	inodes := func(r *Report, v float64) { r.Disks[0].InodesFree = Of(v) }
	temp := func(r *Report, v float64) { r.Temperature = Of(v + float64(r.At.Unix()%7)/1000) }
	write := func(r *Report, v float64) { r.Drives[0].WriteSeconds = Of(v) }
	memory := func(r *Report, v float64) { r.MemoryAvailable = Of(v) }
	stall := func(r *Report, v float64) { r.Pressure.Memory.Full60 = Of(v) }
	signal := func(r *Report, v float64) { r.Links[1].Signal = Of(v) }
	flip := func(r *Report, v float64) { r.Links[0].CarrierChanges = Of(r.Links[0].CarrierChanges.v + v) }
	voltage := func(v Truth) func(*Report) { return func(r *Report) { r.Power.UnderVoltage = v } }
	once := func(f func(*Report)) func(*Report) {
		done := false
		return func(r *Report) {
			if !done {
				f(r)
			}
			done = true
		}
	}
	const min, round = time.Minute, 10 * time.Second
	for _, c := range []struct {
		typ  Type
		acts []act
	}{
		{ReadOnlyRoot, []act{{min, still, No}, {round, func(r *Report) { r.Disks[0].ReadOnly = Yes }, Yes}, {min, func(r *Report) { r.Disks[0].ReadOnly = No }, Yes}, {min, still, No}}},
		{ReadOnlyRoot, []act{{min, still, No}, {round, once(func(r *Report) { r.Writes.Failed = Of(1) }), No}, {round, once(func(r *Report) { r.Writes.Failed = Of(2) }), Yes}, {9 * min, still, Yes}, {4 * min, still, No}}},
		{FilesystemErrorsGrowing, []act{{min, still, No}, {round, func(r *Report) { r.Ext4[0].Errors = Of(2) }, Yes}, {55 * min, still, Yes}, {15 * min, still, No}}},
		{FilesystemErrorsGrowing, []act{{round, func(r *Report) { r.Ext4[0].Errors, r.Ext4[0].LastError = Of(2), today.Add(-30*min) }, Yes}, {40 * min, still, No}}},
		{FilesystemErrorsGrowing, []act{{min, func(r *Report) { r.Ext4[0].Errors, r.Ext4[0].LastError = Of(9), today.Add(-48*time.Hour) }, No}, {round, func(r *Report) { r.Ext4[0].Errors = Of(3) }, No}}},
		{FilesystemErrors, []act{{min, still, No}, {round, func(r *Report) { r.Ext4[0].Errors = Of(1) }, Yes}, {48 * time.Hour, still, Yes}, {round, func(r *Report) { r.Ext4[0].Errors = Of(0) }, No}}},
		{DiskErrors, []act{{min, still, No}, {min, once(func(r *Report) { r.Drives[0].Errors = Of(2) }), No}, {round, once(func(r *Report) { r.Drives[0].Errors = Of(3) }), Yes}, {8 * min, still, Yes}, {4 * min, still, No}}},
		{DiskFull, []act{{min, still, No}, {round, set(free, 1.5e9), Yes}, {10 * min, set(free, 2.0e9), Yes}, {min, set(free, 3e9), Yes}, {min, still, No}, {10 * min, set(free, 2.0e9), No}}},
		{DiskFull, []act{{min, func(r *Report) { r.Disks[0].Total, r.Disks[0].Free = Of(1e8), Of(9e7) }, No}, {min, set(free, 4e7), Yes}}}, // small, but empty
		{InodesFull, []act{{min, still, No}, {round, set(inodes, 1e5), Yes}, {5 * min, set(inodes, 1.2e5), Yes}, {2 * min, set(inodes, 3e5), No}}},
		{DiskSlow, []act{{min, still, No}, {50 * time.Second, set(write, 0.9), No}, {min, set(write, 0.01), No}, {70 * time.Second, set(write, 0.9), Yes}, {4 * min, set(write, 0.1), Yes}, {2 * min, still, No}}},
		{DiskSlow, []act{{min, still, No}, {2 * min, func(r *Report) { r.Drives[0].FlushSeconds = Of(2) }, Yes}, {20 * min, func(r *Report) { r.Drives[0].FlushSeconds, r.Drives[0].WriteSeconds = Value{}, Value{} }, Yes}}},
		{DiskSlow, []act{{min, still, No}, {5 * min, func(r *Report) { r.Drives = append(r.Drives[:1], Drive{Name: "sdb", WriteSeconds: Of(9)}) }, No}}}, // a backup disk
		{DiskSlow, []act{{min, still, No}, {2 * min, func(r *Report) { r.Writes.Slowest = Of(7) }, Yes}}},
		{ClockImplausible, []act{{min, still, No}, {round, func(r *Report) { r.At = time.Unix(3600, 0) }, Yes}, {round, func(r *Report) { r.At = today }, No}}},
		{CardWornOut, []act{{min, still, No}, {round, func(r *Report) { r.Drives[0].WornPercent = Of(90) }, Yes}}},
		{CardWornOut, []act{{min, still, No}, {round, func(r *Report) { r.Drives[0].Reserve = Of(3) }, Yes}}},
		{UnderVoltage, []act{{min, still, No}, {round, voltage(Yes), Yes}, {9 * min, voltage(No), Yes}, {round, voltage(Yes), Yes}, {9 * min, voltage(No), Yes}, {2 * min, still, No}}},
		{Throttled, []act{{min, still, No}, {20 * time.Second, func(r *Report) { r.Power.Throttled = Yes }, No}, {20 * time.Second, still, Yes}, {min, func(r *Report) { r.Power.Throttled = No }, Yes}, {2 * min, still, No}}},
		{Hot, []act{{min, still, No}, {20 * time.Second, set(temp, 81), No}, {min, set(temp, 79), No}, {min, set(temp, 81), Yes}, {10 * min, set(temp, 76), Yes}, {50 * time.Second, set(temp, 74), Yes}, {min, set(temp, 70), No}}},
		{MemoryPressure, []act{{min, still, No}, {50 * time.Second, set(memory, 4e7), No}, {20 * time.Second, still, Yes}, {5 * min, set(memory, 6e7), Yes}, {2 * min, set(memory, 3e8), No}}},
		{MemoryPressure, []act{{min, still, No}, {round, set(stall, 30), Yes}, {2 * min, set(stall, 1), No}}},
		{MemoryPressure, []act{{min, still, No}, {round, func(r *Report) { r.OOMKills = Of(1) }, Yes}, {9 * min, still, Yes}, {4 * min, still, No}}},
		{ClockNotSynchronized, []act{{min, still, No}, {14 * min, func(r *Report) { r.Clock.Synchronized = No }, No}, {2 * min, still, Yes}, {round, func(r *Report) { r.Clock.Synchronized = Yes }, No}}},
		{ClockJumped, []act{{min, still, No}, {round, func(r *Report) { r.Clock.Step = Of(-60) }, Yes}, {9 * min, func(r *Report) { r.Clock.Step = Of(0) }, Yes}, {2 * min, still, No}}},
		{ClockJumped, []act{{min, still, No}, {round, func(r *Report) { r.Clock.Step = Of(56 * 365 * 86400) }, No}}},                    // out of 1970
		{ClockJumped, []act{{min, func(r *Report) { r.Uptime = Of(60) }, No}, {round, func(r *Report) { r.Clock.Step = Of(900) }, No}}}, // after a boot without RTC
		{LinkFlapping, []act{{min, still, No}, {round, set(flip, 4), No}, {20 * time.Second, once(set(flip, 2)), Yes}, {8 * min, still, Yes}, {4 * min, still, No}}},
		{LinkErrors, []act{{min, still, No}, {min, func(r *Report) { r.Links[0].Errors = Of(50) }, No}, {min, func(r *Report) { r.Links[0].Errors = Of(500) }, Yes}, {13 * min, still, No}}},
		{LinkErrors, []act{{min, still, No}, {min, func(r *Report) { r.Links[0].Errors, r.Links[0].Packets = Of(500), Of(2e6) }, No}}},
		{WeakSignal, []act{{min, still, No}, {min, set(signal, -80), No}, {min, set(signal, -73), No}, {130 * time.Second, set(signal, -80), Yes}, {5 * min, set(signal, -73), Yes}, {2 * min, set(signal, -60), No}}},
		{UnitFailed, []act{{min, still, No}, {round, func(r *Report) { r.Units.Failed = []string{"k3s.service"} }, Yes}, {round, func(r *Report) { r.Units.Failed = nil }, Yes}, {2 * min, still, No}}},
	} {
		t.Run(string(c.typ), func(t *testing.T) {
			s := newStage(t, c.typ)
			turns := 0
			last := Maybe
			for i, a := range c.acts {
				got := s.play(a.lasts, a.change)
				if got.Status != a.want {
					t.Fatalf("act %d: %v, want %v: %+v", i, got.Status, a.want, got)
				}
				if a.want != last {
					last = a.want
					turns++
				}
				if got.Status == Yes && (got.Reason == "" || got.Message == "" || got.Advice == "" || got.Since.IsZero()) {
					t.Errorf("act %d: a condition that holds says why and what to do: %+v", i, got)
				}
				if got.Status == No && (got.Message != "" || got.Advice != "") {
					t.Errorf("act %d: nothing is wrong: %+v", i, got)
				}
			}
			if len(s.changes) != turns {
				t.Errorf("%d changes were told, want %d: %+v", len(s.changes), turns, s.changes)
			}
		})
	}
}

// Nothing that is wrong in one way is called wrong in another.
func TestConditionsAreApart(t *testing.T) {
	s := newStage(t, Hot)
	s.play(time.Hour, still)
	if got := holds(s.Conditions()); got != "" {
		t.Errorf("all is well, and yet: %s", got)
	}
	for _, c := range s.Conditions() {
		if c.Status != No {
			t.Errorf("%s is %v on a host that tells all: %+v", c.Type, c.Status, c)
		}
	}
}

// A value that jumps over the line and back every round never becomes a condition
// that needs time, and one that does stays.
func TestNoFlapping(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	s := newStage(t, Hot)
	s.play(24*time.Hour, func(rep *Report) {
		rep.Temperature = Of(60 + 40*r.Float64())
		rep.Disks[0].Free = Of(32e9 * 0.1 * r.Float64())
		rep.Links[1].Signal = Of(-60 - 30*r.Float64())
		rep.Power.UnderVoltage = TruthOf(r.IntN(2) == 0)
		rep.Drives[0].WriteSeconds = Of(r.Float64())
		rep.MemoryAvailable = Of(1e8 * r.Float64())
	})
	// 24 h have 8640 rounds, half of them on each side of the line.
	if n := len(s.changes); n > 200 {
		t.Errorf("Hot changed %d times in a day", n)
	}
	for _, c := range s.Conditions() {
		switch c.Type {
		case DiskFull, UnderVoltage:
			if c.Status != Yes || c.For < 23*3600 {
				t.Errorf("%s should have held all day: %+v", c.Type, c)
			}
		}
	}
}

// A source that fails for some rounds changes nothing; one that fails for long makes
// the condition unknown, not untrue.
func TestLostSource(t *testing.T) {
	s := newStage(t, DiskFull)
	s.play(time.Minute, func(r *Report) { r.Disks[0].Free = Of(1e9) })
	if c := s.play(50*time.Second, func(r *Report) { r.Disks[0].Free = Value{} }); c.Status != Yes {
		t.Errorf("%+v", c)
	}
	s.r.Unknown = []Unknown{{"disk", "the disk does not answer"}}
	c := s.play(30*time.Second, still)
	if c.Status != Maybe || c.Message != "the disk does not answer" || c.Reason != "NotMeasured" || c.Advice != "" {
		t.Errorf("%+v", c)
	}
	if len(s.changes) != 2 || s.changes[1].Was != Yes { // unknown, yes, unknown
		t.Errorf("%+v", s.changes)
	}
	// Bad from the start is unknown until it has lasted, never untrue.
	s = newStage(t, Hot)
	if c := s.play(20*time.Second, func(r *Report) { r.Temperature = Of(90) }); c.Status != Maybe {
		t.Errorf("%+v", c)
	}
}

// A sensor that says 85000 for ever.
func TestStuckSensor(t *testing.T) {
	s := newStage(t, Hot)
	hot := func(r *Report) { r.Temperature = Of(85) }
	if c := s.play(25*time.Minute, hot); c.Status != Yes {
		t.Fatalf("%+v", c)
	}
	if c := s.play(10*time.Minute, hot); c.Status != Maybe || c.Reason != "SensorStuck" || !strings.Contains(c.Message, "85.0") {
		t.Errorf("%+v", c)
	}
	if c := s.play(time.Hour, func(r *Report) { r.Temperature = Of(85 + float64(r.At.Unix()/10%3)/2) }); c.Status != Yes {
		t.Errorf("a sensor that moves: %+v", c)
	}
	// A cool one may say the same for ever, as those of virtual machines do.
	s = newStage(t, Hot)
	if c := s.play(5*time.Hour, still); c.Status != No {
		t.Errorf("%+v", c)
	}
}

// Two disks are one condition, of which each is told; what was unplugged is forgotten.
func TestSeveral(t *testing.T) {
	s := newStage(t, DiskFull)
	full := func(p string) Disk { return Disk{Path: p, Total: Of(1e9), Free: Of(1e6), ReadOnly: No} }
	c := s.play(10*time.Second, func(r *Report) {
		r.Disks = []Disk{full("/e"), full("/d"), full("/c"), full("/b"), {Path: "/", Total: Of(1e9), Free: Of(9e8)}}
	})
	if c.Status != Yes || c.Message != "/b has 1 MB left of 1000 MB; /c has 1 MB left of 1000 MB; /d has 1 MB left of 1000 MB" {
		t.Errorf("%+v", c)
	}
	began := c.Since
	some := func(r *Report) { r.Disks = []Disk{full("/e"), {Path: "/", Total: Of(1e9), Free: Of(9e8)}} }
	if c = s.play(2*time.Minute, some); c.Status != Yes || !c.Since.Equal(began) || c.Message != "/e has 1 MB left of 1000 MB" {
		t.Errorf("%+v", c)
	}
	// The numbers in the message are a minute old at most.
	c = s.play(70*time.Second, func(r *Report) { some(r); r.Disks[0].Free = Of(3e6) })
	if c.Message != "/e has 3 MB left of 1000 MB" {
		t.Errorf("%+v", c)
	}
	if c = s.play(2*time.Minute, func(r *Report) { r.Disks = []Disk{{Path: "/", Total: Of(1e9), Free: Of(9e8)}} }); c.Status != No {
		t.Errorf("%+v", c)
	}
	if n := len(s.tracks); n > 40 {
		t.Errorf("%d tracks are kept", n)
	}
	// Names that change for ever do not fill the memory.
	s.play(time.Hour, func(r *Report) {
		r.Links = []Link{{Name: r.At.String(), CarrierChanges: Of(1), Errors: Of(1), Packets: Of(1)}}
	})
	s.play(20*time.Minute+time.Minute, func(r *Report) { r.Links = nil })
	if n, k := len(s.tracks), len(s.counts); n > 40 || k > 40 {
		t.Errorf("%d tracks and %d counters are kept", n, k)
	}
}

// What is over is not told any more, though another goes on.
func TestMessageFollows(t *testing.T) {
	s := newStage(t, DiskFull)
	disks := func(a, b float64) func(*Report) {
		return func(r *Report) {
			r.Disks = []Disk{{Path: "/a", Total: Of(1e10), Free: Of(a)}, {Path: "/b", Total: Of(1e10), Free: Of(b)}}
		}
	}
	s.play(30*time.Second, disks(1e6, 9e9))
	if c := s.play(10*time.Second, disks(1e6, 1e6)); !strings.Contains(c.Message, "/b") {
		t.Errorf("%+v", c)
	}
	if c := s.play(70*time.Second, disks(1e6, 9e9)); strings.Contains(c.Message, "/b") || !strings.Contains(c.Message, "/a") {
		t.Errorf("%+v", c)
	}
}

// Since follows the wall clock when it is set; For does not care.
func TestSinceAfterClockWasSet(t *testing.T) {
	s := newStage(t, DiskFull)
	s.r.At = time.Date(1970, 1, 1, 0, 1, 0, 0, time.UTC)
	c := s.play(30*time.Second, func(r *Report) { r.Disks[0].Free = Of(1e6) })
	if c.Since.Year() != 1970 || c.For != 20 {
		t.Errorf("%+v", c)
	}
	step := today.Sub(s.r.At)
	s.r.At = today
	c = s.play(10*time.Second, func(r *Report) { r.Clock.Step = Of(step.Seconds()) })
	if got := today.Sub(c.Since); got != 30*time.Second || c.For != 30 {
		t.Errorf("%v ago, for %v s: %+v", got, c.For, c)
	}
}

func TestWindow(t *testing.T) {
	w := &window{span: 10 * time.Minute}
	for _, c := range []struct {
		at   time.Duration
		v    float64
		want float64
	}{
		{0, 100, 0}, {10 * time.Second, 103, 3}, {5 * time.Minute, 104, 4}, {9 * time.Minute, 104, 4},
		{10*time.Minute + 30*time.Second, 104, 1}, // the first three are forgotten
		{11 * time.Minute, 2, 1},                  // set back: no growth
		{11 * time.Minute, 5, 4}, {16 * time.Minute, 5, 3}, {5 * time.Hour, 6, 1}, {5000 * time.Hour, 6, 0},
	} {
		if got := w.add(c.at, c.v); got != c.want {
			t.Errorf("at %v: %v, want %v", c.at, got, c.want)
		}
	}
}

func TestThresholds(t *testing.T) {
	if err := DefaultThresholds().Validate(); err != nil {
		t.Error(err)
	}
	bad := Thresholds{DiskFreeShare: 2, WeakDBm: 5}
	err := bad.Validate()
	if err == nil || !strings.Contains(err.Error(), "DiskFreeShare is 2: 0 to 0.5 is allowed") || !strings.Contains(err.Error(), "WeakDBm") || !strings.Contains(err.Error(), "Earliest") {
		t.Errorf("%v", err)
	}
	// Zero switches off what can be switched off.
	off := DefaultThresholds()
	off.DiskFreeShare, off.DiskFreeBytes, off.MemoryFreeShare, off.InodesFreeShare = 0, 0, 0, 0
	if err := off.Validate(); err != nil {
		t.Error(err)
	}
	j := NewJudge(off)
	r := well()
	r.Disks[0].Free, r.MemoryAvailable, r.Disks[0].InodesFree = Of(1), Of(1), Of(1)
	for i := range 20 {
		j.Observe(time.Duration(i)*10*time.Second, &r)
	}
	if got := holds(j.Conditions()); got != "" {
		t.Errorf("switched off, and yet: %s", got)
	}
}

// Whatever is reported, a condition is there once, in order, and its times make sense.
func FuzzJudge(f *testing.F) {
	f.Add(uint64(1), int64(10), 0.5)
	f.Add(uint64(99), int64(-10), 1e308)
	f.Add(uint64(7), int64(1)<<62, -1.0)
	f.Fuzz(func(t *testing.T, seed uint64, gap int64, scale float64) {
		r := rand.New(rand.NewPCG(seed, 0))
		j := NewJudge(DefaultThresholds())
		var now time.Duration
		for range 30 {
			now += time.Duration(gap)
			rep := scramble(r, scale)
			changes := j.Observe(now, &rep)
			cs := j.Conditions()
			if len(cs) != len(table) {
				t.Fatalf("%d conditions", len(cs))
			}
			for i, c := range cs {
				if c.Type != table[i].typ || c.For < 0 || c.Status == Yes && (c.Message == "" || c.Advice == "") || len(c.Message) > 1000 {
					t.Fatalf("%+v", c)
				}
			}
			for _, c := range changes {
				if c.Was == c.Status {
					t.Fatalf("no change: %+v", c)
				}
			}
			if _, err := ParseDigest(Digest(cs)); err != nil {
				t.Fatal(err)
			}
			Weigh(cs)
		}
	})
}

// scramble makes a report of random values, some of them unknown.
func scramble(r *rand.Rand, scale float64) Report {
	v := func() Value {
		if r.IntN(4) == 0 {
			return Value{}
		}
		return Of(scale * (r.Float64() - 0.2))
	}
	truth := func() Truth { return Truth(r.IntN(3)) }
	rep := Report{At: time.Unix(r.Int64N(1<<33), 0), Uptime: v(), MemoryTotal: v(), MemoryAvailable: v(), OOMKills: v(), Temperature: v(),
		Power: Power{UnderVoltage: truth(), Throttled: truth()}, Clock: ClockState{Synchronized: truth(), Step: v(), RTC: truth()}, Writes: Writes{v(), v(), v()}}
	for i := range r.IntN(3) {
		name := fmt.Sprint(i)
		rep.Disks = append(rep.Disks, Disk{Path: name, Total: v(), Free: v(), Inodes: v(), InodesFree: v(), ReadOnly: truth(), Meant: truth(), State: i == 0})
		rep.Drives = append(rep.Drives, Drive{Name: name, WriteSeconds: v(), FlushSeconds: v(), Errors: v(), WornPercent: v(), Reserve: v(), State: i == 0})
		rep.Ext4 = append(rep.Ext4, Ext4{Device: name, Errors: v(), LastError: time.Unix(r.Int64N(1<<33), 0)})
		rep.Links = append(rep.Links, Link{Name: name, CarrierChanges: v(), Errors: v(), Packets: v(), Signal: v()})
	}
	return rep
}
