package health

import (
	"strconv"
	"strings"
)

// readBoard asks the device tree, which every Raspberry Pi has, else the DMI tables
// of a PC.
func readBoard(f *files) Board {
	const tree, dmi = "/proc/device-tree/", "/sys/class/dmi/id/"
	b := Board{Model: f.text(tree+"model", 80), Serial: f.text(tree+"serial-number", 32), Container: readContainer(f)}
	if n, ok := f.be32(tree + "system/linux,revision"); ok && n != 0 {
		b.Revision = strconv.FormatUint(uint64(n), 16)
	}
	if b.Model == "" {
		b.Model = strings.TrimSpace(f.text(dmi+"sys_vendor", 40) + " " + f.text(dmi+"product_name", 40))
	}
	return b
}

func readContainer(f *files) string {
	switch {
	case f.exists("/run/systemd/container"): // written by systemd as the first process
		return f.text("/run/systemd/container", 32)
	case f.exists("/.dockerenv"):
		return "docker"
	case f.exists("/run/.containerenv"):
		return "podman"
	}
	return ""
}

func (b Board) raspberry() bool { return strings.HasPrefix(b.Model, "Raspberry Pi") }

// tellsVoltage says whether the board has the circuit that notices low voltage. The
// driver is there on all of them, and says 0 for ever on those that cannot tell: the
// Zero family and the first A and B (Raspberry Pi documentation, "Power supply
// warnings": all since the B+ except the Zero range).
func (b Board) tellsVoltage() bool {
	return b.raspberry() && !strings.Contains(b.Model, "Zero") &&
		!strings.HasPrefix(b.Model, "Raspberry Pi Model B Rev") && !strings.HasPrefix(b.Model, "Raspberry Pi Model A Rev")
}
