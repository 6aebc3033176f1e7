package lease

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Judgement is what the arbiter thinks of giving the next term away, with its
// reasons: `status` and `explain` print it, and decide acts on it.
type Judgement struct {
	Due       bool   // propose now
	Over      bool   // the term may be taken away (S3), or was given back
	Possible  bool   // would act if the holder were lost now
	To        string // the successor it would choose
	Automatic bool   // counts against the flap limit
	Fenced    bool   // it is over because a fence device confirmed that the holder is off
	Reason    string // why the term changes
	By        string // the person who asked
	Why       []string
	Evidence  []string // of the holder's state, in words
	Notes     []string // of the candidates, a line each
	WaitUntil Time     // when S3 ends
	FenceAt   Time     // when the fence device is asked; 0 = it is not
}

// Judge weighs the evidence at now. It changes nothing.
func (a *Arbiter) Judge(now Time) Judgement {
	var j Judgement
	if !a.leading {
		j.Why = []string{"this host is not the arbiter"}
		return j
	}
	if a.fact.Served == 0 && (a.fact.Term == 0 || a.fact.Released) {
		a.judgeFirst(now, &j)
		return j
	}
	forced := a.asked != nil && a.asked.Force
	// May the term be taken away (S3)?
	over := false
	j.WaitUntil = a.free()
	if offS3Wait {
		j.WaitUntil = max(a.lastAck, a.since) + a.tm.TTL/3
	}
	switch {
	case a.fact.Released:
		over, j.Reason, j.Automatic = true, a.fact.Holder+" gave the term back", a.toldAuto
		if a.toldWhy != "" {
			j.Reason += ": " + a.toldWhy
		}
		if a.since > 0 && now < a.since+a.tm.Renew()*2 && len(a.reports) == 0 {
			over = false // just elected: hear the candidates first
		}
	case a.fenced == a.fact.Holder:
		over, j.Automatic, j.Fenced = true, true, true
		j.Reason = fmt.Sprintf("%s did not renew its lease for %v, and the fence confirmed that it is off", a.fact.Holder, a.silence(now))
	case now >= j.WaitUntil:
		over, j.Automatic = true, true
		j.Reason = fmt.Sprintf("%s did not renew its lease for %v", a.fact.Holder, a.silence(now))
	}
	if a.asked != nil {
		j.By = a.asked.By
		if over {
			j.Automatic = false
			j.Reason += "; asked for by " + a.asked.By + ": " + a.asked.Why
		}
	}
	j.Evidence = a.holderEvidence(now)
	// Who could take it?
	j.To = a.choose(now, forced, &j)
	j.Possible = j.To != ""
	if j.Possible && !over && !slices.Contains(a.fact.InSync, j.To) {
		// If the arbiter goes down with the master, the next one knows only what is committed.
		j.Possible = false
		j.Why = append(j.Why, j.To+": caught up, and the voters are about to note it")
	}
	j.Over = over
	if a.fact.Pause != Running {
		j.Possible = false
		j.Why = append(j.Why, "the cluster is "+string(a.fact.Pause)+": nobody is promoted")
	}
	if !forced && !a.fact.Released {
		if a.fact.Voters < 3 {
			j.Possible = false
			j.Why = append(j.Why, fmt.Sprintf("%d voters: an automatic failover needs at least 3", a.fact.Voters))
		}
		if n := a.recentFailovers(now); n >= a.pol.MaxFailovers {
			j.Possible = false
			j.Why = append(j.Why, fmt.Sprintf("%d automatic failovers within an hour: a person must acknowledge", n))
		}
	}
	j.Due = over && j.Possible
	// The device is not asked where nobody would follow. While somebody else goes by its name, the device might switch the wrong one off.
	if a.pol.Fence && a.rival == 0 && j.Possible && !over && a.fencing == 0 && a.fact.Holder != a.node {
		j.FenceAt = max(a.fenceAt, a.fenceFrom())
	}
	return j
}

