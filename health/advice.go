package health

// advice is what a person can do, by condition, and by reason where that matters.
func advice(t Type, reason string) string {
	switch t {
	case ReadOnlyRoot:
		if reason == "WritesFail" {
			return "look with `journalctl -u relevo` for what failed, and with `journalctl -k` for I/O errors"
		}
		return "look for I/O errors with `journalctl -k`; an SD card that did this once will do it again: replace it"
	case FilesystemErrorsGrowing:
		return "save what you need now, then replace the card or disk; `journalctl -k -g EXT4-fs` shows the errors"
	case FilesystemErrors:
		return "have the file system repaired at the next start (fsck.mode=force fsck.repair=yes on the kernel's command line); if the errors come back, replace the card or disk"
	case DiskErrors:
		return "try another cable, port or power supply; if the errors go on, replace the drive: `journalctl -k` shows them"
	case DiskFull:
		return "find what fills it with `du -xh / | sort -h | tail`, and remove it"
	case InodesFull:
		return "find the folder of many small files with `du -x --inodes / | sort -n | tail`, and remove them"
	case DiskSlow:
		return "see with `iostat -x 5` what writes; an SD card that is slow without a cause is dying: use a better one (class A2), an SSD or an eMMC"
	case CardWornOut:
		return "copy it to a new one soon: at the end of its life an eMMC refuses writes or loses data"
	case UnderVoltage:
		return "power supply too weak: use 5.1 V / 3 A (Pi 5: 5 A) and a short, thick cable; give USB disks a supply of their own"
	case Throttled:
		return "if the voltage is low, use a better power supply (5.1 V / 3 A) and a short cable; if it is hot, give it air or a heat sink"
	case Hot:
		return "give it air or a heat sink"
	case MemoryPressure:
		return "see with `ps aux --sort -rss | head` what takes it; zram-swap (`apt install zram-tools`) helps small boards"
	case ClockNotSynchronized:
		return "see `timedatectl timesync-status`; without internet let a router or a board with a clock serve NTP"
	case ClockImplausible:
		return "a Pi has no clock that goes on without power: let it reach a time server (`timedatectl timesync-status`) or add an RTC module"
	case ClockJumped:
		return "see with `journalctl -u systemd-timesyncd` who set it; two programs that set the clock fight each other"
	case LinkFlapping:
		return "try another cable and another port of the switch; flapping at low voltage is the power supply"
	case LinkErrors:
		return "try another cable and another port of the switch"
	case WeakSignal:
		return "move it nearer to the access point, or use a cable; metal cases shield the antenna"
	case UnitFailed:
		return "`systemctl status` and `journalctl -u` of the unit tell why; `systemctl reset-failed` forgets it"
	}
	return ""
}

// Advice is what a person can do about a condition of which only the type is known.
func Advice(t Type) string { return advice(t, "") }

// Words say what a condition means, where only its type is known; a type that is not
// known here is its own word.
func Words(t Type) string {
	switch t {
	case ReadOnlyRoot:
		return "its file system refuses writes"
	case FilesystemErrorsGrowing:
		return "its file system meets new errors"
	case DiskErrors:
		return "a drive answers with errors"
	case DiskFull:
		return "its disk is full"
	case InodesFull:
		return "its disk can take no more files"
	case DiskSlow:
		return "its disk is very slow"
	case ClockImplausible:
		return "its clock is impossible"
	case FilesystemErrors:
		return "its file system has met errors"
	case CardWornOut:
		return "its card is worn out"
	case UnderVoltage:
		return "its voltage is too low"
	case Throttled:
		return "its processor is slowed down"
	case Hot:
		return "it is too hot"
	case MemoryPressure:
		return "its memory is nearly used up"
	case ClockNotSynchronized:
		return "its clock follows no time server"
	case ClockJumped:
		return "its clock was set"
	case LinkFlapping:
		return "a link comes and goes"
	case LinkErrors:
		return "packets are damaged on a link"
	case WeakSignal:
		return "its Wi-Fi is weak"
	case UnitFailed:
		return "a systemd unit has failed"
	}
	return string(t)
}
