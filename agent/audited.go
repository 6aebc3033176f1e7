package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/audit"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
)

// auditor writes down who did what, beside those who do it: a slow SD card holds up
// nobody's order, and not the loop.
type auditor struct {
	log   *audit.Log
	queue chan audit.Record

	mu     sync.Mutex
	since  time.Time // of denied
	denied int       // attempts lately
}

const (
	auditQueue = 64
	// deniedFew bounds the attempts that are written down in a minute: who may do nothing
	// shall not fill the card, nor push out what mattered.
	deniedFew = 10
)

func newAuditor(dir string) *auditor {
	return &auditor{log: audit.Open(dir), queue: make(chan audit.Record, auditQueue)}
}

// admit says whether one more denied attempt is written down.
func (w *auditor) admit(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.Sub(w.since) >= time.Minute || now.Before(w.since) {
		w.since, w.denied = now, 0
	}
	w.denied++
	return w.denied <= deniedFew
}

// audits writes until ctx ends, and then what is left.
func (a *agent) audits(ctx context.Context) error {
	write := func(r audit.Record) {
		if err := a.audit.log.Append(r); err != nil {
			a.log.Error("not written to the audit", "action", r.Action, "by", r.By, "err", err)
		}
	}
	for {
		select {
		case r := <-a.audit.queue:
			write(r)
		case <-ctx.Done():
			for {
				select {
				case r := <-a.audit.queue:
					write(r)
				default:
					return nil
				}
			}
		}
	}
}

// audited notes one event, in the journal at once.
func (a *agent) audited(r audit.Record) {
	if r.Outcome == api.Denied && !a.audit.admit(time.Now()) {
		return
	}
	r.At, r.Node, r.Term = time.Now().UTC(), a.cfg.Node, a.term.Load()
	if !a.journalled(r) {
		a.log.Warn("audit", "action", r.Action, "target", r.Target, "by", r.By, "from", r.From, "outcome", r.Outcome, "why", r.Why, "term", r.Term)
	}
	select {
	case a.audit.queue <- r:
	default:
		a.log.Error("the audit is behind: an event is in the journal alone", "action", r.Action)
	}
}

// journalled writes r to the journal with fields of its own, if there is a journal.
func (a *agent) journalled(r audit.Record) bool {
	if a.opts.Journal == nil {
		return false
	}
	message := fmt.Sprintf("audit: %s %s by %s: %s", r.Action, r.Target, cmp.Or(r.By, "nobody"), r.Outcome)
	if r.Why != "" {
		message += ": " + r.Why
	}
	return a.opts.Journal(message, map[string]string{
		"RELEVO_AUDIT": "1", "RELEVO_ACTION": r.Action, "RELEVO_TARGET": r.Target, "RELEVO_BY": r.By, "RELEVO_FROM": r.From,
		"RELEVO_OUTCOME": r.Outcome, "RELEVO_WHY": r.Why, "RELEVO_TERM": strconv.FormatUint(r.Term, 10),
	}) == nil
}

// asked is told of everything that somebody wanted to change (api.Config).
func (a *agent) asked(e api.Event) {
	a.audited(audit.Record{By: e.Who.Name, From: e.Who.From, Action: e.Action, Target: e.Target, Outcome: e.Outcome, Why: e.Why})
}

// carried notes what another member had done here: who is not in our hands any more does not
// write its own orders down. By is who asked: "ann@n1", "laptop from 10.77.0.9@n1".
func (a *agent) carried(from, by, action, target, why string, err error) {
	if from == a.cfg.Node {
		return // it is written down where it was asked
	}
	who, _, _ := strings.Cut(strings.TrimSuffix(by, "@"+from), " from ") // an access
	r := audit.Record{By: who, From: fromMember + from, Action: action, Target: target, Outcome: api.Carried, Why: why}
	if err != nil {
		if !a.audit.admit(time.Now()) {
			return
		}
		r.Outcome, r.Why = api.Refused, err.Error()
	}
	a.audited(r)
}

