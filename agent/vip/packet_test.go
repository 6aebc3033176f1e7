package vip

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNet runs f on a thread of its own in the network of the caller, and returns what is
// closed when it has ended.
func inNet(t *testing.T, f func()) (done <-chan struct{}) {
	t.Helper()
	ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked
		err := unix.Setns(ns, unix.CLONE_NEWNET)
		if unix.Close(ns); err != nil && os.Geteuid() == 0 {
			t.Error(err)
			return
		}
		f()
	}()
	return ended
}

// listen serves connections at path, in the network of the caller, until the test ends or
// stop is called. It stands for relevo-packet.socket.
func listen(t *testing.T, path string, serve func(*net.UnixConn)) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := inNet(t, func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c.(*net.UnixConn))
			c.Close()
		}
	})
	stop = sync.OnceFunc(func() { l.Close(); <-done })
	t.Cleanup(stop)
	return stop
}

// giving serves as the real one does, and complains if that fails.
func giving(t *testing.T) func(*net.UnixConn) {
	return func(c *net.UnixConn) {
		if err := Give(c); err != nil {
			t.Error(err)
		}
	}
}

// mayNot is what a process under relevo.service gets.
func mayNot() (int, error) { return -1, unix.EAFNOSUPPORT }

// lines are what an agent logs.
type lines chan string

func (l lines) Enabled(context.Context, slog.Level) bool { return true }
func (l lines) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l lines) WithGroup(string) slog.Handler            { return l }
func (l lines) Handle(_ context.Context, r slog.Record) error {
	l <- r.Message
	return nil
}

// await waits for a line.
func (l lines) await(part string) {
	for !strings.Contains(<-l, part) {
	}
}

// narrow is an address of an agent that may open no packet sockets; it runs in the network
// of the caller until the test ends or stop is called.
func narrow(t *testing.T, path string) (a *Address, log lines, stop func()) {
	t.Helper()
	log = make(lines, 1000)
	a, err := New(Config{Prefix: netip.MustParsePrefix("10.77.0.100/24"), Service: path, Log: slog.New(log)})
	if err != nil {
		t.Fatal(err)
	}
	a.sockets.open = mayNot
	ctx, cancel := context.WithCancel(t.Context())
	done := inNet(t, func() {
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return a, log, stop
}

// full waits until the pool has what it should have at the start.
func full(p *pool) {
	for _, fd := range [spare]int{<-p.idle, <-p.idle} {
		p.idle <- fd
	}
}

// files counts the open files of this process.
func files(t *testing.T) int {
	t.Helper()
	l, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}

// read takes a frame that is there already; "" = none is.
func read(fd int) (frame, bool) {
	var b [256]byte
	n, _, err := unix.Recvfrom(fd, b[:], 0)
	if err != nil {
		return frame{}, false
	}
	f, err := decode(b[:n])
	return f, err == nil
}

// hears waits for a frame on a socket of another host, told by the address that it is from.
func hears(t *testing.T, fd int, from netip.Addr) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000)
		if f, ok := read(fd); ok && f.senderIP == from {
			return
		}
	}
	t.Errorf("nothing was heard of %v", from)
}

// listening opens a socket as who may, on a link of the caller's network.
func listening(t *testing.T, link string) (fd int) {
	t.Helper()
	fd, err := open()
	if err != nil {
		t.Error(err)
		return -1
	}
	t.Cleanup(func() { unix.Close(fd) })
	l, err := netlink.LinkByName(link)
	if err == nil {
		err = bind(fd, l.Attrs().Index)
	}
	if err != nil {
		t.Error(err)
	}
	return fd
}

// say sends frames from a link of the caller's network.
func say(t *testing.T, link string, frames ...[]byte) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(fd)
	l, err := netlink.LinkByName(link)
	if err != nil {
		t.Error(err)
		return
	}
	for _, f := range frames {
		if err := unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index, Halen: 6}); err != nil {
			t.Error(err)
		}
	}
}

