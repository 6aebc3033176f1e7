// Package health measures the host that the agent runs on: one file a collector,
// all of them filling one [Report]. A value that cannot be measured is unknown,
// never zero, and the report says why. [Conditions] turns a report into what a
// person should know and do.
//
// The package knows nothing of clusters. Collecting is cheap: a handful of files
// of /proc and /sys and two statfs calls; nothing is executed and nothing is
// written.
package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v3/common"
)

// Config of a Monitor. The zero value measures this host every 10 seconds.
type Config struct {
	// Proc, Sys and Root replace /proc, /sys and / where a test brings files of
	// its own.
	Proc, Sys, Root string
	// DataDir is where the agent keeps its state; its file system is measured
	// beside the root. "" = the root alone.
	DataDir string
	// Interval between two rounds of [Monitor.Run]; default 10 s.
	Interval time.Duration
	// Now is the wall clock, for Report.At only; default time.Now.
	Now func() time.Time
}

// Monitor measures.
type Monitor struct {
	cfg   Config
	board Board // does not change while the host runs

	collecting sync.Mutex // one round at a time
	cpu        cpuTimes   // of the round before

	mu     sync.Mutex
	latest Report
}

// New makes a Monitor. It reads what does not change, the board's model.
func New(cfg Config) *Monitor {
	for _, d := range []struct {
		p *string
		v string
	}{{&cfg.Proc, "/proc"}, {&cfg.Sys, "/sys"}, {&cfg.Root, "/"}} {
		if *d.p == "" {
			*d.p = d.v
		}
	}
	if cfg.Interval <= 0 {
		cfg.Interval = 10 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Monitor{cfg: cfg, board: readBoard(cfg.Proc)}
}

// Run collects at once and then every Interval, until ctx ends. changed, if not
// nil, is called after each round with its report.
func (m *Monitor) Run(ctx context.Context, changed func(Report)) error {
	t := time.NewTicker(m.cfg.Interval)
	defer t.Stop()
	for {
		r := m.Collect(ctx)
		if changed != nil && ctx.Err() == nil {
			changed(r)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// Latest is the newest report; its At is zero before the first round.
func (m *Monitor) Latest() Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.latest
}

// Collect measures once. CPU is the mean since the round before, so it is unknown
// in the first. It never fails: what cannot be measured is unknown.
func (m *Monitor) Collect(ctx context.Context) Report {
	m.collecting.Lock()
	defer m.collecting.Unlock()
	ctx = context.WithValue(ctx, common.EnvKey, common.EnvMap{
		common.HostProcEnvKey: m.cfg.Proc,
		common.HostSysEnvKey:  m.cfg.Sys,
	})
	r := Report{At: m.cfg.Now(), Board: m.board}
	for _, c := range []struct {
		what    string
		collect func(context.Context, *Report) error
	}{
		{"cpu", m.collectCPU},
		{"load", m.collectLoad},
		{"memory", m.collectMemory},
		{"disk", m.collectDisks},
		{"temperature", m.collectTemperature},
		{"uptime", m.collectUptime},
	} {
		if err := c.collect(ctx, &r); err != nil {
			r.Unknown = append(r.Unknown, Unknown{What: c.what, Why: err.Error()})
		}
	}
	m.mu.Lock()
	m.latest = r
	m.mu.Unlock()
	return r
}

// maxFile bounds what is read of one file of /proc or /sys.
const maxFile = 64 << 10

// readFile reads a small file, and no more of it than maxFile.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return b, nil
}

// absent shortens the error of a source that is not there on this host.
func absent(err error, what string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New(what)
	}
	return err
}
