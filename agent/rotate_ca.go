package agent

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/audit"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/peer"
	"relevo.dev/relevo/agent/quorum"
)

// The CA is changed in three steps, each agreed on by the voters: all believe the new one
// beside the old one; the new one issues, and every member gets a certificate by it, on the
// key that it has; the old one goes. The arbiter takes the steps, whoever that is: all that
// it needs to know is replicated, but for the new CA's key, which most voters must have
// before it issues. If the only one that had it is lost before, another CA is made.
//
// A certificate of the old CA counts only for members that have none of the new one yet, on
// the key with which they are enrolled. So somebody who has the old CA's key has nothing
// from the first step on; and who was away is let in by it when it is back, however late.

// caStages of a change.
const caStages = 3

// parseCAs reads certificates that were agreed on.
func parseCAs(a quorum.Authorities) (cas []*x509.Certificate, cross *x509.Certificate, err error) {
	for _, der := range a.Certs {
		ca, err := x509.ParseCertificate(der)
		if err == nil {
			err = peer.CheckCA(ca)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("the CAs that are believed: %w", err)
		}
		cas = append(cas, ca)
	}
	if len(a.Cross) > 0 {
		if cross, err = x509.ParseCertificate(a.Cross); err != nil {
			return nil, nil, fmt.Errorf("the new CA, signed by the old one: %w", err)
		}
	}
	return cas, cross, nil
}

// believe puts into the rules which CAs are believed.
func (r roll) believe(rules *peer.Rules) error {
	cas, cross, err := parseCAs(r.CA)
	if err != nil || r.CA.Stage == 0 {
		rules.CAs = cas
		return err
	}
	rules.CAs, rules.Cross, rules.Waiting = cas, cross, map[string]bool{}
	rules.Former = cas[r.CA.Stage-1] // the old one is the first, and then the second
	for _, n := range r.trust().Waiting() {
		rules.Waiting[n] = true
	}
	return nil
}

// followCA writes down which CAs are believed, after they are in force.
func (a *agent) followCA(was, now roll) error {
	if was.CA.Stage == now.CA.Stage && len(was.CA.Certs) == len(now.CA.Certs) && slices.EqualFunc(was.CA.Certs, now.CA.Certs, slices.Equal[[]byte]) {
		return nil
	}
	cas, _, err := parseCAs(now.CA)
	if err != nil || len(cas) == 0 {
		return err
	}
	a.log.Info("the CAs that this host believes are changed", "issuing", a.id.IssuingCA(), "cas", len(cas), "stage", now.CA.Stage)
	dir := a.cfg.Peer.PKIDir
	if err := peer.WriteCAs(dir, cas); err != nil {
		return fmt.Errorf("write down which CAs are believed: %w", err)
	}
	if now.CA.Stage > 0 {
		return nil
	}
	if was.CA.Stage == 1 && slices.Equal(was.CA.Certs[0], now.CA.Certs[0]) {
		return peer.PruneAuthority(dir) // taken back: everybody's certificate is as good as before
	}
	for _, n := range was.trust().Waiting() {
		if n == a.cfg.Node {
			if a.id.Outdated() {
				a.log.Error("the CA was changed without this host: the others refuse it; it can join again with a token", "make_one_with", "relevo token create --replace "+a.cfg.Node)
			}
			continue
		}
		a.port.DropNode(n)
	}
	return peer.PruneAuthority(dir)
}

