// Command report runs the project's checks, section by section, and says plainly
// how each went. `make test`, `make e2e`, `make bench`, `make fuzz` and `make lint`
// call it.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"relevo.dev/relevo/test/hosts"
)

type totals struct{ passed, failed, skipped int }

// run is one call of make, or what goes on beside it.
type run struct {
	totals
	skips []string  // what could not be checked here, for the last lines
	out   io.Writer // what people read
	spare []string  // put before each command: it gets the time that nobody else wants; nil = as all others
}

func main() {
	what := "all"
	if len(os.Args) > 1 {
		what = os.Args[1]
	}
	r := &run{out: os.Stdout}
	begin := time.Now()
	switch what {
	case "all":
		ready := r.prepare()
		r.lint()
		r.tools()
		ready()
		rest := r.beside(func(r *run) {
			idle := r.spare
			r.spare = nil // real programs, and limits of time
			r.e2e("end-to-end, with real programs on this machine", ".", "./agent/kube", "./avahi")
			r.spare = []string{"nice", "-n", "19"} // some are real here, too
			r.goTest("unit tests", "-timeout", "60m", "./...")
			r.spare = idle
			r.goTest("negative controls: each protection switched off must be noticed", "-tags", "mutants", "-run", "NegativeControls", "-timeout", "60m", "./agent/lease/sim", "./agent", "./agent/replica/kine")
			r.race("-race", "-short", "-timeout", "60m", "./agent", "./agent/api", "./agent/peer", "./agent/member", "./agent/quorum", "./agent/takeover", "./systemd", "./avahi", "./health")
			r.builds()
			r.armv6()
		})
		r.e2e(onHosts, ".", "./test/hosts", "./test/e2e")
		rest()
	case "e2e":
		r.e2e(onHosts, chosen(), "./test/hosts", "./test/e2e", "./agent/kube", "./avahi")
	case "bench":
		r.goTest("benchmarks on real hosts", "-tags", "bench", "-count", "1", "-timeout", "60m", "-v", "-run", "^TestBench", "./test/e2e")
	case "lint":
		r.lint()
		r.vulnerabilities()
	case "fuzz":
		each, err := time.ParseDuration(cmp.Or(os.Getenv("FUZZ"), "1m"))
		if err != nil {
			fmt.Fprintf(os.Stderr, "FUZZ= is how long each fuzzer runs, like 10m: %v\n", err)
			os.Exit(2)
		}
		r.fuzz(chosen(), each)
	default:
		fmt.Fprintf(os.Stderr, "report: all, e2e, bench, fuzz or lint, not %q\n", what)
		os.Exit(2)
	}
	fmt.Printf("\n%s in %v\n", map[bool]string{true: "ALL IS WELL", false: "FAILED"}[r.failed == 0], time.Since(begin).Round(time.Second))
	for _, s := range r.skips {
		fmt.Println("SKIPPED:", s)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	if r.failed > 0 {
		os.Exit(1)
	}
}

// chosen is RUN=, of make.
func chosen() string {
	if len(os.Args) > 2 {
		return os.Args[2]
	}
	return "."
}

func (r *run) section(name string) { fmt.Fprintf(r.out, "\n== %s\n", name) }

// fail counts and tells what went wrong.
func (r *run) fail(format string, args ...any) {
	r.failed++
	fmt.Fprintf(r.out, "FAIL  "+format+"\n", args...)
}

// command is one of the run's.
func (r *run) command(argv ...string) *exec.Cmd {
	argv = append(slices.Clone(r.spare), argv...)
	return exec.Command(argv[0], argv[1:]...)
}

// beside does what needs a processor and nothing else while hosts mostly wait for each
// other, and yields to them at any moment. Show waits for it and prints it, section by
// section.
func (r *run) beside(do func(*run)) (show func()) {
	var out shelf
	other := &run{out: &out, spare: []string{"nice", "-n", "19"}}
	if _, err := exec.LookPath("chrt"); err == nil {
		other.spare = append(other.spare, "chrt", "--idle", "0")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		do(other)
	}()
	return func() {
		<-done
		r.out.Write(out.text.Bytes())
		r.passed, r.failed, r.skipped = r.passed+other.passed, r.failed+other.failed, r.skipped+other.skipped
		r.skips = append(r.skips, other.skips...)
	}
}

// shelf keeps what is said until it may be read.
type shelf struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *shelf) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

