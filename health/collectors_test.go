package health

import (
	"strings"
	"testing"
	"time"
)

func TestTemperature(t *testing.T) {
	for _, c := range []struct {
		name  string
		files fixture
		want  Value
	}{
		{"thermal zone only", fixture{
			"sys/class/thermal/thermal_zone0/type": "cpu-thermal\n", "sys/class/thermal/thermal_zone0/temp": "51000\n"}, Of(51)},
		{"processor before disk", fixture{
			"sys/class/hwmon/hwmon0/name": "nvme\n", "sys/class/hwmon/hwmon0/temp1_input": "70000\n",
			"sys/class/hwmon/hwmon1/name": "cpu_thermal\n", "sys/class/hwmon/hwmon1/temp1_input": "40000\n"}, Of(40)},
		{"hottest core", fixture{
			"sys/class/hwmon/hwmon0/name": "coretemp\n", "sys/class/hwmon/hwmon0/temp1_input": "30000\n",
			"sys/class/hwmon/hwmon0/temp2_input": "60000\n", "sys/class/hwmon/hwmon0/temp3_input": "50000\n"}, Of(60)},
		{"below zero", fixture{
			"sys/class/hwmon/hwmon0/name": "cpu_thermal\n", "sys/class/hwmon/hwmon0/temp1_input": "-7500\n"}, Of(-7.5)},
		{"broken beside good", fixture{
			"sys/class/hwmon/hwmon0/name": "cpu_thermal\n", "sys/class/hwmon/hwmon0/temp1_input": "error\n",
			"sys/class/hwmon/hwmon1/name": "other\n", "sys/class/hwmon/hwmon1/temp1_input": "44000\n"}, Of(44)},
		{"impossible", fixture{
			"sys/class/hwmon/hwmon0/name": "cpu_thermal\n", "sys/class/hwmon/hwmon0/temp1_input": "850000\n",
			"sys/class/hwmon/hwmon0/temp2_input": "0\n"}, Value{}},
	} {
		if r := boot(t, c.files).next(); r.Temperature != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, r.Temperature, c.want)
		}
	}
}

