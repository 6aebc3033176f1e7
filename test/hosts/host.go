package hosts

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Host is one Debian machine of a lab: on or off, frozen or not, with a disk that
// outlives power cuts. Its methods may be called from several goroutines; those
// that switch it on or off only from one.
type Host struct {
	Name string     // also its host name
	IP   netip.Addr // its address on eth0; Readdress changes it

	lab    *Lab
	number int
	dir    string // card, root and console.log, in the lab's mount namespace
	cgroup string // of everything the host runs, in the lab's mount namespace

	mu   sync.Mutex
	gone chan struct{} // closed when the container has ended; nil: never booted
}

// ErrOff is the error of everything that needs a host which has power.
var ErrOff = errors.New("the host is off")

// ErrFrozen is the error of commands on a frozen host: they would wait for ever.
var ErrFrozen = errors.New("the host is frozen")

// firstFiles gives a new disk what makes a host that host and no other.
func (h *Host) firstFiles(ctx context.Context) error {
	var id [16]byte
	rand.Read(id[:])
	for path, text := range map[string]string{
		"/etc/hostname":   h.Name + "\n",
		"/etc/hosts":      "127.0.0.1 localhost\n127.0.1.1 " + h.Name + "\n::1 localhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n",
		"/etc/machine-id": hex.EncodeToString(id[:]) + "\n",
		// No DNS: names are found by mDNS or not at all.
		"/etc/resolv.conf": "",
	} {
		if err := h.WriteFile(ctx, path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// On says whether the host has power.
func (h *Host) On() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone == nil {
		return false
	}
	select {
	case <-h.gone:
		return false
	default:
		return true
	}
}

// Boot switches the host on with its cable plugged in, and waits until systemd has
// started everything ("running", or "degraded" if a unit failed, which is logged).
func (h *Host) Boot(ctx context.Context) error {
	start := time.Now()
	if err := h.PowerOn(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, h.lab.opts.BootTimeout)
	defer cancel()
	state := ""
	err := Until(ctx, h.Name+" to boot", func(ctx context.Context) error {
		if !h.On() {
			return fmt.Errorf("the container ended; its console: %s", h.console())
		}
		out, err := h.Run(ctx, "systemctl", "is-system-running", "--wait")
		// It exits with 1 when a unit failed.
		if state = strings.TrimSpace(out); state == "running" || state == "degraded" {
			return nil
		}
		return fmt.Errorf("systemd is %q: %w", state, err)
	})
	if err != nil {
		return err
	}
	failed := ""
	if state == "degraded" {
		out, _ := h.Run(ctx, "systemctl", "list-units", "--failed", "--plain", "--no-legend")
		failed = ", failed: " + strings.Join(strings.Fields(out), " ")
	}
	h.lab.opts.Log("%s: booted in %.1f s, %s%s", h.Name, time.Since(start).Seconds(), state, failed)
	return nil
}

// PowerOn switches the host on and does not wait for anything.
func (h *Host) PowerOn(ctx context.Context) error {
	if h.On() {
		return fmt.Errorf("boot %s: it is on", h.Name)
	}
	if err := h.plug(ctx); err != nil {
		return err
	}
	if err := h.set("cgroup.freeze", "0"); err != nil {
		return err
	}
	c, err := h.container()
	if err != nil {
		return fmt.Errorf("boot %s: %w", h.Name, err)
	}
	gone := make(chan struct{})
	h.mu.Lock()
	h.gone = gone
	h.mu.Unlock()
	go func() { // ends with the container; PowerCut, Shutdown and Lab.Close wait for it
		defer close(gone)
		for {
			err := c.Wait() // a cut power is an "error"; the console has the reasons of others
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != rebooted {
				return
			}
			h.lab.opts.Log("%s: reboots", h.Name)
			if c, err = h.container(); err != nil {
				h.lab.opts.Log("%s: does not come back: %v", h.Name, err)
				return
			}
		}
	}()
	return nil
}

// rebooted is systemd-nspawn's exit status when the host asked for a reboot and nobody
// but its caller could start it again (--keep-unit).
const rebooted = 133

// container starts the host's systemd.
func (h *Host) container() (*exec.Cmd, error) {
	console, err := os.OpenFile(filepath.Join(h.dir, "console.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer console.Close()
	cgroup, err := os.Open(h.lab.path(h.cgroup + "/init"))
	if err != nil {
		return nil, err
	}
	defer cgroup.Close()
	// Not bound to a context: the host runs until its power is cut.
	c := h.lab.enter(context.Background(), "systemd-nspawn", "--quiet", "--settings=no",
		"--directory="+h.dir+"/root", "--boot", "--machine="+h.lab.name+"-"+h.Name, "--hostname="+h.Name,
		"--register=no", "--keep-unit", "--network-namespace-path=/run/netns/"+h.Name,
		"--capability=all", "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=read-only")
	c.Stdout, c.Stderr = console, console
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	return c, c.Start()
}

// PowerCut pulls the plug: first the link, for the host's kernel would go on
// answering, then SIGKILL for every process at once. What was written to disk stays;
// so does the page cache, see the package's documentation. The error is nil for a
// host that is off.
func (h *Host) PowerCut(ctx context.Context) error { return h.lab.PowerCut(ctx, h) }

func (h *Host) kill() error {
	if !h.On() {
		return nil
	}
	h.lab.opts.Log("%s: power cut", h.Name)
	return h.set("cgroup.kill", "1")
}

// dead waits until nothing of a host runs, and clears away its network.
func (h *Host) dead(ctx context.Context) error {
	h.mu.Lock()
	gone := h.gone
	h.mu.Unlock()
	if gone == nil {
		return nil
	}
	select {
	case <-gone:
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of %s: %w", h.Name, ctx.Err())
	}
	err := Until(ctx, "the end of the last process of "+h.Name, func(context.Context) error {
		return h.event("populated", "0")
	})
	if err != nil {
		return err
	}
	// A cgroup that was once killed is of no more use: Linux (6.18, seen) kills whatever
	// is born into it by clone3(CLONE_INTO_CGROUP), for it compares the kill counter of the
	// cgroup with that of the parent's. So each life of a host gets cgroups of its own.
	script := `ip -n $1 link del $2 2>/dev/null; ip netns del $2 2>/dev/null
find "$3" -depth -type d -exec rmdir {} \;
mkdir "$3" "$3/init" "$3/run"`
	if _, err := h.lab.sh(ctx, script, switchNet, h.Name, h.cgroup); err != nil {
		return fmt.Errorf("clear up after %s: %w", h.Name, err)
	}
	return nil
}

// Shutdown switches the host off in an orderly way, as `poweroff` does.
func (h *Host) Shutdown(ctx context.Context) error {
	pid, err := h.pid1()
	if err != nil {
		return fmt.Errorf("shut down %s: %w", h.Name, err)
	}
	h.lab.opts.Log("%s: shutdown", h.Name)
	const poweroff = syscall.Signal(34 + 4) // SIGRTMIN+4, systemd(1)
	if err := syscall.Kill(pid, poweroff); err != nil {
		return fmt.Errorf("shut down %s: %w", h.Name, err)
	}
	return h.dead(ctx)
}

// Freeze stops every process of the host where it stands. Its kernel goes on: ping and
// ARP are answered, connections are accepted and kept.
func (h *Host) Freeze(ctx context.Context) error { return h.freeze(ctx, "1") }

// Thaw lets a frozen host go on.
func (h *Host) Thaw(ctx context.Context) error { return h.freeze(ctx, "0") }

func (h *Host) freeze(ctx context.Context, state string) error {
	what := map[string]string{"1": "freeze", "0": "thaw"}[state]
	if !h.On() {
		return fmt.Errorf("%s %s: %w", what, h.Name, ErrOff)
	}
	if err := h.set("cgroup.freeze", state); err != nil {
		return err
	}
	err := Until(ctx, what+" "+h.Name, func(context.Context) error { return h.event("frozen", state) })
	if err == nil {
		h.lab.opts.Log("%s: %s", h.Name, what)
	}
	return err
}

// set writes a file of the host's cgroup.
func (h *Host) set(file, value string) error {
	if err := os.WriteFile(h.lab.path(h.cgroup+"/"+file), []byte(value), 0); err != nil {
		return fmt.Errorf("set %s of %s: %w", file, h.Name, err)
	}
	return nil
}

// event is nil if the host's cgroup.events has that value for key.
func (h *Host) event(key, want string) error {
	got, err := cgroupEvent(h.lab.path(h.cgroup), key)
	if err == nil && got != want {
		err = fmt.Errorf("%s is %s", key, got)
	}
	return err
}

// cgroupEvent reads a value from cgroup.events.
func cgroupEvent(dir, key string) (string, error) {
	text, err := os.ReadFile(dir + "/cgroup.events")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), " "); k == key {
			return v, nil
		}
	}
	return "", fmt.Errorf("%s/cgroup.events has no %s", dir, key)
}

// pid1 is the host's systemd as this machine numbers it. It changes when the host
// reboots by itself.
func (h *Host) pid1() (int, error) {
	if !h.On() {
		return 0, ErrOff
	}
	payload := h.lab.path(h.cgroup + "/init/payload")
	// In init.scope once systemd has arranged itself, in the payload's root before.
	for _, dir := range []string{payload + "/init.scope", payload} {
		text, err := os.ReadFile(dir + "/cgroup.procs")
		if err != nil {
			continue
		}
		for _, s := range strings.Fields(string(text)) {
			status, err := os.ReadFile("/proc/" + s + "/status")
			if err == nil && strings.HasPrefix(string(status), "Name:\tsystemd\n") && isInit(string(status)) {
				return strconv.Atoi(s)
			}
		}
	}
	return 0, errors.New("systemd has not started yet")
}

// isInit says whether a /proc/PID/status is of a PID 1 in its own namespace.
func isInit(status string) bool {
	for line := range strings.Lines(status) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(ids)
			return len(f) > 1 && f[len(f)-1] == "1"
		}
	}
	return false
}

// console is the end of what the host's boots printed.
func (h *Host) console() string {
	text, err := os.ReadFile(filepath.Join(h.dir, "console.log"))
	if err != nil {
		return err.Error()
	}
	return lastLines(string(text), 15)
}

// closed waits for the end of the host when the lab has been closed.
func (h *Host) closed() {
	h.mu.Lock()
	gone := h.gone
	h.mu.Unlock()
	if gone != nil {
		<-gone
	}
}
