package agent

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMachine(t *testing.T) {
	board := func(files ...string) uint64 {
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
		m, err := machineOf(root, "eth0")
		if (err == nil) != (m != 0) {
			t.Errorf("%x, %v", m, err)
		}
		return m
	}
	const serial, uuid, mac = "proc/device-tree/serial-number", "sys/class/dmi/id/product_uuid", "sys/class/net/eth0/address"
	pi := board(serial, "10000000a1b2c3d4\x00", mac, "dc:a6:32:01:02:03\n")
	if pi != board(serial, "10000000a1b2c3d4\x00", mac, "dc:a6:32:01:02:03\n") {
		t.Error("one board is two")
	}
	seen := map[uint64]string{pi: "pi"}
	for name, m := range map[string]uint64{
		"another board":           board(serial, "10000000a1b2c3d5\x00", mac, "dc:a6:32:01:02:04\n"),
		"another network adapter": board(serial, "10000000a1b2c3d4\x00", mac, "dc:a6:32:01:02:04\n"),
		"a PC":                    board(uuid, "4c4c4544-0042\n", mac, "dc:a6:32:01:02:03\n"),
		"only an address":         board(mac, "dc:a6:32:01:02:03\n", uuid, "00000000-0000\n"),
	} {
		if was, there := seen[m]; there || m == 0 {
			t.Errorf("%s is the same as %s: %x", name, was, m)
		}
		seen[m] = name
	}
	if m := board(serial, "\x00", mac, "00:00:00:00:00:00\n"); m != 0 {
		t.Errorf("a machine that says nothing is %x", m)
	}
}
