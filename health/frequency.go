package health

import (
	"context"
	"errors"
)

// policy is a group of cores that run at one frequency.
type policy struct {
	asked string // path: what the kernel asked for
	real  string // path: what the hardware says; root alone may ask
	max   Value  // hertz
}

const cpufreq = "/sys/devices/system/cpu/cpufreq/"

var errNoCpufreq = errors.New("the kernel does not steer the frequency of the processor")

func (m *Monitor) findPolicies() {
	for _, name := range m.files.list(cpufreq) {
		if len(name) < 6 || name[:6] != "policy" || len(m.has.policies) == 16 {
			continue
		}
		p := policy{asked: cpufreq + name + "/scaling_cur_freq", real: cpufreq + name + "/cpuinfo_cur_freq"}
		if khz, ok := m.files.value(cpufreq + name + "/cpuinfo_max_freq").Get(); ok && khz > 0 {
			p.max = Of(khz * 1000)
		}
		m.has.policies = append(m.has.policies, p)
	}
	if counter := "/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"; m.files.exists(counter) {
		m.has.packages = counter
	}
}

func (m *Monitor) collectFrequency(_ context.Context, r *Report) error {
	m.limit.asked, m.limit.real = Value{}, Value{}
	if len(m.has.policies) == 0 {
		return errNoCpufreq
	}
	for i, p := range m.has.policies {
		khz, err := m.files.number(p.asked)
		if err != nil || khz <= 0 || khz > 1e8 {
			m.gone()
			continue
		}
		if v, _ := r.CPUHertz.Get(); khz*1000 > v {
			r.CPUHertz = Of(khz * 1000)
		}
		if v, _ := r.CPUMaxHertz.Get(); p.max.v > v {
			r.CPUMaxHertz = p.max
		}
		// In this order: where the two differ, the kernel corrects what it thinks.
		if i == 0 && m.static.board.raspberry() {
			m.limit.asked, m.limit.real = Of(khz), m.files.value(p.real)
		}
	}
	return nil
}
