package vip

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Give hands a packet socket to root at the other end of conn, and nothing to anybody else.
// The caller closes conn. What it writes is one message: "ok" with the descriptor, or why
// there is none.
func Give(conn *net.UnixConn) error { return give(conn, 0) }

func give(conn *net.UnixConn, may uint32) error {
	if err := conn.SetDeadline(time.Now().Add(askLimit)); err != nil {
		return err
	}
	fd, err := openFor(conn, may)
	if err != nil {
		_, werr := conn.Write([]byte(err.Error())) // it is told in the journal, too
		if werr != nil {
			return fmt.Errorf("%w; and that could not be said: %w", err, werr)
		}
		return err
	}
	defer unix.Close(fd)
	if _, _, err := conn.WriteMsgUnix([]byte("ok"), unix.UnixRights(fd), nil); err != nil {
		return fmt.Errorf("hand over a packet socket: %w", err)
	}
	return nil
}

// openFor opens a socket if the user at the other end may have it.
func openFor(conn *net.UnixConn, may uint32) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	var who *unix.Ucred
	cerr := raw.Control(func(fd uintptr) {
		who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	switch {
	case cerr != nil:
		return -1, cerr
	case err != nil:
		return -1, fmt.Errorf("see who asks for a packet socket: %w", err)
	case who.Uid != may:
		return -1, fmt.Errorf("user %d may not have a packet socket", who.Uid)
	}
	if fd, err = open(); err != nil {
		return -1, fmt.Errorf("open a packet socket: %w", err)
	}
	return fd, nil
}
