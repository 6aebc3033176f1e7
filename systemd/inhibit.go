package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// login1 is systemd-logind, which asks before it switches the host off.
const (
	login1        = "org.freedesktop.login1"
	login1Path    = "/org/freedesktop/login1"
	login1Manager = login1 + ".Manager"
)

// bus connects to the system's D-Bus; the caller closes it.
func bus(ctx context.Context) (*godbus.Conn, error) {
	// The connection is used after this call, so not with its context.
	c, err := godbus.ConnectSystemBus(godbus.WithContext(context.WithoutCancel(ctx)))
	if err != nil {
		return nil, fmt.Errorf("reach D-Bus: %w", err)
	}
	return c, nil
}

// Shutdowns waits, holding logind's delay lock, for the host being switched off or
// restarted, and calls before when it is; until before has returned, or its context has
// ended with logind's patience, the host goes on. It returns when ctx ends or logind is
// gone; the error says why it could not wait. tell is told how patient logind is, when
// the lock is held.
func Shutdowns(ctx context.Context, who, why string, tell func(patience time.Duration), before func(ctx context.Context)) error {
	c, err := bus(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.AddMatchSignalContext(ctx, godbus.WithMatchInterface(login1Manager), godbus.WithMatchMember("PrepareForShutdown")); err != nil {
		return fmt.Errorf("wait for shutdowns: %w", err)
	}
	signals := make(chan *godbus.Signal, 8)
	c.Signal(signals)
	patience, err := patienceOf(ctx, c)
	if err != nil {
		return err
	}
	lock, err := inhibit(ctx, c, who, why)
	if err != nil {
		return err
	}
	defer func() { lock.Close() }()
	tell(patience)
	for {
		select {
		case <-ctx.Done():
			return nil
		case s, ok := <-signals:
			switch {
			case !ok:
				return errors.New("wait for shutdowns: the connection to D-Bus ended")
			case s.Name != login1Manager+".PrepareForShutdown" || len(s.Body) != 1:
				continue
			}
			if off, _ := s.Body[0].(bool); off {
				bctx, cancel := context.WithTimeout(ctx, patience)
				before(bctx)
				cancel()
				lock.Close()
				continue
			}
			// It was called off: for the next one.
			lock.Close()
			if lock, err = inhibit(ctx, c, who, why); err != nil {
				return err
			}
		}
	}
}

func inhibit(ctx context.Context, c *godbus.Conn, who, why string) (*os.File, error) {
	var fd godbus.UnixFD
	err := c.Object(login1, login1Path).CallWithContext(ctx, login1Manager+".Inhibit", 0, "shutdown", who, why, "delay").Store(&fd)
	if err != nil {
		return nil, fmt.Errorf("ask logind to wait before a shutdown: %w", err)
	}
	return os.NewFile(uintptr(fd), "inhibitor"), nil
}

func patienceOf(ctx context.Context, c *godbus.Conn) (time.Duration, error) {
	var v godbus.Variant
	err := c.Object(login1, login1Path).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, login1Manager, "InhibitDelayMaxUSec").Store(&v)
	if err != nil {
		return 0, fmt.Errorf("ask logind how long it waits: %w", err)
	}
	usec, ok := v.Value().(uint64)
	if !ok || usec > uint64(time.Hour.Microseconds()) {
		return 0, fmt.Errorf("ask logind how long it waits: %v", v)
	}
	return time.Duration(usec) * time.Microsecond, nil
}

// Patience is how long logind waits for those who hold a delay lock
// (InhibitDelayMaxSec= in logind.conf).
func Patience(ctx context.Context) (time.Duration, error) {
	c, err := bus(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return patienceOf(ctx, c)
}

// Blockers are those who ask logind that the host is not switched off now, in words.
func Blockers(ctx context.Context) ([]string, error) {
	c, err := bus(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var list []struct {
		What, Who, Why, Mode string
		UID, PID             uint32
	}
	if err := c.Object(login1, login1Path).CallWithContext(ctx, login1Manager+".ListInhibitors", 0).Store(&list); err != nil {
		return nil, fmt.Errorf("ask logind who must not be interrupted: %w", err)
	}
	var out []string
	for _, i := range list {
		if i.Mode == "block" && i.What == "shutdown" {
			out = append(out, fmt.Sprintf("%s: %s", i.Who, i.Why))
		}
	}
	return out, nil
}
