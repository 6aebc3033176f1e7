//go:build e2e

package avahi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"relevo.dev/relevo/test/hosts"
)

// labHost is a host of its own on this machine, as far as multicast DNS can tell: its
// own network and processes, and a Debian, the one of the test hosts, with a dbus-daemon,
// and an avahi-daemon when it is started. Everything on it ends with its first process.
type labHost struct {
	t       *testing.T
	name    string
	pid     string
	dir     string // the same folder on this machine and in its Debian
	bus     string
	started []*exec.Cmd
}

const busConfig = `<busconfig><type>system</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`

const avahiConfig = `[server]
host-name=%s
use-ipv4=yes
use-ipv6=no
[publish]
publish-workstation=yes
`

// lab makes two hosts with a cable between them, 10.77.0.1 and .2.
func lab(t *testing.T) (h [2]*labHost) {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED: real hosts take their time")
	}
	base, err := hosts.Base(t.Context(), os.Stderr)
	if skip := (*hosts.SkipError)(nil); errors.As(err, &skip) {
		t.Skip("SKIPPED: " + strings.ReplaceAll(skip.Reason, "\n", "; "))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Parallel() // most of the time they wait
	for i := range h {
		h[i] = newLabHost(t, base, fmt.Sprintf("lab%d", i+1))
	}
	run := func(name string, args ...string) {
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
	}
	run("ip", "link", "add", "eth0", "netns", h[0].pid, "type", "veth", "peer", "name", "eth0", "netns", h[1].pid)
	for i := range h {
		for _, line := range []string{"link set lo up", fmt.Sprintf("addr add 10.77.0.%d/24 dev eth0", i+1), "link set eth0 up"} {
			if out, err := h[i].command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
				t.Fatalf("ip %s: %v: %s", line, err, out)
			}
		}
		h[i].startBus()
	}
	return h
}

// labScript makes a host's root and becomes its first process. Its arguments are the
// image, which is not written to, and the host's folder. What is written goes to memory.
// It ends when the test does, for then nobody holds its standard input.
const labScript = `set -e
mount --make-rprivate /
mkdir "$2/disk"
mount -t tmpfs tmpfs "$2/disk"
cd "$2/disk"
mkdir upper work root
mount -t overlay overlay -o lowerdir="$1",upperdir=upper,workdir=work root
mkdir -p "root$2"
mount --bind "$2" "root$2"
mount --rbind /dev root/dev
mount -t proc proc root/proc
mount -t tmpfs tmpfs root/run
mkdir root/run/avahi-daemon
exec chroot root sh -c "echo up && exec cat"`

