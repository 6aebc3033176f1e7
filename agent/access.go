package agent

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
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
	return empty{}, a.quorum.Apply(ctx, quorum.RevokeAccess(in.Revoke, in.By))
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
	slices.SortFunc(out.Access, func(x, y api.Access) int { return cmp.Compare(x.Name, y.Name) })
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
	if err := a.quorum.Apply(ctx, quorum.GiveAccess(x)); err != nil {
		return out, err
	}
	x.At = time.Now()
	return api.AccessCreated{Access: accessOut(x), Cluster: a.id.Cluster(), CA: ca.Raw, Certificate: cert.Raw}, nil
}

func (a *agent) checkAccess(r api.AccessRequest) error {
	if !slices.Contains(api.AccessRoles, r.Role) {
		return fmt.Errorf("%q is no role: viewer, operator and admin are", r.Role)
	}
	if d := time.Duration(r.Seconds) * time.Second; r.Seconds > int64(maxAccess/time.Second) || d < minAccess {
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
		Name   string `json:"name"`
		Serial string `json:"serial"`
	}
	grantReply struct {
		Access api.Access `json:"access"`
		Why    string     `json:"why,omitempty"`
	}
)

// Granted (api.Grants) is asked for every request from outside. A host that raft tells nothing
// asks a voter.
func (a *agent) Granted(name, serial string) (api.Access, error) {
	in := grantRequest{name, serial}
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

func (a *agent) granted(_ context.Context, _ string, in grantRequest) (grantReply, error) {
	for _, x := range a.quorum.State().Access {
		if x.Name != in.Name || x.Serial != in.Serial {
			continue
		}
		if !time.Now().Before(x.Expires) {
			return grantReply{Why: fmt.Sprintf("the access %s ended on %s: an admin can make another with `relevo access create`", in.Name, x.Expires.UTC().Format(time.DateTime))}, nil
		}
		return grantReply{Access: accessOut(x)}, nil
	}
	return grantReply{Why: fmt.Sprintf("the access %.80s was revoked, or this member has not heard of it yet", in.Name)}, nil
}
