package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"relevo.dev/relevo/agent/durable"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/peer"
	"relevo.dev/relevo/agent/quorum"
)

// Who is a member is replicated among the voters and candidates; the others, and who was
// switched off meanwhile, ask a voter for it. What a voter says is signed with the CA's
// key, has a number, and is kept on disk: a host that was removed is refused also by an
// agent that has just started.

// trust is what this agent does for the trust between members.
type trust struct {
	proofs  proofs
	friends atomic.Pointer[map[string]bool] // IP addresses of members

	leaving  atomic.Bool // this host said that it leaves
	farewell farewell

	voteless  time.Time  // since when this host has kept the CA's key without a vote; keepTrust's
	enforcing sync.Mutex // one roll is put in force at a time
	keys      caKeys

	mu       sync.Mutex
	roll     roll                 // in force
	signed   signedRoll           // the newest that this host signed
	words    map[string]word      // what members say of themselves, for the arbiter
	goodbyes map[string]time.Time // who said that it leaves, and when
	asked    time.Time            // when a roll was asked for
	renewed  time.Time            // when a certificate was asked for
	enrolled time.Time            // when this host asked to be enrolled
	said     string               // the newest complaint
}

const (
	rollKind    = "roll"
	maxRoll     = 256 << 10
	trustTurn   = 5 * time.Second
	askRoll     = 10 * time.Second // between two questions for a newer roll
	renewAgain  = time.Hour
	enrolAgain  = 10 * time.Second
	wordLasts   = 8 * time.Second
	maxWords    = 64
	tagTrust    = "k" // number of the roll that a member has
	pathRoll    = "/v1/trust/roll"
	pathEnrol   = "/v1/trust/enrol"
	pathCertify = "/v1/trust/certify"
	pathWord    = "/v1/trust/word"
	pathGoodbye = "/v1/trust/goodbye"
	pathCAKey   = "/v1/trust/ca-key"
)

// keepTrust looks after the trust between this host and the others until ctx ends.
func (a *agent) keepTrust(ctx context.Context) error {
	t := time.NewTicker(trustTurn)
	defer t.Stop()
	for {
		changed := a.factChanged()
		a.askForRoll(ctx)
		a.enrol(ctx)
		a.renew(ctx)
		a.keepCAKey(ctx)
		a.askForWords(ctx)
		a.rotate(ctx)
		a.rotateCA(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-t.C:
		}
	}
}

