package health

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/shirou/gopsutil/v3/host"
)

// Names of sensors that sit in the processor: Raspberry Pi and other ARM boards,
// Intel, AMD, virtual and old ones.
var cpuSensors = []string{"cpu_thermal", "cpu-thermal", "soc_thermal", "coretemp", "k10temp", "x86_pkg_temp", "acpitz"}

// What a processor can have while it works. A sensor that says 0 or 200 is broken.
const minCelsius, maxCelsius = -40, 130

func (m *Monitor) collectTemperature(ctx context.Context, r *Report) error {
	// Data and an error come together: the error is about the sensors that could
	// not be read.
	all, warn := host.SensorsTemperaturesWithContext(ctx)
	best, rank := Value{}, len(cpuSensors)+1
	for _, s := range all {
		if s.Temperature < minCelsius || s.Temperature > maxCelsius || s.Temperature == 0 {
			continue
		}
		k := len(cpuSensors)
		for i, name := range cpuSensors {
			if strings.HasPrefix(s.SensorKey, name) {
				k = i
				break
			}
		}
		// Of several sensors of one kind the hottest counts.
		if v, _ := best.Get(); k < rank || k == rank && s.Temperature > v {
			best, rank = Of(s.Temperature), k
		}
	}
	r.Temperature = best
	switch _, ok := best.Get(); {
	case ok:
		return nil
	case warn != nil:
		return fmt.Errorf("no sensor could be read: %w", warn)
	case len(all) > 0:
		return errors.New("no sensor tells a temperature that can be")
	}
	return errors.New("this host has no temperature sensor")
}
