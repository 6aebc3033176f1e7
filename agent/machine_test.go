package agent

import (
	"net"
	"os"
	"path/filepath"
	"strings"
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

// TestWholeSameSystem: systems that were copied after their first start are told, each pair of
// them, and by the doctor.
func TestWholeSameSystem(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) { // which share what they have for a machine
		told := func() (pairs int, found string) {
			t.Helper()
			st, err := w.host("n2").agent.Status(t.Context())
			d, err2 := w.host("n2").agent.Doctor(t.Context())
			if err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			for _, p := range st.Problems {
				if strings.Contains(p.What, "have one machine-id") {
					pairs++
				}
			}
			for _, f := range d.Findings {
				if f.Check == "machine-id" {
					found = f.Result + " " + f.What
				}
			}
			return pairs, found
		}
		if pairs, found := told(); pairs != 0 || !strings.HasPrefix(found, "ok ") {
			t.Errorf("%d pairs, %s", pairs, found)
		}
		if err := os.MkdirAll(filepath.Join(w.machine, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(w.machine, "etc/machine-id"), []byte("0123456789abcdef0123456789abcdef\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if pairs, found := told(); pairs != 3 || found != "warning a card was copied after its first start: n1 has that of this host, too; n3 has that of this host, too" {
			t.Errorf("%d pairs, %s", pairs, found)
		}
	})
}

func TestSameSystem(t *testing.T) {
	root := t.TempDir()
	of := func(text, cluster string) string {
		os.MkdirAll(filepath.Join(root, "etc"), 0o755)
		os.WriteFile(filepath.Join(root, "etc/machine-id"), []byte(text), 0o644)
		return sameSystem(root, cluster)
	}
	const a, b = "0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcde0"
	x := of(a+"\n", "c1")
	if x == "" || strings.Contains(a, x) || x != of(a, "c1") || x == of(b, "c1") || x == of(a, "c2") {
		t.Errorf("%q", x)
	}
	for _, none := range []string{"", "uninitialized\n"} {
		if got := of(none, "c1"); got != "" {
			t.Errorf("%q: %q", none, got)
		}
	}
}
