package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"relevo.dev/relevo/agent/peer"
)

// certifyReply is the next certificate of who asks.
type certifyReply struct {
	Cert []byte `json:"cert"` // DER
}

// renew asks for the next certificate when two thirds of this one's life are over.
func (a *agent) renew(ctx context.Context) {
	a.trust.mu.Lock()
	again, outdated := renewAgain, a.id.Outdated()
	if outdated {
		again = trustTurn / 2 // all wait for this host
	}
	late := time.Since(a.trust.renewed) >= again
	a.trust.mu.Unlock()
	if !late || !a.id.Due(time.Now()) && !outdated || !a.roll().has(a.cfg.Node, a.id.KeySum()) {
		return
	}
	a.trust.mu.Lock()
	a.trust.renewed = time.Now()
	a.trust.mu.Unlock()
	err := error(errNoArbiter)
	if cas, _, e := parseCAs(a.roll().CA); outdated && e == nil && len(cas) > 0 {
		// Or the certificate would not be this host's after a restart.
		if err := peer.WriteCAs(a.cfg.Peer.PKIDir, cas); err != nil {
			a.complain("the certificate of this host is not renewed", err)
			return
		}
	}
	if ca, e := peer.LoadAuthority(a.cfg.Peer.PKIDir); e == nil {
		err = a.id.Renew(a.cfg.Peer.PKIDir, a.id.Recertify(ca))
	} else {
		for _, node := range a.voters(true) {
			var c certifyReply
			if err = a.ask(ctx, node, pathCertify, empty{}, &c); err != nil {
				continue
			}
			if err = a.id.Renew(a.cfg.Peer.PKIDir, c.Cert); err == nil {
				break
			}
		}
	}
	if err != nil {
		a.complain("the certificate of this host is not renewed", err)
		return
	}
	a.log.Info("the certificate of this host is renewed", "until", a.id.Ends().Format(time.DateOnly), "ca", a.id.IssuedBy())
}

// certify gives a member its next certificate, on the same key.
func (a *agent) certify(ctx context.Context, from string, _ empty) (certifyReply, error) {
	ca, err := peer.LoadAuthority(a.cfg.Peer.PKIDir)
	if err != nil {
		return certifyReply{}, fmt.Errorf("%s does not keep the CA's key", a.cfg.Node)
	}
	cert := peer.CertOf(ctx)
	if cert == nil || !a.roll().has(from, peer.KeySum(cert)) {
		return certifyReply{}, fmt.Errorf("%s is not enrolled with that key: it can join again with a token", from)
	}
	der, err := ca.Renewed(cert)
	return certifyReply{der}, err
}

// keepCAKey fetches the keys of the CAs that are believed, if this host votes.
func (a *agent) keepCAKey(ctx context.Context) {
	votes, have := a.isVoter(a.cfg.Node), a.caKeys()
	if !votes && len(have) > 0 {
		a.dropCAKey(ctx)
		return
	}
	a.trust.voteless = time.Time{}
	if !votes || !lacks(a.id.Believes(), have) {
		return
	}
	for _, node := range a.voters(false) {
		var k caKeyReply
		if a.ask(ctx, node, pathCAKey, empty{}, &k) != nil {
			continue
		}
		if err := peer.KeepAuthority(a.cfg.Peer.PKIDir, k.Keys...); err != nil {
			a.complain("the CA's key from "+node+" is not kept", err)
			continue
		}
		if now := a.caKeys(); len(now) > len(have) {
			a.log.Info("this host votes, and keeps the CA's key now", "from", node)
			if have = now; !lacks(a.id.Believes(), have) {
				return
			}
		}
	}
}

// lacks says whether some of what is wanted is not there.
func lacks(want, have []string) bool {
	return slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(have, w) })
}

// dropAfter is how long a host that keeps the CA's key has had no vote when it gives it up.
const dropAfter = 10 * time.Minute

// dropCAKey removes the CA's key from a host that has not voted for a while, if the arbiter
// has it.
func (a *agent) dropCAKey(ctx context.Context) {
	arbiter := a.quorum.Leader()
	if arbiter == "" || arbiter == a.cfg.Node {
		a.trust.voteless = time.Time{}
		return
	}
	if a.trust.voteless.IsZero() {
		a.trust.voteless = time.Now()
	}
	if time.Since(a.trust.voteless) < dropAfter {
		return
	}
	a.trust.voteless = time.Time{} // not asked again at once
	var s rollState
	if err := a.ask(ctx, arbiter, pathRollState, empty{}, &s); err != nil || !slices.Contains(s.CAKeys, a.id.IssuingCA()) {
		return
	}
	if err := peer.DropAuthority(a.cfg.Peer.PKIDir); err != nil {
		a.complain("the CA's key is not removed from this host, which does not vote", err)
		return
	}
	a.log.Warn("this host does not vote: the CA's key is removed from it", "arbiter", arbiter)
}

type caKeyReply struct {
	Keys [][]byte `json:"keys"` // PKCS #8; of two CAs, while the CA is changed
}

// giveCAKey gives the CA's key to another voter.
func (a *agent) giveCAKey(ctx context.Context, from string, _ empty) (caKeyReply, error) {
	// On the key that all know it by: that the CA signed it is not enough for this.
	cert := peer.CertOf(ctx)
	if cert == nil || !a.isVoter(from) || !a.roll().has(from, peer.KeySum(cert)) {
		return caKeyReply{}, fmt.Errorf("%s is no voter", from)
	}
	keys, err := peer.ExportAuthorities(a.cfg.Peer.PKIDir)
	if err != nil {
		return caKeyReply{}, fmt.Errorf("%s does not keep the CA's key", a.cfg.Node)
	}
	a.log.Warn("the CA's key goes to a voter", "node", from)
	return caKeyReply{keys}, nil
}
