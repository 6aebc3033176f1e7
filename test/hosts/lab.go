package hosts

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

//go:embed anchor.sh
var anchorScript string

// Options of a lab. The zero value is good.
type Options struct {
	// Log is told what happens to the hosts, one line a call; nil is silence.
	Log func(format string, args ...any)
	// Out gets what Ensure says while it installs and builds; nil: os.Stderr.
	Out io.Writer
	// BootTimeout is how long a host may take to boot; 0: 60 s (it takes 1 to 3 s).
	BootTimeout time.Duration
	// CardMB is the size of each host's card; 0 = as large as this machine's disk. Only a
	// card of its own can be full, or fail.
	CardMB int
	// Kube gives the hosts the programs of a control plane, see InstallKube: beneath what
	// they write, as the base image is, so that they are not copied to each.
	Kube bool
}

// Lab is a set of hosts on one bridge. Its methods may be called from several
// goroutines, but adding hosts and closing only from one.
type Lab struct {
	// Dir is the folder with the hosts' disks; gone after Close.
	Dir string

	name   string // also its cgroup: rlv-<pid>-<n>
	base   string // lower folders of the hosts' disks, the highest first
	opts   Options
	unlock func()
	anchor *exec.Cmd
	pipe   io.Closer // its end ends the anchor
	hosts  []*Host
	user   *user // the test that has it

	mu    sync.Mutex
	rules []rule // what the bridge drops
}

