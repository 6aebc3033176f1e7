package health

import (
	"bytes"
	"context"
	"errors"
	"strconv"
)

var errNoPressure = errors.New("the kernel does not measure pressure: add psi=1 to its command line (/boot/firmware/cmdline.txt of a Raspberry Pi)")

func (m *Monitor) collectPressure(_ context.Context, r *Report) error {
	var first error
	for _, p := range []struct {
		path string
		to   *Pressure
	}{{"/proc/pressure/cpu", &r.Pressure.CPU}, {"/proc/pressure/memory", &r.Pressure.Memory}, {"/proc/pressure/io", &r.Pressure.IO}} {
		b, err := m.files.read(p.path)
		if err != nil {
			// A kernel that has it switched off may have the files and refuse to read.
			first = errNoPressure
			continue
		}
		readPressure(b, p.to)
	}
	return first
}

// readPressure reads "some avg10=0.00 avg60=0.04 avg300=0.15 total=208" and the same
// for full. Averages are in percent, total in microseconds.
func readPressure(b []byte, to *Pressure) {
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		kind, rest := field(l)
		for w, rest := field(rest); len(w) > 0; w, rest = field(rest) {
			key, text, _ := bytes.Cut(w, []byte{'='})
			n, err := strconv.ParseFloat(string(text), 64)
			if err != nil || !(n >= 0) {
				continue
			}
			share := Value{}
			if n <= 100 {
				share = Of(n)
			}
			switch string(kind) + " " + string(key) {
			case "some avg10":
				to.Some10 = share
			case "some avg60":
				to.Some60 = share
			case "full avg60":
				to.Full60 = share
			case "some total":
				to.SomeAll = Of(n / 1e6)
			case "full total":
				to.FullAll = Of(n / 1e6)
			}
		}
	}
}
