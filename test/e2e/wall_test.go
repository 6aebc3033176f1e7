//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"relevo.dev/relevo/test/hosts"
)

// The hosts share the machine's clock. So the program is built for this test with a
// package time in which Now is off by as many seconds as a file on the host says; what
// counts time passed, and timers, are as they are.

var wallBytes = strings.Trim(strings.Join(strings.Fields(fmt.Sprint([]byte(wallFile))), ","), "[]") + ","

const (
	wallFile = "/run/wall-shift"
	nowLine  = "\tsec, nsec, mono := runtimeNow()\n"
)

// shiftGo makes no ordinary system call: the runtime asks for the time where it may not wait.
var (
	shiftGo = `package time

import (
	"syscall"
	"unsafe"
)

var wallFile = [...]byte{` + wallBytes + `0}

func wallShift() (shift int64) {
	fd, _, e := syscall.RawSyscall6(syscall.SYS_OPENAT, ^uintptr(99), uintptr(unsafe.Pointer(&wallFile[0])), syscall.O_RDONLY|syscall.O_CLOEXEC, 0, 0, 0)
	if e != 0 {
		return 0
	}
	var b [24]byte
	n, _, e := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	syscall.RawSyscall(syscall.SYS_CLOSE, fd, 0, 0)
	if e != 0 {
		return 0
	}
	sign := int64(1)
	for _, c := range b[:n] {
		switch {
		case c == '-':
			sign = -1
		case c >= '0' && c <= '9':
			shift = shift*10 + int64(c-'0')
		}
	}
	return sign * shift
}
`
)

// shifted is the build under way; its first call starts it. It is all of Go anew, two
// minutes of two cores, so [TestMain] starts it where the test will be run: by the time
// its turn comes it is there.
var shifted func() <-chan build

type build struct {
	bin, skip string
	err       error
}

func TestMain(m *testing.M) {
	flag.Parse()
	if err := hosts.Reserve(os.Stderr); err != nil { // before the clock of the tests runs
		fmt.Fprintln(os.Stderr, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	shifted = sync.OnceValue(func() <-chan build {
		done := make(chan build, 1)
		wg.Go(func() { done <- buildShifted(ctx) })
		return done
	})
	run := flag.Lookup("test.run").Value.String()
	if re, err := regexp.Compile(run); err == nil && re.MatchString("TestWallClock") && os.Geteuid() == 0 { // hosts need root
		shifted()
	}
	code := m.Run()
	if err := closeKept(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	cancel()
	wg.Wait()
	os.Exit(code)
}

// buildShifted builds relevo with a time.Now that a file moves, with the processor's
// spare time.
func buildShifted(ctx context.Context) (b build) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return build{err: err}
	}
	src := filepath.Join(strings.TrimSpace(string(root)), "src/time")
	text, err := os.ReadFile(filepath.Join(src, "time.go"))
	if err != nil {
		return build{err: err}
	}
	if strings.Count(string(text), nowLine) == 0 {
		return build{skip: "this Go's time.Now is another: the wall clock cannot be moved"}
	}
	dir, err := filepath.Abs("../../.cache/wall")
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return build{err: err}
	}
	changed := strings.Replace(string(text), nowLine, nowLine+"\tsec += wallShift()\n", 1)
	over, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(src, "time.go"): filepath.Join(dir, "time.go"), filepath.Join(src, "shift.go"): filepath.Join(dir, "shift.go")}})
	if err != nil {
		return build{err: err}
	}
	for name, b := range map[string][]byte{"time.go": []byte(changed), "shift.go": []byte(shiftGo), "overlay.json": over} {
		if was, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(was) != string(b) { // its time is part of the build's key
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				return build{err: err}
			}
		}
	}
	b.bin = filepath.Join(dir, "relevo")
	cmd := exec.CommandContext(ctx, "nice", "-n", "19", "go", "build", "-trimpath", "-overlay", filepath.Join(dir, "overlay.json"), "-o", b.bin, "./cmd/relevo")
	cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.err = fmt.Errorf("build with a clock that can be moved: %w\n%s", err, out)
	}
	return b
}

// TestWallClock: a Pi has no clock of its own; after a power cut it is 1970 until NTP
// answers, and a typing error makes it 2099. No decision may hang on that.
func TestWallClock(t *testing.T) {
	var b build
	select {
	case b = <-shifted():
	case <-t.Context().Done():
	}
	switch {
	case b.skip != "":
		t.Skip("SKIPPED: " + b.skip)
	case b.err != nil:
		t.Fatal(b.err)
	}
	c := newCluster(t, options{bin: b.bin, extra: "max_failovers: 100\n"})
	n4 := c.nodes[3]
	set := func(t *testing.T, year int, nodes ...*node) {
		t.Helper()
		shift := int64(time.Until(time.Date(year, 1, 2, 3, 4, 5, 0, time.UTC)) / time.Second)
		for _, n := range nodes {
			ok(t, n.WriteFile(within(t, 10*time.Second), wallFile, []byte(fmt.Sprint(shift)), 0o644))
		}
	}
	mend := func(t *testing.T, nodes ...*node) {
		t.Helper()
		for _, n := range nodes {
			_, err := n.Run(within(t, 10*time.Second), "rm", "-f", wallFile)
			ok(t, err)
		}
	}
	restart := func(t *testing.T, n *node) {
		t.Helper()
		_, err := n.Run(within(t, time.Minute), "systemctl", "restart", "--no-block", "relevo.service")
		ok(t, err)
	}
	term := uint64(0)
	for _, year := range []int{1970, 2099} {
		for _, f := range []struct {
			name string
			do   func(t *testing.T) []*node
		}{
			{"the master", func(t *testing.T) []*node { return []*node{c.mustMaster()} }},
			{"a standby", func(t *testing.T) []*node {
				m := c.mustMaster()
				for _, n := range c.nodes[:3] {
					if n != m {
						return []*node{n}
					}
				}
				return nil
			}},
			{"the arbiter", func(t *testing.T) []*node {
				s, err := n4.status(within(t, 10*time.Second))
				ok(t, err)
				return []*node{c.node(s.Quorum.Leader)}
			}},
			{"everybody", func(t *testing.T) []*node { return c.nodes }},
		} {
			if f.name != "everybody" && os.Getenv("NEMESIS") == "" {
				continue // half a minute each; `make nemesis` has them all
			}
			c.run(fmt.Sprintf("%s is in %d", f.name, year), func(t *testing.T) {
				c.waitSteady(time.Minute)
				w := c.startWriter(n4, strings.ReplaceAll(strings.ToLower(t.Name()[strings.Index(t.Name(), "/")+1:]), "_", "-"))
				w.waitFor(t, 30, time.Minute)
				before, err := n4.status(within(t, 10*time.Second))
				ok(t, err)
				victims := f.do(t)
				set(t, year, victims...)
				c.rest(t, 10*time.Second)
				restart(t, victims[0]) // every connection is made anew
				c.rest(t, 15*time.Second)
				out, err := victims[0].Run(within(t, 10*time.Second), "relevo", "status")
				t.Logf("%s says (%v):\n%s", victims[0].Name, err, out)
				mend(t, victims...)
				c.waitReady(2*time.Minute, "", 0)
				w.waitFor(t, 10, time.Minute)
				w.end()
				term = c.auditAll(t, w, term, before, false)
				if lost := c.check(w, n4); len(lost) > 0 {
					t.Errorf("%d acknowledged writes are lost", len(lost))
				}
			})
		}
	}
	t.Logf("term %d at the end: %d changes of master in wrong clocks", term, term-1)
}
