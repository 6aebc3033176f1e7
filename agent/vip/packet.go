package vip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Where packet sockets come from.
//
// ARP needs a packet socket, and to open one needs CAP_NET_RAW, with which a process can
// hear and forge everything on every link. So relevo.service has not got it.
// relevo-packet.socket starts `relevo packet-socket` for each connection, which hands one
// over and ends ([Give]). What it hands over hears ARP and nothing else, for good. To bind
// it to a link, and to send, needs no capability.
//
// To start a program takes 0.3 s on an ARMv6 board, and in a failover nobody may wait for
// it. So the agent asks when it starts ([Address.Run]), and keeps what it got: a socket is
// bound where it is used, unbound and emptied afterwards.

// SocketPath is where relevo-packet.socket listens.
const SocketPath = "/run/relevo/packet.sock"

const (
	// spare sockets are asked for at the start: one to take the address, one to look at it
	// at the same moment. A third and a fourth only if these are in use.
	spare = 2
	most  = 4

	takeLimit  = time.Second      // who needs one waits that long
	askLimit   = 10 * time.Second // for a program that starts on a busy board
	firstPause = time.Second      // after a request that failed; doubled each time
	mostPause  = time.Minute
)

// noSocket says that there is no packet socket to be had: nobody can be asked or told who
// has the address, while everything else may work.
type noSocket struct{ err error }

func (e noSocket) Error() string { return "open a packet socket: " + e.err.Error() }
func (e noSocket) Unwrap() error { return e.err }

func isNoSocket(err error) bool { return errors.As(err, new(noSocket)) }

// pool is the packet sockets of an agent.
type pool struct {
	path string // of the service's socket; "" = nobody is asked
	log  *slog.Logger
	open func() (int, error) // as this process may, or not

	low  chan struct{} // kicked when one was wanted and none was idle
	idle chan int

	mu    sync.Mutex
	ended bool
	total int   // idle or lent
	err   error // why the last request failed; nil = it did not
}

func newPool(path string, log *slog.Logger) *pool {
	return &pool{path: path, log: log, open: open, low: make(chan struct{}, 1), idle: make(chan int, most)}
}

// open makes a packet socket that is bound to nothing, so that it hears nothing yet
// (protocol 0), and will never hear anything but ARP.
func open() (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	onlyARP := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12}, // the type in the Ethernet header
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: etherARP, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(onlyARP)), Filter: &onlyARP[0]})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("let it hear ARP alone: %w", err)
	}
	return fd, nil
}

// take lends a socket; back must be called.
//
// It tries to open one first. Where this process may, that is all: as root outside of the
// unit (`relevo init`, `relevo doctor`, tests), or where an older unit file or a drop-in
// leaves it CAP_NET_RAW. Where it may not, the kernel says so within a microsecond, also in
// a failover. The other way round, every process would wait for a service that it does not
// need, and that may not be there.
func (p *pool) take(ctx context.Context) (fd int, back func(), err error) {
	if fd, err = p.open(); err == nil {
		return fd, func() { unix.Close(fd) }, nil
	}
	p.mu.Lock()
	ended, failed := p.ended, p.err
	if p.total > 0 {
		failed = nil // one will be given back
	}
	p.mu.Unlock()
	if p.path == "" || ended {
		return -1, nil, noSocket{err}
	}
	select {
	case fd = <-p.idle:
		return fd, func() { p.giveBack(fd) }, nil
	default:
	}
	select {
	case p.low <- struct{}{}:
	default:
	}
	const look = "; see `systemctl status relevo-packet.socket`"
	if failed != nil {
		// Whoever waits here is in the middle of a failover.
		return -1, nil, noSocket{fmt.Errorf("%w%s", failed, look)}
	}
	t := time.NewTimer(takeLimit)
	defer t.Stop()
	select {
	case fd = <-p.idle:
		return fd, func() { p.giveBack(fd) }, nil
	case <-ctx.Done():
		return -1, nil, fmt.Errorf("wait for a packet socket: %w", ctx.Err())
	case <-t.C:
		return -1, nil, noSocket{fmt.Errorf("none was free or came within %v%s", takeLimit, look)}
	}
}

// giveBack keeps a socket for the next one who needs it.
func (p *pool) giveBack(fd int) {
	err := unbind(fd)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil || p.ended {
		p.total--
		unix.Close(fd)
		return
	}
	p.idle <- fd // there is room for as many as there are
}

