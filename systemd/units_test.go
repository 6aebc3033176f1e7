package systemd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// exposure is what systemd-analyze makes of a unit file: 0 is the best, 10 the worst.
func exposure(t *testing.T, name, text string) (e float64) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--no-pager", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, last, _ := strings.Cut(string(out), "Overall exposure level")
	if _, after, ok := strings.Cut(last, ": "); !ok {
		t.Fatalf("%s", out)
	} else if _, err := fmt.Sscan(after, &e); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return e
}

// TestExposure: what the units may do is counted anew when they change. The same is asked
// of the running one on test hosts.
func TestExposure(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("SKIPPED: no systemd-analyze here")
	}
	for name, most := range map[string]float64{"relevo.service": 2.0, "relevo-packet@.service": 1.1} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if e := exposure(t, name, string(text)); e > most {
			t.Errorf("%s: exposure %.1f, more than %.1f", name, e, most)
		}
		wider := strings.NewReplacer("CAP_NET_ADMIN", "CAP_NET_ADMIN CAP_NET_RAW", "AF_NETLINK", "AF_NETLINK AF_PACKET", "DynamicUser=yes", "User=root").Replace(string(text))
		if e := exposure(t, name, wider); e <= most {
			t.Errorf("%s with more rights: exposure %.1f all the same", name, e)
		}
	}
}
