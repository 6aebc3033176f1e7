package hosts

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Audit watches from outside which host runs the control plane: whether the program
// of any of the units is a process in that unit's cgroup, on the machine's one clock,
// every few milliseconds. A frozen host runs nothing as long as it is frozen.
type Audit struct {
	lab   *Lab
	units []string
	start time.Time

	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex
	spans   []Span
	open    map[string]int // host to its open span
	overlap []string
	samples int
	longest time.Duration // between two samples
}

// Span is a time in which a host ran the control plane, since the start of the audit.
type Span struct {
	Host     string
	From, To time.Duration // To is 0 as long as it goes on
	Frozen   bool          // the span began or ended with the host frozen or thawed
}

const auditEvery = 3 * time.Millisecond

// Audit begins an audit; the caller ends it with Stop.
func (l *Lab) Audit(units ...string) *Audit {
	ctx, stop := context.WithCancel(context.Background())
	a := &Audit{lab: l, units: units, start: time.Now(), stop: stop, done: make(chan struct{}), open: map[string]int{}}
	hosts := l.Hosts()
	go func() {
		defer close(a.done)
		t := time.NewTicker(auditEvery)
		defer t.Stop()
		last := time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			a.sample(hosts)
			a.mu.Lock()
			a.samples++
			a.longest = max(a.longest, time.Since(last))
			a.mu.Unlock()
			last = time.Now()
		}
	}()
	return a
}

func (a *Audit) sample(hosts []*Host) {
	for _, h := range hosts {
		runs, frozen := h.runs(a.units)
		a.mu.Lock()
		i, was := a.open[h.Name]
		now := time.Since(a.start)
		switch {
		case runs && !frozen && !was:
			for other, j := range a.open {
				a.overlap = append(a.overlap, fmt.Sprintf("at %.3f s %s runs the control plane, and %s has since %.3f s", now.Seconds(), h.Name, other, a.spans[j].From.Seconds()))
			}
			a.open[h.Name] = len(a.spans)
			a.spans = append(a.spans, Span{Host: h.Name, From: now})
		case (!runs || frozen) && was:
			a.spans[i].To, a.spans[i].Frozen = now, frozen
			delete(a.open, h.Name)
		}
		a.mu.Unlock()
	}
}

// runs says whether the program of any of the units is running, and whether the host
// is frozen. The program has the unit's name; a condition that is being checked runs in
// the unit's cgroup, too, and is not the control plane.
func (h *Host) runs(units []string) (runs, frozen bool) {
	cg := h.lab.path(h.cgroup)
	for _, u := range units {
		procs, err := os.ReadFile(cg + "/init/payload/system.slice/" + u + "/cgroup.procs")
		if err != nil {
			continue
		}
		for _, pid := range strings.Fields(string(procs)) {
			comm, err := os.ReadFile("/proc/" + pid + "/comm")
			if err == nil && strings.TrimSpace(string(comm))+".service" == u {
				v, err := cgroupEvent(cg, "frozen")
				return true, err == nil && v == "1"
			}
		}
	}
	return false, false
}

// Running is which hosts run the control plane now.
func (a *Audit) Running() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for h := range a.open {
		out = append(out, h)
	}
	slices.Sort(out)
	return out
}

// Stop ends the audit. The error tells every moment at which two hosts ran the
// control plane.
func (a *Audit) Stop() (spans []Span, err error) {
	a.stop()
	<-a.done
	if len(a.overlap) > 0 {
		err = fmt.Errorf("two hosts ran the control plane at once:\n%s\n%s", strings.Join(a.overlap, "\n"), a)
	}
	return a.spans, err
}

// Since is the time since the start of the audit.
func (a *Audit) Since() time.Duration { return time.Since(a.start) }

// String tells who ran it when.
func (a *Audit) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var b strings.Builder
	for _, s := range a.spans {
		to := "goes on"
		if s.To > 0 {
			to = fmt.Sprintf("to %8.3f s", s.To.Seconds())
		}
		if s.Frozen {
			to += " (frozen)"
		}
		fmt.Fprintf(&b, "%s ran the control plane from %8.3f s %s\n", s.Host, s.From.Seconds(), to)
	}
	fmt.Fprintf(&b, "%d samples, at most %v apart", a.samples, a.longest.Round(time.Millisecond))
	return b.String()
}
