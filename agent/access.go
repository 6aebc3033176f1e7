package agent

import (
	"cmp"
	"context"
	"crypto/ed25519"
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
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/peer"
	"relevo.dev/relevo/agent/quorum"
)

// How long an access may last.
const (
	minAccess = time.Minute
	maxAccess = 10 * 366 * 24 * time.Hour
)

// accessChange is what the arbiter is asked to agree on with the others.
type accessChange struct {
	Revoke string `json:"revoke"`
	By     string `json:"by"`
}

// changeAccess is what the arbiter does, for itself or for another member.
func (a *agent) changeAccess(ctx context.Context, from string, in accessChange) (empty, error) {
	if !strings.HasSuffix(in.By, "@"+from) {
		return empty{}, fmt.Errorf("an access of %q did not come from %s", in.By, from)
	}
	err := a.quorum.Apply(ctx, quorum.RevokeAccess(in.Revoke, in.By))
	a.carried(from, in.By, "access revoke", in.Revoke, "", err)
	return empty{}, err
}

// byOf is who a request is from, for the history.
func (a *agent) byOf(ctx context.Context) string {
	w, ok := api.WhoOf(ctx)
	switch {
	case !ok:
		return "@" + a.cfg.Node
	case w.Remote:
		return w.Name + " from " + w.From + "@" + a.cfg.Node
	}
	return w.Name + "@" + a.cfg.Node
}

// AccessList (api.Grants).
func (a *agent) AccessList(ctx context.Context) (api.AccessList, error) {
	if a.isServer() {
		return a.accessList(ctx, "", empty{})
	}
	return toArbiter(ctx, a.loop, pathAccesses, empty{}, a.accessList)
}

func (a *agent) accessList(context.Context, string, empty) (api.AccessList, error) {
	var out api.AccessList
	for _, x := range a.quorum.State().Access {
		out.Access = append(out.Access, accessOut(x))
	}
	sortFew(out.Access, func(x, y api.Access) int { return cmp.Compare(x.Name, y.Name) })
	return out, nil
}

func accessOut(x quorum.Access) api.Access {
	return api.Access{Name: x.Name, Role: api.AccessRole(x.Role), Nodes: x.Nodes, Actions: x.Actions, Expires: x.Expires.UTC(), By: x.By, Created: x.At.UTC()}
}

// accessOrder asks the arbiter, which has the CA's key, for an access.
type accessOrder struct {
	Request api.AccessRequest `json:"request"`
	By      string            `json:"by"`
}

// AccessCreate (api.Grants) has the key signed, and the certificate let in, by the arbiter.
func (a *agent) AccessCreate(ctx context.Context, r api.AccessRequest) (api.AccessCreated, error) {
	if err := a.checkAccess(r); err != nil {
		return api.AccessCreated{}, err
	}
	if err := a.loop.awaitArbiter(ctx); err != nil {
		return api.AccessCreated{}, fmt.Errorf("create the access %s: %w", r.Name, err)
	}
	out, err := toArbiter(ctx, a.loop, pathIssue, accessOrder{r, a.byOf(ctx)}, a.issueAccess)
	if err != nil {
		return out, fmt.Errorf("create the access %s: %w", r.Name, err)
	}
	out.Addresses = a.peerAddrs() // this member first: it was reached
	return out, nil
}

// issueAccess is the arbiter's.
func (a *agent) issueAccess(ctx context.Context, from string, in accessOrder) (api.AccessCreated, error) {
	var out api.AccessCreated
	r := in.Request
	if !strings.HasSuffix(in.By, "@"+from) {
		return out, fmt.Errorf("an access of %q did not come from %s", in.By, from)
	}
	if err := a.checkAccess(r); err != nil {
		return out, err
	}
	if !a.quorum.IsLeader() {
		return out, errNoArbiter
	}
	until := time.Now().Add(time.Duration(r.Seconds) * time.Second).UTC().Truncate(time.Second)
	cert, ca, err := peer.IssueAccess(a.cfg.Peer.PKIDir, r.Name, r.PublicKey, until)
	if err != nil {
		return out, fmt.Errorf("the arbiter, %s, cannot sign it: %w", a.cfg.Node, err)
	}
	x := quorum.Access{Name: r.Name, Serial: peer.AccessSerial(cert), Role: string(r.Role), Nodes: r.Nodes, Actions: r.Actions, Expires: until, By: in.By, CA: quorum.CASum(ca.Raw)}
	err = a.quorum.Apply(ctx, quorum.GiveAccess(x))
	a.carried(from, in.By, "access create", r.Name, "", err)
	if err != nil {
		return out, err
	}
	x.At = time.Now()
	return api.AccessCreated{Access: accessOut(x), Cluster: a.id.Cluster(), CA: ca.Raw, Certificate: cert.Raw}, nil
}

func (a *agent) checkAccess(r api.AccessRequest) error {
	if !slices.Contains(api.AccessRoles, r.Role) {
		return fmt.Errorf("%q is no role: viewer, operator and admin are", r.Role)
	}
	if r.Seconds > int64(maxAccess/time.Second) || r.Seconds < int64(minAccess/time.Second) {
		return fmt.Errorf("an access lasts from %s to 10 years", config.Short(minAccess))
	}
	if len(r.PublicKey) != ed25519.PublicKeySize {
		return errors.New("the key is no ed25519 key")
	}
	for _, n := range r.Nodes {
		if err := peer.ValidNode(n); err != nil {
			return err
		}
	}
	for _, action := range r.Actions {
		if !slices.ContainsFunc(api.Rules, func(x api.Rule) bool { return x.Action == action }) {
			return fmt.Errorf("%q is no action that an access can be limited to: docs/roles.md lists them", action)
		}
		if err := (api.Who{Name: r.Name, Role: r.Role, Remote: true}).May(action, ""); err != nil {
			return err
		}
	}
	return nil
}

