package replica

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
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

	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// The standby's side is measured in a process of its own: this test binary once more.

const standbyEnv = "RELEVO_TEST_STANDBY" // URL of the source, and the folder

func TestMain(m *testing.M) {
	if url, dir, ok := strings.Cut(os.Getenv(standbyEnv), " "); ok {
		standby(url, dir)
	}
	os.Exit(m.Run())
}

// standby follows until its standard input is closed, answers each line with its
// position, and then says what it has used.
func standby(url, dir string) {
	var at atomic.Value
	at.Store(url)
	interval, _ := time.ParseDuration(os.Getenv("SYNC"))
	f := NewFollower(FollowerConfig{Dir: dir, Cluster: "home", Term: func() uint64 { return 1 }, Get: getter(&at), SyncEvery: interval})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		want, _ := strconv.ParseInt(lines.Text(), 10, 64)
		if err := f.Wait(ctx, func(p Position) bool { return p.Complete && p.Revision >= want && p.Err == "" }); err != nil {
			panic(err)
		}
		fmt.Printf("%d %s\n", f.Position().Revision, used())
	}
	cancel()
	if err := <-done; err != nil {
		panic(err)
	}
	os.Exit(0)
}

// used is the most memory that this process had, and what it gave to the block layer,
// in bytes.
func used() string {
	var out []string
	for file, key := range map[string]string{"/proc/self/status": "VmHWM:", "/proc/self/io": "write_bytes:"} {
		b, _ := os.ReadFile(file)
		for l := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(l, key); ok {
				out = append(out, key+strings.Fields(v)[0])
			}
		}
	}
	return strings.Join(out, " ")
}

type standbyProcess struct {
	b   *testing.B
	in  *bufio.Writer
	out *bufio.Scanner
	end func()
}

func startStandby(b *testing.B, h *host, interval string) *standbyProcess {
	b.Helper()
	dir := onDisk(b)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), standbyEnv+"="+h.url+" "+dir, "SYNC="+interval)
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	p := &standbyProcess{b: b, in: bufio.NewWriter(in), out: bufio.NewScanner(out)}
	p.end = sync.OnceFunc(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Errorf("%v\n%s", err, errs.String())
		}
	})
	b.Cleanup(p.end)
	return p
}

// reach waits for a revision and returns what was used until then: MB and kB.
func (p *standbyProcess) reach(revision int64) (memory, written float64) {
	p.b.Helper()
	fmt.Fprintln(p.in, revision)
	p.in.Flush()
	if !p.out.Scan() {
		p.b.Fatal("the standby ended")
	}
	for _, w := range strings.Fields(p.out.Text()) {
		k, v, _ := strings.Cut(w, ":")
		n, _ := strconv.ParseFloat(v, 64)
		switch k {
		case "VmHWM":
			memory = n / 1000
		case "write_bytes":
			written = n / 1000
		}
	}
	return memory, written
}

