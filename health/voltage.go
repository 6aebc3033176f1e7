package health

import (
	"context"
	"errors"
	"strings"
	"time"
)

// voltagePoll is how often the kernel asks the firmware whether the voltage fell
// since it last asked (drivers/hwmon/raspberrypi-hwmon.c); the alarm is about these
// 2 s alone, so looking less often would miss most of the short dips.
const voltagePoll = 2 * time.Second

// underVoltage is what is remembered between two looks.
type underVoltage struct {
	alarm bool // at the last look
	seen  bool // since the last round
	count float64
}

var (
	errNoVoltage  = errors.New("this host has no sensor for low voltage")
	errNoDetector = errors.New("this board has no circuit that notices low voltage: the Zero family and the first A and B do not")
	errBadVoltage = errors.New("the sensor for low voltage says neither yes nor no")
)

func (m *Monitor) hasVoltage() bool {
	m.round.Lock()
	defer m.round.Unlock()
	return m.has.voltage.path != "" && m.static.board.tellsVoltage()
}

// peekVoltage looks between two rounds.
func (m *Monitor) peekVoltage() {
	m.round.Lock()
	defer m.round.Unlock()
	_ = m.lookVoltage() // the next round tells why it cannot be read
}

func (m *Monitor) lookVoltage() error {
	h := m.has.voltage
	if h.path == "" || !m.still(h) {
		return errNoVoltage
	}
	n, err := m.files.number(strings.TrimSuffix(h.path, "name") + "in0_lcrit_alarm")
	if err != nil || n != 0 && n != 1 {
		return errBadVoltage
	}
	alarm := n == 1
	if alarm && !m.power.alarm {
		m.power.count++
	}
	m.power.alarm = alarm
	m.power.seen = m.power.seen || alarm
	return nil
}

func (m *Monitor) collectVoltage(_ context.Context, r *Report) error {
	if m.has.voltage.path != "" && !m.static.board.tellsVoltage() {
		return errNoDetector
	}
	if err := m.lookVoltage(); err != nil {
		return err
	}
	r.Power.UnderVoltage, r.Power.UnderVoltages = TruthOf(m.power.seen), Of(m.power.count)
	m.power.seen = false
	return nil
}
