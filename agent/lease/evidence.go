package lease

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// evidence is what the arbiter hears of the holder's state besides that it renews: what
// the holder itself finds wrong, what the others see when they ask its API through the
// network, and what gossip says. Renewals alone decide whether the term is over; this
// decides whether a holder that renews should go, and is told to people.
type evidence struct {
	trouble      string // what the holder said last; "" = its API works
	troubleSince Time
	grace        time.Duration
	probes       map[string]probe // by who asked
	gossip       map[string]bool  // this host's own view; kept over leaderships
}

type probe struct {
	ok, ever bool
	why      string
	at       Time // of the newest,
	since    Time // and of the first that said the same
}

func newEvidence() evidence {
	return evidence{probes: map[string]probe{}, gossip: map[string]bool{}}
}

func (e *evidence) clear() {
	e.trouble, e.troubleSince, e.grace = "", 0, 0
	clear(e.probes)
}

// maxWitnesses bounds the maps; a cluster has 50 members.
const maxWitnesses = 1000

func (e *evidence) probed(now Time, p Probed) {
	was, known := e.probes[p.From]
	if !known && len(e.probes) >= maxWitnesses {
		return
	}
	since := now
	if known && was.ok == p.OK {
		since = was.since
	}
	e.probes[p.From] = probe{p.OK, p.Ever, p.Why, now, since}
}

func (e *evidence) gossiped(g Gossiped) {
	if _, known := e.gossip[g.Node]; known || len(e.gossip) < maxWitnesses {
		e.gossip[g.Node] = g.Alive
	}
}

func (e *evidence) troubled(now Time, r Renewal) {
	e.trouble, e.troubleSince, e.grace = r.Trouble, now-max(0, r.TroubleFor), r.Grace
}

// Probe is how often everybody who votes or could be master asks the holder's API.
func (t Timings) Probe() time.Duration { return t.TTL }

// witnesses sorts the others into those who reach the holder's API, and those who have
// not for the grace: three periods without a word, and it is none. While the holder did not
// renew either, the network was to blame, not its API.
func (a *Arbiter) witnesses(now Time) (reach, not []string) {
	for _, from := range slices.Sorted(maps.Keys(a.probes)) {
		switch p := a.probes[from]; {
		case now-p.at > 3*a.tm.Probe() || !p.ever:
		case p.ok:
			reach = append(reach, from)
		case now-max(p.since, a.steady) >= a.grace:
			not = append(not, from)
		}
	}
	return reach, not
}

// mustGo says why a holder that renews should give the term back, "" if it need not: its
// API has not worked for the grace, or most others have not reached it for the grace. One
// witness alone is not enough: it may be the one that is cut off.
func (a *Arbiter) mustGo(now Time) string {
	if a.grace <= 0 {
		return ""
	}
	if d := now - a.troubleSince; a.trouble != "" && d >= a.grace {
		if d < time.Second {
			return "it says of itself: " + a.trouble
		}
		return fmt.Sprintf("for %v it has said of itself: %s", d.Round(time.Second), a.trouble)
	}
	if reach, not := a.witnesses(now); len(not) >= 2 && len(not) > len(reach) {
		why := fmt.Sprintf("its API was not reached through the network for %v from %s: %s",
			a.grace, strings.Join(not, ", "), a.probes[not[0]].why)
		if a.trouble != "" {
			why += "; it says itself: " + a.trouble
		}
		return why
	}
	return ""
}

// holderEvidence tells what is known of the holder, in words.
func (a *Arbiter) holderEvidence(now Time) []string {
	h := a.fact.Holder
	var out []string
	switch {
	case a.lastAck == 0:
		out = append(out, fmt.Sprintf("%s: has not renewed with this arbiter, %v in office", h, (now-a.since).Round(10*time.Millisecond)))
	case a.trouble != "":
		out = append(out, fmt.Sprintf("%s: renewed %v ago; for %v it has said of itself: %s", h, (now-a.lastAck).Round(10*time.Millisecond), (now-a.troubleSince).Round(time.Second), a.trouble))
	default:
		out = append(out, fmt.Sprintf("%s: renewed %v ago", h, (now-a.lastAck).Round(10*time.Millisecond)))
	}
	if a.rival > 0 && now < a.rival+a.tm.Blackout() {
		out = append(out, fmt.Sprintf("%s: another machine of this name asked for its lease %v ago", h, (now-a.rival).Round(time.Second)))
	}
	if alive, known := a.gossip[h]; known {
		out = append(out, h+": "+map[bool]string{true: "alive", false: "failed"}[alive]+", says gossip")
	}
	var probes []string
	for _, from := range slices.Sorted(maps.Keys(a.probes)) {
		p := a.probes[from]
		ago := (now - p.at).Round(100 * time.Millisecond)
		switch {
		case p.ok:
			probes = append(probes, fmt.Sprintf("%s reached it %v ago", from, ago))
		case !p.ever:
			probes = append(probes, from+" never reached it")
		default:
			probes = append(probes, fmt.Sprintf("%s has not for %v (%s)", from, (now-p.since).Round(100*time.Millisecond), p.why))
		}
	}
	if len(probes) > 0 {
		out = append(out, h+": its API through the network: "+strings.Join(probes, "; "))
	}
	return out
}
