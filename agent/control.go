package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/peer"
)

// What agents say to each other about the lease, as JSON over the peer port. The
// sender's name is never in the message: the certificate says it.
type (
	renewRequest struct {
		Term    uint64 `json:"term"`
		Epoch   uint64 `json:"epoch"`
		Serving bool   `json:"serving"`
		Machine uint64 `json:"machine"` // which the sender is
		// What the master finds wrong with its own API, for how long it has, and for how
		// long it may.
		Trouble    string        `json:"trouble,omitempty"`
		TroubleFor time.Duration `json:"trouble_for,omitempty"`
		Grace      time.Duration `json:"grace,omitempty"`
	}
	renewReply struct {
		OK       bool   `json:"ok"`
		Why      string `json:"why,omitempty"`
		StepDown string `json:"step_down,omitempty"` // renewed, and asked to go, because
		Stay     string `json:"stay,omitempty"`      // it should go, and nobody can follow
	}
	releaseRequest struct {
		Term      uint64 `json:"term"`
		Machine   uint64 `json:"machine"`
		Why       string `json:"why"`
		To        string `json:"to,omitempty"`
		Automatic bool   `json:"automatic,omitempty"`
	}
	raftTermReply struct {
		RaftTerm uint64 `json:"raft_term"`
	}
	empty struct{}
)

const (
	pathRenew    = "/v1/lease/renew"
	pathReport   = "/v1/lease/report"
	pathRelease  = "/v1/lease/release"
	pathRaftTerm = "/v1/raft/term"
	pathSummary  = "/v1/summary"
	pathFacts    = "/v1/facts"
	pathNote     = "/v1/note"
	pathOrder    = "/v1/order"
	pathProbe    = "/v1/probe"
	pathSeen     = "/v1/seen"
	pathWho      = "/v1/who"
	pathCheck    = "/v1/check"
	pathReach    = "/v1/reach"
	pathAudit    = "/v1/audit"
	pathHistory  = "/v1/history"
	pathAccess   = "/v1/access"
	pathIssue    = "/v1/access/issue"
	pathAccesses = "/v1/access/list"
	pathGranted  = "/v1/access/granted"
	pathProve    = "/v1/switchover/prove"
	pathTarget   = "/v1/switchover/target"
	pathReplica  = "/v1/replica/"
)

// maxMessage bounds a control message; the largest is a report of a few hundred bytes.
const maxMessage = 64 << 10

// errLost is why a member that gossip has lost is not asked.
var errLost = errors.New("it is lost")

var errNoArbiter = errors.New("no arbiter is known: the voters have no quorum, or this host cannot reach them")

// handler is what the peer port serves.
func (a *agent) handler() http.Handler {
	l := a.loop
	mux := http.NewServeMux()
	handle(mux, pathRenew, func(ctx context.Context, from string, in renewRequest) (renewReply, error) {
		return l.renew(ctx, from, in)
	})
	handle(mux, pathReport, func(ctx context.Context, from string, in lease.Candidate) (empty, error) {
		// Whom raft tells nothing is no standby, whatever it says. Before the first master
		// one that has its data may be here sooner than raft knows of it.
		if a.quorum.State().Served != 0 && !a.isTold(from) {
			return empty{}, fmt.Errorf("%s neither votes nor is a candidate, as far as the voters know", from)
		}
		in.Node = from
		l.post(ctx, lease.Reported{Candidate: in})
		return empty{}, nil
	})
	handle(mux, pathRelease, func(ctx context.Context, from string, in releaseRequest) (empty, error) {
		l.post(ctx, lease.ReleaseAsked{From: from, Machine: in.Machine, Term: in.Term, Why: in.Why, To: in.To, Automatic: in.Automatic})
		return empty{}, nil
	})
	handle(mux, pathRaftTerm, func(context.Context, string, empty) (raftTermReply, error) {
		return raftTermReply{l.quorum.RaftTerm()}, nil
	})
	handle(mux, pathSummary, func(ctx context.Context, _ string, _ empty) (summary, error) {
		return a.summary(ctx), nil
	})
	handle(mux, pathFacts, a.tellFacts)
	handle(mux, pathNote, a.note)
	handle(mux, pathOrder, a.ordered)
	handle(mux, pathAccess, a.changeAccess)
	handle(mux, pathIssue, a.issueAccess)
	handle(mux, pathAccesses, a.accessList)
	handle(mux, pathGranted, a.granted)
	handle(mux, pathAudit, a.auditHere)
	handle(mux, pathHistory, a.tellHistory)
	handle(mux, pathReach, a.reach)
	handle(mux, pathProbe, a.probed)
	handle(mux, pathProve, a.prove)
	handle(mux, pathTarget, a.targetChecks)
	handle(mux, pathWho, a.who)
	handle(mux, pathCatalog, a.tellCatalog)
	a.trustHandlers(mux)
	handle(mux, pathSeen, a.seenHere.tell)
	handle(mux, pathCheck, a.checks.asked)
	if l.host != nil {
		mux.Handle(pathReplica, a.forStandbys(l.host.Source))
	}
	return mux
}

