package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Whoever starts it by hand is told that this is not for people.
func TestPacketSocketByHand(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	udp := os.NewFile(uintptr(fd), "udp")
	defer udp.Close()
	for _, in := range []*os.File{null, udp} {
		var out, errs bytes.Buffer
		a := &app{stdin: in, stdout: &out, stderr: &errs, now: time.Now, env: func(string) string { return "" }}
		if code := run(t.Context(), []string{"packet-socket"}, a); code != exitError || !strings.Contains(errs.String(), "only relevo-packet.socket starts this") || out.Len() > 0 {
			t.Errorf("code %d, %s%s", code, out.String(), errs.String())
		}
	}
}
