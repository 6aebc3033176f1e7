package agent

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
)

// observed is what this host saw of the mastership lately: its part of the timeline that
// `explain` shows. It lies in memory alone; what was decided is in the history, which is
// replicated, and everything is in the journal.
type observed struct {
	clock Clock
	term  func() uint64

	mu   sync.Mutex
	ring [160]observation
	n    int // ever noted
}

// observation is one line of it.
type observation struct {
	At   lease.Time
	Term uint64 // the newest that was known then
	Text string
}

// maxObservation bounds a line, in bytes.
const maxObservation = 300

func (o *observed) note(format string, args ...any) {
	text := cut(fmt.Sprintf(format, args...), maxObservation)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ring[o.n%len(o.ring)] = observation{o.clock(), o.term(), text}
	o.n++
}

// seenReply is how another agent is told: in seconds before the answer, since no two
// clocks agree.
type seenReply struct {
	Lines []seenLine `json:"lines"` // oldest first
}

type seenLine struct {
	Ago  float64 `json:"ago_seconds"`
	Term uint64  `json:"term"`
	Text string  `json:"text"`
}

// tell answers with all that is remembered.
func (o *observed) tell(context.Context, string, empty) (seenReply, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.clock()
	var r seenReply
	for i := max(0, o.n-len(o.ring)); i < o.n; i++ {
		e := o.ring[i%len(o.ring)]
		r.Lines = append(r.Lines, seenLine{(now - e.At).Seconds(), e.Term, e.Text})
	}
	return r, nil
}

// maxTold bounds what one member's answer may bring into the timeline.
const maxTold = 400

// ago turns seconds that another host said into a duration that is not absurd.
func ago(seconds float64) time.Duration {
	return time.Duration(min(max(seconds, 0), 1e8) * float64(time.Second))
}

// seenBy is what node saw, by the clock of who asks: at is about when it answered.
func seenBy(node string, at time.Time, r seenReply) (out []api.Sight) {
	for _, l := range r.Lines[:min(len(r.Lines), maxTold)] {
		out = append(out, api.Sight{At: at.Add(-ago(l.Ago)).UTC(), Node: node, Term: l.Term, Text: cut(l.Text, maxObservation)})
	}
	return out
}

// sights asks every member that is alive, this host too, for what it saw; by time, as far
// as a round trip allows.
func (a *agent) sights(ctx context.Context) []api.Sight {
	ctx, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
	defer cancel()
	var mu sync.Mutex
	var out []api.Sight
	add := func(node string, at time.Time, r seenReply) {
		mu.Lock()
		defer mu.Unlock()
		out = append(out, seenBy(node, at, r)...)
	}
	own, _ := a.seenHere.tell(ctx, "", empty{})
	add(a.cfg.Node, time.Now(), own)
	var wg sync.WaitGroup
	for _, m := range a.shown() {
		if m.Status != member.Alive || m.Node == a.cfg.Node {
			continue
		}
		wg.Go(func() {
			var r seenReply
			asked := time.Now()
			if a.port.PostJSON(ctx, m.Node, pathSeen, empty{}, &r) == nil {
				add(m.Node, asked.Add(time.Since(asked)/2), r)
			}
		})
	}
	wg.Wait()
	sortSights(out)
	return out
}

func sortSights(s []api.Sight) {
	sort.SliceStable(s, func(i, j int) bool { return s[i].At.Before(s[j].At) })
}
