package health

import (
	"context"
	"strings"
)

type coolingFiles struct {
	name  string
	of    hwmon // its type
	state string
	max   Value
}

// maxCooling bounds the report of a PC with a device for each core.
const maxCooling = 8

func (m *Monitor) findCooling() {
	const class = "/sys/class/thermal/"
	for _, dir := range m.files.list(class) {
		if !strings.HasPrefix(dir, "cooling_device") || len(m.has.cooling) == maxCooling {
			continue
		}
		c := coolingFiles{name: dir, of: hwmon{path: class + dir + "/type"}, state: class + dir + "/cur_state", max: m.files.value(class + dir + "/max_state")}
		if c.of.name = m.files.text(c.of.path, 32); c.of.name != "" {
			m.has.cooling = append(m.has.cooling, c)
		}
	}
}

func (m *Monitor) collectCooling(_ context.Context, r *Report) error {
	for _, c := range m.has.cooling {
		if !m.still(c.of) {
			continue
		}
		state := m.files.value(c.state)
		if state.v < 0 {
			state = Value{} // a device that is off for good says -1
		}
		r.Cooling = append(r.Cooling, Cooling{Name: c.name, Type: c.of.name, State: state, Max: c.max})
	}
	return nil
}