// run asks for sockets when it is time to, until ctx ends; got is called after each request
// that was answered.
func (p *pool) run(ctx context.Context, got func(context.Context)) error {
	defer p.close()
	wanted, pause := false, firstPause
	for {
		err := p.fill(ctx, wanted)
		if ctx.Err() != nil {
			return nil
		}
		var again <-chan time.Time
		if p.note(err); err != nil {
			again = time.After(pause)
		} else {
			pause = firstPause
			got(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
			wanted, pause = false, min(2*pause, mostPause)
		case <-p.low: // whoever wants one waits, or owes the announcement
			wanted = true
		}
	}
}

// fill asks until there are as many as there should be. wanted: somebody found none idle.
func (p *pool) fill(ctx context.Context, wanted bool) error {
	if fd, err := p.open(); err == nil { // then nothing is asked for, ever
		return unix.Close(fd)
	}
	for {
		p.mu.Lock()
		enough := p.total >= spare && (!wanted || len(p.idle) > 0 || p.total >= most)
		p.mu.Unlock()
		if enough {
			return nil
		}
		fd, err := ask(ctx, p.path)
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.total++
		p.idle <- fd
		p.mu.Unlock()
	}
}

// note remembers how the last request went, and logs when that has changed.
func (p *pool) note(err error) {
	p.mu.Lock()
	was, some := p.err, p.total > 0
	p.err = err
	p.mu.Unlock()
	switch {
	case err != nil && some:
		p.log.Debug("no further packet socket for the virtual IP", "err", err)
	case err != nil && (was == nil || was.Error() != err.Error()):
		p.log.Warn("no packet socket for the virtual IP: it cannot be announced; see `systemctl status relevo-packet.socket`", "err", err)
	case err == nil && was != nil:
		p.log.Info("packet sockets for the virtual IP are there again")
	}
}

// trouble is why no socket can be had, nil if one can.
func (p *pool) trouble() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.total > 0 {
		return nil
	}
	return p.err
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	for {
		select {
		case fd := <-p.idle:
			p.total--
			unix.Close(fd)
		default:
			return
		}
	}
}

// TryService asks relevo-packet.socket for a socket and closes it.
func TryService(ctx context.Context) error {
	fd, err := ask(ctx, SocketPath)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// ask gets a socket from relevo-packet.socket.
func ask(ctx context.Context, path string) (fd int, err error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return -1, fmt.Errorf("ask relevo-packet.socket for one: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	u := conn.(*net.UnixConn)
	if err = u.CloseWrite(); err == nil { // that it was called says it all
		fd, err = receive(u)
	}
	if err != nil {
		return -1, fmt.Errorf("ask relevo-packet.socket for one: %w", err)
	}
	return fd, nil
}

// receive reads what [Give] sends: a descriptor, or the reason why not. It closes whatever
// is not one packet socket.
func receive(conn *net.UnixConn) (fd int, err error) {
	var why [256]byte
	rights := make([]byte, unix.CmsgSpace(4*4)) // of more than four the kernel closes the rest
	n, rn, flags, _, err := conn.ReadMsgUnix(why[:], rights)
	if err != nil {
		return -1, err
	}
	var fds []int
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	for _, m := range messages {
		if got, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, got...)
		}
	}
	switch {
	case err != nil:
	case n == 0:
		err = io.ErrUnexpectedEOF // journalctl -u 'relevo-packet@*' may know why
	case len(fds) == 0:
		err = fmt.Errorf("it says %q", why[:n])
	case len(fds) > 1 || flags&unix.MSG_CTRUNC != 0:
		err = errors.New("it sent more than one descriptor")
	default:
		err = checkPacket(fds[0])
	}
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return -1, err
	}
	return fds[0], nil
}

// checkPacket says whether fd is a packet socket of the right type.
func checkPacket(fd int) error {
	for _, o := range []struct{ option, want int }{{unix.SO_DOMAIN, unix.AF_PACKET}, {unix.SO_TYPE, unix.SOCK_RAW}} {
		if is, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, o.option); err != nil || is != o.want {
			return fmt.Errorf("it sent something else than a raw packet socket (socket option %d is %d, %v)", o.option, is, err)
		}
	}
	return unix.SetNonblock(fd, true)
}

// bind has a socket hear ARP on a link. It has heard nothing before, or unbind has been
// called since.
func bind(fd, index int) error {
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(etherARP), Ifindex: index})
}

// etherNone is an Ethernet type that no frame has, since a smaller number than 0x600 in its
// place is a length; Linux gives none of its own meaning to it (linux/if_ether.h). A packet
// socket cannot be bound to nothing again: protocol 0 would keep the one before.
const etherNone = 0x00ff

// unbind has a socket hear nothing any more, and forgets what it has heard and which errors
// were noted on it.
func unbind(fd int) error {
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(etherNone)}); err != nil {
		return err
	}
	var b [1]byte
	for {
		switch _, _, err := unix.Recvfrom(fd, b[:], unix.MSG_TRUNC); {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EBADF), errors.Is(err, unix.ENOTSOCK):
			return err
		}
	}
}
