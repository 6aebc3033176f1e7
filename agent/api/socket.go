package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"relevo.dev/relevo/agent/durable"
)

// listenSocket makes the socket under another name, gives it owner and mode, and
// only then puts it where people look: nobody connects before it is protected.
// With everybody any local user may connect, and is told apart then.
func listenSocket(path, group string, everybody bool, log *slog.Logger) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	mode := os.FileMode(0o660)
	if everybody {
		mode = 0o666
	}
	err = os.Chmod(tmp, mode)
	if gid, ok := groupID(group); err == nil && ok {
		// relevo.service makes the folder give its group to what is in it: then there is
		// nothing to do, which is all that it may.
		if err = durable.GiveTo(tmp, os.Geteuid(), gid); errors.Is(err, durable.ErrOwner) {
			log.Warn("the socket is root's alone: nobody can be an operator", "group", group, "why", err, "do", "systemd-tmpfiles --create relevo.conf, then restart relevo")
			err = nil
		}
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		l.Close()
		os.Remove(tmp)
		return nil, err
	}
	return &socket{UnixListener: l, path: path}, nil
}

// socket removes its name when it is closed: before that nobody else can have
// taken it, because we would have answered.
type socket struct {
	*net.UnixListener
	path string
	once sync.Once
}

func (s *socket) Close() error {
	s.once.Do(func() { os.Remove(s.path) })
	return s.UnixListener.Close()
}

// removeStale removes a socket that nobody listens on any more.
func removeStale(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("something that is not a socket is in the way: %v", fi.Mode())
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return errors.New("another agent is running: stop it first (systemctl stop relevo)")
	}
	return os.Remove(path)
}

func groupID(name string) (int, bool) {
	if os.Geteuid() != 0 {
		return 0, false
	}
	gid, ok := groupOf(name)
	return int(gid), ok
}

// Caller is the process at the other end of the socket, as the kernel tells.
type Caller struct {
	PID      int32
	UID, GID uint32
	Groups   []uint32 // beside GID
}

type callerKey struct{}

// CallerOf says who made a request over the socket. There is none over TCP.
func CallerOf(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// withCaller asks the kernel who is at the other end of a unix connection.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	u, ok := unwrap(c).(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	var credErr error
	var groups []uint32
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		groups = peerGroups(fd)
	}); err != nil || credErr != nil {
		return ctx
	}
	return contextWithCaller(ctx, Caller{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid, Groups: groups})
}

func contextWithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}
