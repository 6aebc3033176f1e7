package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"relevo.dev/relevo/agent/lease"
)

// fenceOrder is what the fence device is told.
type fenceOrder struct {
	Node, Address, Cluster, Arbiter string
	Term                            uint64
}

// switchOff asks the fence device, after a quorum has confirmed once more that this host
// is the arbiter: one that was replaced must not switch the new arbiter's master off. It
// returns nil if the device says that the host is off.
func (a *agent) switchOff(ctx context.Context, f lease.Fence) error {
	cctx, cancel := context.WithTimeout(ctx, a.cfg.LeaseTTL/3)
	err := a.quorum.Confirm(cctx, a.loop.askRaftTerm)
	cancel()
	if err != nil {
		return fmt.Errorf("not asked: %w", err)
	}
	if s := a.quorum.State(); s.Term != f.Term || s.Holder != f.Node || s.Released {
		return fmt.Errorf("not asked: %s does not hold term %d any more", f.Node, f.Term)
	}
	cfg := a.live.Load().Fence
	o := fenceOrder{Node: f.Node, Cluster: a.id.Cluster(), Arbiter: a.cfg.Node, Term: f.Term}
	if addr, err := a.resolve(f.Node); err == nil {
		o.Address, _, _ = net.SplitHostPort(addr)
	}
	ctx, cancel = context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	if a.opts.Fence != nil {
		return a.opts.Fence(ctx, o)
	}
	return runFence(ctx, cfg.Command, o)
}

// maxFenceOutput is how much of what the program prints is kept, in bytes.
const maxFenceOutput = 4 << 10

// runFence runs the program and waits for it, and for what it started, to end.
func runFence(ctx context.Context, command []string, o fenceOrder) error {
	if len(command) == 0 {
		return errors.New("fence.command is empty")
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "RELEVO_NODE="+o.Node, "RELEVO_ADDRESS="+o.Address, "RELEVO_TERM="+strconv.FormatUint(o.Term, 10),
		"RELEVO_CLUSTER="+o.Cluster, "RELEVO_ARBITER="+o.Arbiter)
	cmd.Dir = "/"
	out := &capped{max: maxFenceOutput}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = fmt.Errorf("no answer in time: %w", ctx.Err())
	}
	if text := out.last(); text != "" {
		err = fmt.Errorf("%w: it said %q", err, text)
	}
	return fmt.Errorf("%s: %w", command[0], err)
}

// capped keeps the beginning of what is written to it.
type capped struct {
	b   bytes.Buffer
	max int
}

func (c *capped) Write(p []byte) (int, error) {
	c.b.Write(p[:min(len(p), c.max-c.b.Len())])
	return len(p), nil
}

// last is the last line, where programs tell why.
func (c *capped) last() string {
	text := strings.TrimSpace(c.b.String())
	return text[strings.LastIndexByte(text, '\n')+1:]
}
