package health

// static is what does not change while the kernel runs.
type static struct {
	board        Board
	boot         Boot
	memoryCgroup Truth
	rtc          Truth
	supply       Value
	fstab        []fstabEntry
}

func (m *Monitor) readStatic() static {
	f := m.files
	s := static{board: readBoard(f), boot: readBoot(f), memoryCgroup: readMemoryCgroup(f), fstab: readFstab(f)}
	if f.exists("/sys/class") {
		s.rtc = TruthOf(f.exists("/sys/class/rtc/rtc0"))
	}
	// In mA, as the supply told it by USB-C, USB-PD or PoE. Pi 5 only.
	if n, ok := f.be32(chosenPower + "max_current"); ok && n > 0 && n < 100_000 {
		s.supply = Of(float64(n) / 1000)
	}
	return s
}