var stranger = net.HardwareAddr{2, 0, 0, 0, 0, 9}

// A socket that was handed over is as good as one of one's own, on every link, again and
// again; and it never hears what came before it was bound, nor what is no ARP.
func TestHandedOver(t *testing.T) {
	run := hosts(t)
	path := filepath.Join(t.TempDir(), "packet.sock")
	var a *Address
	var stop func()
	run[0](func() {
		listen(t, path, giving(t))
		a, _, stop = narrow(t, path)
	})
	p := a.sockets
	full(p)
	old := netip.MustParseAddr("10.77.0.50")
	arp := announcement(stranger, old, false).encode()
	ip := [14 + 20]byte{12: 8, 14: 0x45}
	copy(ip[:], broadcast)
	talk := func() { run[1](func() { say(t, "eth1", arp, ip[:], arp, arp) }) }
	run[0](func() {
		index := func(name string) int {
			l, err := netlink.LinkByName(name)
			if err != nil {
				t.Error(err)
				return 0
			}
			return l.Attrs().Index
		}
		witness := listening(t, "eth0")
		for range 3 * spare {
			talk() // while it is idle
			hears(t, witness, old)
			fd, back, err := p.take(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			if f, ok := read(fd); ok {
				t.Errorf("heard %+v before it was bound", f)
			}
			if err := bind(fd, index("eth0")); err != nil {
				t.Error(err)
			}
			if f, ok := read(fd); ok {
				t.Errorf("heard %+v from before it was bound", f)
			}
			talk() // it is left unread
			hears(t, witness, old)
			back()
		}
		// A thief of the agent hears no more with it than that.
		fd, back, err := p.take(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		defer back()
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); !errors.Is(err, unix.EPERM) {
			t.Errorf("the filter was taken off: %v", err)
		}
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index("eth0")}); err != nil {
			t.Error(err)
		}
		talk()
		hears(t, witness, old)
		heard := 0
		for b := make([]byte, 256); ; heard++ {
			n, _, err := unix.Recvfrom(fd, b, 0)
			if err != nil {
				break
			}
			if _, err := decode(b[:n]); err != nil {
				t.Errorf("heard % x", b[:n])
			}
		}
		if heard == 0 {
			t.Error("heard nothing, also no ARP")
		}
		// A link that goes down is no news to who is bound to it later.
		eth0, err := netlink.LinkByName("eth0")
		if err == nil {
			err = errors.Join(netlink.LinkSetDown(eth0), netlink.LinkSetUp(eth0), unbind(fd), bind(fd, eth0.Attrs().Index))
		}
		if err != nil {
			t.Error(err)
		}
		if _, _, err := unix.Recvfrom(fd, make([]byte, 256), 0); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("told of the past: %v", err)
		}
	})
	run[0](func() { // the whole of it
		if err := a.Claim(t.Context(), 1); err != nil {
			t.Error(err)
		}
		if owner, err := a.Owner(t.Context()); owner != nil || err != nil {
			t.Errorf("%v has it, too: %v", owner, err)
		}
		if err := a.Trouble(); err != nil {
			t.Error(err)
		}
	})
	stop()
	if p.total != 0 {
		t.Errorf("%d sockets are left", p.total)
	}
}

