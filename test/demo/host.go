package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"relevo.dev/relevo/agent"
)

// demoHost is a host without systemd: the control plane is a child process of the
// agent, and dies with it.
func demoHost(dir string, standin ...string) func(agent.HostConfig) (*agent.Host, error) {
	return func(h agent.HostConfig) (*agent.Host, error) {
		source, follower, data := agent.DataParts(h)
		cp := &child{args: standin, log: filepath.Join(dir, "standin.log")}
		return &agent.Host{
			ControlPlane: cp, Data: data, Source: source, Follower: follower,
			API:       agent.NewAPI(h.Config.Candidate.ControlPlane.API, h.Node),
			LeaseNote: &agent.LeaseNoteFile{Path: filepath.Join(dir, "lease"), Node: h.Node, TTL: h.Config.LeaseTTL, Units: []string{"standin"}},
			Prepare:   func(context.Context) error { return os.RemoveAll(filepath.Join(dir, "lease")) },
		}, nil
	}
}

// child is a control plane of one process.
type child struct {
	args []string
	log  string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
}

func (c *child) Start(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running() {
		return nil
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(exe, c.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the stand-in: %w", err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }() // ends with the process, which ends with us
	c.cmd, c.done = cmd, done
	return os.WriteFile(filepath.Join(filepath.Dir(c.log), "standin.pid"), fmt.Append(nil, cmd.Process.Pid), 0o600)
}

func (c *child) running() bool {
	if c.cmd == nil {
		return false
	}
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

func (c *child) signal(s os.Signal) (<-chan struct{}, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.running() {
		return nil, false
	}
	c.cmd.Process.Signal(s)
	return c.done, true
}

func (c *child) Stop(ctx context.Context) error {
	done, ok := c.signal(syscall.SIGTERM)
	if !ok {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *child) Kill(context.Context) error {
	c.signal(syscall.SIGKILL)
	return nil
}

func (c *child) AnyActive(context.Context) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running(), nil
}

func (c *child) EnterStandby(context.Context) error { return nil }
func (c *child) LeaveStandby(context.Context) error { return nil }

// waitFor asks until ok, every 50 ms.
func waitFor(ctx context.Context, limit time.Duration, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %v", what, limit)
		case <-t.C:
		}
	}
	return nil
}