// BenchmarkFirstCopy is a first copy of 100 000 rows of 1 KiB over loopback.
func BenchmarkFirstCopy(b *testing.B) {
	w := kinetest.New(b, filepath.Join(b.TempDir(), "state.db"), false)
	w.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 100000)
		INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value)
		SELECT '/registry/configmaps/default/object-' || i, 1, 0, 0, 0, 0, randomblob(1024) FROM n`)
	h := newHost(b, w, "home")
	for b.Loop() {
		begin := time.Now()
		memory, written := startStandby(b, h, "").reach(w.Head())
		b.ReportMetric(time.Since(begin).Seconds(), "s")
		b.ReportMetric(memory, "MB-peak")
		b.ReportMetric(written/1000, "MB-written")
	}
}

// BenchmarkIdle is ten minutes of an idle API server, which renews two leases of its own
// every 10 s, in ten seconds: so each interval is a sixtieth, too.
func BenchmarkIdle(b *testing.B) {
	for _, interval := range []string{"1s", "30s", "60s"} {
		b.Run(interval, func(b *testing.B) {
			w := kinetest.New(b, filepath.Join(b.TempDir(), "state.db"), false)
			value := strings.Repeat("x", 600)
			for i := range 2000 {
				w.Put(fmt.Sprintf("/registry/configmaps/default/object-%d", i), value)
			}
			h := newHost(b, w, "home")
			real, _ := time.ParseDuration(interval)
			for b.Loop() {
				p := startStandby(b, h, (real / 60).String())
				_, before := p.reach(w.Head())
				t := time.NewTicker(time.Second / 6)
				for range 60 {
					<-t.C
					w.Put("/registry/leases/kube-system/apiserver-1", value)
					w.Put("/registry/masterleases/10.77.0.1", value[:150])
				}
				t.Stop()
				_, after := p.reach(w.Head())
				b.ReportMetric((after-before)/10, "kB/min")
			}
		})
	}
}

// discard takes a stream from where the master is now, as a standby on another board does,
// and does nothing with it; it closes begun when the first of it is there.
func discard(ctx context.Context, url string, after int64, begun chan<- struct{}) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s%s?cluster=home&term=1&after=%d", url, PathRows, after), nil)
	if err != nil {
		return err
	}
	for { // the datastore may not be open yet
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		if res.StatusCode == http.StatusOK {
			if _, err := io.CopyN(io.Discard, res.Body, 1); err != nil {
				res.Body.Close()
				return err
			}
			close(begun)
		}
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err != nil || ctx.Err() != nil || res.StatusCode == http.StatusOK {
			return err
		}
	}
}

// BenchmarkTailing is what a standby that tails costs the master: writes a second to a
// real kine with four clients, in turns without a standby, with one, and without again, in
// one run; each turn with one is compared with its two neighbours, and they with one
// another. The standby takes everything and does nothing with it: it would be another board.
// Shared is with all processes on all processors, which the clients keep busy; apart with
// kine on the first and all else on the others.
func BenchmarkTailing(b *testing.B) {
	b.Run("shared", func(b *testing.B) { tailing(b, func(int) {}) })
	b.Run("apart", func(b *testing.B) {
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
		if rest.Count() == 0 {
			b.Skip("there is one processor only")
		}
		tailing(b, func(kine int) {
			pin(b, kine, &first)
			pin(b, os.Getpid(), &rest)
		})
		pin(b, os.Getpid(), &all)
	})
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

// onDisk is a folder that is not on a tmpfs, where nothing is written.
func onDisk(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp(".", "bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	if dir, err = filepath.Abs(dir); err != nil {
		b.Fatal(err)
	}
	return dir
}

func tailing(b *testing.B, place func(kine int)) {
	path := filepath.Join(onDisk(b), "state.db")
	program, err := filepath.Abs(kinetest.Program(b))
	if err != nil {
		b.Fatal(err)
	}
	k := kinetest.Start(b, program, path, "--compact-interval", "1h")
	k.Put("/registry/first", "1")
	place(k.PID())
	const rounds = 100
	write := fourClients(b, k.Client)
	write() // warm
	for b.Loop() {
		var ratio, control []float64
		var alone, tailed spent
		for range rounds {
			before := alone.add(k, write)
			during := tail(b, path, k.Put("/registry/first", "1"), func() float64 { return tailed.add(k, write) })
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
// are, and the standby's both ends.
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
func tail(b *testing.B, path string, after int64, write func() float64) float64 {
	src := NewSource(SourceConfig{Path: path, Cluster: "home", Term: func() (uint64, bool) { return 1, true }})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- src.Run(ctx) }()
	srv := httptest.NewServer(src)
	streams, begun := make(chan error, 1), make(chan struct{})
	go func() { streams <- discard(ctx, srv.URL, after, begun) }()
	select {
	case <-begun: // what opening costs is no part of tailing
	case err := <-streams:
		b.Fatal("nobody follows: ", err)
	}
	n := write()
	if src.Streams() != 1 {
		b.Error("nobody follows")
	}
	srv.CloseClientConnections()
	<-streams
	srv.Close()
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkCompression is what it would cost to compress the stream, and what it would
// save, with rows that look like those of an API server.
func BenchmarkCompression(b *testing.B) {
	var rows []kine.Row
	for i := range 100 {
		pod := fmt.Sprintf("k8s\x00\n\x09\n\x02v1\x12\x03Pod\x12web-%d-%x default/%d kubernetes.io/config.seen=2026-11-25T17:%02d:00 image=registry.example/web:%d node=n%d 10.42.%d.%d ", i, i*7919, i*31, i%60, i%9, i%3, i%4, i)
		rows = append(rows, kine.Row{ID: int64(i + 1), Name: fmt.Sprintf("/registry/pods/default/web-%d", i), Value: []byte(strings.Repeat(pod, 8))})
	}
	raw := appendFrame(nil, &frame{kind: kindRows, rows: rows})
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		var out bytes.Buffer
		z, err := flate.NewWriter(&out, flate.BestSpeed)
		if err != nil {
			b.Fatal(err)
		}
		z.Write(raw)
		z.Close()
		b.ReportMetric(float64(len(raw))/float64(out.Len()), "times-smaller")
	}
}