// silence of the holder.
func (a *Arbiter) silence(now Time) Time {
	return (now - max(a.lastAck, a.since)).Round(10 * time.Millisecond)
}

// judgeFirst: a cluster in which no master ever served takes the one that runs,
// else the one with the newest data, else, after a while, a copy or the founder.
func (a *Arbiter) judgeFirst(now Time, j *Judgement) {
	if now < a.since+a.tm.Stale() {
		j.Why = []string{"no master yet: listening to the candidates"}
		return
	}
	var running []string
	var best, other *report
	for _, r := range a.fresh(now) {
		j.Notes = append(j.Notes, fmt.Sprintf("%s: control plane running: %v, own revision %d", r.Node, r.Running, r.OwnRevision))
		if r.Running {
			running = append(running, r.Node)
		}
		if a.resting(now, r) {
			continue
		}
		if r.OwnRevision > 0 && (best == nil || r.OwnRevision > best.OwnRevision) {
			best = &r
		}
		if late := now > a.since+a.tm.Blackout(); late && (r.Founder || r.Ready) && other == nil {
			other = &r // its data is only a copy, or there is none: give those who have some time to come
		}
	}
	switch {
	case len(running) > 1:
		j.Why = []string{fmt.Sprintf("%v all run a control plane: stop all but the right one", running)}
	case len(running) == 1:
		j.Due, j.To, j.Reason = true, running[0], "first master: its control plane was running"
	case best != nil:
		j.Due, j.To, j.Reason = true, best.Node, "first master: it has the newest data"
	case other != nil:
		j.Due, j.To, j.Reason = true, other.Node, "first master: nobody who has the data came"
	default:
		j.Why = []string{"no candidate has a control plane or data"}
	}
	if a.fact.Pause != Running {
		j.Due = false
	}
}

// resting: who has just given the term back does not get it again at once; a
// promotion that fails must not be repeated in a tight circle.
func (a *Arbiter) resting(now Time, r report) bool {
	return !a.wantedBack(now) && a.releasedWithin(now, r, 2*a.tm.TTL)
}

func (a *Arbiter) releasedWithin(now Time, r report, d time.Duration) bool {
	at, ok := a.released[r.Node]
	return ok && now < at+d
}

// counts says whether a report is young enough.
func (a *Arbiter) counts(now Time, r report) bool { return now-r.at < a.tm.Stale() }

// fresh are the reports that still count, by name.
func (a *Arbiter) fresh(now Time) []report {
	var out []report
	for _, r := range a.reports {
		if a.counts(now, r) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(x, y report) int { return cmp.Compare(x.Node, y.Node) })
	return out
}

// lag of a standby: how long before a serving holder was last heard its copy was
// last caught up. Not known if either moment is not.
func (a *Arbiter) lag(r report) (lag time.Duration, known bool) {
	if r.FreshAge < 0 || a.served == 0 {
		return 0, false
	}
	return max(0, a.served-(r.at-r.FreshAge)), true
}

// wantedBack: the holder gave its term back for a planned change, found that nobody else
// has all that it has, and asks for the next term itself. Anybody else would lose writes,
// so it is waited for, for as long as an unheard holder is waited for after a blackout.
func (a *Arbiter) wantedBack(now Time) bool {
	at, ok := a.released[a.fact.Holder]
	return a.fact.Released && a.toldTo == a.fact.Holder && ok && now < at+a.tm.Blackout()
}

