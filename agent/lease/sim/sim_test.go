package sim

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "replay this one seed with its trace")
	replay    = flag.String("replay", "", "replay this schedule with its trace, as a shrunk one was printed")
	schedules = flag.Int("schedules", 10_000, "how many schedules to play")
	first     = flag.Uint64("first", 1, "first seed")
	soak      = flag.Duration("soak", 0, "play schedules for as long as this instead")
)

func config(seed uint64) Config { return Config{Seed: seed, Length: 2 * time.Minute, Faults: -1} }

// play runs many schedules on all processors and returns the first seed that
// failed, 0 if none.
func play(first uint64, more func(done int64) bool, mk func(uint64) Config, unsafe bool) (failed uint64, total Result, done int64) {
	var next, bad, n atomic.Uint64
	next.Store(first - 1)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for bad.Load() == 0 && more(int64(n.Load())) {
				seed := next.Add(1)
				r := Run(mk(seed))
				n.Add(1)
				mu.Lock()
				total.Failovers += r.Failovers
				total.Steps += r.Steps
				total.Fenced += r.Fenced
				total.Exposure = max(total.Exposure, r.Exposure)
				mu.Unlock()
				if r.Violation != "" && (r.Unsafe || !unsafe) {
					bad.CompareAndSwap(0, seed)
				}
			}
		})
	}
	wg.Wait()
	return bad.Load(), total, int64(n.Load())
}

// told is a schedule in words: what is needed for it to fail, and its trace.
func told(cfg Config) (Result, string) {
	var b strings.Builder
	cfg.Trace = func(s string) { b.WriteString(s + "\n") }
	r := Run(cfg)
	return r, fmt.Sprintf("%d faults are needed:\n  %s\nreplay: go test ./agent/lease/sim -run Schedules -v -replay '%v'\n%s",
		len(r.Faults), strings.Join(r.Faults, "\n  "), cfg, b.String())
}

// report prints a failing schedule, shrunk, with its trace.
func report(t *testing.T, cfg Config) {
	t.Helper()
	r := Run(cfg)
	if r.Violation == "" {
		return
	}
	_, s := told(Shrink(cfg, SameFailure(r)))
	t.Errorf("seed %d: %s\nThe same, made small: %s", cfg.Seed, r.Violation, s)
}

func TestSchedules(t *testing.T) {
	if *replay != "" || *seedFlag != 0 {
		cfg, err := config(*seedFlag), error(nil)
		if *replay != "" {
			if cfg, err = Parse(*replay); err != nil {
				t.Fatal(err)
			}
		}
		r, s := told(cfg)
		t.Logf("%s\n%s", r.Violation, s)
		if *replay == "" {
			report(t, cfg)
		} else if r.Violation != "" {
			t.Fail()
		}
		return
	}
	end := time.Now().Add(*soak)
	failed, total, done := play(*first, func(done int64) bool {
		if *soak > 0 {
			return time.Now().Before(end)
		}
		return done < int64(*schedules)
	}, config, false)
	t.Logf("%d schedules from seed %d, %d failovers, %d hosts fenced, %d decisions, longest exposure of a thawed host %v",
		done, *first, total.Failovers, total.Fenced, total.Steps, total.Exposure)
	if failed != 0 {
		report(t, config(failed))
	}
	if total.Failovers == 0 || total.Fenced == 0 {
		t.Error("no schedule had a failover, or none a fence: nothing was tested")
	}
}

// A lossy network alone is no reason to change the master.
func TestNoFalseFailover(t *testing.T) {
	cfg := Config{Seed: 1, Length: 24 * time.Hour, Faults: 0, Loss: 0.05}
	if r := Run(cfg); r.Violation != "" || r.Failovers != 0 {
		t.Errorf("24 h at 5 %% loss: %d failovers, %s", r.Failovers, r.Violation)
	}
}

func TestSameSeedSameStory(t *testing.T) {
	story := func() string {
		var b strings.Builder
		cfg := config(42)
		cfg.Trace = func(s string) { b.WriteString(s + "\n") }
		Run(cfg)
		return b.String()
	}
	if a, b := story(), story(); a != b || len(a) < 500 {
		t.Errorf("one seed told two stories (%d and %d bytes)", len(a), len(b))
	}
}
