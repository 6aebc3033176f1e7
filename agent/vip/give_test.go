package vip

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var c [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		n, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		c[i] = n.(*net.UnixConn)
		t.Cleanup(func() { n.Close() })
	}
	return c[0], c[1]
}

// Nobody but root gets one.
func TestGiveForeign(t *testing.T) {
	a, b := pair(t)
	if err := give(a, uint32(os.Geteuid())+1); err == nil {
		t.Error("another user got a socket")
	}
	if fd, err := receive(b); err == nil || !strings.Contains(err.Error(), "may not have a packet socket") {
		t.Errorf("got %d, %v", fd, err)
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: to be another user needs root")
	}
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "open.sock")
	var said error
	stop := listen(t, path, func(c *net.UnixConn) { said = Give(c) })
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: this thread alone is nobody
		const keep = ^uintptr(0)
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, keep, 65534, keep); e != 0 {
			got <- e
			return
		}
		_, err := ask(t.Context(), path)
		got <- err
	}()
	if err := <-got; err == nil || !strings.Contains(err.Error(), "user 65534 may not have a packet socket") {
		t.Errorf("nobody got one: %v", err)
	}
	if stop(); said == nil {
		t.Error("the journal is told nothing")
	}
}

// Whatever else comes is refused, and nothing of it stays open.
func TestReceiveGarbage(t *testing.T) {
	null := func() int {
		fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	sock := func(domain, typ int) int {
		fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Skipf("SKIPPED: %v", err)
		}
		return fd
	}
	for name, c := range map[string]struct {
		text string
		fds  func() []int
		says string
	}{
		"nothing":          {"", nil, "EOF"},
		"a refusal":        {"no\x1b[2J", nil, `"no\x1b[2J"`},
		"a long one":       {strings.Repeat("x", 4096), nil, `"` + strings.Repeat("x", 256) + `"`},
		"a file":           {"ok", func() []int { return []int{null()} }, "something else"},
		"a UDP socket":     {"ok", func() []int { return []int{sock(unix.AF_INET, unix.SOCK_DGRAM)} }, "something else"},
		"a stream":         {"ok", func() []int { return []int{sock(unix.AF_UNIX, unix.SOCK_STREAM)} }, "something else"},
		"two":              {"ok", func() []int { return []int{null(), null()} }, "more than one"},
		"more than fit":    {"ok", func() []int { return []int{null(), null(), null(), null(), null(), null(), null()} }, "more than one"},
		"a cooked packet":  {"ok", func() []int { return []int{sock(unix.AF_PACKET, unix.SOCK_DGRAM)} }, "something else"},
		"two good packets": {"ok", func() []int { return []int{sock(unix.AF_PACKET, unix.SOCK_RAW), sock(unix.AF_PACKET, unix.SOCK_RAW)} }, "more than one"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(name, "packet") && os.Geteuid() != 0 {
				t.Skip("SKIPPED: packet sockets need root")
			}
			a, b := pair(t)
			before := files(t)
			var rights []byte
			if c.fds != nil {
				fds := c.fds()
				rights = unix.UnixRights(fds...)
				defer func() {
					for _, fd := range fds {
						unix.Close(fd)
					}
				}()
				before += len(fds)
			}
			if c.text != "" {
				if _, _, err := a.WriteMsgUnix([]byte(c.text), rights, nil); err != nil {
					t.Fatal(err)
				}
			}
			a.CloseWrite()
			if fd, err := receive(b); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %d, %v", fd, err)
			}
			if now := files(t); now != before {
				t.Errorf("%d files are open, not %d", now, before)
			}
		})
	}
}
