package agent

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestMachine(t *testing.T) {
	board := func(mac string, files ...string) uint64 {
		t.Helper()
		root := t.TempDir()
		for i := 0; i < len(files); i += 2 {
			p := filepath.Join(root, files[i])
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, []byte(files[i+1]), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		m, err := machineOf(root, address(t, mac))
		if (err == nil) != (m != 0) {
			t.Errorf("%x, %v", m, err)
		}
		return m
	}
	const serial, uuid = "proc/device-tree/serial-number", "sys/class/dmi/id/product_uuid"
	pi := board("dc:a6:32:01:02:03", serial, "10000000a1b2c3d4\x00")
	if pi != board("dc:a6:32:01:02:03", serial, "10000000a1b2c3d4\x00") {
		t.Error("one board is two")
	}
	seen := map[uint64]string{pi: "pi"}
	for name, m := range map[string]uint64{
		"another board":           board("dc:a6:32:01:02:04", serial, "10000000a1b2c3d5\x00"),
		"another network adapter": board("dc:a6:32:01:02:04", serial, "10000000a1b2c3d4\x00"),
		"a PC":                    board("dc:a6:32:01:02:03", uuid, "4c4c4544-0042\n"),
		"only an address":         board("dc:a6:32:01:02:03", uuid, "00000000-0000\n"),
	} {
		if was, there := seen[m]; there || m == 0 {
			t.Errorf("%s is the same as %s: %x", name, was, m)
		}
		seen[m] = name
	}
	if m := board("00:00:00:00:00:00", serial, "\x00"); m != 0 {
		t.Errorf("a machine that says nothing is %x", m)
	}
}

func address(t *testing.T, s string) net.HardwareAddr {
	t.Helper()
	a, err := net.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