// forStandbys keeps the datastore and the identity of the control plane, its keys among it,
// from members that neither vote nor are candidates.
func (a *agent) forStandbys(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from := peer.NodeOf(r)
		if !a.isTold(from) {
			http.Error(w, fmt.Sprintf("%s neither votes nor is a candidate, as far as %s knows: it gets no copy", from, a.cfg.Node), http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// handle mounts a JSON call. Bad input is answered and nothing happens; a field that is
// not known is of a newer agent, and ignored: hosts are upgraded one after the other.
func handle[In, Out any](mux *http.ServeMux, path string, f func(ctx context.Context, from string, in In) (Out, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		from := peer.NodeOf(r)
		if from == "" {
			http.Error(w, "no authenticated peer", http.StatusForbidden)
			return
		}
		var in In
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxMessage))
		if err := dec.Decode(&in); err != nil {
			http.Error(w, fmt.Sprintf("bad message for %s: %v", path, err), http.StatusBadRequest)
			return
		}
		out, err := f(r.Context(), from, in)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(out)
	})
}

// maxAsks bounds the renewals that wait for a quorum's word: one holder sends one
// in TTL/6 and waits TTL/3 for it.
const maxAsks = 64

// renew asks the arbiter machine of this host.
func (l *loop) renew(ctx context.Context, from string, in renewRequest) (renewReply, error) {
	if in.Machine == 0 {
		return renewReply{Why: "the renewal names no machine: the agent of " + from + " is of another version"}, nil
	}
	ch := make(chan answer, 1)
	var id uint64
	busy := false
	err := l.view(ctx, func() {
		if busy = len(l.asks) >= maxAsks; busy {
			return
		}
		l.nextID++
		id = l.nextID
		l.asks[id] = ch
		l.step(l.base, lease.Renewal{ID: id, From: from, Term: in.Term, Epoch: in.Epoch, Serving: in.Serving, Machine: in.Machine,
			Trouble: in.Trouble, TroubleFor: in.TroubleFor, Grace: in.Grace})
	})
	if err != nil {
		return renewReply{}, err
	}
	if busy {
		return renewReply{}, errBusy
	}
	select {
	case a := <-ch:
		return renewReply{a.ok, a.why, a.stepDown, a.stay}, nil
	case <-ctx.Done():
		// The machine still owes an answer; nobody waits for it any more.
		return renewReply{}, ctx.Err()
	}
}

// toArbiter calls the arbiter, which may be this host.
func toArbiter[In, Out any](ctx context.Context, l *loop, path string, in In, local func(ctx context.Context, from string, in In) (Out, error)) (Out, error) {
	var out Out
	to := l.quorum.Leader()
	if to == "" && l.seek != nil {
		to = l.seek(ctx)
	}
	switch to {
	case "":
		return out, errNoArbiter
	case l.node:
		return local(ctx, l.node, in)
	default:
		err := l.peers.PostJSON(ctx, to, path, in, &out)
		return out, err
	}
}

// arbiterPause is how often it is looked whether an arbiter is known again, arbiterLimit
// for how long.
const (
	arbiterPause = 50 * time.Millisecond
	arbiterLimit = 2 * time.Second
)

// awaitArbiter waits until an arbiter is known: the office moves from host to host within
// a moment, and what a person orders should not fail for that.
func (l *loop) awaitArbiter(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, arbiterLimit)
	defer cancel()
	t := time.NewTicker(arbiterPause)
	defer t.Stop()
	known := func() bool {
		switch l.quorum.Leader() {
		case "":
			return l.seek != nil && l.seek(ctx) != ""
		case l.node: // elected a moment ago, it does not know yet what was agreed on before
			return l.quorum.IsLeader()
		}
		return true
	}
	for !known() {
		select {
		case <-ctx.Done():
			return errNoArbiter
		case <-t.C:
		}
	}
	return nil
}