func newLabHost(t *testing.T, base, name string) *labHost {
	dir, err := os.MkdirTemp("/tmp", "lab") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	first := exec.Command("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", labScript, "sh", base, dir)
	first.Stderr = os.Stderr
	stdin, err := first.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := first.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	h := &labHost{t: t, name: name, dir: dir, bus: "unix:path=" + filepath.Join(dir, "bus")}
	t.Cleanup(func() {
		stdin.Close()
		first.Wait()
		for _, c := range h.started {
			c.Wait()
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatalf("the host did not start: %q, %v", line, err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", first.Process.Pid, first.Process.Pid))
	if err != nil {
		t.Skipf("SKIPPED: this kernel does not tell a process's children: %v", err)
	}
	h.pid = strings.TrimSpace(string(children))
	return h
}

// command runs a program of this machine on the host.
func (h *labHost) command(name string, args ...string) *exec.Cmd {
	return h.enter([]string{name}, args...)
}

// debian runs a program of the host's own.
func (h *labHost) debian(name string, args ...string) *exec.Cmd {
	return h.enter([]string{"chroot", filepath.Join(h.dir, "disk", "root"), name}, args...)
}

func (h *labHost) enter(name []string, args ...string) *exec.Cmd {
	c := exec.Command("nsenter", slices.Concat([]string{"-t", h.pid, "-n", "-m", "-p", "--"}, name, args)...)
	c.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DBUS_SYSTEM_BUS_ADDRESS="+h.bus)
	return c
}

func (h *labHost) start(c *exec.Cmd) {
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.started = append(h.started, c) // the host's end ends it
}

func (h *labHost) file(name, text string) string {
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h *labHost) startBus() {
	socket := filepath.Join(h.dir, "bus")
	h.start(h.debian("dbus-daemon", "--nofork", "--config-file="+h.file("bus.conf", fmt.Sprintf(busConfig, socket))))
	until(h.t, "dbus-daemon listens", func() bool { _, err := os.Stat(socket); return err == nil })
}

func (h *labHost) startAvahi() {
	h.start(h.debian("avahi-daemon", "--no-drop-root", "--no-chroot", "--no-rlimits", "-f", h.file("avahi.conf", fmt.Sprintf(avahiConfig, h.name))))
}

// endAvahi by a signal, and wait for its end.
func (h *labHost) endAvahi(signal string) {
	c, err := dbus.Connect(h.bus)
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	var pid uint32
	if err := c.BusObject().Call("org.freedesktop.DBus.GetConnectionUnixProcessID", 0, busName).Store(&pid); err != nil {
		h.t.Fatal(err)
	}
	if out, err := h.command("sh", "-c", fmt.Sprintf("kill -%s %d", signal, pid)).CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	until(h.t, "avahi-daemon has ended", func() bool {
		state, err := h.command("sh", "-c", fmt.Sprintf("cat /proc/%d/stat", pid)).Output()
		return err != nil || strings.Contains(string(state), ") Z ")
	})
	h.debian("rm", "-f", "/run/avahi-daemon/pid").Run()
}

// hostName that avahi-daemon has; "" = it does not run.
func (h *labHost) hostName() (name string) {
	c, err := dbus.Connect(h.bus)
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	var state int32
	o := c.Object(busName, "/")
	if o.Call(ifServer+".GetState", dbus.FlagNoAutoStart).Store(&state) != nil || state != serverRunning {
		return ""
	}
	o.Call(ifServer+".GetHostName", dbus.FlagNoAutoStart).Store(&name)
	return name
}

// output is what a command that goes on has said until now.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Split(strings.TrimSpace(o.buf.String()), "\n")
}

// browse watches a type with avahi-browse: what came ("=") and went ("-").
func (h *labHost) browse(typ string) *output {
	o := &output{}
	c := h.debian("avahi-browse", "-rp", typ)
	c.Stdout = o
	h.start(c)
	return o
}

// board is a board in this process, which only speaks with the host's D-Bus.
func (h *labHost) board(backend string, browse ...string) *Board {
	b := New(Config{Backend: backend, Browse: browse, BusAddress: h.bus, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(h.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Run(ctx)
	}()
	h.t.Cleanup(func() {
		cancel()
		<-done
	})
	return b
}

// boardProcess is a board on the host itself, for what opens sockets. It takes sets
// of services, one line each, and says how they stand.
func (h *labHost) boardProcess(backend string) (publish func(map[string]Service), says *output) {
	exe, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	c := h.command(exe)
	c.Env = append(c.Env, "AVAHI_TEST_BOARD="+backend, "AVAHI_TEST_HOST="+h.name)
	says = &output{}
	c.Stdout, c.Stderr = says, os.Stderr
	stdin, err := c.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	h.start(c)
	h.t.Cleanup(func() { stdin.Close() })
	return func(want map[string]Service) {
		if err := json.NewEncoder(stdin).Encode(want); err != nil {
			h.t.Error(err)
		}
	}, says
}

// TestMain is the board of a host, where boardProcess started it.
func TestMain(m *testing.M) {
	if backend := os.Getenv("AVAHI_TEST_BOARD"); backend != "" {
		runBoard(backend)
		return
	}
	os.Exit(m.Run())
}

func runBoard(backend string) {
	b := New(Config{Backend: backend, Browse: []string{"_http._tcp"}, Host: os.Getenv("AVAHI_TEST_HOST"), Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		for in := json.NewDecoder(os.Stdin); ; {
			var want map[string]Service
			if err := in.Decode(&want); err != nil {
				if err != io.EOF {
					fmt.Fprintln(os.Stderr, "the board's standard input:", err)
				}
				return
			}
			b.Publish(want)
		}
	}()
	go func() {
		for {
			select {
			case <-b.Changes():
				fmt.Println("stands", strconv.Quote(b.Backend()), stands(b), list(b))
			case <-ctx.Done():
				return
			}
		}
	}()
	b.Run(ctx)
}

// until waits for what has to come.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	end := time.Now().Add(30 * time.Second)
	for !done() {
		if time.Now().After(end) {
			t.Fatalf("it did not come to this: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
