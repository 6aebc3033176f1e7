package health

import (
	"context"
	"errors"
	"slices"
	"sort"
	"strings"
)

// hwmon is one device of /sys/class/hwmon. Its number belongs to another device
// after a restart, or when one was unplugged: the name is read every time.
type hwmon struct{ name, path string }

// sensor of temperature.
type sensor struct {
	of   hwmon // or a thermal zone
	file string
	rank int
}

// Names of sensors that sit in the processor: Raspberry Pi and other ARM boards,
// Intel, AMD, virtual and old ones.
var cpuSensors = []string{"cpu_thermal", "cpu-thermal", "soc_thermal", "coretemp", "k10temp", "x86_pkg_temp", "acpitz"}

// What a processor can have while it works. A sensor that says 0 or 200 is broken.
const minCelsius, maxCelsius = -40, 130

var (
	errNoSensor   = errors.New("this host has no temperature sensor")
	errBadSensors = errors.New("no sensor tells a temperature that can be")
)

// maxSensors bounds what is read of a host with a sensor in everything.
const maxSensors = 32

func (m *Monitor) findSensors() {
	const class, zones = "/sys/class/hwmon/", "/sys/class/thermal/"
	for _, dir := range m.files.list(class) {
		h := hwmon{path: class + dir + "/name"}
		if h.name = m.files.text(h.path, 32); h.name == "" {
			continue
		}
		if h.name == "rpi_volt" {
			m.has.voltage = h
			continue
		}
		for _, file := range m.files.list(class + dir) {
			if strings.HasPrefix(file, "temp") && strings.HasSuffix(file, "_input") {
				m.addSensor(sensor{of: h, file: class + dir + "/" + file})
			}
		}
	}
	for _, dir := range m.files.list(zones) {
		if h := (hwmon{path: zones + dir + "/type"}); strings.HasPrefix(dir, "thermal_zone") {
			if h.name = m.files.text(h.path, 32); h.name != "" {
				m.addSensor(sensor{of: h, file: zones + dir + "/temp"})
			}
		}
	}
	sort.SliceStable(m.has.sensors, func(i, j int) bool { return m.has.sensors[i].rank < m.has.sensors[j].rank })
}

func (m *Monitor) addSensor(s sensor) {
	s.rank = slices.IndexFunc(cpuSensors, func(name string) bool { return strings.HasPrefix(s.of.name, name) })
	if s.rank < 0 {
		s.rank = len(cpuSensors)
	}
	if len(m.has.sensors) < maxSensors {
		m.has.sensors = append(m.has.sensors, s)
	}
}

// still says whether a device is the one that it was when it was found.
func (m *Monitor) still(h hwmon) bool {
	b, err := m.files.read(h.path)
	if first, _ := line(b); err == nil && string(first) == h.name {
		return true
	}
	m.gone()
	return false
}

// collectTemperature takes the hottest of the best kind of sensor that tells
// something that can be.
func (m *Monitor) collectTemperature(_ context.Context, r *Report) error {
	rank := -1
	for i, s := range m.has.sensors {
		if r.Temperature.known && s.rank != rank {
			break
		}
		if i == 0 || s.of != m.has.sensors[i-1].of {
			if !m.still(s.of) {
				continue
			}
		}
		milli, err := m.files.number(s.file)
		if c := milli / 1000; err == nil && c >= minCelsius && c <= maxCelsius && c != 0 {
			if !r.Temperature.known || c > r.Temperature.v {
				r.Temperature, rank = Of(c), s.rank
			}
		}
	}
	switch {
	case r.Temperature.known:
		return nil
	case len(m.has.sensors) > 0:
		return errBadSensors
	}
	return errNoSensor
}
