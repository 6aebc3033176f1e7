package health

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"
)

var errNoWear = errors.New("no drive of this host tells how worn it is or counts its errors: of SD cards none does the first, and the second needs kernel 6.0 and debugfs")

// findMMC reads what changes slowly, and where the errors are counted.
func (m *Monitor) findMMC(d *drive) {
	dev := "/sys/block/" + d.name + "/device/"
	host, isMMC := strings.CutPrefix(d.name, "mmcblk")
	if !isMMC {
		if m.files.exists(dev + "ioerr_cnt") {
			d.errors = dev + "ioerr_cnt"
		}
		return
	}
	d.kind = m.files.text(dev+"type", 8)
	// The block device has had its host's number since 4.6.
	if p := "/sys/kernel/debug/mmc" + host + "/err_stats"; m.files.exists(p) {
		d.errors = p
	}
	// Two estimates of the life that is used up, of two kinds of cells: 1 = up to
	// 10 %, … 10 = up to 100 %, 11 = beyond; 0 = not defined (JESD84-B50, registers
	// 267 to 269 of the extended CSD).
	worst := 0.0
	for _, w := range strings.Fields(m.files.text(dev+"life_time", 20)) {
		if n, err := strconv.ParseUint(w, 0, 8); err == nil && n >= 1 && n <= 11 {
			worst = max(worst, float64(n))
		}
	}
	if worst > 0 {
		d.worn = Of(worst * 10)
	}
	if n, err := strconv.ParseUint(m.files.text(dev+"pre_eol_info", 8), 0, 8); err == nil && n >= 1 && n <= 3 {
		d.reserve = Of(float64(n))
	}
}

func (m *Monitor) collectMMC(_ context.Context, r *Report) error {
	told := len(m.has.drives) == 0
	for i := range r.Drives {
		d, from := &r.Drives[i], m.has.drives[i]
		d.WornPercent, d.Reserve = from.worn, from.reserve
		if from.errors != "" {
			b, err := m.files.read(from.errors)
			if err != nil {
				m.gone()
			} else {
				d.Errors = readErrors(b)
			}
		}
		told = told || d.WornPercent.known || d.Errors.known
	}
	if !told {
		return errNoWear
	}
	return nil
}

// readErrors sums what err_stats counts ("# Data CRC Errors Occurred:\t 0"), or reads
// the one hexadecimal number of ioerr_cnt. Command timeouts and tuning are left out:
// both are ordinary when the kernel looks for a card.
func readErrors(b []byte) Value {
	if !bytes.HasPrefix(b, []byte("#")) {
		n, err := strconv.ParseUint(string(bytes.TrimSpace(b[:min(len(b), 32)])), 0, 32)
		if err != nil {
			return Value{}
		}
		return Of(float64(n))
	}
	sum, known := 0.0, false
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		what, count, ok := bytes.Cut(l, []byte(":"))
		if !ok || bytes.Contains(what, []byte("Command Timeout")) || bytes.Contains(what, []byte("Tuning")) {
			continue
		}
		var n [1]float64
		if numbers(count, n[:]) == 1 {
			sum, known = sum+n[0], true
		}
	}
	if !known {
		return Value{}
	}
	return Of(sum)
}
