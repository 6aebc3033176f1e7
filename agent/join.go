package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/peer"
	"relevo.dev/relevo/agent/quorum"
)

// How a host joins: it asks any member (peer.Join). A voter, which has the CA's key, checks
// that it holds the token's secret, asks the arbiter to have that noted by the voters, and
// only then signs. So a token that may be used once is used once, whoever is asked.

const (
	pathToken  = "/v1/trust/token"
	pathTokens = "/v1/trust/tokens"
	pathAdmit  = "/v1/trust/admit"
)

// admitRequest is what a voter asks the arbiter, admitReply what becomes of it.
type (
	admitRequest struct {
		Token string `json:"token"`
		Node  string `json:"node"`
		Key   []byte `json:"key"`
	}
	admitReply struct {
		Code string `json:"code,omitempty"` // "" = admitted
		Why  string `json:"why,omitempty"`
	}
)

// proofs counts wrong proofs by address, so that guessing is slow. (A secret has 88 bits:
// this is to keep the journal and the processor free.)
type proofs struct {
	mu    sync.Mutex
	since time.Time
	wrong map[string]int
}

const (
	proofWindow = time.Minute
	maxWrong    = 5
	maxGuessers = 256
)

// refuse says whether an address has tried too often.
func (p *proofs) refuse(ip string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.since) > proofWindow {
		p.since, p.wrong = time.Now(), map[string]int{}
	}
	return p.wrong[ip] >= maxWrong || len(p.wrong) >= maxGuessers && p.wrong[ip] == 0
}

func (p *proofs) failed(ip string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wrong == nil {
		p.wrong = map[string]int{}
	}
	p.wrong[ip]++
}

// joinAsked answers a host that wants to join.
func (a *agent) joinAsked(ctx context.Context, r *peer.JoinRequest) peer.JoinReply {
	no := func(code, format string, args ...any) peer.JoinReply {
		a.log.Warn("a host was not let in", "node", r.Node, "token", r.Token, "from", r.From().String(), "code", code)
		return peer.JoinReply{Code: code, Error: fmt.Sprintf(format, args...)}
	}
	ip, _, _ := net.SplitHostPort(r.From().String())
	if a.trust.proofs.refuse(ip) {
		return no(peer.JoinBusy, "%d wrong tokens came from %s within a minute: try again in a minute", maxWrong, ip)
	}
	ca, err := peer.LoadAuthority(a.cfg.Peer.PKIDir)
	if err != nil {
		return peer.JoinReply{Code: peer.JoinElsewhere, Error: a.cfg.Node + " cannot let hosts in, the voters can", See: a.voterAddrs()}
	}
	key := func() ([]byte, bool) {
		k, ok := a.quorum.State().Trust.Token(r.Token)
		return k.Key, ok
	}
	pub, ok := key()
	if !ok { // a token that was made a moment ago may not have come here yet
		if k, err := toArbiter(ctx, a.loop, pathToken, tokenRequest{r.Token}, a.tokenKey); err == nil && len(k.Key) > 0 {
			pub, ok = k.Key, true
		}
	}
	if !ok {
		a.trust.proofs.failed(ip)
		err := a.quorum.State().Trust.Admits(r.Token, r.Node, nil, time.Now())
		return no(string(quorum.TokenUnknown), "%v", err)
	}
	if !r.Proves(pub) {
		a.trust.proofs.failed(ip)
		return no(peer.JoinBadProof, "the proof does not fit the token %s: it was not signed with the token's secret, or for another connection", r.Token)
	}
	rep, err := toArbiter(ctx, a.loop, pathAdmit, admitRequest{r.Token, r.Node, r.KeySum()}, a.admit)
	switch {
	case err != nil:
		return no(peer.JoinNotNow, "the voters could not agree on letting %s in: %v; nothing is lost, try again", r.Node, err)
	case rep.Code != "":
		return no(rep.Code, "%s", rep.Why)
	}
	cert, err := ca.Certify(r.Node, r.Key())
	if err != nil {
		return no(peer.JoinNotNow, "%v", err)
	}
	keys, err := peer.ReadGossipKeys(a.cfg.Gossip.KeyFile)
	if err != nil {
		return no(peer.JoinNotNow, "%s cannot read its gossip key", a.cfg.Node)
	}
	a.log.Warn("a host joins", "node", r.Node, "token", r.Token, "from", r.From().String())
	a.seenHere.note("let %s in, from %s, with the token %s", r.Node, ip, r.Token)
	return peer.JoinReply{CA: ca.Certificate().Raw, Cert: cert.Raw, Gossip: keys[0], Peers: a.gossipAddrs()}
}

