package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
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
	inputs := filepath.Join(strings.TrimSpace(string(cache)), "fuzz", module)
	past, err := readPast(filepath.Join(inputs, "runs.tsv"))
	if err := errors.Join(err, os.MkdirAll(inputs, 0o755)); err != nil {
		r.fail("%v", err)
		return
	}
	// Who ran least comes first: a run that is cut off has its use, too.
	slices.SortStableFunc(all, func(x, y fuzzer) int { return cmp.Compare(past.of[x], past.of[y]) })
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
					done, err = f.run(binOf(bins, f.dir), filepath.Join(inputs, f.dir), each)
				}
				mu.Lock()
				total += done.executions
				if err == nil {
					err = past.add(f, each, done.executions)
				}
				if err != nil {
					r.fail("%s in %s: %v", f.name, f.dir, err)
				} else {
					r.passed++
					fmt.Fprintf(r.out, "ok    %-18s %-22s %12s executions, %5d inputs that differ, %5.1f min in all\n", f.name, f.dir, thousands(done.executions), done.inputs, past.of[f].Minutes())
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

// past is what ran on this machine, by fuzzer: the time, of which the file keeps a line a run,
// beside the inputs and for as long as they.
type past struct {
	path string
	of   map[fuzzer]time.Duration
}

func readPast(path string) (past, error) {
	p := past{path, map[fuzzer]time.Duration{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read how long the fuzzers have run: %w", err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) != 5 {
			return p, fmt.Errorf("%s:%d: there are %d columns, not 5 (when, folder, fuzzer, how long, executions): remove the line", path, n, len(f))
		}
		d, err := time.ParseDuration(f[3])
		if err != nil {
			return p, fmt.Errorf("%s:%d: how long it ran: %w; remove the line", path, n, err)
		}
		p.of[fuzzer{f[1], f[2]}] += d
	}
	return p, nil
}

// add notes a run in which nothing was found.
func (p past) add(f fuzzer, d time.Duration, executions int64) error {
	p.of[f] += d
	w, err := os.OpenFile(p.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("note how long it ran: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\t%s\t%s\t%v\t%d\n", time.Now().UTC().Format(time.RFC3339), f.dir, f.name, d, executions)
	return errors.Join(err, w.Close())
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
