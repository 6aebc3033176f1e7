package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
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

	leaving atomic.Bool // this host said that it leaves

	voteless  time.Time  // since when this host has kept the CA's key without a vote; keepTrust's
	enforcing sync.Mutex // one roll is put in force at a time

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

// roll is who is a member, and by which keys.
type roll struct {
	Version uint64            `json:"version"`
	Members []quorum.Enrolled `json:"members"`
	Removed []quorum.Removed  `json:"removed,omitempty"`
	Gossip  quorum.GossipKeys `json:"gossip,omitzero"`
}

// signedRoll is a roll as JSON, and the CA's signature, where somebody made one.
type signedRoll struct {
	Roll json.RawMessage `json:"roll"`
	Sig  []byte          `json:"sig,omitempty"`
	of   uint64
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

func (a *agent) rollPath() string { return filepath.Join(a.cfg.DataDir, "trust.json") }

func (a *agent) roll() roll {
	a.trust.mu.Lock()
	defer a.trust.mu.Unlock()
	return a.trust.roll
}

// readRoll puts in force what was known when this host was switched off.
func (a *agent) readRoll() error {
	f, err := os.Open(a.rollPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read who is a member: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRoll+1))
	if err != nil {
		return fmt.Errorf("read who is a member: %w", err)
	}
	s, err := parseSigned(b)
	if err != nil {
		return fmt.Errorf("%s is damaged (%w): remove it; it comes back from the other members", a.rollPath(), err)
	}
	r, err := parseRoll(s.Roll)
	if err != nil {
		return fmt.Errorf("%s is damaged (%w): remove it; it comes back from the other members", a.rollPath(), err)
	}
	a.trust.roll = r
	a.id.SetRules(r.rules())
	return nil
}

func parseSigned(b []byte) (s signedRoll, err error) {
	if len(b) > maxRoll {
		return s, fmt.Errorf("it has more than %d KiB", maxRoll>>10)
	}
	return s, json.Unmarshal(b, &s)
}

// parseRoll reads a roll from disk or from the network.
func parseRoll(b []byte) (roll, error) {
	var r roll
	if err := json.Unmarshal(b, &r); err != nil {
		return roll{}, err
	}
	return r, quorum.Trust{Version: r.Version, Members: r.Members, Removed: r.Removed, Gossip: r.Gossip}.Check()
}

func (r roll) rules() peer.Rules {
	rules := peer.Rules{Keys: map[string][]byte{}, Removed: map[string]bool{}}
	for _, m := range r.Members {
		rules.Keys[m.Node] = m.Key
	}
	for _, x := range r.Removed {
		rules.Removed[x.Node] = true
	}
	return rules
}

// has says whether node is enrolled with that key.
func (r roll) has(node string, key []byte) bool {
	m, ok := quorum.Trust{Members: r.Members}.Member(node)
	return ok && bytes.Equal(m.Key, key)
}

// gone says whether node was removed and has not come back.
func (r roll) gone(node string) bool {
	_, back := quorum.Trust{Members: r.Members}.Member(node)
	return !back && slices.ContainsFunc(r.Removed, func(x quorum.Removed) bool { return x.Node == node })
}

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
	r := roll{Version: t.Version, Members: t.Members, Removed: t.Removed, Gossip: t.Gossip}
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
	a.trust.mu.Lock()
	a.trust.roll = r
	a.trust.mu.Unlock()
	a.id.SetRules(r.rules())
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
	if err := a.useKeys(r.Gossip); err != nil {
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
	ca, err := peer.LoadAuthority(a.cfg.Peer.PKIDir)
	if err != nil {
		return signedRoll{}, errors.New("it does not keep the CA's key")
	}
	b, err := json.Marshal(roll{Version: t.Version, Members: t.Members, Removed: t.Removed, Gossip: t.Gossip})
	if err != nil {
		return signedRoll{}, err
	}
	s = signedRoll{b, ca.Sign(rollKind, b), t.Version}
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
		if err == nil && !a.id.Signed(rollKind, s.Roll, s.Sig) {
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
		a.log.Warn("a member has another key than before: it came with a new invitation", "node", in.Node)
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
