package health

import (
	"math"
	"slices"
	"strings"
	"time"
)

// Judge turns reports, one after the other, into conditions. It is pure: time comes
// in with each report, and the same reports give the same conditions. Not for
// concurrent use.
type Judge struct {
	t      Thresholds
	now    time.Duration
	wall   time.Time
	tracks map[trackKey]*track
	counts map[countKey]*window
	temp   stuck
	states [len(table)]state
	out    []Condition
}

// trackKey is one thing that a condition may be about: a disk, a link; "" where
// there is one only.
type trackKey struct {
	typ   Type
	about string
}

// countKey is one counter of it.
type countKey struct {
	trackKey
	what string
}

// state of a condition, over all that it may be about.
type state struct {
	status  Truth
	begun   bool
	since   time.Duration
	wall    time.Time
	holding int // things of which it is so
}

// NewJudge makes one that has seen nothing: every condition is unknown.
func NewJudge(t Thresholds) *Judge {
	j := &Judge{t: t, tracks: map[trackKey]*track{}, counts: map[countKey]*window{}}
	for _, k := range table {
		j.out = append(j.out, Condition{Type: k.typ, Reason: "NotMeasured"})
	}
	return j
}

// maxStep is more seconds than lie between 1970 and any date that can be, and less
// than a time.Duration can hold.
const maxStep = 9e9

// Observe takes the report of the moment now, of a clock that nobody sets, and
// returns the conditions whose status it changed; in the first round, all that are
// known.
func (j *Judge) Observe(now time.Duration, r *Report) []Change {
	j.now, j.wall = max(now, j.now), r.At
	// What is shown as a date follows the wall clock when somebody sets it.
	if step, ok := r.Clock.Step.Get(); ok && math.Abs(step) > 1 && math.Abs(step) < maxStep {
		for i := range j.states {
			j.states[i].wall = j.states[i].wall.Add(time.Duration(step * float64(time.Second)))
		}
	}
	l := look{j: j}
	for i := range rules {
		l.rule = &rules[i]
		l.rule.look(&l, r)
	}
	for k, t := range j.tracks {
		// What is not there any more, an unplugged disk, has no condition.
		if j.now-t.last > forget {
			delete(j.tracks, k)
		}
	}
	for k, w := range j.counts {
		if j.now-w.last > 2*w.span {
			delete(j.counts, k)
		}
	}
	before := j.states
	j.out = j.conclude(r.Unknown)
	var changes []Change
	for i, c := range j.out {
		if c.Status != before[i].status {
			changes = append(changes, Change{c, before[i].status})
		}
	}
	return changes
}

// Conditions are those after the last report, each type once, in the order of the
// table. The caller must not change them.
func (j *Judge) Conditions() []Condition { return j.out }

// maxAbout bounds how many things one message names, maxMessage its bytes.
const maxAbout, maxMessage = 3, 600

// conclude makes one condition of all tracks of a type: it is so if it is so of one
// of them, and unknown only if it is unknown of all.
func (j *Judge) conclude(why []Unknown) []Condition {
	out := make([]Condition, len(table))
	for i := range table {
		out[i].Type = table[i].typ
	}
	var holding [len(table)]int // things of which it is so
	var news [len(table)]bool   // one of them is told anew
	for key, t := range j.tracks {
		for i := range table {
			if table[i].typ == key.typ {
				out[i].Status = max(out[i].Status, t.status)
				if t.status == Yes {
					holding[i]++
					news[i] = news[i] || t.told == j.now
				}
			}
		}
	}
	for i := range out {
		c, s := &out[i], &j.states[i]
		switch {
		case c.Status == Yes && s.status == Yes && s.holding == holding[i] && !news[i]:
			c.Reason, c.Message, c.Advice = j.out[i].Reason, j.out[i].Message, j.out[i].Advice
		case c.Status != No:
			j.tell(c, rules[i].source, why)
		}
		s.holding = holding[i]
		if c.Status != s.status || !s.begun {
			s.status, s.begun, s.since, s.wall = c.Status, true, j.now, j.wall
		}
		c.Since, c.For = s.wall, (j.now - s.since).Seconds()
	}
	return out
}