// peerAddrs are where the members can be reached, this one first.
func (a *agent) peerAddrs() []string {
	var out []string
	add := func(s string) {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	if here, err := a.resolve(a.cfg.Node); err == nil {
		add(here)
	}
	for _, m := range a.pool.Members() {
		if addr, err := a.resolve(m.Node); err == nil && len(out) < 60 {
			add(addr)
		}
	}
	if v := a.vip(); v.IsValid() { // whoever holds it answers
		add(net.JoinHostPort(v.String(), strconv.Itoa(a.cfg.Peer.Port)))
	}
	return out
}

// AccessRevoke (api.Grants).
func (a *agent) AccessRevoke(ctx context.Context, name string) (api.Done, error) {
	by := a.byOf(ctx)
	if _, err := toArbiter(ctx, a.loop, pathAccess, accessChange{Revoke: name, By: by}, a.changeAccess); err != nil {
		return api.Done{}, fmt.Errorf("revoke the access %s: %w", name, err)
	}
	return api.Done{Text: name + " is refused from now on, by every member that the voters reach", Term: a.term.Load()}, nil
}

// grantRequest asks a voter what an access may do; Why it may nothing, if that is not empty.
type (
	grantRequest struct {
		Name    string `json:"name"`
		Serial  string `json:"serial"`
		Arbiter bool   `json:"arbiter,omitempty"` // who is asked is to be the arbiter, and asks nobody else
	}
	grantReply struct {
		Access api.Access `json:"access"`
		Why    string     `json:"why,omitempty"`
	}
)

// grantLimit is how long it may take to learn what an access may do.
const grantLimit = 2 * time.Second

// Granted (api.Grants) is asked for every request from outside. A host that raft tells nothing
// asks a voter.
func (a *agent) Granted(name, serial string) (api.Access, error) {
	in := grantRequest{Name: name, Serial: serial}
	g, err := grantReply{}, error(errNoArbiter)
	if a.isServer() {
		g, err = a.granted(context.Background(), "", in)
	} else {
		for _, node := range a.voters(false) {
			if err = a.ask(context.Background(), node, pathGranted, in, &g); err == nil {
				break
			}
		}
	}
	switch {
	case err != nil:
		return api.Access{}, fmt.Errorf("whether the access %s is good is not known here: %w", name, err)
	case g.Why != "":
		return api.Access{}, errors.New(g.Why)
	}
	return g.Access, nil
}

// granted is what this host knows of an access, and what the arbiter knows of one that is not
// known here: it was given a moment ago, and the file must be good at any member once its
// owner has it; or it was revoked.
func (a *agent) granted(ctx context.Context, _ string, in grantRequest) (grantReply, error) {
	if !a.isServer() { // what it knows may be old, and gossip alone takes it for a voter
		return grantReply{}, fmt.Errorf("%s neither votes nor is a candidate", a.cfg.Node)
	}
	if in.Arbiter && !a.quorum.IsLeader() {
		return grantReply{}, errNoArbiter
	}
	revoked := grantReply{Why: fmt.Sprintf("the access %.80s was revoked", in.Name)}
	if !in.Arbiter && a.strangers.refused(in.Serial) { // which this host may not know yet
		return revoked, nil
	}
	for _, x := range a.quorum.State().Access {
		if x.Name != in.Name || x.Serial != in.Serial {
			continue
		}
		if !time.Now().Before(x.Expires) {
			return grantReply{Why: fmt.Sprintf("the access %s ended on %s: an admin can make another with `relevo access create`", in.Name, x.Expires.UTC().Format(time.DateTime))}, nil
		}
		return grantReply{Access: accessOut(x)}, nil
	}
	if in.Arbiter {
		return revoked, nil
	}
	unsure := grantReply{Why: revoked.Why + ", or this member has not heard of it yet"}
	if !a.strangers.ask() {
		return unsure, nil
	}
	ctx, cancel := context.WithTimeout(ctx, grantLimit)
	defer cancel()
	in.Arbiter = true
	g, err := grantReply{}, a.loop.awaitArbiter(ctx)
	if err == nil {
		g, err = toArbiter(ctx, a.loop, pathGranted, in, a.granted)
	}
	a.strangers.answered(in.Serial, err == nil && g.Why == revoked.Why)
	if err != nil {
		return unsure, nil
	}
	return g, nil
}

// strangers are the accesses that this host does not know and asks the arbiter about. Whoever
// shows one has, or had, an access; so there are not many, but one that was revoked may be
// shown as often as its owner likes.
type strangers struct {
	mu     sync.Mutex
	asking int
	no     map[string]time.Time // by serial: when the arbiter did not know it either
}

const (
	maxAsking    = 4                // at once; the others are refused
	maxStrangers = 64               // remembered
	strangerRest = 30 * time.Second // how long; then one is asked about again
)

// refused says whether the arbiter did not know an access when it was asked a moment ago. None
// is given twice, so it never will.
func (s *strangers) refused(serial string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, no := s.no[serial]
	return no && time.Since(at) < strangerRest
}

// ask says whether the arbiter may be asked about an access now; if so, answered must follow.
func (s *strangers) ask() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.no, func(_ string, at time.Time) bool { return time.Since(at) >= strangerRest })
	if s.asking >= maxAsking || len(s.no) >= maxStrangers {
		return false
	}
	s.asking++
	return true
}

func (s *strangers) answered(serial string, no bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asking--
	if no {
		if s.no == nil {
			s.no = map[string]time.Time{}
		}
		s.no[serial] = time.Now()
	}
}