// beginCA makes a new CA, which is believed from now on. It is the arbiter's.
func (a *agent) beginCA(ctx context.Context, o api.Order, d api.Done) (api.Done, error) {
	s := a.quorum.State()
	switch t := s.Trust; {
	case t.CA.Stage != 0:
		return d, fmt.Errorf("the CA is being changed already: %s", a.caWaitsFor(ctx, t))
	case a.roll().Version < t.Version:
		return d, errors.New("the arbiter has just changed: try again in some seconds")
	}
	if err := a.proposeCA(ctx, 0, o.By); err != nil {
		return d, err
	}
	d.Text = "the CA is being changed: `relevo rotate status` tells how far it is"
	now := time.Now()
	var tokens []string
	for _, k := range s.Trust.Tokens {
		if !k.Revoked && k.Used < k.Uses && now.Before(k.Until) {
			tokens = append(tokens, k.ID)
		}
	}
	if len(tokens) > 0 {
		d.Text += ". Withdrawn are the tokens that were good, since a token names the CA: " + strings.Join(tokens, ", ")
	}
	var access []string
	for _, x := range s.Access {
		if now.Before(x.Expires) {
			access = append(access, x.Name)
		}
	}
	if len(access) > 0 {
		d.Text += ". The files of these accesses end with the old CA, make them anew with `relevo access create`: " + strings.Join(access, ", ")
	}
	if away := a.away(); len(away) > 0 {
		d.Text += ". Until " + strings.Join(away, ", ") + " are back or removed the old CA is believed for them, and for nobody else"
	}
	return d, nil
}

// proposeCA has a new CA believed; stage is the one that is agreed on.
func (a *agent) proposeCA(ctx context.Context, stage int, by string) error {
	dir := a.cfg.Peer.PKIDir
	old, err := peer.LoadAuthority(dir)
	if err != nil {
		return fmt.Errorf("the arbiter, %s, cannot make a CA yet: %w", a.cfg.Node, err)
	}
	ca, cross, err := peer.NextAuthority(dir)
	if err != nil {
		return fmt.Errorf("make a new CA: %w", err)
	}
	return a.quorum.Apply(ctx, quorum.BeginCA(stage, old.Certificate().Raw, ca.Raw, cross.Raw, by))
}

// cancelCA takes a change of the CA back while all that was done of it is that some believe
// the new one, too: it has issued nothing, and nobody is waited for. It is the arbiter's.
func (a *agent) cancelCA(ctx context.Context, o api.Order, d api.Done) (api.Done, error) {
	if o.To != "ca" {
		return d, fmt.Errorf("what shall not be rotated: only ca can be taken back, not %q", o.To)
	}
	t := a.quorum.State().Trust
	var err error
	if t.CA.Stage == 1 {
		if err = a.quorum.Apply(ctx, quorum.CancelCA(t.CA, o.By)); err == nil {
			a.log.Warn("the change of the CA is taken back", "by", o.By)
			a.seenHere.note("the change of the CA was taken back by %s", o.By)
			d.Text = "the CA stays as it is: the new one has issued nothing, and is believed no more. The tokens that were withdrawn at the beginning stay so: `relevo token create` makes new ones"
			return d, nil
		}
		t = a.quorum.State().Trust // the step may have been taken in between
	}
	switch t.CA.Stage {
	case 0:
		return d, errors.New("the CA is not being changed: there is nothing to take back")
	case 2:
		return d, errors.New("too late to take it back: the new CA issues, and members have certificates of it. The change ends by itself when all have one, and `relevo rotate ca --finish` gives up those that are missing; to be rid of the new CA, run `relevo rotate ca` again after that")
	}
	return d, err
}

// finishCA ends a change of the CA although members are missing. It is the arbiter's.
func (a *agent) finishCA(ctx context.Context, o api.Order, d api.Done) (api.Done, error) {
	t := a.quorum.State().Trust
	missing := t.Waiting()
	switch t.CA.Stage {
	case 0:
		return d, errors.New("the CA is not being changed")
	case 1:
		return d, fmt.Errorf("the new CA does not issue yet: %s", a.caWaitsFor(ctx, t))
	}
	if !o.Force {
		for _, n := range missing {
			if m, ok := a.member(n); ok && m.Status == member.Alive {
				return d, fmt.Errorf("%s is there and has no certificate of the new CA yet: it takes some seconds; if it does not, its journal says why (--force leaves it out: it would have to join again)", n)
			}
		}
	}
	if slices.Contains(missing, a.cfg.Node) {
		return d, errors.New("the arbiter itself has no certificate of the new CA yet: try again in some seconds")
	}
	if err := a.quorum.Apply(ctx, quorum.EndCA(t.CA)); err != nil {
		return d, err
	}
	d.Text = "the old CA is believed no more"
	if len(missing) > 0 {
		d.Text += fmt.Sprintf("; without a certificate of the new one are %s: each comes back with a token of its own, relevo token create --replace %s", strings.Join(missing, ", "), missing[0])
	}
	return d, nil
}

