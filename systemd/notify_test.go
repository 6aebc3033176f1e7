package systemd

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNotifier(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "3600000000")
	t.Setenv("WATCHDOG_PID", "")
	n := NewNotifier()
	n.Status("standby of n1")
	n.Status("standby of n1")
	n.Pulse(2 * time.Hour)
	n.Pulse(2 * time.Hour)
	n.Pulse(time.Second)
	n.Reloading()
	n.Ready()
	n.Stopping()
	var got []string
	buf := make([]byte, 1024)
	for range 6 {
		l.SetReadDeadline(time.Now().Add(5 * time.Second))
		k, err := l.Read(buf)
		if err != nil {
			t.Fatal(err, got)
		}
		got = append(got, string(buf[:k]))
	}
	want := []string{"STATUS=standby of n1", "WATCHDOG_USEC=3600000000\nWATCHDOG=1", "WATCHDOG_USEC=1000000\nWATCHDOG=1", "RELOADING=1", "READY=1", "STOPPING=1"}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("message %d is %q, want %q", i, got[i], want[i])
		}
	}
	if n.Watchdog() != time.Hour {
		t.Errorf("watchdog %v", n.Watchdog())
	}
	t.Setenv("NOTIFY_SOCKET", "")
	NewNotifier().Ready() // without systemd: nothing, and no error
}