// usable says why a standby may not be chosen, "" if it may.
func (a *Arbiter) usable(now Time, r report) string {
	lag, known := a.lag(r)
	switch {
	case a.wantedBack(now) && r.Node != a.fact.Holder:
		return "only " + a.fact.Holder + " has everything, and is waited for"
	case a.resting(now, r):
		return "gave the term back a moment ago"
	case !r.Ready:
		return "not ready: " + r.Why
	case r.Never:
		return "configured never to be promoted"
	case known && lag > a.pol.MaxLag:
		return fmt.Sprintf("%v behind: more than max_lag", lag.Round(time.Millisecond))
	case known:
		return ""
	case !slices.Contains(a.fact.InSync, r.Node):
		return "was not in sync when the master was last seen"
	case r.FreshAge < 0 && !a.fact.Released && now < a.since+a.tm.Blackout():
		return fmt.Sprintf("restarted since it was in sync; waiting %v for %s",
			(a.since + a.tm.Blackout() - now).Round(time.Second), a.fact.Holder)
	}
	return ""
}

// choose the successor: the one that was wished for if it is usable, else the
// freshest. Who has just given the term back comes last.
func (a *Arbiter) choose(now Time, forced bool, j *Judgement) string {
	wish := a.toldTo
	if a.asked != nil && a.asked.To != "" {
		wish = a.asked.To
	}
	rank := func(r report) int {
		switch {
		case r.Node == wish:
			return 2
		case a.releasedWithin(now, r, a.tm.Blackout()):
			return 0
		}
		return 1
	}
	var best *report
	for _, r := range a.fresh(now) {
		if r.Node == a.fact.Holder && !a.fact.Released && !(forced && r.Node == wish && r.Machine != a.fact.Machine) {
			continue // but for another machine of its name, by the word of a person
		}
		if why := a.usable(now, r); why != "" && !(forced && r.Node == wish) {
			j.Why = append(j.Why, r.Node+": "+why)
			j.Notes = append(j.Notes, fmt.Sprintf("%s: revision %d; %s", r.Node, r.Revision, why))
			continue
		}
		lag, _ := a.lag(r)
		j.Notes = append(j.Notes, fmt.Sprintf("%s: ready, revision %d, lag %v", r.Node, r.Revision, lag.Round(time.Millisecond)))
		if best == nil || cmp.Or(
			cmp.Compare(rank(r), rank(*best)),
			cmp.Compare(r.Revision, best.Revision),
			cmp.Compare(r.Priority, best.Priority),
			cmp.Compare(best.Node, r.Node)) > 0 {
			best = &r
		}
	}
	if best == nil {
		j.Why = append(j.Why, "nobody is ready to take over")
		return ""
	}
	return best.Node
}

// inSync is the set of hosts that have the newest data: the holder that serves,
// and the standbys whose lag is known and within max_lag. It is frozen while no
// holder serves: what it was then is what counts.
func (a *Arbiter) inSync(now Time) (set []string, changed bool) {
	first := a.fact.Served != a.fact.Term
	switch {
	case a.served == 0 || a.served < a.since || a.fact.Released || now > a.served+2*a.tm.Renew():
		return nil, false
	case now < a.syncAt+a.tm.Renew() && a.syncTerm == a.fact.Term:
		return nil, false // a proposal is on its way
	}
	set = append(a.set[:0], a.fact.Holder)
	for _, r := range a.reports {
		if lag, known := a.lag(r); known && lag <= a.pol.MaxLag && r.Ready && r.Node != a.fact.Holder && a.counts(now, r) {
			set = append(set, r.Node)
		}
	}
	// Who has caught up is noted at once, since only then a failover is sure. Who fell
	// behind is struck off later: not at every flutter, and everybody is heard first.
	if !first && (now < a.since+a.tm.TTL || now < a.syncAt+a.tm.TTL && a.syncTerm == a.fact.Term) {
		for _, n := range a.fact.InSync {
			if !slices.Contains(set, n) {
				set = append(set, n)
			}
		}
	}
	slices.Sort(set)
	if a.set = set; !first && slices.Equal(set, a.fact.InSync) {
		return nil, false
	}
	return slices.Clone(set), true
}

// recentFailovers are those of the last hour that nobody has acknowledged.
func (a *Arbiter) recentFailovers(now Time) int {
	n := 0
	for term, at := range a.failovers {
		if now-at < time.Hour && term > a.fact.Acked {
			n++
		}
	}
	return n
}
