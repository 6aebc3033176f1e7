package lease

import "fmt"

// mayRenew: S2 without the quorum's word. "" = it may.
func (a *Arbiter) mayRenew(r Renewal) string {
	switch {
	case !a.leading:
		return "this host is not the arbiter"
	case a.proposed != 0:
		return fmt.Sprintf("term %d is being given away", a.fact.Term)
	case a.releasing == r.Term:
		return fmt.Sprintf("term %d is being released", r.Term)
	case !a.fact.names(r.From, r.Term) && !offTerm:
		return fmt.Sprintf("%s does not hold term %d: %v", r.From, r.Term, a.fact)
	case a.fact.Pause == Running && r.Epoch < a.fact.Epoch && !offTerm:
		// Or it would take the acknowledgement for a lease that lasts as long as the pause.
		return r.From + " has not heard yet that a pause is over"
	case a.fencing != 0:
		return r.From + " is being switched off by the fence"
	case a.changing != 0:
		return "the voters are noting that the holder is another machine called " + r.From
	case r.Machine != a.fact.Machine && a.unserved() && !offMachine:
		return "another machine called " + r.From + " was named the first master, and may run its control plane without a lease: if it is surely off, `relevo failover --force --to " + r.From + "`"
	case r.Machine != a.fact.Machine && !offMachine:
		return "another machine called " + r.From + " has the lease: give each host a name of its own, or wait until that lease has surely run out"
	}
	return ""
}

// unserved: no master ever served. The first one may have been running its control plane
// before there was a lease, and goes on until its first renewal: no wait ends that.
func (a *Arbiter) unserved() bool { return a.fact.Served == 0 }

// free is when the lease has surely run out (S3).
func (a *Arbiter) free() Time { return max(a.lastAck, a.since) + a.tm.Wait() }

// calm is until when nothing can be due, whatever the candidates say: the lease holds, and
// it is too early for the fence. A cluster is nearly always there, so nothing is weighed, and
// no words are made, before it is over; 0 = something may be due now.
func (a *Arbiter) calm() Time {
	switch {
	case a.fact.Term == 0 || a.fact.Released || a.fenced == a.fact.Holder || offS3Wait:
		return 0
	case a.pol.Fence:
		return a.fenceFrom()
	}
	return a.free()
}

// fenceFrom is when the fence device may be asked: from the moment in which the holder
// itself begins to stop, nothing is lost by switching it off.
func (a *Arbiter) fenceFrom() Time {
	return max(a.lastAck, a.since) + a.tm.TTL - a.tm.StopBefore()
}

// changeMachine names another machine of the holder's name in its place (its SD card was
// put into a new board), when the old one's lease has surely run out. In a paused cluster
// it never has, and before the first master served nobody knows whether it had one. What
// was proposed once is proposed until it is committed: its fate must be known before
// anybody is acknowledged.
func (a *Arbiter) changeMachine(now Time, r Renewal) []Action {
	if !a.leading || a.proposed != 0 || a.fencing != 0 || a.releasing == r.Term || !a.fact.names(r.From, r.Term) {
		return nil
	}
	if r.Machine != a.fact.Machine && now < a.free() {
		a.rival = now
	}
	if (a.fact.Pause != Running || a.unserved()) && !offMachine {
		return nil
	}
	if now < a.changeAt || a.changing == 0 && (r.Machine == a.fact.Machine || now < a.free()) {
		return nil
	}
	if a.changing == 0 {
		a.changing = r.Machine
	}
	a.changeAt = now + a.tm.Renew()
	return []Action{ProposeMachine{a.fact.Term, a.fact.Holder, a.changing}}
}