// check runs a command that must succeed, and, if quiet is set, print nothing. What
// goes to its standard error (go says there what it downloads) is shown if it fails.
func (r *run) check(name string, env []string, quiet bool, argv ...string) {
	begin := time.Now()
	cmd := r.command(argv...)
	cmd.Env = append(os.Environ(), env...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	if err == nil && quiet && len(bytes.TrimSpace(out.Bytes())) > 0 {
		err = errors.New("it has findings")
	}
	if err != nil {
		r.fail("%s: %v\n%s%s", name, err, out.Bytes(), said.Bytes())
		return
	}
	r.passed++
	fmt.Fprintf(r.out, "ok    %-40s %v\n", name, time.Since(begin).Round(time.Second))
}

func (r *run) lint() {
	r.section("lint")
	r.check("gofmt", nil, true, "gofmt", "-l", "agent", "avahi", "cmd", "health", "systemd", "test")
	r.check("go vet", nil, false, "go", "vet", "./...")
	r.check("go vet, with the tests that need real hosts", nil, false, "go", "vet", "-tags", "e2e,bench", "./...")
	r.check("staticcheck", nil, true, "go", "tool", "-modfile=packaging/tools/go.mod", "staticcheck", "-tests=false", "./...")
	r.check("no file over 500 lines", nil, true, "sh", "-c", `git ls-files '*.go' | xargs wc -l | awk '$1 > 500 && $2 != "total"'`)
}

// vulnerabilities asks the database of Go's vulnerabilities, vuln.go.dev or what VULNDB=
// names (a copy: file:///…), for those that the program reaches.
func (r *run) vulnerabilities() {
	out, err := r.command("go", "tool", "-modfile=packaging/tools/go.mod", "govulncheck", "-db", cmp.Or(os.Getenv("VULNDB"), "https://vuln.go.dev"), "./...").CombinedOutput()
	switch {
	case err == nil:
		r.passed++
		fmt.Fprintln(r.out, "ok    govulncheck")
	case !bytes.Contains(out, []byte("fetching vulnerabilities")):
		r.fail("govulncheck: %v\n%s", err, out)
	default:
		r.skip("govulncheck: " + strings.TrimSpace(string(out)))
	}
}

// prepare begins to make what the end-to-end tests need, as root: on a new machine that
// is an image of Debian and a build of kube-apiserver, which take minutes of downloading
// and compiling. It has the processor's spare time until ready is called, which waits.
func (r *run) prepare() (ready func()) {
	if os.Geteuid() != 0 {
		return func() {} // those tests say so
	}
	begin := time.Now()
	// The package is built once to no end: what is compiled for it is there then.
	cmd := exec.Command("nice", "-n", "19", "sh", "-c", `make -s deb VERSION=0.1.0 DIST=.cache/deb-first DEB_ARCHES="$0:$0:" >/dev/null 2>&1 &
go run ./test/hosts/prepare; code=$?; wait; exit $code`, runtime.GOARCH)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	started := cmd.Start()
	return func() {
		r.section("what real hosts need")
		if started == nil {
			started = cmd.Wait()
		}
		r.out.Write(out.Bytes())
		if started != nil { // the tests that need it say what is missing
			fmt.Fprintf(r.out, "      not all of it: %v\n", started)
		}
		fmt.Fprintf(r.out, "      since %v, beside the rest\n", time.Since(begin).Round(time.Second))
	}
}

// tools gets the programs that some unit tests compare with, as root.
func (r *run) tools() {
	if os.Geteuid() != 0 {
		return // those tests say what they miss
	}
	dir, err := hosts.Unpacked(context.Background(), r.out, "promtool", "prometheus")
	if err != nil {
		fmt.Fprintln(r.out, err)
	} else if dir != "" {
		os.Setenv("PATH", os.Getenv("PATH")+":"+dir)
	}
}

// builds makes what `make deb` packs. The one for ARMv6 has a size that it must not reach.
func (r *run) builds() {
	r.section("builds without cgo")
	dir, err := os.MkdirTemp("", "relevo-builds-")
	if err != nil {
		r.fail("%v", err)
		return
	}
	defer os.RemoveAll(dir)
	for _, a := range [][2]string{{"arm", "6"}, {"arm64", ""}, {"amd64", ""}} {
		r.check("linux/"+a[0]+map[bool]string{true: "v" + a[1]}[a[1] != ""], []string{"GOARCH=" + a[0], "GOARM=" + a[1]},
			false, "make", "-s", "build", "BIN="+filepath.Join(dir, a[0]))
	}
	r.check("the ARMv6 binary is below 24 MB", nil, false, "sh", "-c", `n=$(stat -c %s "$0"); echo "it has $n bytes"; test "$n" -lt 24000000`, filepath.Join(dir, "arm"))
}

// armv6 runs what reads /proc and /sys as a Model B+ and a Zero run it: alignment, and
// numbers of 32 bits.
func (r *run) armv6() {
	r.section("ARMv6, emulated")
	emulator, err := exec.LookPath("qemu-arm-static")
	if err != nil && os.Geteuid() == 0 {
		var dir string
		if dir, err = hosts.Unpacked(context.Background(), r.out, "qemu-arm-static", "qemu-user-static"); err == nil {
			emulator = filepath.Join(dir, "qemu-arm-static")
		}
	}
	if err != nil {
		r.skip("package health on ARMv6: qemu-arm-static (package qemu-user-static) is needed: " + err.Error())
		return
	}
	dir, err := os.MkdirTemp("", "relevo-armv6-")
	if err != nil {
		r.fail("%v", err)
		return
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "health.test")
	r.check("health: build its tests", []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm", "GOARM=6"}, false, "go", "test", "-c", "-o", bin, "./health")
	r.check("health: its tests, on an arm1176", nil, false, "sh", "-c", `cd health && exec "$0" -cpu arm1176 "$1" -test.short`, emulator, bin)
}

func (r *run) race(args ...string) {
	if err := hosts.EnsureCompiler(context.Background(), r.out); err != nil {
		r.skip("race detector: " + err.Error())
		return
	}
	r.goTest("race detector", args...)
}

const onHosts = "end-to-end, on real hosts"

func (r *run) e2e(name, pattern string, packages ...string) {
	if os.Geteuid() != 0 {
		r.skip(name + ": needs root (sudo make e2e)")
		return
	}
	limit := "60m"
	if os.Getenv("NEMESIS") != "" {
		limit = "12h" // as many rounds as somebody asked for
	}
	// The programs on the hosts are no part of what `go test` compares with its cache. Its own
	// limit has room for the hosts of others, which are waited for before that of the tests.
	args := append([]string{"-tags", "e2e", "-count", "1", "-timeout", "48h", "-p", "1", "-run", pattern}, packages...)
	r.goTest(name, append(args, "-args", "-test.timeout="+limit)...)
}

func (r *run) skip(what string) {
	r.skipped++
	r.skips = append(r.skips, what)
}

type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

// goTest runs `go test` and shows a line for each package, all of the output of
// what failed, and the reason of what was skipped.
func (r *run) goTest(name string, args ...string) {
	r.section(name)
	cmd := r.command(append([]string{"go", "test", "-json"}, args...)...)
	cmd.Stderr = r.out
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		r.fail("%v", err)
		return
	}
	before := r.totals
	r.read(out, strings.Contains(strings.Join(args, " "), " -v"))
	if err := cmd.Wait(); err != nil && r.failed == before.failed {
		r.fail("%v", err) // it did not even build
	}
}

func (r *run) read(out io.Reader, verbose bool) {
	output := map[string][]string{}
	counts := map[string]*totals{}
	sc := bufio.NewScanner(out)
	sc.Buffer(nil, 4<<20)
	for sc.Scan() {
		var e event
		if json.Unmarshal(sc.Bytes(), &e) != nil {
			fmt.Fprintln(r.out, sc.Text())
			continue
		}
		key := e.Package + " " + e.Test
		c := counts[e.Package]
		if c == nil {
			c = &totals{}
			counts[e.Package] = c
		}
		switch e.Action {
		case "output", "build-output":
			if verbose || e.Test == "" && strings.HasPrefix(e.Output, "waiting for ") {
				fmt.Fprint(r.out, e.Output)
			}
			if len(output[key]) < 2000 {
				output[key] = append(output[key], e.Output)
			}
		case "pass", "fail", "skip":
			out := output[key]
			if e.Test == "" && e.Action == "fail" && c.failed == 0 {
				out = append(unended(output, e.Package), out...)
			}
			r.ended(e, c, out)
			delete(output, key)
		}
	}
}

// unended is what the tests of a package wrote last that have no end: where the process dies,
// what it says is the output of one of them.
func unended(output map[string][]string, pkg string) (out []string) {
	const last = 60
	for _, key := range slices.Sorted(maps.Keys(output)) {
		if test, ok := strings.CutPrefix(key, pkg+" "); ok && test != "" {
			l := output[key]
			out = append(append(out, "---- "+test+", which has no end\n"), l[max(0, len(l)-last):]...)
		}
	}
	return out
}

func (r *run) ended(e event, c *totals, out []string) {
	if e.Test == "" {
		name := strings.TrimPrefix(e.Package, "relevo.dev/relevo/")
		switch {
		case e.Action == "fail" && c.failed == 0: // no test failed: it did not build, or hung
			r.fail("%s\n%s", name, strings.Join(out, ""))
		case c.passed+c.failed+c.skipped > 0:
			fmt.Fprintf(r.out, "%-5s %-34s %3d passed, %d failed, %d skipped  %.1f s\n", map[bool]string{true: "ok", false: "FAIL"}[c.failed == 0], name, c.passed, c.failed, c.skipped, e.Elapsed)
		}
		return
	}
	switch e.Action {
	case "pass":
		c.passed++
		r.passed++
	case "fail":
		c.failed++
		r.failed++
		fmt.Fprintf(r.out, "---- %s %s\n%s", e.Package, e.Test, strings.Join(out, ""))
	case "skip":
		c.skipped++
		why := ""
		for _, l := range out {
			if s := strings.TrimSpace(l); s != "" && !strings.HasPrefix(s, "===") && !strings.HasPrefix(s, "---") {
				why = s
			}
		}
		r.skip(e.Test + ": " + why)
	}
}
