package health

import (
	"context"
	"errors"
	"strings"
)

// throttling is what is remembered between rounds.
type throttling struct {
	asked, real Value // kHz, of this round; Raspberry Pi only
	slow        int   // rounds in a row in which the firmware ran slower than asked
	packages    Value // counter of the processor's own throttling, of the last round
}

// A Raspberry Pi's firmware slows the processor down behind the kernel's back. What
// it says of that, get_throttled, cannot be had without harm: /dev/vcio is hidden
// from a well locked-up service, and the file in /sys made the kernel print a stack
// trace and taint itself from 4.19 on until it was removed in 2025 (raspberrypi/linux
// #6697). So we compare what the kernel asked for with what the clock really does:
// several times, because the kernel may change its mind between two reads.
const (
	slowShare  = 0.9
	slowRounds = 3
)

var errNoThrottling = errors.New("nothing on this host tells whether the processor is throttled")

func (m *Monitor) collectThrottling(_ context.Context, r *Report) error {
	p := &r.Power
	say := func(t bool, by string) {
		if p.Throttled != Yes {
			if p.Throttled = TruthOf(t); t {
				p.ThrottledBy = by
			}
		}
	}
	asked, ok1 := m.limit.asked.Get()
	real, ok2 := m.limit.real.Get()
	switch {
	case !ok1 || !ok2 || real <= 0:
		m.limit.slow = 0
	case real < asked*slowShare:
		m.limit.slow++
		say(m.limit.slow >= slowRounds, "firmware")
	default:
		m.limit.slow = 0
		say(false, "")
	}
	for _, c := range r.Cooling {
		if n, ok := c.State.Get(); ok && (strings.HasPrefix(c.Type, "cpufreq-") || strings.HasPrefix(c.Type, "thermal-cpufreq-") || c.Type == "Processor") {
			say(n > 0, "kernel")
		}
	}
	if m.has.packages != "" {
		before, _ := m.limit.packages.Get()
		was := m.limit.packages.known
		m.limit.packages = m.files.value(m.has.packages)
		if now, ok := m.limit.packages.Get(); ok && was {
			say(now > before, "processor")
		}
	}
	if p.Throttled == Maybe {
		return errNoThrottling
	}
	return nil
}
