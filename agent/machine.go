package agent

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// machineOf tells this machine from any other by what its hardware says of itself, which
// a copy of its SD card does not take along: the serial number of a Raspberry Pi (device
// tree), the UUID of a PC (DMI, for root), and the address of the network interface. A
// board whose interface is exchanged is another machine: then it waits for the lease as
// another host would. root is "/" but in tests. Never 0.
func machineOf(root string, mac net.HardwareAddr) (uint64, error) {
	h := sha256.New()
	found := 0
	for _, s := range []struct{ what, text string }{
		{"serial", readShort(filepath.Join(root, "proc/device-tree/serial-number"))},
		{"uuid", readShort(filepath.Join(root, "sys/class/dmi/id/product_uuid"))},
		{"mac", mac.String()}, // not from /sys, which may show another network than ours
	} {
		if strings.Trim(s.text, "0-: ") == "" {
			continue // not there, or nobody filled it in
		}
		found++
		fmt.Fprintf(h, "%s=%s\n", s.what, s.text)
	}
	if found == 0 {
		return 0, errors.New("this machine has no serial number, no UUID and no network address by which it could be told from a copy of its disk: is `interface` right?")
	}
	return binary.LittleEndian.Uint64(h.Sum(nil)) | 1, nil
}

// readShort reads a line of hardware's, "" if there is none.
func readShort(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 128)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return ""
	}
	return strings.Trim(string(b[:n]), " \t\r\n\x00")
}

// macOf is the hardware address of an interface, or of the one that has addr if it has no
// name; nil if there is none.
func macOf(ifname string, addr netip.Addr) net.HardwareAddr {
	all, _ := net.Interfaces()
	for _, i := range all {
		if i.Name == ifname {
			return i.HardwareAddr
		}
		if ifname != "" {
			continue
		}
		has, _ := i.Addrs()
		for _, h := range has {
			if p, err := netip.ParsePrefix(h.String()); err == nil && p.Addr().Unmap() == addr {
				return i.HardwareAddr
			}
		}
	}
	return nil
}

// sameSystem is a digest of this system's machine-id (machine-id(5) asks for that), by which
// members see that two of them were copied from one card after its first start; "" = there is
// none. It is of this cluster alone.
func sameSystem(root, cluster string) string {
	id := readShort(filepath.Join(root, "etc/machine-id"))
	if len(id) != 32 {
		return "" // not made yet
	}
	h := sha256.Sum256([]byte("relevo machine-id " + cluster + " " + id))
	return hex.EncodeToString(h[:8])
}

func (a *agent) system() string { return sameSystem(cmp.Or(a.opts.HealthRoot, "/"), a.id.ClusterID()) }

// newMachineID is what to do about it. The one of D-Bus would be taken for the new one.
const newMachineID = "on one of them: `sudo rm -f /etc/machine-id /var/lib/dbus/machine-id; sudo systemd-machine-id-setup; sudo reboot`"
