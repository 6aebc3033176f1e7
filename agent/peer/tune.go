package peer

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// A peer that lost its power sends no FIN. Keepalive finds it on an idle
// connection, the user timeout on one with data under way, both within 15 s. It
// also ends a connection whose reader took nothing for that long; the worst
// stall known of an SD card is half of it.
const userTimeout = 15 * time.Second

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 6 * time.Second, Interval: 3 * time.Second, Count: 3}

// tune sets the above on a TCP connection. Where the kernel refuses, the callers'
// own time limits still hold.
func tune(c net.Conn) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	t.SetKeepAliveConfig(keepAlive)
	if raw, err := t.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		})
	}
}
