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
//   - api: as board, with kube-apiserver before kine, and clients that create ConfigMaps
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
		name                  string
		server, self, standby *unix.CPUSet
	}{
		{"shared", &all, &all, &all},
		{"board", &first, &first, &rest},
		{"apart", &first, &rest, &rest},
		{"api", &first, &first, &rest},
	} {
		b.Run(x.name, func(b *testing.B) {
			if rest.Count() == 0 && x.name != "shared" {
				b.Skip("there is one processor only")
			}
			path := filepath.Join(onDisk(b), "state.db")
			k := kinetest.Start(b, kinetest.Program(b), path, "--compact-interval", "1h")
			put, cpu := updates(k), k.CPU
			pin(b, k.PID(), x.server)
			if x.name == "api" {
				s := startAPI(b, k)
				pin(b, s.PID(), x.server)
				put, cpu = s.create, func() time.Duration { return k.CPU() + s.CPU() }
			}
			k.Put("/registry/first", "1")
			standby := startProcess(b, standbyEnv+"="+discardArg)
			pin(b, standby.pid, x.standby)
			pin(b, os.Getpid(), x.self)
			defer pin(b, os.Getpid(), &all)
			tailing(b, k, path, standby, cpu, fourClients(b, put))
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

func tailing(b *testing.B, k *kinetest.Server, path string, standby *standbyProcess, cpu func() time.Duration, write func() float64) {
	const rounds = 100
	write() // warm
	for b.Loop() {
		var ratio, control []float64
		var alone, tailed spent
		for range rounds {
			before := alone.add(cpu, write)
			during := tail(b, standby, path, k.Put("/registry/first", "1"), func() float64 {
				write() // while it listens still, as it does until it has seen that the master is busy
				return tailed.add(cpu, write)
			})
			after := alone.add(cpu, write)
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
			b.ReportMetric(float64(x.server.Microseconds())/x.writes, "server-µs"+name)
			b.ReportMetric(float64(x.own.Microseconds())/x.writes, "own-µs"+name)
		}
		b.ReportMetric(rounds, "rounds")
	}
}

// turn is how long one of them writes.
const turn = 400 * time.Millisecond

// spent is what writes cost: CPU time of the servers, and of this process, in which the clients
// are, and the master's end of the stream.
type spent struct {
	rates       []float64 // a second
	writes      float64
	server, own time.Duration
}

func (s *spent) add(cpu func() time.Duration, write func() float64) float64 {
	own := func() time.Duration {
		var u unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // cannot fail for ourselves
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begin, server0, own0 := time.Now(), cpu(), own()
	rate := write()
	s.rates, s.writes = append(s.rates, rate), s.writes+rate*time.Since(begin).Seconds()
	s.server, s.own = s.server+cpu()-server0, s.own+own()-own0
	return rate
}

// value is what each write carries.
var value = strings.Repeat("x", 1024)

// updates returns how client i writes an object of its own 200, over and over, to kine.
func updates(k *kinetest.Server) func(ctx context.Context, i, n int) error {
	revs := map[string]int64{}
	var mu sync.Mutex
	return func(ctx context.Context, i, n int) error {
		key := fmt.Sprintf("/registry/configmaps/default/object-%d-%d", i, n%200)
		mu.Lock()
		rev := revs[key]
		mu.Unlock()
		rev, err := k.Client.Put(ctx, key, value, rev)
		mu.Lock()
		revs[key] = rev
		mu.Unlock()
		return err
	}
}

// fourClients returns a function that writes for a turn, as fast as the server takes it, and
// says how many writes a second that were.
func fourClients(b *testing.B, put func(ctx context.Context, i, n int) error) (write func() float64) {
	var written [4]int
	return func() float64 {
		begin := time.Now()
		was := written
		var wg sync.WaitGroup
		for i := range written {
			wg.Go(func() {
				for time.Since(begin) < turn {
					if err := put(b.Context(), i, written[i]); err != nil {
						b.Error(err)
						return
					}
					written[i]++
				}
			})
		}
		wg.Wait()
		did := 0
		for i := range written {
			did += written[i] - was[i]
		}
		return float64(did) / time.Since(begin).Seconds()
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
