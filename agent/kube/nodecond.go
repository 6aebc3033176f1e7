package kube

import (
	"cmp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Conditions of a Node, in the manner of node-problem-detector: a type is a problem,
// and its status False while there is none. Ours begin with a prefix of their own, so
// that neither the kubelet's (MemoryPressure) nor node-problem-detector's
// (ReadonlyFilesystem) are ever written by us; a strategic merge leaves theirs alone.

// ConditionPrefix begins the types of our conditions.
const ConditionPrefix = "Relevo"

// NodeCondition is a condition of a Node, as Kubernetes has it.
type NodeCondition struct {
	Type          string      `json:"type"`
	Status        string      `json:"status"` // True, False, Unknown
	LastHeartbeat metav1.Time `json:"lastHeartbeatTime"`
	LastChange    metav1.Time `json:"lastTransitionTime"`
	Reason        string      `json:"reason,omitempty"`
	Message       string      `json:"message,omitempty"`
}

// Condition is what is to be written: a type without the prefix.
type Condition struct {
	Type            string
	Status          string // True, False, Unknown
	Reason, Message string
	Since           time.Time
}

// Event tells of a change.
type Event struct {
	Reason, Message string
	Warning         bool
}

// heartbeat is how often conditions are written that did not change, so that others
// see that somebody looks after them. node-problem-detector does it every five
// minutes; each is a write to the cluster's datastore, on somebody's SD card.
const heartbeat = 15 * time.Minute

// ledger decides what is to be written when. It is pure.
type ledger struct {
	written map[string]NodeCondition // by type, as the Node has them; nil = not known yet
	beat    time.Time                // when all were written last
}

// learn takes what the Node says. Somebody may have made it anew.
func (l *ledger) learn(has []NodeCondition) {
	l.written = map[string]NodeCondition{}
	l.beat = time.Time{}
	for _, c := range has {
		if strings.HasPrefix(c.Type, ConditionPrefix) {
			l.written[c.Type] = c
			if b := c.LastHeartbeat.Time; l.beat.IsZero() || b.Before(l.beat) {
				l.beat = b
			}
		}
	}
}

// next is what has to be written now, the types that have to go, and what there is to
// tell. A condition that is unknown, as many are on boards that cannot measure it, is
// not written unless it was known before.
func (l *ledger) next(want []Condition, now time.Time) (set []NodeCondition, gone []string, events []Event) {
	all := now.Sub(l.beat) >= heartbeat || now.Before(l.beat)
	wanted := map[string]bool{}
	for _, c := range want {
		t := ConditionPrefix + c.Type
		was, had := l.written[t]
		if c.Status == "Unknown" && !had {
			continue
		}
		wanted[t] = true
		n := NodeCondition{Type: t, Status: c.Status, Reason: cmp.Or(word(c.Reason), c.Type), Message: clip(c.Message, 1024), LastHeartbeat: metav1.Time{Time: now.UTC().Truncate(time.Second)}}
		n.LastChange = metav1.Time{Time: c.Since.UTC().Truncate(time.Second)}
		if had && was.Status == n.Status {
			n.LastChange = was.LastChange
		}
		if c.Since.IsZero() && n.LastChange.IsZero() {
			n.LastChange = n.LastHeartbeat
		}
		changed := !had || was.Status != n.Status || was.Reason != n.Reason
		if changed || all {
			set = append(set, n)
		}
		switch {
		case n.Status == "True" && (!had || was.Status != "True"):
			events = append(events, Event{n.Reason, clip(c.Message, 1024), true})
		case n.Status == "False" && had && was.Status == "True":
			events = append(events, Event{"No" + c.Type, cmp.Or(clip(c.Message, 1024), c.Type+" is over"), false})
		}
	}
	for t := range l.written {
		if !wanted[t] {
			gone = append(gone, t) // of another version
		}
	}
	slices.Sort(gone)
	return set, gone, events
}

// wrote notes what was written.
func (l *ledger) wrote(set []NodeCondition, gone []string, now time.Time) {
	if now.Sub(l.beat) >= heartbeat || now.Before(l.beat) {
		l.beat = now
	}
	for _, c := range set {
		l.written[c.Type] = c
	}
	for _, t := range gone {
		delete(l.written, t)
	}
}

// word makes a reason that Kubernetes takes: CamelCase, at most 128 bytes.
func word(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, s)
	return s[:min(len(s), 128)]
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