// rotateCA goes on with a change of the CA. It is the arbiter's.
func (a *agent) rotateCA(ctx context.Context) {
	t := a.quorum.State().Trust
	if !a.quorum.IsLeader() || t.CA.Stage == 0 || a.roll().Version != t.Version {
		return
	}
	step := a.turnCA
	if t.CA.Stage == 2 {
		step = a.gatherCA
	}
	if err := step(ctx, t); err != nil && ctx.Err() == nil {
		a.complain("the change of the CA does not go on", err)
	}
}

// turnCA has the new CA issue, when all who are there believe it and most voters have its
// key, all who are there among them.
func (a *agent) turnCA(ctx context.Context, t quorum.Trust) error {
	next, err := fingerprint(t.CA.Certs[1])
	if err != nil {
		return err
	}
	states, silent := a.rollStates(ctx, t.Members)
	servers, err := a.quorum.Servers()
	if err != nil {
		return err
	}
	voters, keyed, without := 0, 0, 0
	for _, s := range servers {
		if !s.Voter {
			continue
		}
		voters++
		if slices.Contains(silent, s.Node) {
			return nil // it may have the key
		}
		if st, ok := states[s.Node]; !ok {
			continue // away
		} else if slices.Contains(st.CAKeys, next) {
			keyed++
		} else {
			without++
		}
	}
	if keyed == 0 && without > 0 {
		a.log.Warn("the key of the new CA was lost with the host that made it: another CA is made")
		return a.proposeCA(ctx, 1, t.CA.By)
	}
	if len(silent) > 0 || without > 0 || 2*keyed <= voters {
		return nil
	}
	for _, s := range states {
		if !slices.Contains(s.CAs, next) {
			return nil
		}
	}
	if err := a.quorum.Apply(ctx, quorum.TurnCA(t.CA)); err != nil {
		return err
	}
	a.log.Warn("the new CA issues the certificates from now on", "ca", next)
	a.seenHere.note("had the new CA issue the certificates")
	return nil
}

// gatherCA notes who has a certificate of the new CA, and ends the change when all have.
func (a *agent) gatherCA(ctx context.Context, t quorum.Trust) error {
	next, err := fingerprint(t.CA.Certs[0])
	if err != nil {
		return err
	}
	missing := t.Waiting()
	if len(missing) == 0 {
		if err := a.quorum.Apply(ctx, quorum.EndCA(t.CA)); err != nil {
			return err
		}
		a.log.Warn("the CA is changed: every member has a certificate of the new one, the old one opens nothing any more", "ca", next)
		a.seenHere.note("ended the change of the CA")
		a.audited(audit.Record{By: "the arbiter", Action: "rotate ca", Outcome: api.Carried, Why: "every member has a certificate of the new CA"})
		return nil
	}
	ask := slices.DeleteFunc(slices.Clone(t.Members), func(m quorum.Enrolled) bool { return !slices.Contains(missing, m.Node) })
	states, _ := a.rollStates(ctx, ask)
	var have []string
	for node, s := range states {
		if s.CA == next {
			have = append(have, node)
		}
	}
	if len(have) == 0 {
		return nil
	}
	return a.quorum.Apply(ctx, quorum.RenewedBy(t.CA.Certs[0], have))
}

func fingerprint(der []byte) (string, error) {
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return "", err
	}
	return peer.Fingerprint(ca), nil
}

