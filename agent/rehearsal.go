package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/kube"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/replica/rehearse"
	"relevo.dev/relevo/systemd"
)

// Rehearser tries a promotion beside what the host really does.
type Rehearser interface {
	Rehearse(ctx context.Context, term uint64) rehearse.Report
	// Clean removes what one that was cut off left behind.
	Clean(ctx context.Context) error
}

// rehearsalUnit is the service of the sandbox, without .service.
const rehearsalUnit = "relevo-rehearsal"

// rehearseLimit bounds the whole.
const rehearseLimit = 15 * time.Minute

// hostRehearsal is a rehearsal on the real host.
type hostRehearsal struct {
	cfg  *config.Config
	copy string
	id   string // mirrored identity
	m    *systemd.Manager
}

func (h *hostRehearsal) dir() string { return filepath.Join(h.cfg.DataDir, "rehearsal") }

func (h *hostRehearsal) Clean(ctx context.Context) error {
	return errors.Join(h.m.EndSandbox(ctx, rehearsalUnit), rehearse.Clean(h.dir()))
}

func (h *hostRehearsal) Rehearse(ctx context.Context, term uint64) rehearse.Report {
	cp := h.cfg.Candidate.ControlPlane
	programs, perr := h.programs(ctx, cp.Units)
	a := rehearse.API{URL: cp.API.URL, CAFile: cp.API.CAFile, TokenFile: cp.API.TokenFile, ClientCertFile: cp.API.ClientCertFile, ClientKeyFile: cp.API.ClientKeyFile}
	if v := h.cfg.Candidate.VIP; v != nil {
		a.VIP = v.Address.Addr().String()
	}
	memory := h.cfg.Candidate.Rehearsal.Memory
	limit := cp.API.StartTimeout
	r := rehearse.Rehearse(ctx, rehearse.Config{
		Dir: h.dir(), Copy: h.copy, Datastore: cp.Datastore.Path, Mirror: h.id, Identity: cp.Identity, Term: term,
		Programs: programs, API: a, Memory: memory, Available: memoryAvailable, Start: limit,
		Sandbox: func(ctx context.Context, spec string) error {
			return h.m.RunSandbox(ctx, systemd.Sandbox{
				Name: rehearsalUnit, Description: "relevo: rehearsal of a promotion", Command: []string{"/usr/bin/relevo", "rehearsal", spec},
				Write: []string{h.dir()}, Memory: uint64(memory), Limit: limit + 30*time.Second, BindsTo: Unit,
			})
		},
	})
	if perr != nil && r.Err == nil && r.Depth == rehearse.Database {
		r.Shallow = perr.Error()
	}
	return r
}

// programs are the command lines of the control plane's units.
func (h *hostRehearsal) programs(ctx context.Context, units []string) (out []rehearse.Program, err error) {
	for _, u := range units {
		argv, env, err := h.m.CommandLine(ctx, u)
		if err != nil {
			return nil, err
		}
		out = append(out, rehearse.Program{Argv: argv, Env: env})
	}
	return out, nil
}

// memoryAvailable is MemAvailable of the kernel, in bytes.
func memoryAvailable() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "MemAvailable:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(v, "kB")), 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}

// InsideRehearsal is what runs in the sandbox.
func InsideRehearsal(ctx context.Context, path string) error {
	spec, err := rehearse.ReadSpec(path)
	if err != nil {
		return err
	}
	if err := furnish(spec.API.VIP); err != nil {
		return fmt.Errorf("furnish the network of the rehearsal: %w", err)
	}
	c, err := kube.New(kube.Config{URL: spec.API.URL, CAFile: spec.API.CAFile, TokenFile: spec.API.TokenFile,
		ClientCertFile: spec.API.ClientCertFile, ClientKeyFile: spec.API.ClientKeyFile})
	if err != nil {
		return err
	}
	defer c.Close()
	return rehearse.Inside(ctx, spec, c)
}

// furnish gives an empty network what an API server looks for at its start: a default
// route, and the virtual IP. Both lead to loopback. It refuses a network in which there
// is anything else.
func furnish(vip string) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	if len(links) != 1 || links[0].Attrs().Flags&net.FlagLoopback == 0 {
		return errors.New("there is more than loopback: this is no sandbox")
	}
	if err := netlink.LinkSetUp(links[0]); err != nil {
		return err
	}
	if vip != "" {
		a, err := netlink.ParseAddr(vip + "/32")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(links[0], a); err != nil {
			return err
		}
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: links[0].Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}})
}

// rehearse tries a promotion on this host and keeps what came of it.
func (a *agent) rehearse(ctx context.Context, in checkRequest) {
	ctx, cancel := context.WithTimeoutCause(ctx, rehearseLimit, fmt.Errorf("it took longer than %v", rehearseLimit))
	defer cancel()
	begin := time.Now()
	rep := a.host.Rehearse.Rehearse(ctx, a.term.Load())
	r := &api.Rehearsal{Node: a.cfg.Node, At: begin.UTC(), OK: rep.Err == nil, Depth: string(rep.Depth), ReadySeconds: rep.Ready.Seconds(), Seconds: time.Since(begin).Seconds(), Why: rep.Shallow}
	for _, s := range rep.Steps {
		r.Steps = append(r.Steps, api.Step{Name: s.Name, Seconds: s.Took.Seconds()})
	}
	if rep.Err != nil {
		r.Error = rep.Err.Error()
		a.log.Error("the rehearsal of a promotion failed", "by", in.By, "depth", r.Depth, "err", rep.Err)
	} else {
		a.log.Info("rehearsed a promotion", "by", in.By, "depth", r.Depth, "ready_after", rep.Ready.Round(time.Millisecond), "not_deeper", r.Why)
	}
	if ctx.Err() != nil && a.phase() != lease.Standby {
		return // cut off by what it is for: it says nothing
	}
	a.noteCheck(func(res *results) { res.Rehearsed = r })
}

func rehearsedText(r api.Rehearsal) string {
	if !r.OK {
		return fmt.Sprintf("%s: the rehearsal failed: %s", r.Node, r.Error)
	}
	t := fmt.Sprintf("%s: a promotion would be ready in %.1f s (rehearsed: %s)", r.Node, r.ReadySeconds, r.Depth)
	for _, s := range r.Steps {
		t += fmt.Sprintf("\n  %-14s %.2f s", s.Name, s.Seconds)
	}
	if r.Why != "" {
		t += "\n  the control plane was not started: " + r.Why
	}
	return t
}
