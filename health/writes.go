package health

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// minProbe is the shortest time between two probes: 144 writes of 4 KiB a day. What
// a card makes of them, a few blocks of its journal and an erase block each, is some
// tens of MB a day.
const minProbe = 10 * time.Minute

// probeSize is a block of ext4 and a page of most cards.
const probeSize = 4 << 10

// writing is what the agent's durable writes cost.
type writing struct {
	mu       sync.Mutex
	next     int
	underWay map[int]time.Duration // since when
	slowest  time.Duration         // since the last round
	fresh    bool                  // one ended since the last round
	count    float64
	failed   float64
	last     time.Duration // when the newest ended
}

// Writing notes that a durable write begins; the function that it returns notes its
// end and error. A write that never comes back is seen, too.
//
// How slow a disk is shows best at fsync. But an agent that writes to measure, wears
// the card of a host where nothing else happens; so it measures what is written
// anyway: its own writes, here, and those of all programs, as the kernel counts them
// (WriteSeconds and FlushSeconds of a [Drive]). Config.Probe adds writes of our own
// for those who want to know about a disk that sleeps.
func (m *Monitor) Writing() (done func(error)) {
	w := &m.writes
	now := m.cfg.Clock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.underWay == nil {
		w.underWay = map[int]time.Duration{}
	}
	id := w.next
	w.next++
	w.underWay[id] = now
	return func(err error) {
		now := m.cfg.Clock()
		w.mu.Lock()
		defer w.mu.Unlock()
		began, ok := w.underWay[id]
		if !ok {
			return // called twice
		}
		delete(w.underWay, id)
		w.slowest, w.fresh, w.last = max(w.slowest, now-began), true, now
		w.count++
		// A full disk is a condition of its own, and known better from statfs.
		if err != nil && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
			w.failed++
		}
	}
}

// idle says that no write is under way: a probe behind one that hangs tells nothing.
func (w *writing) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.underWay) == 0
}

func (m *Monitor) collectWrites(_ context.Context, r *Report) error {
	now := m.cfg.Clock()
	w := &m.writes
	w.mu.Lock()
	defer w.mu.Unlock()
	slowest := w.slowest
	for _, began := range w.underWay {
		slowest = max(slowest, now-began)
	}
	if w.fresh || len(w.underWay) > 0 {
		r.Writes.Slowest = Of(slowest.Seconds())
	}
	w.slowest, w.fresh = 0, false
	r.Writes.Count, r.Writes.Failed = Of(w.count), Of(w.failed)
	return nil
}

// probe writes one block over itself and waits until it is on the disk.
func (m *Monitor) probe() {
	done := m.Writing()
	done(probeFile(path.Join("/", m.cfg.Root, m.cfg.DataDir, "health.probe")))
}

func probeFile(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		_, err = f.WriteAt(make([]byte, probeSize), 0)
		if err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("measure the disk by a write to %s: %w", name, err)
	}
	return nil
}