// tell says in words what a condition comes from, or why it is not known.
func (j *Judge) tell(c *Condition, source string, why []Unknown) {
	var about []string
	for key, t := range j.tracks {
		if key.typ == c.Type && t.status == c.Status && t.message != "" {
			about = append(about, key.about)
		}
	}
	slices.Sort(about)
	about = about[:min(len(about), maxAbout)]
	for i, name := range about {
		t := j.tracks[trackKey{c.Type, name}]
		if i == 0 {
			c.Reason = t.reason
		}
		about[i] = t.message
	}
	c.Message = printable(strings.Join(about, "; "), maxMessage)
	switch {
	case c.Status == Yes:
		c.Advice = advice(c.Type, c.Reason)
	case c.Message == "":
		c.Reason, c.Message = "NotMeasured", "nothing on this host has told it yet"
		for _, u := range why {
			if u.What == source {
				c.Message = u.Why
			}
		}
	}
}

// look is what a rule says its findings to.
type look struct {
	j    *Judge
	rule *rule
}

// bad says that it is so of something; for after, until the condition holds.
func (l *look) bad(about string, after time.Duration, reason string, message func() string) {
	t := l.track(about)
	t.step(l.j.now, Yes, after)
	if t.status == Yes && (t.reason != reason || l.j.now-t.told >= retell) {
		t.reason, t.message, t.told = reason, message(), l.j.now
	}
}

// fine says that it is not so, clearly.
func (l *look) fine(about string) { l.track(about).step(l.j.now, No, l.rule.clear) }

// between says that it is neither bad nor clearly fine: what was, stays.
func (l *look) between(about string) {
	t := l.track(about)
	t.toward = t.status
	if t.status == Maybe {
		t.become(No)
	}
}

// quiet says that there is no evidence in this round, and that this is no news.
func (l *look) quiet(about string) {
	t := l.track(about)
	t.toward = t.status
}

// unclear says that it could not be measured. For a while what was stays.
func (l *look) unclear(about, reason, message string) {
	t := l.track(about)
	t.step(l.j.now, Maybe, forget)
	if t.status == Maybe {
		t.reason, t.message = reason, message
	}
}

// event says whether something happened lately that should not. That it did not is
// no proof that all is well.
func (l *look) event(about string, happened bool, reason string, message func() string) {
	switch {
	case happened:
		l.bad(about, 0, reason, message)
	case l.track(about).status == Yes:
		l.fine(about)
	default:
		l.quiet(about)
	}
}

// high says that a value is bad from one line on, and fine below another.
func (l *look) high(about string, v, raise, clear float64, after time.Duration, reason string, message func() string) {
	switch {
	case v >= raise:
		l.bad(about, after, reason, message)
	case v < clear:
		l.fine(about)
	default:
		l.between(about)
	}
}

// low is high for a value that should not be small.
func (l *look) low(about string, v, raise, clear float64, after time.Duration, reason string, message func() string) {
	l.high(about, -v, -raise, -clear, after, reason, message)
}

// growth is by how much a counter grew within the span of time.
func (l *look) growth(about, what string, v Value, span time.Duration) (float64, bool) {
	n, ok := v.Get()
	if !ok {
		return 0, false
	}
	k := countKey{trackKey{l.rule.typ, about}, what}
	w := l.j.counts[k]
	if w == nil {
		w = &window{span: span}
		l.j.counts[k] = w
	}
	return w.add(l.j.now, n), true
}

func (l *look) track(about string) *track {
	k := trackKey{l.rule.typ, about}
	t := l.j.tracks[k]
	if t == nil {
		t = &track{}
		l.j.tracks[k] = t
	}
	t.last = l.j.now
	return t
}
