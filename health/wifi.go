package health

import (
	"bytes"
	"context"
	"errors"
	"strconv"
)

var errNoWireless = errors.New("the kernel does not tell the Wi-Fi signal: there is no /proc/net/wireless")

// collectWiFi reads " wlan0: 0000   55.  -55.  -256 …": state, quality, level, noise.
func (m *Monitor) collectWiFi(_ context.Context, r *Report) error {
	b, err := m.files.read("/proc/net/wireless")
	if err != nil {
		for _, l := range r.Links {
			if wireless(l.Name) {
				return absent(err, errNoWireless)
			}
		}
		return nil // nothing is missed on a host without Wi-Fi
	}
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		name, rest, ok := bytes.Cut(l, []byte{':'})
		if !ok {
			continue
		}
		name = bytes.TrimLeft(name, " ")
		for i := range r.Links {
			if string(name) == r.Links[i].Name {
				r.Links[i].Signal = readSignal(rest)
			}
		}
	}
	return nil
}

// readSignal takes the level if it can be in dBm. Some drivers give it as a byte
// without sign, others as a share of something: that is unknown.
func readSignal(b []byte) Value {
	_, b = field(b)
	_, b = field(b)
	word, _ := field(b)
	level, err := strconv.ParseFloat(string(bytes.TrimSuffix(word, []byte{'.'})), 64)
	if err != nil {
		return Value{}
	}
	if level > 100 && level < 256 {
		level -= 256
	}
	if level < -120 || level >= 0 {
		return Value{} // 0 while it is not connected
	}
	return Of(level)
}
