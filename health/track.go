package health

import "time"

// retell is how old the numbers in a message may be: it is for people.
const retell = time.Minute

// forget is how long a condition stays what it was when it cannot be seen any more.
const forget = time.Minute

// track follows one condition of one thing. It moves only after all looks have said
// the same for long enough.
type track struct {
	status          Truth
	toward          Truth         // what the looks say
	from            time.Duration // since when they say it
	last            time.Duration // the newest look
	reason, message string
	told            time.Duration // when the message was made
}

// step takes a look that says v, which has to last for the given time.
func (t *track) step(now time.Duration, v Truth, lasting time.Duration) {
	if t.toward != v {
		t.toward, t.from = v, now
	}
	switch {
	case v == t.status:
	case t.status == Maybe && v == No: // there is nothing to wait for
		t.become(No)
	case now-t.from >= lasting:
		t.become(v)
	}
}

func (t *track) become(v Truth) {
	t.status, t.toward = v, v
	if v == No {
		t.reason, t.message = "", ""
	}
}

// slots of a window: it forgets in tenths of its span.
const slots = 10

// window counts by how much a counter grew lately.
type window struct {
	span  time.Duration
	value float64 // the newest
	known bool
	last  time.Duration
	slot  int64 // the newest
	grown [slots]float64
}

// add takes the counter's value and returns its growth within the span, up to a
// tenth of it longer. A counter that was set back has not grown.
func (w *window) add(now time.Duration, v float64) float64 {
	slot := int64(now / max(1, w.span/slots))
	for n := min(slot-w.slot, slots); n > 0; n-- {
		w.slot++
		w.grown[w.slot%slots] = 0
	}
	w.slot = max(w.slot, slot) // all are empty if more time went by
	if w.known && v > w.value {
		w.grown[w.slot%slots] += v - w.value
	}
	w.value, w.known, w.last = v, true, now
	sum := 0.0
	for _, g := range w.grown {
		sum += g
	}
	return sum
}

// stuck notices a sensor that says the same for ever.
type stuck struct {
	value float64
	since time.Duration
	known bool
}

// same is for how long the value has been exactly this.
func (s *stuck) same(now time.Duration, v float64) time.Duration {
	if !s.known || s.value != v {
		*s = stuck{v, now, true}
	}
	return now - s.since
}
