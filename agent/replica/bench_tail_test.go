package replica

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// discard is a standby in a process of its own that takes everything and does nothing with
// it. Each line that it reads is a source's URL and a revision: it says "begun" when the
// first of the stream is there, and "ended".
func discard() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		url, after, _ := strings.Cut(lines.Text(), " ")
		if err := discardFrom(url, after); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("ended")
	}
	os.Exit(0)
}

func discardFrom(url, after string) error {
	for { // the datastore may not be open yet
		res, err := http.Get(url + PathRows + "?cluster=home&term=1&after=" + after)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode == http.StatusOK {
			if _, err := io.CopyN(io.Discard, res.Body, 1); err != nil {
				return err
			}
			fmt.Println("begun")
			_, _ = io.Copy(io.Discard, res.Body) // until the source hangs up
			return nil
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return err
		}
	}
}

// BenchmarkTailing is what a standby that tails costs the master: writes a second to a
// real kine with four clients, in turns without a standby, with one, and without again, in
// one run; each turn with one is compared with its two neighbours, and they with one
// another. The standby takes everything and does nothing with it: it would be another board.
//
//   - shared: all processes on all processors, which the clients keep busy
//   - board: the standby on the others, all else on the first, which the clients keep busy:
//     a master of one processor, and a standby elsewhere
//   - apart: kine on the first, all else on the others: a master with processors to spare
func BenchmarkTailing(b *testing.B) {
	var all, first, rest unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		b.Fatal(err)
	}
	for cpu := range 8 * int(unsafe.Sizeof(all)) {
		switch {
		case !all.IsSet(cpu):
		case first.Count() == 0:
			first.Set(cpu)
		default:
			rest.Set(cpu)
		}
	}
	for _, x := range []struct {
		name                string
		kine, self, standby *unix.CPUSet
	}{
		{"shared", &all, &all, &all},
		{"board", &first, &first, &rest},
		{"apart", &first, &rest, &rest},
	} {
		b.Run(x.name, func(b *testing.B) {
			if rest.Count() == 0 && x.name != "shared" {
				b.Skip("there is one processor only")
			}
			tailing(b, func(kine, standby int) {
				pin(b, kine, x.kine)
				pin(b, os.Getpid(), x.self)
				pin(b, standby, x.standby)
			})
			pin(b, os.Getpid(), &all)
		})
	}
}

// pin keeps all threads of a process, and those that they make, on some processors.
func pin(b *testing.B, pid int, cpus *unix.CPUSet) {
	b.Helper()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		b.Fatal(err)
	}
	for _, t := range threads {
		id, _ := strconv.Atoi(t.Name())
		if err := unix.SchedSetaffinity(id, cpus); err != nil && !errors.Is(err, unix.ESRCH) {
			b.Fatal(err)
		}
	}
}

func tailing(b *testing.B, place func(kine, standby int)) {
	path := filepath.Join(onDisk(b), "state.db")
	program, err := filepath.Abs(kinetest.Program(b))
	if err != nil {
		b.Fatal(err)
	}
	k := kinetest.Start(b, program, path, "--compact-interval", "1h")
	k.Put("/registry/first", "1")
	standby := startProcess(b, standbyEnv+"="+discardArg)
	place(k.PID(), standby.pid)
	const rounds = 100
	write := fourClients(b, k.Client)
	write() // warm
	for b.Loop() {
		var ratio, control []float64
		var alone, tailed spent
		for range rounds {
			before := alone.add(k, write)
			during := tail(b, standby, path, k.Put("/registry/first", "1"), func() float64 { return tailed.add(k, write) })
			after := alone.add(k, write)
			ratio, control = append(ratio, 2*during/(before+after)), append(control, after/before)
		}
		for name, l := range map[string][]float64{"ratio": ratio, "control": control} {
			slices.Sort(l)
			b.ReportMetric(l[len(l)/2], name)
			b.ReportMetric(l[len(l)/4], name+"-p25")
			b.ReportMetric(l[3*len(l)/4], name+"-p75")
		}
		for name, x := range map[string]spent{"-alone": alone, "-tailed": tailed} {
			slices.Sort(x.rates)
			b.ReportMetric(x.rates[len(x.rates)/2], "writes/s"+name)
			b.ReportMetric(float64(x.kine.Microseconds())/x.writes, "kine-µs"+name)
			b.ReportMetric(float64(x.own.Microseconds())/x.writes, "own-µs"+name)
		}
		b.ReportMetric(rounds, "rounds")
	}
}

// turn is how long one of them writes.
const turn = 400 * time.Millisecond

// spent is what writes cost: CPU time of kine, and of this process, in which the clients
// are, and the master's end of the stream.
type spent struct {
	rates     []float64 // a second
	writes    float64
	kine, own time.Duration
}

func (s *spent) add(k *kinetest.Server, write func() float64) float64 {
	own := func() time.Duration {
		var u unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // cannot fail for ourselves
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begin, kine0, own0 := time.Now(), k.CPU(), own()
	rate := write()
	s.rates, s.writes = append(s.rates, rate), s.writes+rate*time.Since(begin).Seconds()
	s.kine, s.own = s.kine+k.CPU()-kine0, s.own+own()-own0
	return rate
}

// fourClients returns a function that writes for a turn, as fast as kine takes it, and
// says how many writes a second that were.
func fourClients(b *testing.B, c *kinetest.Client) (write func() float64) {
	value := strings.Repeat("x", 1024)
	var revs [4]map[string]int64
	for i := range revs {
		revs[i] = map[string]int64{}
	}
	return func() float64 {
		begin := time.Now()
		var did atomic.Int64
		var wg sync.WaitGroup
		for i := range revs {
			wg.Go(func() {
				for n := 0; time.Since(begin) < turn; n++ {
					key := fmt.Sprintf("/registry/configmaps/default/object-%d-%d", i, n%200)
					rev, err := c.Put(b.Context(), key, value, revs[i][key])
					if err != nil {
						b.Error(err)
						return
					}
					revs[i][key] = rev
					did.Add(1)
				}
			})
		}
		wg.Wait()
		return float64(did.Load()) / time.Since(begin).Seconds()
	}
}

// tail runs write while a standby follows from a revision on.
func tail(b *testing.B, standby *standbyProcess, path string, after int64, write func() float64) float64 {
	src := NewSource(SourceConfig{Path: path, Cluster: "home", Term: func() (uint64, bool) { return 1, true }})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- src.Run(ctx) }()
	srv := httptest.NewServer(src)
	if got := standby.ask(srv.URL, after); got != "begun" { // what opening costs is no part of tailing
		b.Fatal("the standby says ", got)
	}
	n := write()
	if src.Streams() != 1 {
		b.Error("nobody follows")
	}
	srv.CloseClientConnections()
	if got := standby.next(); got != "ended" {
		b.Fatal("the standby says ", got)
	}
	srv.Close()
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	return n
}
