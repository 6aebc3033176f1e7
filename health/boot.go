package health

import (
	"strconv"
	"strings"
)

const chosenPower = "/proc/device-tree/chosen/power/"

// Bits of power_reset, which the power chip of a Pi 5 keeps over a reset.
const (
	resetOvervoltage = 1 << iota
	resetBrownout
	resetOverheat
	_ // switched by the enable line: an ordinary power cycle
	resetWatchdog
)

// Bits of PM_RSTS, the reset status of the processor of every Raspberry Pi, as the
// boot loader of the Pi 4 and 5 hands it on. Linux reboots through the watchdog, so
// that a reboot and a hang look the same.
const (
	rstsWatchdogFull = 1 << 5
	rstsPowerOn      = 1 << 12
)

// cardReset in bootstatus of a watchdog: it reset the host (WDIOF_CARDRESET). The
// watchdog of a Pi never says so.
const cardReset = 0x20

// readBoot finds out why the kernel was started: the most telling source first.
func readBoot(f *files) Boot {
	for _, name := range f.list("/sys/fs/pstore") {
		if strings.HasPrefix(name, "dmesg-") {
			return Boot{Cause: BootCrash}
		}
	}
	for _, name := range []string{"power_reset", "reset_event"} { // it was renamed
		n, _ := f.be32(chosenPower + name)
		switch {
		case n&resetBrownout != 0:
			return Boot{Cause: BootBrownout}
		case n&resetOverheat != 0:
			return Boot{Cause: BootOverheat}
		case n&resetOvervoltage != 0:
			return Boot{Cause: BootOvervoltage}
		case n&resetWatchdog != 0:
			return Boot{Cause: BootWatchdog}
		}
	}
	status := f.text("/sys/class/watchdog/watchdog0/bootstatus", 20)
	if n, err := strconv.ParseUint(status, 0, 32); err == nil && n&cardReset != 0 {
		return Boot{Cause: BootWatchdog}
	}
	if n, ok := f.be32("/proc/device-tree/chosen/bootloader/rsts"); ok {
		switch {
		case n&rstsWatchdogFull != 0:
			return Boot{Cause: BootRestart}
		case n&rstsPowerOn != 0:
			return Boot{Cause: BootPowerOn}
		}
	}
	return Boot{}
}