// admit is the arbiter's.
func (a *agent) admit(ctx context.Context, from string, in admitRequest) (admitReply, error) {
	if !a.isVoter(from) {
		return admitReply{}, fmt.Errorf("%s is no voter: only they let hosts in", from)
	}
	t := a.quorum.State().Trust
	// Gossip takes a while to notice that one which was removed is silent.
	gone := rollOf(t).gone(in.Node)
	if m, ok := a.member(in.Node); ok && m.Status == member.Alive && !gone {
		e, enrolled := t.Member(in.Node)
		if !enrolled || e.Token != in.Token || string(e.Key) != string(in.Key) {
			return admitReply{string(quorum.NameTaken), fmt.Sprintf("there is a member called %s already, and it is alive at %s: give this host another name with --node, or stop that one first", in.Node, m.Addr)}, nil
		}
	}
	err := a.quorum.Apply(ctx, quorum.Admit(in.Token, in.Node, in.Key))
	var bad *quorum.TokenError
	if errors.As(err, &bad) {
		return admitReply{string(bad.Code), bad.Why}, nil
	}
	return admitReply{}, err
}

// tokenRequest asks the arbiter for what is known of a token.
type (
	tokenRequest struct {
		ID string `json:"id"`
	}
	tokenReply struct {
		Key []byte `json:"key,omitempty"` // nil = no such token
	}
)

func (a *agent) tokenKey(_ context.Context, _ string, in tokenRequest) (tokenReply, error) {
	k, _ := a.quorum.State().Trust.Token(in.ID)
	return tokenReply{k.Key}, nil
}

func (a *agent) isVoter(node string) bool {
	s, told := a.server(node)
	return told && s.Voter
}

// isTold says whether raft tells a node what is agreed on: it votes, or is a candidate.
func (a *agent) isTold(node string) bool {
	_, told := a.server(node)
	return told
}

func (a *agent) server(node string) (quorum.Server, bool) {
	servers, err := a.quorum.Servers()
	i := slices.IndexFunc(servers, func(s quorum.Server) bool { return s.Node == node })
	if err != nil || i < 0 {
		return quorum.Server{}, false
	}
	return servers[i], true
}

// voterAddrs are the peer ports of other voters that are there.
func (a *agent) voterAddrs() (out []string) {
	for _, m := range a.pool.Members() {
		if m.Status == member.Alive && m.Node != a.cfg.Node && m.Tags[tagVoter] != "" {
			if at, err := a.resolve(m.Node); err == nil {
				out = append(out, at)
			}
		}
	}
	return out[:min(len(out), 16)]
}

// gossipAddrs are where the members gossip.
func (a *agent) gossipAddrs() []string {
	out := []string{net.JoinHostPort(a.addr.Load().String(), strconv.Itoa(a.cfg.Gossip.Port))}
	for _, m := range a.pool.Members() {
		if m.Status == member.Alive && m.Node != a.cfg.Node {
			out = append(out, net.JoinHostPort(m.Addr, strconv.Itoa(m.Port)))
		}
	}
	return out[:min(len(out), 16)]
}

// Bounds of a token that a person asks for.
const (
	defaultTokenTTL = 24 * time.Hour
	maxTokenTTL     = 366 * 24 * time.Hour
)