// Many want one at once: nobody has another's, and there are never more than a few.
func TestPoolShared(t *testing.T) {
	run := hosts(t)
	path := filepath.Join(t.TempDir(), "packet.sock")
	run[0](func() { listen(t, path, giving(t)) })
	a, _, stop := narrow(t, path)
	p := a.sockets
	var mu sync.Mutex
	inUse, top := map[int]bool{}, 0
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			for range 6 {
				fd, back, err := p.take(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if inUse[fd] {
					t.Errorf("socket %d was lent twice", fd)
				}
				inUse[fd] = true
				top = max(top, len(inUse))
				mu.Unlock()
				if err := bind(fd, 1); err != nil { // the loopback of its network
					t.Error(err)
				}
				mu.Lock()
				delete(inUse, fd)
				mu.Unlock()
				back()
			}
		})
	}
	wg.Wait()
	if p.total > most || top > most || top < spare {
		t.Errorf("%d sockets, %d in use at once", p.total, top)
	}
	fd, back, err := p.take(t.Context()) // it is out when the agent ends
	if err != nil {
		t.Fatal(err)
	}
	stop()
	back()
	if err := unix.SetNonblock(fd, true); !errors.Is(err, unix.EBADF) || p.total != 0 {
		t.Errorf("a socket outlives the agent: %v, %d are left", err, p.total)
	}
	if _, _, err := p.take(t.Context()); !errors.Is(err, unix.EAFNOSUPPORT) {
		t.Errorf("after the end: %v", err)
	}
}

// Without a socket the address is taken all the same, and told as soon as there is one.
func TestClaimUnannounced(t *testing.T) {
	run := hosts(t)
	path := filepath.Join(t.TempDir(), "packet.sock")
	var a *Address
	var log lines
	run[0](func() { a, log, _ = narrow(t, path) })
	log.await("no packet socket")
	var ear int
	run[1](func() { ear = listening(t, "eth1") })
	run[0](func() {
		if err := a.Claim(t.Context(), 1); err != nil {
			t.Error(err)
		}
		if held, err := a.Held(); !held || err != nil {
			t.Errorf("held: %v, %v", held, err)
		}
		if err := a.Trouble(); err == nil || !strings.Contains(err.Error(), "relevo-packet.socket") {
			t.Errorf("the trouble is %v", err)
		}
		if _, err := a.Owner(t.Context()); !isNoSocket(err) || !strings.Contains(err.Error(), "systemctl status") {
			t.Errorf("asked who has it: %v", err)
		}
		a.contested.Store(true)
		if owner, err := a.Defend(t.Context()); owner != nil || err != nil {
			t.Errorf("defended: %v, %v", owner, err)
		}
	})
	run[1](func() {
		if f, ok := read(ear); ok {
			t.Errorf("heard %+v", f)
		}
	})
	run[0](func() { listen(t, path, giving(t)) }) // and nobody does anything more
	run[1](func() { hears(t, ear, a.IP()) })
	log.await("there again")
	if err := a.Trouble(); err != nil {
		t.Error(err)
	}
	run[0](func() {
		if err := a.Release(t.Context()); err != nil || a.owed.Load() {
			t.Errorf("given up: %v; still to be told: %v", err, a.owed.Load())
		}
	})
}

// Who is cut off while it waits for a socket does not take the address.
func TestClaimCutOff(t *testing.T) {
	run := hosts(t)
	a, err := New(Config{Prefix: netip.MustParsePrefix("10.77.0.100/24"), Service: "/nowhere", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	a.sockets.open = mayNot
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	run[0](func() {
		if err := a.Claim(ctx, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("claimed: %v", err)
		}
		if held, err := a.Held(); held || err != nil {
			t.Errorf("held: %v, %v", held, err)
		}
	})
}

// A service that says nothing is not waited for when the agent ends.
func TestRunEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "packet.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, _, stop := narrow(t, path)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) { // it has asked, and waits
		t.Fatal(err)
	}
	stop()
}

// What the units say is what the code goes by.
func TestUnits(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("..", "..", "systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if s := read("relevo-packet.socket"); !strings.Contains(s, "\nListenStream="+SocketPath+"\n") || !strings.Contains(s, "\nSocketMode=0600\n") {
		t.Error("the socket is not where the agent looks for it, or everybody's")
	}
	for _, l := range strings.Split(read("relevo.service"), "\n") {
		if !strings.HasPrefix(l, "#") && (strings.Contains(l, "AF_PACKET") || strings.Contains(l, "NET_RAW")) {
			t.Errorf("the agent does not need %s", l)
		}
	}
}