func (l *loop) sendRenewal(ctx context.Context, a lease.SendRenewal) {
	// Several may be on their way: a slow answer must not hold up the next try.
	if l.inflight >= 4 {
		return
	}
	l.inflight++
	req := renewRequest{Machine: l.machine, Term: a.Term, Epoch: a.Epoch, Serving: l.holder.Phase() == lease.Master}
	if req.Serving {
		req.Trouble, req.TroubleFor, req.Grace = l.trouble()
	}
	last := l.lastOther
	l.call(ctx, l.tm.TTL/3, func(ctx context.Context) {
		sent := l.clock() // S1 counts from before the request leaves
		rep, err := toArbiter(ctx, l, pathRenew, req, l.renew)
		if errors.Is(err, errNoArbiter) && last != "" {
			// After a moment without a network raft hears of the arbiter seconds later. Who is
			// it no more says no (S2).
			var again renewReply
			if l.peers.PostJSON(ctx, last, pathRenew, req, &again) == nil && again.OK {
				rep, err = again, nil
			}
		}
		l.view(l.base, func() { l.inflight-- })
		switch {
		case err != nil:
			l.notRenewed(a.Term, err.Error())
		case !rep.OK:
			l.notRenewed(a.Term, rep.Why)
		default:
			l.post(ctx, lease.Acked{Term: a.Term, SentAt: sent, Epoch: a.Epoch})
			l.advised(ctx, a.Term, rep)
		}
	})
}

// advised does what the arbiter asks of a holder whose API does not serve.
func (l *loop) advised(ctx context.Context, term uint64, rep renewReply) {
	if rep.StepDown != "" {
		l.log.Error("stepping down: the API does not serve, and a standby is ready", "term", term, "why", rep.StepDown)
		l.post(ctx, lease.StepDown{Term: term, Why: rep.StepDown, Automatic: true})
	}
	if rep.Stay != "" {
		l.seldom("the API does not serve, and this host stays the master", term, rep.Stay)
	}
}

// notRenewed logs why, once a minute at most while nothing changes: a host without
// quorum asks once a second for as long as it takes.
func (l *loop) notRenewed(term uint64, why string) { l.seldom("lease not renewed", term, why) }

func (l *loop) seldom(what string, term uint64, why string) {
	l.view(l.base, func() {
		if now := l.clock(); why != l.lastWhy || now > l.lastWhyAt+time.Minute {
			l.lastWhy, l.lastWhyAt = why, now
			l.log.Warn(what, "term", term, "why", why)
			l.saw("%s: %s", what, why)
		}
	})
}

func (l *loop) sendReport(ctx context.Context, now lease.Time) {
	c := l.report(now)
	l.call(ctx, l.tm.TTL/3, func(ctx context.Context) {
		_, err := toArbiter(ctx, l, pathReport, c, func(ctx context.Context, from string, in lease.Candidate) (empty, error) {
			in.Node = from
			l.post(ctx, lease.Reported{Candidate: in})
			return empty{}, nil
		})
		if err != nil {
			l.log.Debug("report not delivered", "err", err)
		}
	})
}

func (l *loop) release(ctx context.Context, a lease.Release) error {
	_, err := toArbiter(ctx, l, pathRelease, releaseRequest{Term: a.Term, Machine: l.machine, Why: a.Why, To: a.To, Automatic: a.Automatic},
		func(ctx context.Context, from string, in releaseRequest) (empty, error) {
			l.post(ctx, lease.ReleaseAsked{From: from, Machine: in.Machine, Term: in.Term, Why: in.Why, To: in.To, Automatic: in.Automatic})
			return empty{}, nil
		})
	return err
}

// askRaftTerm is how [quorum.Quorum.Confirm] asks another voter.
func (l *loop) askRaftTerm(ctx context.Context, node string) (uint64, error) {
	var out raftTermReply
	err := l.peers.PostJSON(ctx, node, pathRaftTerm, empty{}, &out)
	return out.RaftTerm, err
}
