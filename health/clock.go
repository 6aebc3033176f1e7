package health

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// clockStep remembers both clocks of the round before.
type clockStep struct {
	wall  time.Time
	mono  time.Duration
	known bool
}

// syncStale is when a synchronisation is too long ago to count: systemd-timesyncd
// asks at least every 2048 s and touches its mark each time, so five in a row failed.
const syncStale = 3 * time.Hour

var errNoSync = errors.New("nothing tells whether the clock follows a time server: systemd-timesyncd does not run here, and the kernel may not be asked or does not know")

func (m *Monitor) collectClock(_ context.Context, r *Report) error {
	r.Clock.RTC = m.static.rtc
	now := clockStep{wall: r.At.Round(0), mono: m.cfg.Clock(), known: true}
	if was := m.step; was.known {
		r.Clock.Step = Of((now.wall.Sub(was.wall) - (now.mono - was.mono)).Seconds())
	}
	m.step = now

	const dir = "/run/systemd/timesync"
	mark, err := m.files.stat(dir + "/synchronized")
	if err == nil && now.wall.Sub(time.Unix(mark.Mtim.Unix())) < syncStale {
		r.Clock.Synchronized = Yes
		return nil
	}
	// chrony and ntpd tell the kernel only. Under ProtectClock= it may not be asked.
	switch m.system.unsynchronized() {
	case No:
		r.Clock.Synchronized = Yes
	case Yes:
		r.Clock.Synchronized = No
	default:
		if err != nil && !m.files.exists(dir) {
			return errNoSync
		}
		r.Clock.Synchronized = No // timesyncd runs, and has not succeeded, or not for long
	}
	return nil
}

// unsynchronized asks the kernel whether its clock follows nothing.
func unsynchronized() Truth {
	var t unix.Timex // nothing is to be changed
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return Maybe
	}
	return TruthOf(state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0)
}
