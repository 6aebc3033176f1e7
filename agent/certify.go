package agent

import (
	"context"
	"fmt"
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
	late := time.Since(a.trust.renewed) >= renewAgain
	a.trust.mu.Unlock()
	if !late || !a.id.Due(time.Now()) || !a.roll().has(a.cfg.Node, a.id.KeySum()) {
		return
	}
	a.trust.mu.Lock()
	a.trust.renewed = time.Now()
	a.trust.mu.Unlock()
	err := error(errNoArbiter)
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
	a.log.Info("the certificate of this host is renewed", "until", a.id.Ends().Format(time.DateOnly))
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

// keepCAKey fetches the CA's key if this host votes.
func (a *agent) keepCAKey(ctx context.Context) {
	votes, has := a.isVoter(a.cfg.Node), peer.HasAuthority(a.cfg.Peer.PKIDir)
	if !votes && has {
		a.dropCAKey(ctx)
		return
	}
	a.trust.voteless = time.Time{}
	if !votes || has {
		return
	}
	for _, node := range a.voters(false) {
		var k caKeyReply
		if a.ask(ctx, node, pathCAKey, empty{}, &k) != nil {
			continue
		}
		if err := peer.KeepAuthority(a.cfg.Peer.PKIDir, k.Key); err != nil {
			a.complain("the CA's key from "+node+" is not kept", err)
			continue
		}
		a.log.Info("this host votes, and keeps the CA's key now", "from", node)
		return
	}
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
	if err := a.ask(ctx, arbiter, pathRollState, empty{}, &s); err != nil || !s.CAKey {
		return
	}
	if err := peer.DropAuthority(a.cfg.Peer.PKIDir); err != nil {
		a.complain("the CA's key is not removed from this host, which does not vote", err)
		return
	}
	a.log.Warn("this host does not vote: the CA's key is removed from it", "arbiter", arbiter)
}

type caKeyReply struct {
	Key []byte `json:"key"` // PKCS #8
}

// giveCAKey gives the CA's key to another voter.
func (a *agent) giveCAKey(ctx context.Context, from string, _ empty) (caKeyReply, error) {
	// On the key that all know it by: that the CA signed it is not enough for this.
	cert := peer.CertOf(ctx)
	if cert == nil || !a.isVoter(from) || !a.roll().has(from, peer.KeySum(cert)) {
		return caKeyReply{}, fmt.Errorf("%s is no voter", from)
	}
	ca, err := peer.LoadAuthority(a.cfg.Peer.PKIDir)
	if err != nil {
		return caKeyReply{}, fmt.Errorf("%s does not keep the CA's key", a.cfg.Node)
	}
	a.log.Warn("the CA's key goes to a voter", "node", from)
	k, err := ca.Export()
	return caKeyReply{k}, err
}