// createToken makes a token here, and has the voters know its public half.
func (a *agent) createToken(ctx context.Context, o api.Order) (api.Done, error) {
	spec := api.TokenSpec{}
	if o.Token != nil {
		spec = *o.Token
	}
	ttl := time.Duration(spec.TTL * float64(time.Second))
	if ttl == 0 {
		ttl = defaultTokenTTL
	}
	spec.Uses = cmp.Or(spec.Uses, 1)
	switch {
	case ttl < 0 || ttl > maxTokenTTL:
		return api.Done{}, fmt.Errorf("a token is good for up to %d days, not for %v", maxTokenTTL/(24*time.Hour), ttl)
	case spec.Uses < 0 || spec.Uses > 1000:
		return api.Done{}, fmt.Errorf("a token can be used 1 to 1000 times, not %d times", spec.Uses)
	}
	if spec.Node != "" {
		if err := peer.ValidNode(spec.Node); err != nil {
			return api.Done{}, err
		}
	}
	t := peer.NewToken(a.id)
	o.Token = &api.TokenSpec{TTL: ttl.Seconds(), Uses: spec.Uses, Node: spec.Node, Replace: spec.Replace, ID: t.ID(), Key: t.Public(), CA: a.id.IssuingCA()}
	d, err := toArbiter(ctx, a.loop, pathOrder, o, a.order)
	if err == nil {
		d.Token = t.String()
	}
	return d, err
}

// orderToken is what the arbiter does about tokens.
func (a *agent) orderToken(ctx context.Context, o api.Order, d api.Done) (api.Done, error) {
	if o.Verb == api.VerbTokenRevoke {
		d.Text = "the token " + o.To + " lets nobody in any more"
		if o.To == "" {
			d.Text = "no token that was made so far lets anybody in any more"
		}
		return d, a.quorum.Apply(ctx, quorum.RevokeToken(o.To, o.By))
	}
	if o.Token == nil || len(o.Token.ID) != 8 || strings.Trim(o.Token.ID, "0123456789ABCDEFGHJKMNPQRSTVWXYZ") != "" {
		return d, errors.New("the order holds no token")
	}
	if o.Token.CA != a.id.IssuingCA() {
		return d, errors.New("the CA was changed a moment ago, and not all have followed: try again in some seconds")
	}
	until := time.Now().Add(min(time.Duration(o.Token.TTL*float64(time.Second)), maxTokenTTL)).UTC().Truncate(time.Second)
	d.Text = fmt.Sprintf("good until %s", until.Format(time.RFC3339))
	return d, a.quorum.Apply(ctx, quorum.NewToken(quorum.Token{ID: o.Token.ID, Key: o.Token.Key, Until: until, Uses: o.Token.Uses, Node: o.Token.Node, Replace: o.Token.Replace}, o.By))
}

// Tokens lists what lets hosts in (api.Source).
func (a *agent) Tokens(ctx context.Context) (api.Tokens, error) {
	return toArbiter(ctx, a.loop, pathTokens, empty{}, a.tokens)
}

func (a *agent) tokens(context.Context, string, empty) (api.Tokens, error) {
	var out api.Tokens
	now := time.Now()
	for _, k := range slices.Backward(a.quorum.State().Trust.Tokens) {
		s := "good"
		switch {
		case k.Revoked:
			s = "revoked"
		case k.Used >= k.Uses:
			s = "used up"
		case now.After(k.Until):
			s = "expired"
		}
		out.Tokens = append(out.Tokens, api.Token{ID: k.ID, State: s, Until: k.Until, Uses: k.Uses, Used: k.Used, Node: k.Node, Replace: k.Replace, By: k.By, At: k.At})
	}
	return out, nil
}

// noteFriends remembers the addresses of the members for the peer port, which asks at
// every connection.
func (a *agent) noteFriends() {
	now := map[string]bool{}
	for _, m := range a.pool.Members() {
		now[m.Addr] = true
	}
	if was := a.trust.friends.Load(); was == nil || !maps.Equal(*was, now) {
		a.trust.friends.Store(&now)
	}
}

func (a *agent) isFriend(ip string) bool {
	f := a.trust.friends.Load()
	return f != nil && (*f)[ip]
}