// New makes an empty lab: Ensure, Reserve, then a bridge without hosts. The error is a
// [*SkipError] if this machine cannot have hosts. The caller closes the lab.
func New(ctx context.Context, o Options) (*Lab, error) {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if o.Out == nil {
		o.Out = os.Stderr
	}
	if o.BootTimeout == 0 {
		o.BootTimeout = time.Minute
	}
	base, err := Base(ctx, o.Out)
	if err != nil {
		return nil, err
	}
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	if o.Kube {
		programs, err := kubeLayer(ctx, o.Out, cache)
		if err != nil {
			return nil, err
		}
		base = programs + ":" + base
	}
	unlock, err := claim(o.Out)
	if err != nil {
		return nil, err
	}
	labs := filepath.Join(cache, "labs")
	name := fmt.Sprintf("rlv-%d-%d", os.Getpid(), time.Now().UnixMilli()%1_000_000)
	l := &Lab{name: name, base: base, opts: o, unlock: unlock, Dir: filepath.Join(labs, name)}
	if err := l.start(labs); err != nil {
		unlock()
		return nil, err
	}
	if err := l.plugBridge(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// start brings up the anchor.
func (l *Lab) start(labs string) error {
	if err := os.MkdirAll(labs, 0o755); err != nil {
		return fmt.Errorf("make the folder of the labs: %w", err)
	}
	// Not bound to a context: the anchor outlives it, to clean up.
	c := exec.Command("unshare", "--mount", "--", "sh", "-c", anchorScript, "anchor", l.name, labs)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the test; the anchor sees it end
	var text strings.Builder
	c.Stderr = &text
	c.WaitDelay = time.Second // killed, it leaves a child that holds stderr
	in, err := c.StdinPipe()
	if err != nil {
		return fmt.Errorf("start the lab: %w", err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start the lab: %w", err)
	}
	if err := c.Start(); err != nil {
		return fmt.Errorf("start the lab: %w", err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		in.Close()
		return fmt.Errorf("start the lab: its anchor said %q (%v, %v): %s", line, err, c.Wait(), text.String())
	}
	l.anchor, l.pipe = c, in
	return nil
}

// Close ends every host as a power cut does, and removes disks, networks and
// cgroups.
func (l *Lab) Close() error {
	defer l.unlock()
	l.pipe.Close()
	err := l.anchor.Wait()
	for _, h := range l.hosts {
		h.closed()
	}
	if err != nil {
		return fmt.Errorf("close the lab %s: %w", l.name, err)
	}
	if _, err := os.Stat(l.Dir); err == nil {
		return fmt.Errorf("close the lab: %s could not be removed", l.Dir)
	}
	return nil
}

// Hosts lists the hosts in the order in which they were added.
func (l *Lab) Hosts() []*Host { return slices.Clone(l.hosts) }

// Host finds a host by its name; nil if there is none.
func (l *Lab) Host(name string) *Host {
	for _, h := range l.hosts {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// AddHosts adds hosts that are off. The first one of the lab gets 10.77.0.1, the
// second 10.77.0.2 and so on.
func (l *Lab) AddHosts(ctx context.Context, names ...string) ([]*Host, error) {
	var added []*Host
	for _, name := range names {
		h, err := l.addHost(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("add host %s: %w", name, err)
		}
		added = append(added, h)
	}
	return added, nil
}

func (l *Lab) addHost(ctx context.Context, name string) (*Host, error) {
	if !hostName(name) || l.Host(name) != nil {
		return nil, errors.New("the name must be new, and 1 to 12 letters, digits or hyphens, a letter first")
	}
	n := len(l.hosts) + 1
	if n > maxHosts {
		return nil, fmt.Errorf("a lab has room for %d hosts", maxHosts)
	}
	h := &Host{
		Name: name, lab: l, number: n, IP: netip.AddrFrom4([4]byte{10, 77, 0, byte(n)}),
		dir: filepath.Join(l.Dir, name), cgroup: "/sys/fs/cgroup/" + l.name + "/" + name,
	}
	if err := h.mountCard(ctx); err != nil {
		return nil, err
	}
	if _, err := l.sh(ctx, `mkdir "$1" "$1/init" "$1/run"`, h.cgroup); err != nil {
		return nil, err
	}
	l.hosts = append(l.hosts, h)
	return h, h.firstFiles(ctx)
}

// Boot switches hosts on, all of the lab if none is named, and waits until systemd
// has finished starting them.
func (l *Lab) Boot(ctx context.Context, hosts ...*Host) error {
	if len(hosts) == 0 {
		hosts = l.hosts
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, h := range hosts {
		g.Go(func() error { return h.Boot(ctx) })
	}
	return g.Wait()
}

// PowerCut cuts the power of hosts at the same moment, as near as it can be done:
// all links first, then all processes.
func (l *Lab) PowerCut(ctx context.Context, hosts ...*Host) error {
	if len(hosts) == 0 {
		hosts = l.hosts
	}
	var errs []error
	for _, h := range hosts {
		errs = append(errs, h.LinkDown(ctx))
	}
	for _, h := range hosts {
		errs = append(errs, h.kill())
	}
	for _, h := range hosts {
		errs = append(errs, h.dead(ctx))
	}
	return errors.Join(errs...)
}

// enter is a command in the lab's mount namespace, outside every host.
func (l *Lab) enter(ctx context.Context, args ...string) *exec.Cmd {
	ns := "--mount=/proc/" + strconv.Itoa(l.anchor.Process.Pid) + "/ns/mnt"
	return exec.CommandContext(ctx, "nsenter", append([]string{ns, "--"}, args...)...)
}

// sh runs a script in the lab's mount namespace; args are its $1, $2, …
func (l *Lab) sh(ctx context.Context, script string, args ...string) (string, error) {
	return output(l.enter(ctx, append([]string{"sh", "-c", script, "sh"}, args...)...))
}

// path is a path of the lab's mount namespace as this process sees it.
func (l *Lab) path(p string) string {
	return "/proc/" + strconv.Itoa(l.anchor.Process.Pid) + "/root" + p
}

// output runs a command. The error has what it wrote to stderr.
func output(c *exec.Cmd) (string, error) {
	var out, errs strings.Builder
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		text := lastLines(errs.String(), 10)
		if text == "" {
			text = lastLines(out.String(), 10)
		}
		return out.String(), fmt.Errorf("%w: %s", err, text)
	}
	return out.String(), nil
}

func hostName(s string) bool {
	for i, r := range s {
		letter := r >= 'a' && r <= 'z'
		if !letter && (i == 0 || r != '-' && (r < '0' || r > '9')) {
			return false
		}
	}
	return s != "" && len(s) <= 12 // the name of its cable, too: 15 for the kernel
}
