package systemd

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier tells systemd how this service is. Without systemd it does nothing.
type Notifier struct {
	addr     *net.UnixAddr
	watchdog time.Duration

	mu     sync.Mutex
	status string
	pulsed time.Time
	next   time.Duration
}

// NewNotifier reads the environment that systemd gives a service of Type=notify.
func NewNotifier() *Notifier {
	n := &Notifier{}
	if s := os.Getenv("NOTIFY_SOCKET"); s != "" && (s[0] == '/' || s[0] == '@') {
		n.addr = &net.UnixAddr{Name: s, Net: "unixgram"}
	}
	pid := os.Getenv("WATCHDOG_PID")
	if usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(usec) * time.Microsecond
	}
	return n
}

func (n *Notifier) send(state string) {
	if n.addr == nil {
		return
	}
	c, err := net.DialUnix("unixgram", nil, n.addr)
	if err != nil {
		return // systemd notices a silent service by itself
	}
	defer c.Close()
	c.Write([]byte(state))
}

// Ready says that the service does what it is for.
func (n *Notifier) Ready() { n.send("READY=1") }

// Stopping says that it is about to end.
func (n *Notifier) Stopping() { n.send("STOPPING=1") }

// Reloading says that it reads its configuration; Ready ends that.
func (n *Notifier) Reloading() {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	n.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", ts.Nano()/1000))
}

// Status is a line for people, in `systemctl status`. The same line is not sent
// twice.
func (n *Notifier) Status(s string) {
	s = strings.ReplaceAll(s, "\n", " ")
	n.mu.Lock()
	same := s == n.status
	n.status = s
	n.mu.Unlock()
	if !same {
		n.send("STATUS=" + s)
	}
}

// Pulse says that the main loop turns, and how long systemd may wait for the next
// time; at most WatchdogSec=. Unchanged, it is passed on four times in that time.
func (n *Notifier) Pulse(next time.Duration) {
	if n.watchdog == 0 {
		return
	}
	next = min(next, n.watchdog)
	n.mu.Lock()
	changed := next != n.next
	due := changed || time.Since(n.pulsed) >= next/4
	if due {
		n.pulsed, n.next = time.Now(), next
	}
	n.mu.Unlock()
	switch {
	case changed:
		n.send(fmt.Sprintf("WATCHDOG_USEC=%d\nWATCHDOG=1", next.Microseconds()))
	case due:
		n.send("WATCHDOG=1")
	}
}

// Watchdog is WatchdogSec=, 0 if there is none.
func (n *Notifier) Watchdog() time.Duration { return n.watchdog }