// fromMember is the way of what another member had done.
const fromMember = "the member "

// auditJoins notes who became a member since a roll, or came back on another key: the arbiter
// does that, as with terms.
func (a *agent) auditJoins(was, is roll) {
	if !a.quorum.IsLeader() {
		return
	}
	for _, m := range is.Members {
		by := "an invitation"
		switch {
		case was.has(m.Node, m.Key):
			continue
		case m.Token != "":
			by = "the token " + m.Token
		case m.Node == a.cfg.Node && a.founder:
			by = "the founding of the cluster"
		}
		a.audited(audit.Record{By: by, Action: "join", Target: m.Node, Outcome: api.Carried})
	}
}

// echo is what two records of one event have in common.
type echo struct{ node, by, action, target, outcome string }

// withoutEchoes leaves out what a member had another do and wrote down itself, if both did
// within a minute by their clocks.
func withoutEchoes(all []api.AuditRecord) []api.AuditRecord {
	at := map[echo][]time.Time{}
	for _, r := range all {
		e := echo{r.Node, r.By, r.Action, r.Target, r.Outcome}
		at[e] = append(at[e], r.At)
	}
	return slices.DeleteFunc(all, func(r api.AuditRecord) bool {
		node, ok := strings.CutPrefix(r.From, fromMember)
		return ok && node != r.Node && slices.ContainsFunc(at[echo{node, r.By, r.Action, r.Target, r.Outcome}], func(t time.Time) bool { return away(t, r.At) < time.Minute })
	})
}

// auditTerm notes a new term: the arbiter that was, or the new holder if it is the same.
func (a *agent) auditTerm(f lease.Fact, was uint64) {
	if f.Term == was || f.Released || !a.quorum.IsLeader() {
		return
	}
	r := audit.Record{Action: "new term", Target: f.Holder, Outcome: api.Carried}
	for _, c := range a.quorum.State().History {
		if c.Term == f.Term {
			r.By, r.Why = c.By, c.Reason
		}
	}
	a.audited(r)
}

type auditReply struct {
	Records []audit.Record `json:"records"` // newest first
}

// maxAudit bounds what one member tells, and what is taken of it.
const maxAudit = 500

// auditHere is what this member wrote down.
func (a *agent) auditHere(context.Context, string, empty) (auditReply, error) {
	all, err := a.audit.log.Read()
	slices.Reverse(all)
	return auditReply{all[:min(len(all), maxAudit)]}, err
}

// auditOf is what node tells of what it wrote down.
func auditOf(node string, r auditReply) (out []api.AuditRecord) {
	bound(&r, maxAudit)
	for _, x := range r.Records {
		out = append(out, api.AuditRecord{At: x.At, Node: node, Term: x.Term, By: x.By, From: x.From, Action: x.Action, Target: x.Target, Outcome: x.Outcome, Why: x.Why})
	}
	return out
}

// Audit is what all members wrote down, newest first (api.Config).
func (a *agent) Audit(ctx context.Context) (api.Audit, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var out api.Audit
	var mu sync.Mutex
	add := func(node string, r auditReply, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			out.Failed = append(out.Failed, node+": "+err.Error())
			return
		}
		out.Records = append(out.Records, auditOf(node, r)...)
	}
	own, err := a.auditHere(ctx, a.cfg.Node, empty{})
	add(a.cfg.Node, own, err)
	var wg sync.WaitGroup
	for _, m := range a.shown() {
		if m.Node == a.cfg.Node || m.Status == member.Left {
			continue
		}
		if m.Status != member.Alive {
			add(m.Node, auditReply{}, errLost)
			continue
		}
		wg.Go(func() {
			var r auditReply
			err := a.port.PostJSON(ctx, m.Node, pathAudit, empty{}, &r)
			add(m.Node, r, err)
		})
	}
	wg.Wait()
	out.Records = withoutEchoes(out.Records)
	sort.SliceStable(out.Records, func(i, j int) bool { return out.Records[i].At.After(out.Records[j].At) })
	slices.Sort(out.Failed)
	return out, nil
}