// rollStates asks members that are alive how far they are; silent are those that do not
// answer. Gossip could be forged.
func (a *agent) rollStates(ctx context.Context, members []quorum.Enrolled) (states map[string]rollState, silent []string) {
	states = map[string]rollState{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, e := range members {
		if e.Node == a.cfg.Node {
			s, _ := a.giveRollState(ctx, "", empty{})
			mu.Lock()
			states[e.Node] = s
			mu.Unlock()
			continue
		}
		if m, ok := a.member(e.Node); !ok || m.Status != member.Alive {
			continue
		}
		wg.Go(func() {
			var s rollState
			err := a.ask(ctx, e.Node, pathRollState, empty{}, &s)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent = append(silent, e.Node)
				return
			}
			states[e.Node] = s
		})
	}
	wg.Wait()
	slices.Sort(silent)
	return states, silent
}

// caWaitsFor tells how far a change of the CA is.
func (a *agent) caWaitsFor(ctx context.Context, t quorum.Trust) string {
	if t.CA.Stage == 1 {
		return "the new one is believed by those who have heard of it; still to follow: " + cmp.Or(strings.Join(a.behind(ctx, t.Version), ", "), "nobody, the next step is taken in seconds")
	}
	return "the new one issues; without a certificate of it: " + cmp.Or(strings.Join(t.Waiting(), ", "), "nobody, the next step is taken in seconds")
}

// caRotation tells how far a change of the CA is, for people.
func (a *agent) caRotation(ctx context.Context, s quorum.State) api.CARotation {
	t := s.Trust
	r := api.CARotation{RotationStep: api.RotationStep{Stage: t.CA.Stage, Stages: caStages}, CA: a.id.IssuingCA()}
	if t.CA.Stage == 0 {
		return r
	}
	r.By, r.Since = t.CA.By, t.CA.At.UTC()
	r.Missing = t.Waiting()
	for _, n := range r.Missing {
		if m, ok := a.member(n); ok && m.Status == member.Alive || n == a.cfg.Node {
			r.Behind = append(r.Behind, n)
		}
	}
	if t.CA.Stage == 1 {
		r.Behind = a.behind(ctx, t.Version)
	}
	issuing := quorum.CASum(t.CA.Certs[t.CA.Stage%2]) // the new one: the second, and then the first
	for _, x := range s.Access {
		if !slices.Equal(x.CA, issuing) && time.Now().Before(x.Expires) {
			r.Access = append(r.Access, x.Name)
		}
	}
	return r
}

// caProblems is a change of the CA that waits for members.
func (a *agent) caProblems() []api.Problem {
	t := a.roll().trust() // which also those have whom raft tells nothing
	missing := t.Waiting()
	if t.CA.Stage != 2 || len(missing) == 0 {
		return nil
	}
	return []api.Problem{{Severity: api.Warning, What: "the CA is being changed, and waits for " + strings.Join(missing, ", "),
		Why: "they have no certificate of the new one yet; until then the old one is believed for them",
		Do:  "switch them on; or `relevo remove` those that are gone for good, or `relevo rotate ca --finish`: they join again with a token"}}
}

// away are members that are not there and were not removed.
func (a *agent) away() (out []string) {
	r := a.roll()
	for _, m := range a.pool.Members() {
		if m.Status != member.Alive && !r.gone(m.Node) {
			out = append(out, m.Node)
		}
	}
	return out
}

// caKeys remembers which CAs' keys are on this host, for as long as the file is the same.
type caKeys struct {
	mu   sync.Mutex
	at   time.Time
	size int64
	have []string
}

// caKeys are the fingerprints of the CAs whose keys are on this host.
func (a *agent) caKeys() []string {
	k := &a.trust.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	st, err := os.Stat(filepath.Join(a.cfg.Peer.PKIDir, peer.CAKeyFile))
	if err != nil {
		k.size, k.have = 0, nil
		return nil
	}
	if st.Size() == k.size && st.ModTime().Equal(k.at) {
		return k.have
	}
	have, err := peer.Authorities(a.cfg.Peer.PKIDir)
	if err != nil {
		a.complain("the CA's key cannot be read", err)
		return nil
	}
	k.at, k.size, k.have = st.ModTime(), st.Size(), have
	return have
}
