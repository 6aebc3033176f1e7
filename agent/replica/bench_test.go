package replica

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// The standby's side is measured in a process of its own: this test binary once more.

const (
	standbyEnv = "RELEVO_TEST_STANDBY" // URL of the source, and the folder; or
	discardArg = "discard"             // see discard
)

func TestMain(m *testing.M) {
	switch url, dir, ok := strings.Cut(os.Getenv(standbyEnv), " "); {
	case url == discardArg:
		discard()
	case ok:
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

type standbyProcess struct {
	b   *testing.B
	pid int
	in  *bufio.Writer
	out *bufio.Scanner
	end func()
}

func startStandby(b *testing.B, h *host, interval string) *standbyProcess {
	b.Helper()
	return startProcess(b, standbyEnv+"="+h.url+" "+onDisk(b), "SYNC="+interval)
}

func startProcess(b *testing.B, env ...string) *standbyProcess {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), env...)
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
	p := &standbyProcess{b: b, pid: cmd.Process.Pid, in: bufio.NewWriter(in), out: bufio.NewScanner(out)}
	p.end = sync.OnceFunc(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Errorf("%v\n%s", err, errs.String())
		}
	})
	b.Cleanup(p.end)
	return p
}

// ask sends a line and returns the next one that comes.
func (p *standbyProcess) ask(words ...any) string {
	p.b.Helper()
	fmt.Fprintln(p.in, words...)
	p.in.Flush()
	return p.next()
}

func (p *standbyProcess) next() string {
	p.b.Helper()
	if !p.out.Scan() {
		p.b.Fatal("the standby ended")
	}
	return p.out.Text()
}

// reach waits for a revision and returns what was used until then: MB and kB.
func (p *standbyProcess) reach(revision int64) (memory, written float64) {
	p.b.Helper()
	for _, w := range strings.Fields(p.ask(revision)) {
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
