package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// fuzzer is one `func Fuzz…(f *testing.F)`.
type fuzzer struct{ dir, name string }

// watched is what a fuzzer sees of the program that it feeds: the package that it belongs to,
// and the libraries that parse. `go test -fuzz` watches everything, down to TLS, and looks at
// a megabyte of counters after each input; this is five to fifty times as fast.
var watched = []string{"encoding/...", "compress/bzip2", "crypto/x509", "net/netip", "gopkg.in/yaml.v3"}

// fuzz runs every fuzzer whose folder and name (agent/peer/FuzzToken) match, for so long, as
// many at a time as there are processors, each on one.
func (r *run) fuzz(pattern string, each time.Duration) {
	r.section(fmt.Sprintf("fuzzers, %v each", each))
	match, err := regexp.Compile(pattern)
	if err != nil {
		r.fail("RUN= chooses fuzzers by a regular expression: %v", err)
		return
	}
	cache, err1 := exec.Command("go", "env", "GOCACHE").Output()
	all, err2 := fuzzers(match)
	bins, err3 := os.MkdirTemp("", "relevo-fuzz-")
	if err := errors.Join(err1, err2, err3); err != nil {
		r.fail("%v", err)
		return
	}
	defer os.RemoveAll(bins)
	built := map[string]func() error{} // by folder, once each
	for _, f := range all {
		if built[f.dir] == nil {
			built[f.dir] = sync.OnceValue(func() error { return buildFuzzers(f.dir, binOf(bins, f.dir)) })
		}
	}
	var mu sync.Mutex
	var total int64
	next := make(chan fuzzer)
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			for f := range next {
				err := built[f.dir]()
				var done result
				if err == nil {
					done, err = f.run(binOf(bins, f.dir), filepath.Join(strings.TrimSpace(string(cache)), "fuzz", module, f.dir), each)
				}
				mu.Lock()
				total += done.executions
				if err != nil {
					r.fail("%s in %s: %v", f.name, f.dir, err)
				} else {
					r.passed++
					fmt.Fprintf(r.out, "ok    %-18s %-22s %12s executions, %5d inputs that differ\n", f.name, f.dir, thousands(done.executions), done.inputs)
				}
				mu.Unlock()
			}
		})
	}
	for _, f := range all {
		next <- f
	}
	close(next)
	wg.Wait()
	fmt.Fprintf(r.out, "      %d fuzzers, %s executions\n", len(all), thousands(total))
	if len(all) == 0 {
		r.fail("no fuzzer is called %s", pattern)
	}
}

const module = "relevo.dev/relevo"

func binOf(bins, dir string) string {
	return filepath.Join(bins, strings.ReplaceAll(dir, "/", "_")+".test")
}

var fuzzFunc = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(f \*testing\.F\)`)

// fuzzers finds those of the project, in the order of their folders.
func fuzzers(match *regexp.Regexp) (all []fuzzer, err error) {
	files, err := exec.Command("git", "ls-files", "*_test.go").Output()
	if err != nil {
		return nil, fmt.Errorf("list the project's tests with git: %w", err)
	}
	for file := range strings.Lines(string(files)) {
		file = strings.TrimSpace(file)
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for _, m := range fuzzFunc.FindAllSubmatch(text, -1) {
			if f := (fuzzer{filepath.Dir(file), string(m[1])}); match.MatchString(f.dir + "/" + f.name) {
				all = append(all, f)
			}
		}
	}
	return all, nil
}

func buildFuzzers(dir, bin string) error {
	argv := []string{"test", "-c", "-o", bin}
	for _, p := range append([]string{module + "/" + dir}, watched...) {
		argv = append(argv, "-gcflags="+p+"=-d=libfuzzer")
	}
	if out, err := exec.Command("go", append(argv, "./"+dir)...).CombinedOutput(); err != nil {
		return fmt.Errorf("build its tests: %w\n%s", err, out)
	}
	return nil
}

type result struct {
	executions int64
	inputs     int // that reached something which no other did
}

var progress = regexp.MustCompile(`execs: (\d+) .*\(total: (\d+)\)`)

// run feeds the parser for so long. What was found before, in the cache that `go test -fuzz`
// has, too, is where it goes on.
func (f fuzzer) run(bin, cache string, each time.Duration) (result, error) {
	// An input that is new is made smaller for a few tries, not for a minute, as go does by
	// itself: a minute of fuzzing was spent on the first one or two.
	cmd := exec.Command(bin, "-test.run", "^$", "-test.fuzz", "^"+f.name+"$", "-test.fuzztime", each.String(),
		"-test.fuzzminimizetime", "20x", "-test.parallel", "1", "-test.fuzzcachedir", cache)
	cmd.Dir = f.dir
	// One processor: the fuzzer and what it feeds take turns, and wake no other.
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=400")
	out, err := cmd.CombinedOutput()
	var done result
	if m := progress.FindAllSubmatch(out, -1); m != nil {
		last := m[len(m)-1]
		done.executions, _ = strconv.ParseInt(string(last[1]), 10, 64)
		done.inputs, _ = strconv.Atoi(string(last[2]))
	}
	if err != nil {
		return done, fmt.Errorf("%w\n%s", err, trail(out))
	}
	if done.executions == 0 {
		return done, fmt.Errorf("it did not try anything:\n%s", trail(out))
	}
	return done, nil
}

// trail leaves the lines about progress out.
func trail(out []byte) string {
	var b strings.Builder
	for l := range strings.Lines(string(out)) {
		if !strings.HasPrefix(l, "fuzz: elapsed") {
			b.WriteString(l)
		}
	}
	return b.String()
}

// thousands writes 1234567 as "1 234 567".
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}
