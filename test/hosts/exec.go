package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// hostEnv is the environment of every command, as of a root shell.
var hostEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
	"LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "SYSTEMD_PAGER=", "TERM=dumb",
}

// Command prepares a command on the host, for a caller who wants its pipes. It runs
// as root in all of the host's namespaces, and dies with ctx or the host's power.
// Call its release function when it has ended or was never started.
func (h *Host) Command(ctx context.Context, args ...string) (c *exec.Cmd, release func(), err error) {
	if len(args) == 0 {
		return nil, nil, errors.New("run nothing: give a command")
	}
	pid, err := h.pid1()
	if err != nil {
		return nil, nil, fmt.Errorf("%s: run %s: %w", h.Name, args[0], err)
	}
	if frozen := h.event("frozen", "0"); frozen != nil {
		return nil, nil, fmt.Errorf("%s: run %s: %w", h.Name, args[0], ErrFrozen)
	}
	// Beside the container's own cgroup, so that freezing and power cuts take it in.
	cgroup, err := os.Open(h.lab.path(h.cgroup + "/run"))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: run %s: %w", h.Name, args[0], err)
	}
	c = exec.CommandContext(ctx, "nsenter", append([]string{"--target=" + strconv.Itoa(pid),
		"--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--wd=/", "--"}, args...)...)
	c.Env = hostEnv
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	killGroup(c)
	return c, func() { cgroup.Close() }, nil
}

// killGroup makes the end of a command's context the end of its children, too.
func killGroup(c *exec.Cmd) {
	c.Cancel = func() error {
		err := syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	c.WaitDelay = 2 * time.Second
}

// Run runs a command on the host and returns what it wrote to stdout. The error has
// the end of stderr, and wraps *exec.ExitError.
func (h *Host) Run(ctx context.Context, args ...string) (stdout string, err error) {
	return h.run(ctx, nil, args...)
}

// Script runs a shell script on the host (sh -e).
func (h *Host) Script(ctx context.Context, script string) (stdout string, err error) {
	return h.run(ctx, nil, "sh", "-ec", script)
}

func (h *Host) run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	c, release, err := h.Command(ctx, args...)
	if err != nil {
		return "", err
	}
	defer release()
	c.Stdin = stdin
	out, err := output(c)
	if err != nil {
		err = fmt.Errorf("%s: %s: %w", h.Name, strings.Join(args, " "), err)
	}
	return out, err
}

// disk runs a script where the host's files are: on the host if it has power, else
// in its disk, as one would put the card into another machine. args are $1, $2, …
func (h *Host) disk(ctx context.Context, stdin io.Reader, script string, args ...string) (string, error) {
	args = append([]string{"sh", "-ec", script, "sh"}, args...)
	if h.On() {
		return h.run(ctx, stdin, args...)
	}
	c := h.lab.enter(ctx, append([]string{"chroot", h.dir + "/root"}, args...)...)
	c.Env, c.Stdin = append(hostEnv, "SYSTEMD_OFFLINE=1"), stdin
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	killGroup(c)
	out, err := output(c)
	if err != nil {
		err = fmt.Errorf("on the disk of %s: %w", h.Name, err)
	}
	return out, err
}

// WriteFile puts a file onto the host, on or off, with its folders, by a rename.
func (h *Host) WriteFile(ctx context.Context, path string, data []byte, mode fs.FileMode) error {
	return h.write(ctx, path, bytes.NewReader(data), mode)
}

// CopyIn puts a file of this machine onto the host, on or off.
func (h *Host) CopyIn(ctx context.Context, src, dst string, mode fs.FileMode) error {
	f, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("copy to %s: %w", h.Name, err)
	}
	defer f.Close()
	return h.write(ctx, dst, f, mode)
}

func (h *Host) write(ctx context.Context, path string, data io.Reader, mode fs.FileMode) error {
	const script = `mkdir -p "$(dirname "$1")"; cat >"$1.rlv-new"; chmod "$2" "$1.rlv-new"; mv -f "$1.rlv-new" "$1"`
	_, err := h.disk(ctx, data, script, path, fmt.Sprintf("%04o", mode.Perm()))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// ReadFile reads a file of the host, on or off. Off, what lay on a tmpfs (/run, /tmp)
// is gone. The error is fs.ErrNotExist if there is none.
func (h *Host) ReadFile(ctx context.Context, path string) ([]byte, error) {
	out, err := h.disk(ctx, nil, `[ -e "$1" ] || exit 44; cat "$1"`, path)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 44 {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("%s: read %s: %w", h.Name, path, err)
	}
	return []byte(out), nil
}

// UnitState is the ActiveState of a unit: active, inactive, failed, activating, …
func (h *Host) UnitState(ctx context.Context, unit string) (string, error) {
	out, err := h.Run(ctx, "systemctl", "show", "--property=ActiveState", "--value", unit)
	return strings.TrimSpace(out), err
}

// WaitUnit waits until a unit is in a state; see UnitState. The error ends with the
// unit's last words.
func (h *Host) WaitUnit(ctx context.Context, unit, state string) error {
	err := Until(ctx, fmt.Sprintf("%s on %s to be %s", unit, h.Name, state), func(ctx context.Context) error {
		got, err := h.UnitState(ctx, unit)
		if err == nil && got != state {
			err = fmt.Errorf("it is %s", got)
		}
		return err
	})
	if err != nil {
		// The context is used up; reading a journal does not take long.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		last, _ := h.Journal(ctx, unit)
		err = fmt.Errorf("%w\n%s", err, lastLines(last, 10))
	}
	return err
}

// Journal is the host's journal of all its boots, of some units or of all. It is read
// from the disk, so it can be had from a host that is off or frozen as well.
func (h *Host) Journal(ctx context.Context, units ...string) (string, error) {
	args := []string{"journalctl", "--directory=" + h.dir + "/root/var/log/journal",
		"--no-pager", "--quiet", "--output=short-iso-precise"}
	for _, u := range units {
		args = append(args, "--unit="+u)
	}
	out, err := output(h.lab.enter(ctx, args...))
	if err != nil {
		return out, fmt.Errorf("read the journal of %s: %w", h.Name, err)
	}
	return out, nil
}

// Dump writes every host's whole journal, its journal of each of the units, and its
// console into a folder.
func (l *Lab) Dump(ctx context.Context, dir string, units ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("dump the journals: %w", err)
	}
	var errs []error
	save := func(name, text string, err error) {
		if err == nil && text != "" {
			err = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
		}
		errs = append(errs, err)
	}
	for _, h := range l.hosts {
		text, err := h.Journal(ctx)
		save(h.Name+".journal.log", text, err)
		for _, u := range units {
			text, err := h.Journal(ctx, u)
			save(h.Name+"."+u+".log", text, err)
		}
		if console, err := os.ReadFile(filepath.Join(h.dir, "console.log")); err == nil {
			save(h.Name+".console.log", string(console), nil)
		}
	}
	return errors.Join(errs...)
}