// adopts puts in force what the voters agree on, at once: it waits for nobody.
func (a *agent) adopts(ctx context.Context) error {
	for {
		changed := a.factChanged()
		if err := a.adopt(a.quorum.State().Trust); err != nil {
			a.complain("who is a member is not noted", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// complain logs what does not work, once while it is the same.
func (a *agent) complain(what string, err error) {
	text := what + err.Error()
	a.trust.mu.Lock()
	again := a.trust.said == text
	a.trust.said = text
	a.trust.mu.Unlock()
	if !again {
		a.log.Warn(what, "err", err)
	}
}

// adopt puts in force what the voters agreed on.
func (a *agent) adopt(t quorum.Trust) error {
	if t.Version <= a.roll().Version {
		return nil
	}
	r := rollOf(t)
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return a.enforce(r, signedRoll{Roll: b})
}

// enforce puts a newer roll in force: first in memory, then on disk.
func (a *agent) enforce(r roll, s signedRoll) error {
	a.trust.enforcing.Lock()
	defer a.trust.enforcing.Unlock()
	was := a.roll()
	if r.Version <= was.Version {
		return nil
	}
	rules, err := r.rules()
	if err != nil {
		return err
	}
	if a.bygone(rules) {
		return nil // from this host's own raft log
	}
	a.trust.mu.Lock()
	a.trust.roll = r
	a.trust.mu.Unlock()
	a.id.SetRules(rules)
	if len(s.Sigs) == 0 { // by raft, and not by the word of a voter
		a.auditJoins(was, r)
	}
	for _, x := range r.Removed {
		if slices.ContainsFunc(was.Removed, func(o quorum.Removed) bool { return o.Node == x.Node && o.At.Equal(x.At) }) {
			continue
		}
		if x.Node == a.cfg.Node && !r.has(x.Node, a.id.KeySum()) {
			a.log.Error("this host was removed from the cluster: the others refuse it; it can join again with a token", "by", x.By, "why", x.Why)
			continue
		}
		a.log.Warn("refused from now on: it was removed from the cluster", "node", x.Node, "by", x.By, "why", x.Why)
		a.port.DropNode(x.Node)
	}
	a.port.Recheck()
	if err := errors.Join(a.followCA(was, r), a.useKeys(r.Gossip)); err != nil {
		return err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return durable.Replace(a.rollPath(), b, 0o600)
}

// rollRequest asks for a roll newer than a number.
type rollRequest struct {
	Have uint64 `json:"have"`
}

// giveRoll answers with what the voters agreed on, signed. Only who has the CA's key can.
func (a *agent) giveRoll(_ context.Context, _ string, in rollRequest) (signedRoll, error) {
	t := a.quorum.State().Trust
	if t.Version <= in.Have {
		return signedRoll{}, nil
	}
	a.trust.mu.Lock()
	s := a.trust.signed
	a.trust.mu.Unlock()
	if s.of == t.Version {
		return s, nil
	}
	cas, err := peer.LoadAuthorities(a.cfg.Peer.PKIDir)
	if err != nil {
		return signedRoll{}, errors.New("it does not keep the CA's key")
	}
	b, err := json.Marshal(rollOf(t))
	if err != nil {
		return signedRoll{}, err
	}
	s = signedRoll{Roll: b, of: t.Version}
	for _, ca := range cas {
		s.Sigs = append(s.Sigs, ca.Sign(rollKind, b))
	}
	a.trust.mu.Lock()
	a.trust.signed = s
	a.trust.mu.Unlock()
	return s, nil
}

// askForRoll asks for a newer roll if somebody gossips that there is one, or if nobody is
// heard: the gossip key may have been changed while this host was away. Gossip is only a
// hint; what counts is signed.
func (a *agent) askForRoll(ctx context.Context) {
	have, hint, alone := a.roll().Version, uint64(0), true
	for _, m := range a.pool.Members() {
		if m.Node != a.cfg.Node && m.Status == member.Alive {
			alone = false
			hint = max(hint, number(m.Tags[tagTrust]))
		}
	}
	a.trust.mu.Lock()
	late := time.Since(a.trust.asked) >= askRoll
	if late && (alone || hint > have) {
		a.trust.asked = time.Now()
	}
	a.trust.mu.Unlock()
	if !late || !alone && hint <= have {
		return
	}
	for _, node := range a.voters(alone) {
		var s signedRoll
		if err := a.ask(ctx, node, pathRoll, rollRequest{have}, &s); err != nil || len(s.Roll) == 0 {
			continue
		}
		r, err := parseRoll(s.Roll)
		if err == nil && (len(s.Sigs) > maxSigs || !a.id.Signed(rollKind, s.Roll, s.Sigs...)) {
			err = errors.New("the CA did not sign it")
		}
		if err == nil {
			err = a.enforce(r, s)
		}
		if err == nil {
			return
		}
		a.complain("a list of the members from "+node+" is not taken", err)
	}
}

// ask is a call that nobody waits long for.
func (a *agent) ask(ctx context.Context, node, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return a.port.PostJSON(ctx, node, path, in, out)
}

// voters are members that can speak for the cluster: the arbiter first, then those that
// gossip that they vote; or, if nobody is heard, all that were ever met.
func (a *agent) voters(alone bool) []string {
	var out []string
	add := func(node string) {
		if node != "" && node != a.cfg.Node && !slices.Contains(out, node) {
			out = append(out, node)
		}
	}
	add(a.quorum.Leader())
	for _, m := range a.pool.Members() {
		if m.Status == member.Alive && m.Tags[tagVoter] != "" {
			add(m.Node)
		}
	}
	if alone {
		for _, node := range a.pool.Known() {
			add(node)
		}
		for _, node := range a.announced() {
			add(node)
		}
	}
	return out[:min(len(out), 16)]
}

// putFirst has node asked before all others; "" = nobody is.
func putFirst(node string, nodes []string) []string {
	if node == "" {
		return nodes
	}
	return append([]string{node}, slices.DeleteFunc(nodes, func(n string) bool { return n == node })...)
}

// isServer says whether raft tells this host what was agreed on: those that neither vote nor
// are candidates it does not.
func (a *agent) isServer() bool {
	servers, err := a.quorum.Servers()
	return err != nil || view{Servers: servers}.tells(a.cfg.Node)
}

// seekArbiter asks the voters who is the arbiter, on a host that raft tells nothing since it
// neither votes nor is a candidate.
func (a *agent) seekArbiter(ctx context.Context) string {
	if a.isServer() {
		return ""
	}
	for _, node := range a.voters(false) {
		var s rollState
		if a.ask(ctx, node, pathRollState, empty{}, &s) == nil && s.Arbiter != "" && s.Arbiter != a.cfg.Node {
			return s.Arbiter
		}
	}
	return ""
}

// enrolRequest is empty from a member, whose certificate says who it is; a voter passes it
// on to the arbiter with what it saw.
type enrolRequest struct {
	Node string `json:"node,omitempty"`
	Key  []byte `json:"key,omitempty"`
}

// enrol has this host's key noted, if it came with an invitation or founded the cluster.
func (a *agent) enrol(ctx context.Context) {
	r := a.roll()
	a.trust.mu.Lock()
	late := time.Since(a.trust.enrolled) >= enrolAgain
	a.trust.mu.Unlock()
	if r.has(a.cfg.Node, a.id.KeySum()) || r.gone(a.cfg.Node) || !late {
		return
	}
	a.trust.mu.Lock()
	a.trust.enrolled = time.Now()
	a.trust.mu.Unlock()
	var err error
	if a.quorum.IsLeader() {
		_, err = a.enrolAsked(ctx, a.cfg.Node, enrolRequest{a.cfg.Node, a.id.KeySum()})
	} else {
		err = errNoArbiter
		for _, node := range a.voters(false) {
			if err = a.ask(ctx, node, pathEnrol, enrolRequest{}, nil); err == nil {
				break
			}
		}
	}
	if err != nil && !errors.Is(err, errNoArbiter) {
		a.complain("this host is not enrolled yet", err)
	}
}

func (a *agent) enrolAsked(ctx context.Context, from string, in enrolRequest) (empty, error) {
	switch {
	case in.Node == "" && from != a.cfg.Node:
		cert := peer.CertOf(ctx)
		if cert == nil {
			return empty{}, errors.New("there is no certificate")
		}
		in = enrolRequest{from, peer.KeySum(cert)}
	case from != a.cfg.Node && !a.isVoter(from):
		return empty{}, fmt.Errorf("%s is no voter: it can speak for itself only", from)
	}
	if !a.quorum.IsLeader() {
		to := a.quorum.Leader()
		if to == "" || to == a.cfg.Node {
			return empty{}, errNoArbiter
		}
		return empty{}, a.ask(ctx, to, pathEnrol, in, nil)
	}
	t := a.quorum.State().Trust
	if m, ok := t.Member(in.Node); ok {
		if bytes.Equal(m.Key, in.Key) {
			return empty{}, nil
		}
		a.log.Warn("a host was not let in: there is a member of its name with another key", "node", in.Node, "from", from)
	}
	return empty{}, a.quorum.Apply(ctx, quorum.Enrol(in.Node, in.Key))
}

// trustHandlers are what agents ask each other about who may be one of them.
func (a *agent) trustHandlers(mux *http.ServeMux) {
	handle(mux, pathToken, a.tokenKey)
	handle(mux, pathTokens, a.tokens)
	handle(mux, pathAdmit, a.admit)
	handle(mux, pathRoll, a.giveRoll)
	handle(mux, pathEnrol, a.enrolAsked)
	handle(mux, pathCertify, a.certify)
	handle(mux, pathCAKey, a.giveCAKey)
	handle(mux, pathWord, a.giveWord)
	handle(mux, pathGoodbye, a.heardGoodbye)
	handle(mux, pathRollState, a.giveRollState)
	handle(mux, pathRotation, a.rotation)
}