// After a USB device was unplugged, hwmon1 is something else. For a round the value
// is unknown, not that of the other device.
func TestHwmonNumbersChange(t *testing.T) {
	f := boards(t)["pi4"]
	h := boot(t, f)
	if r := h.next(); r.Temperature != Of(54.53) || r.Power.UnderVoltage != No {
		t.Fatalf("%v %v", r.Temperature, r.Power)
	}
	h.remove("sys/class/hwmon")
	h.remove("sys/class/thermal")
	h.files(fixture{"sys/class/hwmon/hwmon0/name": "rpi_volt\n", "sys/class/hwmon/hwmon0/in0_lcrit_alarm": "1\n", "sys/class/hwmon/hwmon0/temp1_input": "1000\n",
		"sys/class/hwmon/hwmon1/name": "cpu_thermal\n", "sys/class/hwmon/hwmon1/temp1_input": "66000\n", "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "0\n"}, "")
	if r := h.next(); r.Temperature.known || r.Power.UnderVoltage != Maybe {
		t.Errorf("a value of another device: %v %v", r.Temperature, r.Power)
	}
	if r := h.next(); r.Temperature != Of(66) || r.Power.UnderVoltage != Yes {
		t.Errorf("not found again: %v %v", r.Temperature, r.Power)
	}
}

// A dip between two rounds is seen by the looks between them, and told once.
func TestVoltageDips(t *testing.T) {
	h := boot(t, boards(t)["pi4"])
	h.next()
	alarm := func(s string) { h.put("sys/class/hwmon/hwmon1/in0_lcrit_alarm", s+"\n"); h.peekVoltage() }
	for _, s := range []string{"1", "1", "0", "1", "0"} {
		alarm(s)
	}
	if r := h.next(); r.Power.UnderVoltage != Yes || r.Power.UnderVoltages != Of(2) {
		t.Errorf("%+v", r.Power)
	}
	if r := h.next(); r.Power.UnderVoltage != No || r.Power.UnderVoltages != Of(2) {
		t.Errorf("%+v", r.Power)
	}
	alarm("7")
	if r := h.next(); r.Power.UnderVoltage != Maybe {
		t.Errorf("a 7 is neither yes nor no: %+v", r.Power)
	}
}

func TestWhoTellsVoltage(t *testing.T) {
	for model, want := range map[string]bool{
		"Raspberry Pi Model B Plus Rev 1.2": true, "Raspberry Pi 2 Model B Rev 1.1": true, "Raspberry Pi 5 Model B Rev 1.0": true, "Raspberry Pi Model A Plus Rev 1.1": true,
		"Raspberry Pi Model B Rev 2": false, "Raspberry Pi Model A Rev 2": false, "Raspberry Pi Zero Rev 1.3": false, "Raspberry Pi Zero 2 W Rev 1.0": false, "": false, "NUC": false,
	} {
		if got := (Board{Model: model}).tellsVoltage(); got != want {
			t.Errorf("%q: %v", model, got)
		}
	}
}

func TestThrottling(t *testing.T) {
	h := boot(t, boards(t)["pi3bplus"])
	real := func(khz string) Power {
		h.put("sys/devices/system/cpu/cpufreq/policy0/cpuinfo_cur_freq", khz+"\n")
		return h.next().Power
	}
	for i, c := range []struct {
		khz  string
		want Truth
		by   string
	}{
		{"600000", No, ""}, {"600000", No, ""}, {"600000", Yes, "firmware"}, {"600000", Yes, "firmware"},
		{"1400000", No, ""}, {"600000", No, ""}, {"1300000", No, ""}, {"0", Maybe, ""}, {"x", Maybe, ""},
	} {
		if p := real(c.khz); p.Throttled != c.want || p.ThrottledBy != c.by {
			t.Errorf("round %d at %s kHz: %+v", i, c.khz, p)
		}
	}
	h = boot(t, boards(t)["x86"])
	h.next()
	h.put("sys/class/thermal/cooling_device0/cur_state", "3\n")
	if p := h.next().Power; p.Throttled != Yes || p.ThrottledBy != "kernel" {
		t.Errorf("%+v", p)
	}
	h.put("sys/class/thermal/cooling_device0/cur_state", "0\n")
	h.put("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "13\n")
	if p := h.next().Power; p.Throttled != Yes || p.ThrottledBy != "processor" {
		t.Errorf("%+v", p)
	}
	if p := h.next().Power; p.Throttled != No {
		t.Errorf("%+v", p)
	}
}

// A drive that answers nothing any more has no counters that grow.
func TestStalledDrive(t *testing.T) {
	h := boot(t, boards(t)["pi4"])
	say := func(l string) Drive { h.put("proc/diskstats", l+"\n"); return h.next().Drives[0] }
	say("8 0 sda 10 0 100 10 20 0 200 400 0 5 9 0 0 0 0 7 70")
	if d := say("8 0 sda 10 0 100 10 24 0 200 1400 2 5 9 0 0 0 0 8 370"); d.WriteSeconds != Of(0.25) || d.FlushSeconds != Of(0.3) || d.InFlight != Of(2) {
		t.Errorf("%+v", d)
	}
	for i, want := range []Value{Of(10), Of(20), Of(30)} {
		if d := h.next().Drives[0]; d.WriteSeconds != want || d.FlushSeconds.known {
			t.Errorf("round %d: %+v", i, d)
		}
	}
	if d := say("8 0 sda 10 0 100 10 25 0 200 31400 1 5 9 0 0 0 0 8 370"); d.WriteSeconds != Of(30) {
		t.Errorf("%+v", d)
	}
	if d := say("8 0 sda 10 0 100 10 25 0 200 31400 0 5 9 0 0 0 0 8 370"); d.WriteSeconds.known {
		t.Errorf("nothing was written, nothing waits: %+v", d)
	}
	if d := say("8 0 sda 10 0 100 10 25 0 200 31400 1 5 9 0 0 0 0 8 370"); d.WriteSeconds.known {
		t.Errorf("what has only begun is not slow: %+v", d)
	}
	if d := say("8 0 sda 1 0 1 1 3 0 2 4 0 5 9"); d.WriteSeconds.known || d.FlushSeconds.known || d.Read != Of(512) {
		t.Errorf("counters went back: %+v", d)
	}
}

func TestMMC(t *testing.T) {
	f := boards(t)["bplus"].with(fixture{"sys/block/mmcblk0/device/type": "MMC\n", "sys/block/mmcblk0/device/life_time": "0x02 0x0b\n",
		"sys/block/mmcblk0/device/pre_eol_info": "0x02\n", "sys/block/mmcblk0boot0/size": "8192\n"})
	h := boot(t, f)
	r := h.next()
	if len(r.Drives) != 1 || r.Drives[0].WornPercent != Of(110) || r.Drives[0].Reserve != Of(2) || r.Drives[0].Kind != "MMC" {
		t.Errorf("%+v", r.Drives)
	}
	if got := holds(h.Conditions()); got != "CardWornOut" {
		t.Errorf("holds: %s", got)
	}
	for _, bad := range []string{"0x00 0x00\n", "0x1f 0xff", "", "nan", "-1 -2"} {
		if r := boot(t, f.with(fixture{"sys/block/mmcblk0/device/life_time": bad})).next(); r.Drives[0].WornPercent.known {
			t.Errorf("life %q: %+v", bad, r.Drives[0])
		}
	}
	for text, want := range map[string]Value{"0x12\n": Of(18), "": {}, "0x": {}, "-1": {}, "Not supported by driver\n": {}, "# Command Timeout Occurred:\t 3\n": {},
		"# Command Timeout Occurred:\t 3\n# Data CRC Errors Occurred:\t 2\n# Tuning Error Occurred:\t 9\n# Request Timedout:\t 5\n": Of(7)} {
		if got := readErrors([]byte(text)); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestSignal(t *testing.T) {
	for text, want := range map[string]Value{
		" 0000   55.  -55.  -256  0": Of(-55), " 0000 70 201. 0": Of(-55), " 0000 0 0 0": {}, " 0000 50. 60. 0": {}, " 0000 1 -300 0": {}, "": {}, " 0000 x y": {},
	} {
		if got := readSignal([]byte(text)); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestClock(t *testing.T) {
	mark := fixture{"run/systemd/timesync/synchronized": ""}
	for _, c := range []struct {
		name  string
		files fixture
		after time.Duration
		want  Truth
	}{
		{"timesyncd", mark.with(fixture{"adjtimex": "denied"}), 0, Yes},
		{"timesyncd lost its servers", mark.with(fixture{"adjtimex": "denied"}), 4 * time.Hour, No},
		{"timesyncd left, chrony came", mark.with(fixture{"adjtimex": "synchronized"}), 4 * time.Hour, Yes},
		{"timesyncd tries", fixture{"run/systemd/timesync/": "", "adjtimex": "unsynchronized"}, 0, No},
		{"chrony", fixture{"adjtimex": "synchronized"}, 0, Yes},
		{"chrony lost its servers", fixture{"adjtimex": "unsynchronized"}, 0, No},
		{"nobody tells", fixture{"adjtimex": "denied"}, 0, Maybe},
	} {
		h := boot(t, c.files)
		h.wall = h.wall.Add(c.after)
		if r := h.next(); r.Clock.Synchronized != c.want {
			t.Errorf("%s: %v", c.name, r.Clock.Synchronized)
		}
	}
	h := boot(t, nil)
	if r := h.next(); r.Clock.Step.known {
		t.Errorf("a step in the first round: %v", r.Clock.Step)
	}
	h.wall = h.wall.Add(-90 * time.Second)
	if r := h.next(); r.Clock.Step != Of(-90) {
		t.Errorf("%v", r.Clock.Step)
	}
	if r := h.next(); r.Clock.Step != Of(0) {
		t.Errorf("%v", r.Clock.Step)
	}
}

func TestBootCause(t *testing.T) {
	const power, loader = "proc/device-tree/chosen/power/", "proc/device-tree/chosen/bootloader/"
	for _, c := range []struct {
		files fixture
		want  string
	}{
		{nil, ""},
		{fixture{loader + "rsts": "<0x1000>"}, BootPowerOn},
		{fixture{loader + "rsts": "<0x20>", power + "power_reset": "<0x0>"}, BootRestart},
		{fixture{loader + "rsts": "<0x1020>"}, BootRestart},
		{fixture{loader + "rsts": "<0x1000>", power + "power_reset": "<0x2>"}, BootBrownout},
		{fixture{power + "reset_event": "<0x2>"}, BootBrownout},
		{fixture{power + "power_reset": "<0x4>"}, BootOverheat},
		{fixture{power + "power_reset": "<0x1>"}, BootOvervoltage},
		{fixture{power + "power_reset": "<0x10>"}, BootWatchdog},
		{fixture{power + "power_reset": "<0x8>"}, ""},
		{fixture{power + "power_reset": "no number"}, ""},
		{fixture{"sys/class/watchdog/watchdog0/bootstatus": "32\n"}, BootWatchdog},
		{fixture{"sys/class/watchdog/watchdog0/bootstatus": "0\n"}, ""},
		{fixture{"sys/fs/pstore/dmesg-ramoops-0": "Oops", loader + "rsts": "<0x20>"}, BootCrash},
		{fixture{"sys/fs/pstore/console-ramoops-0": "hello"}, ""},
	} {
		if r := boot(t, c.files).next(); r.Boot.Cause != c.want {
			t.Errorf("%v: %q, want %q", c.files, r.Boot.Cause, c.want)
		}
	}
}

func TestMemoryCgroup(t *testing.T) {
	const old = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t1\t1\n"
	for _, c := range []struct {
		files fixture
		want  Truth
	}{
		{nil, Maybe},
		{fixture{"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n"}, Yes},
		{fixture{"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n", "proc/cgroups": old + "memory\t0\t5\t1\n"}, No},
		{fixture{"proc/cgroups": old + "memory\t0\t5\t1\n"}, Yes},
		{fixture{"proc/cgroups": old + "memory\t0\t5\t0\n"}, No},
		{fixture{"proc/cgroups": old + "memory\n"}, Maybe},
	} {
		if r := boot(t, c.files).next(); r.MemoryCgroup != c.want {
			t.Errorf("%v: %v, want %v", c.files, r.MemoryCgroup, c.want)
		}
	}
}

// What is read-only, and whether somebody wanted it so.
func TestReadOnlyDisks(t *testing.T) {
	f := boards(t)["x86"]
	const ro = "/ 30000000000 20000000000 1900000 1800000 ro\n/var/lib/relevo 90000000000 80000000000 44000000 43000000 rw"
	for _, c := range []struct {
		name  string
		files fixture
		want  string
	}{
		{"in order", nil, ""},
		{"went read-only", fixture{"statfs": ro}, "ReadOnlyRoot"},
		{"meant so", fixture{"statfs": ro, "etc/fstab": "UUID=1 / ext4 defaults,ro 0 1\n"}, ""},
		{"an image", fixture{"statfs": strings.Replace(ro, "20000000000", "0", 1), "proc/self/mountinfo": "24 1 8:1 / / ro - squashfs /dev/sda1 ro\n40 24 8:3 / /var/lib rw - xfs /dev/sda3 rw\n"}, ""},
		{"ext4 since 6.12", fixture{"proc/fs/ext4/sda1/options": "rw\nerrors=remount-ro\nemergency_ro\n"}, "ReadOnlyRoot"},
		{"state is gone", fixture{"statfs": strings.Replace(ro, "43000000 rw", "43000000 ro", 1), "etc/fstab": "a / ext4 ro 0 0\nb /var/lib xfs ro 0 0\n"}, "ReadOnlyRoot"},
	} {
		h := boot(t, f.with(c.files))
		h.next()
		if got := holds(h.Conditions()); got != c.want {
			t.Errorf("%s: holds %q, want %q: %+v", c.name, got, c.want, h.Latest().Disks)
		}
	}
	if got := unescape(`/a\040b\134\09\999`); got != `/a b\\09\999` {
		t.Errorf("%q", got)
	}
}

// A node of Kubernetes has dozens of links without hardware; a container has no other.
func TestWhichLinks(t *testing.T) {
	names := func(r Report) string {
		var s []string
		for _, l := range r.Links {
			s = append(s, l.Name)
		}
		return strings.Join(s, " ")
	}
	for board, want := range map[string]string{"pi4": "eth0 wlan0", "container": "host0", "bplus": "eth0"} {
		if got := names(boot(t, boards(t)[board]).next()); got != want {
			t.Errorf("%s: %q, want %q", board, got, want)
		}
	}
	// /sys is of another network than the process is in.
	h := boot(t, boards(t)["container"])
	h.remove("sys/class/net/host0")
	h.put("sys/class/net/eth7/device/", "")
	h.put("sys/class/net/eth7/operstate", "up")
	h.next()
	r := h.next()
	if names(r) != "host0" || r.Links[0].Up != Maybe || !r.Links[0].Packets.known || h.has.stale {
		t.Errorf("%+v", r.Links)
	}
	h.put("proc/net/dev", " ../../..: 1 2 3 4 5 6 7 8 9 10 11 12\n a/b: 1\n: 1\n aVeryLongNameIndeed: 1\n")
	h.gone()
	if r := h.next(); r.Links != nil {
		t.Errorf("%+v", r.Links)
	}
}

func TestUnits(t *testing.T) {
	h := boot(t, boards(t)["pi4"])
	h.units = []string{"z.service", "a.service\x1b[31m", "b.service", "c.service"}
	if r := h.next(); strings.Join(r.Units.Failed, " ") != "a.service?[31m b.service c.service z.service" {
		t.Errorf("%q", r.Units.Failed)
	}
	c := find(h.Conditions(), UnitFailed)
	if c.Status != Yes || !strings.HasSuffix(c.Message, "a.service?[31m, b.service, c.service and 1 more") {
		t.Errorf("%+v", c)
	}
	h.unitsErr = errNoSync
	if r := h.next(); r.Units.Known || r.Unknown == nil {
		t.Errorf("%+v", r.Units)
	}
	h.Monitor.cfg.Units = nil
	if r := h.next(); r.Units.Known || r.Unknown != nil {
		t.Errorf("%+v", r.Unknown)
	}
}

func find(cs []Condition, t Type) Condition {
	for _, c := range cs {
		if c.Type == t {
			return c
		}
	}
	return Condition{}
}
