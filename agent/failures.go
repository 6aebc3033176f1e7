package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"relevo.dev/relevo/agent/lease"
)

// failures remembers the promotions that failed here, so that this host is not chosen
// again at once: somebody else shall try. Each failure in a row doubles the time.
type failures struct {
	mu    sync.Mutex
	row   int
	at    lease.Time
	term  uint64
	why   string
	until lease.Time
}

// How long a host is not ready after a promotion that failed.
const (
	firstRest = 30 * time.Second
	mostRest  = 10 * time.Minute
)

// restFor is how long after so many failures in a row.
func restFor(row int) time.Duration {
	return min(mostRest, firstRest<<min(row-1, 10))
}

func (f *failures) note(now lease.Time, term uint64, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.row++
	f.at, f.term, f.why, f.until = now, term, why, now+restFor(f.row)
}

func (f *failures) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.row, f.until = 0, 0
}

// notReady says why this host should not be chosen now, "" if it may.
func (f *failures) notReady(now lease.Time) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now >= f.until {
		return ""
	}
	return fmt.Sprintf("its promotion for term %d failed %v ago, and it rests for %v more: %s",
		f.term, (now - f.at).Round(time.Second), (f.until - now).Round(time.Second), f.why)
}

// promotionFailed is called by the worker; the lease machine gives the term back by itself.
func (a *agent) promotionFailed(ctx context.Context, term uint64, err error) {
	a.failures.note(a.clock(), term, err.Error())
	a.seenHere.note("fails in its promotion for term %d: %v", term, err)
	ctx, cancel := context.WithTimeout(ctx, a.cfg.LeaseTTL/3)
	defer cancel()
	if err := a.tellNote(ctx, noteRequest{term, a.cfg.Node + ": " + err.Error()}); err != nil {
		a.log.Warn("the history does not tell that this promotion failed", "term", term, "err", err)
	}
}
