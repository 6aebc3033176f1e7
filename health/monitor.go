package health

import (
	"context"
	"sync"
	"time"
)

// Config of a Monitor. The zero value measures this host every 10 seconds.
type Config struct {
	// Root replaces / where a test brings files of its own: /proc, /sys, /run and
	// /etc are looked for below it.
	Root string
	// DataDir is where the agent keeps its state; its file system and its drive are
	// measured beside the root's. "" = the root alone.
	DataDir string
	// Interval between two rounds of [Monitor.Run]; default 10 s.
	Interval time.Duration
	// Probe writes 4 KiB to DataDir this often and measures how long it takes to be
	// on the disk; 0 = never, else 10 minutes at least. See [Monitor.Writing] why
	// never is the default.
	Probe time.Duration
	// Units tells the failed systemd units; nil = they stay unknown.
	Units UnitLister
	// Thresholds of the conditions; the zero value means [DefaultThresholds].
	Thresholds Thresholds
	// Now is the wall clock; default time.Now. Clock is a monotonic one, which
	// measures durations and by which jumps of the wall clock are found; default:
	// the time since New.
	Now   func() time.Time
	Clock func() time.Duration
}

// Monitor measures, and judges what it measured.
type Monitor struct {
	cfg    Config
	static static // does not change while the host runs
	system system // what is asked by system call; replaced in tests
	writes writing

	round sync.Mutex // one round at a time; guards all below
	files *files
	has   inventory
	cpu   cpuTimes
	step  clockStep
	power underVoltage
	limit throttling
	drive map[string]driveTimes
	judge *Judge

	mu         sync.Mutex
	latest     Report
	conditions []Condition
	thresholds Thresholds
}

// New makes a Monitor. It reads what does not change: the board, the boot.
func New(cfg Config) *Monitor {
	if cfg.Interval <= 0 {
		cfg.Interval = 10 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Clock == nil {
		start := time.Now()
		cfg.Clock = func() time.Duration { return time.Since(start) }
	}
	if cfg.Probe > 0 {
		cfg.Probe = max(cfg.Probe, minProbe)
	}
	if cfg.Thresholds == (Thresholds{}) {
		cfg.Thresholds = DefaultThresholds()
	}
	m := &Monitor{cfg: cfg, files: openRoot(cfg.Root), system: realSystem(cfg.Root), drive: map[string]driveTimes{},
		judge: NewJudge(cfg.Thresholds), thresholds: cfg.Thresholds}
	m.static = m.readStatic()
	m.conditions = m.judge.Conditions()
	return m
}

// Run collects at once and then every Interval, until ctx ends. changed, if not
// nil, is called after each round with its report and the conditions whose status
// it changed, mostly none.
func (m *Monitor) Run(ctx context.Context, changed func(Report, []Change)) error {
	var probes sync.WaitGroup
	defer probes.Wait()
	t := time.NewTicker(m.cfg.Interval)
	defer t.Stop()
	var peek <-chan time.Time // between the rounds, where there is a voltage alarm
	probed := m.cfg.Clock()
	for {
		r, changes := m.Collect(ctx)
		if changed != nil && ctx.Err() == nil {
			changed(r, changes)
		}
		if now := m.cfg.Clock(); m.cfg.Probe > 0 && now-probed >= m.cfg.Probe && m.writes.idle() {
			probed = now
			probes.Go(m.probe)
		}
		if peek == nil && m.hasVoltage() {
			p := time.NewTicker(voltagePoll)
			defer p.Stop()
			peek = p.C
		}
		for again := true; again; {
			select {
			case <-ctx.Done():
				return nil
			case <-peek:
				m.peekVoltage()
			case <-t.C:
				again = false
			}
		}
	}
}

// Latest is the newest report; its At is zero before the first round.
func (m *Monitor) Latest() Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.latest
}

// Conditions are those of the newest report, each type once. The caller must not
// change them.
func (m *Monitor) Conditions() []Condition {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.conditions
}

// SetThresholds takes effect with the next round.
func (m *Monitor) SetThresholds(t Thresholds) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.thresholds = t
}

// collector fills a part of the report. It never leaves a zero for what it does not
// know; the error says why.
type collector struct {
	what    string
	collect func(*Monitor, context.Context, *Report) error
}

// collectors in the order in which they run.
var collectors = []collector{
	{"uptime", (*Monitor).collectUptime},
	{"cpu", (*Monitor).collectCPU},
	{"cpu frequency", (*Monitor).collectFrequency},
	{"load", (*Monitor).collectLoad},
	{"pressure", (*Monitor).collectPressure},
	{"memory", (*Monitor).collectMemory},
	{"swap", (*Monitor).collectSwap},
	{"disk", (*Monitor).collectDisks},
	{"ext4", (*Monitor).collectExt4},
	{"drive", (*Monitor).collectDrives},
	{"mmc", (*Monitor).collectMMC},
	{"writes", (*Monitor).collectWrites},
	{"temperature", (*Monitor).collectTemperature},
	{"cooling", (*Monitor).collectCooling},
	{"under-voltage", (*Monitor).collectVoltage},
	{"throttling", (*Monitor).collectThrottling},
	{"links", (*Monitor).collectLinks},
	{"wifi", (*Monitor).collectWiFi},
	{"clock", (*Monitor).collectClock},
	{"units", (*Monitor).collectUnits},
	{"agent", (*Monitor).collectSelf},
}

// Collect measures once, and judges. What is measured as a difference, such as CPU,
// is the mean since the round before, so it is unknown in the first. It never fails:
// what cannot be measured is unknown.
func (m *Monitor) Collect(ctx context.Context) (Report, []Change) {
	m.round.Lock()
	defer m.round.Unlock()
	now := m.cfg.Clock()
	m.takeInventory(now)
	r := Report{At: m.cfg.Now(), Board: m.static.board, Boot: m.static.boot, MemoryCgroup: m.static.memoryCgroup}
	r.Power.SupplyAmperes = m.static.supply
	for _, c := range collectors {
		if err := c.collect(m, ctx, &r); err != nil {
			r.Unknown = append(r.Unknown, Unknown{What: c.what, Why: printable(err.Error(), 200)})
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.judge.t = m.thresholds
	changes := m.judge.Observe(now, &r)
	m.latest, m.conditions = r, m.judge.Conditions()
	return r, changes
}
