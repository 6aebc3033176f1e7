package agent

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// machineOf tells this machine from any other by what its hardware says of itself, which
// a copy of its SD card does not take along: the serial number of a Raspberry Pi (device
// tree), the UUID of a PC (DMI, for root), and the address of the network interface. A
// board whose interface is exchanged is another machine: then it waits for the lease as
// another host would. root is "/" but in tests. Never 0.
func machineOf(root, ifname string) (uint64, error) {
	h := sha256.New()
	found := 0
	for _, p := range []string{"proc/device-tree/serial-number", "sys/class/dmi/id/product_uuid", "sys/class/net/" + ifname + "/address"} {
		text := readShort(filepath.Join(root, p))
		if strings.Trim(text, "0-: ") == "" {
			continue // not there, or nobody filled it in
		}
		found++
		fmt.Fprintf(h, "%s=%s\n", p, text)
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
