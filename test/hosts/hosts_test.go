//go:build e2e

package hosts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if err := Reserve(os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(m.Run())
}

// seconds is the time that one step may take at most; nothing asserts what it took.
func seconds(t *testing.T, n int) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pings says whether one host hears another.
func pings(ctx context.Context, from, to *Host) bool {
	_, err := from.Run(ctx, "ping", "-c1", "-W1", "-q", to.IP.String())
	return err == nil
}

// wantPing waits, as a new neighbour may take a moment.
func wantPing(t *testing.T, from, to *Host, want bool) {
	t.Helper()
	ok(t, Until(seconds(t, 10), "ping", func(ctx context.Context) error {
		if pings(ctx, from, to) != want {
			return errors.New(from.Name + " to " + to.Name + " is not as it should be")
		}
		return nil
	}))
}

func TestHosts(t *testing.T) {
	lab := NewLab(t, Options{})
	h := must(lab.AddHosts(t.Context(), "n1", "n2", "n3", "n4"))(t)
	ok(t, lab.Boot(seconds(t, 120)))

	t.Run("each is itself", func(t *testing.T) {
		seen := map[string]bool{}
		for _, h := range h {
			out := must(h.Script(seconds(t, 10), `hostname; cat /etc/machine-id; ip -4 -o address show eth0 | grep -o '10[.]77[^ ]*'`))(t)
			lines := strings.Fields(out)
			if len(lines) != 3 || lines[0] != h.Name || lines[2] != h.IP.String()+"/24" || seen[lines[1]] {
				t.Errorf("%s says it is %q", h.Name, lines)
			}
			seen[lines[1]] = true
			for _, u := range []string{"dbus.service", "avahi-daemon.service"} {
				ok(t, h.WaitUnit(seconds(t, 10), u, "active"))
			}
		}
		if _, err := h[0].Run(seconds(t, 10), "systemctl", "start", "no-such.service"); err == nil || !strings.Contains(err.Error(), "not found") {
			t.Errorf("a failed command says %v", err)
		}
	})

	t.Run("n4 sees what n1 publishes", func(t *testing.T) {
		c, release, err := h[0].Command(t.Context(), "avahi-publish-service", "cámara 1", "_relevo._tcp", "7946", "node=n1")
		ok(t, err)
		defer release()
		ok(t, c.Start())
		defer func() { _ = c.Cancel(); _ = c.Wait() }()
		ok(t, Until(seconds(t, 20), "the service", func(ctx context.Context) error {
			out, err := h[3].Run(ctx, "avahi-browse", "-rpt", "_relevo._tcp")
			if err == nil && !strings.Contains(out, "n1.local;10.77.0.1;7946;\"node=n1\"") {
				err = errors.New("avahi-browse says " + out)
			}
			return err
		}))
		if out := must(h[3].Run(seconds(t, 10), "getent", "ahostsv4", "n1.local"))(t); !strings.HasPrefix(out, "10.77.0.1") {
			t.Errorf("n1.local is %s", out)
		}
	})

	t.Run("power cut", func(t *testing.T) {
		n1 := h[0]
		ok(t, n1.WriteFile(seconds(t, 10), "/srv/kept/a", []byte("kept"), 0o640))
		ok(t, n1.WriteFile(seconds(t, 10), "/run/lost", []byte("lost"), 0o640))
		must(n1.Run(seconds(t, 10), "ip", "address", "add", "10.77.0.100/24", "dev", "eth0"))(t)
		wantPing(t, h[3], n1, true)
		ok(t, n1.PowerCut(seconds(t, 10)))
		wantPing(t, h[3], n1, false)
		if _, err := n1.Run(seconds(t, 10), "true"); !errors.Is(err, ErrOff) {
			t.Errorf("a command on a host without power: %v", err)
		}
		for _, when := range []string{"off", "on again"} {
			if got := string(must(n1.ReadFile(seconds(t, 10), "/srv/kept/a"))(t)); got != "kept" {
				t.Errorf("%s: the file says %q", when, got)
			}
			if _, err := n1.ReadFile(seconds(t, 10), "/run/lost"); err == nil {
				t.Errorf("%s: a file on tmpfs is still there", when)
			}
			if when == "off" {
				ok(t, n1.Boot(seconds(t, 60)))
			}
		}
		wantPing(t, h[3], n1, true)
		if out := must(n1.Run(seconds(t, 10), "ip", "address", "show", "eth0"))(t); strings.Contains(out, "10.77.0.100") {
			t.Error("an added address outlived the power cut")
		}
		ok(t, Until(seconds(t, 10), "the journal to tell of two boots", func(ctx context.Context) error {
			log, err := n1.Journal(ctx, "avahi-daemon.service")
			if err == nil && strings.Count(log, "Started avahi-daemon.service") != 2 {
				err = errors.New(log)
			}
			return err
		}))
	})

	t.Run("shutdown and reboot", func(t *testing.T) {
		ok(t, h[1].Shutdown(seconds(t, 60)))
		if h[1].On() {
			t.Fatal("still on")
		}
		ok(t, h[1].Boot(seconds(t, 60)))
		// A reboot from inside, as by a watchdog: the container starts again by itself.
		before := must(h[1].pid1())(t)
		_, _ = h[1].Run(seconds(t, 10), "systemctl", "reboot", "--force")
		ok(t, Until(seconds(t, 60), "the reboot", func(ctx context.Context) error {
			if pid, err := h[1].pid1(); err != nil || pid == before {
				return errors.Join(errors.New("the same systemd"), err)
			}
			_, err := h[1].Run(ctx, "systemctl", "is-system-running", "--wait")
			return err
		}))
	})

	t.Run("freeze", func(t *testing.T) {
		must(h[1].Run(seconds(t, 10), "systemd-run", "--unit=tick", "sh", "-c", "while :; do date +%s.%N >/run/tick; sleep 0.02; done"))(t)
		ok(t, h[1].WaitUnit(seconds(t, 10), "tick.service", "active"))
		ok(t, h[1].Freeze(seconds(t, 10)))
		if _, err := h[1].Run(seconds(t, 10), "true"); !errors.Is(err, ErrFrozen) {
			t.Errorf("a command on a frozen host: %v", err)
		}
		wantPing(t, h[3], h[1], true)
		ok(t, h[1].Thaw(seconds(t, 10)))
		tick := func() string { return string(must(h[1].ReadFile(seconds(t, 10), "/run/tick"))(t)) }
		first := tick()
		ok(t, Until(seconds(t, 10), "the clock to go on", func(context.Context) error {
			if tick() == first {
				return errors.New("it stands")
			}
			return nil
		}))
	})

	t.Run("links and partitions", func(t *testing.T) {
		ok(t, h[0].LinkDown(seconds(t, 10)))
		wantPing(t, h[3], h[0], false)
		ok(t, h[0].LinkUp(seconds(t, 10)))
		wantPing(t, h[3], h[0], true)

		ok(t, lab.Partition(seconds(t, 10), h[:2], h[2:]))
		wantPing(t, h[0], h[1], true)
		wantPing(t, h[2], h[3], true)
		wantPing(t, h[0], h[2], false)
		wantPing(t, h[3], h[1], false)
		ok(t, lab.Heal(seconds(t, 10)))
		wantPing(t, h[3], h[1], true)
		wantPing(t, h[0], h[2], true)

		// One way: n1 still reaches n2, whose answers are lost.
		ok(t, lab.Cut(seconds(t, 10), h[1], h[0]))
		wantPing(t, h[0], h[1], false)
		rx := func() string {
			return must(h[1].Run(seconds(t, 10), "grep", "eth0", "/proc/net/dev"))(t)
		}
		before := rx()
		pings(seconds(t, 10), h[0], h[1])
		if rx() == before {
			t.Error("nothing arrived on the way that is open")
		}
		ok(t, lab.Heal(seconds(t, 10)))
		wantPing(t, h[0], h[1], true)
	})

	t.Run("dial from inside", func(t *testing.T) {
		// A listener of the test on n1, reached from n4 and not from this machine.
		var l net.Listener
		ok(t, h[0].Do(func() (err error) { l, err = net.Listen("tcp", "10.77.0.1:4711"); return }))
		defer l.Close()
		for name, dial := range map[string]func(context.Context, string, string) (net.Conn, error){"n4": h[3].DialContext, "switch": lab.DialContext} {
			c, err := dial(seconds(t, 10), "tcp", "10.77.0.1:4711")
			if err != nil {
				t.Fatal(name, err)
			}
			c.Close()
		}
		if routes := must(lab.sh(seconds(t, 10), `ip -n $1 route show default`, switchNet))(t); routes != "" {
			t.Errorf("the lab's network has a way out: %s", routes)
		}
	})
}

// TestLeftovers: a lab that nobody could close is swept away by the next.
func TestLeftovers(t *testing.T) {
	lost := must(New(seconds(t, 60), Options{}))(t)
	h := must(lost.AddHosts(t.Context(), "n1"))(t)
	ok(t, lost.Boot(seconds(t, 60)))
	pid := must(h[0].pid1())(t)
	ok(t, lost.anchor.Process.Kill())
	_ = lost.anchor.Wait()
	lost.unlock() // as the kernel does for a dead process

	next := NewLab(t, Options{})
	ok(t, Until(seconds(t, 10), "the end of the lost host", func(context.Context) error {
		if lost.anchor.ProcessState == nil || h[0].On() {
			return errors.New("it still runs")
		}
		return nil
	}))
	left := must(next.sh(seconds(t, 10), `ls -d /sys/fs/cgroup/rlv-* "$1"/rlv-*; [ ! -e /proc/$2/exe ] || echo alive`, next.Dir+"/..", strconv.Itoa(pid)))(t)
	if strings.Contains(left, lost.name) || strings.Contains(left, "alive") {
		t.Errorf("left behind:\n%s", left)
	}
}
