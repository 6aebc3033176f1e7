package agent

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/peer"
	"relevo.dev/relevo/agent/quorum"
)

// The gossip key is changed in three steps, each agreed on by the voters and taken only
// when every member that is alive has the one before: the new key can be read; it is
// written with; the old one goes. At no moment are there two that do not understand each
// other. Who was away meanwhile gets the keys over the peer port, by its certificate.

const gossipKeyBytes = 32

// useKeys puts the keys that the voters agreed on in force, here.
func (a *agent) useKeys(g quorum.GossipKeys) error {
	if len(g.Keys) == 0 {
		return nil
	}
	keys := g.Keys
	now, err := peer.ReadGossipKeys(a.cfg.Gossip.KeyFile)
	if err == nil && slices.EqualFunc(now, keys, bytes.Equal) {
		return nil
	}
	if err := a.pool.SetKeys(keys); err != nil {
		return err
	}
	a.log.Info("the gossip keys of this host are changed", "keys", len(keys), "stage", g.Stage)
	return peer.WriteGossipKeys(a.cfg.Gossip.KeyFile, keys)
}

// orderRotate begins a rotation; it is the arbiter's.
func (a *agent) orderRotate(ctx context.Context, o api.Order, d api.Done) (api.Done, error) {
	switch o.To {
	case "tokens":
		d.Text = "no token that was made so far lets anybody in any more; `relevo token create` makes a new one"
		return d, a.quorum.Apply(ctx, quorum.RevokeToken("", o.By))
	case "gossip-key":
		d.Text = "the gossip key is being changed: `relevo rotate status` tells how far it is"
		return d, a.beginKeys(ctx)
	case "ca":
		if o.Finish {
			return a.finishCA(ctx, o, d)
		}
		return a.beginCA(ctx, o, d)
	}
	return d, fmt.Errorf("what shall be rotated: gossip-key, ca or tokens, not %q", o.To)
}

// beginKeys adds a new gossip key, which can be read from now on.
func (a *agent) beginKeys(ctx context.Context) error {
	g := a.quorum.State().Trust.Gossip
	if g.Stage != 0 {
		return fmt.Errorf("the gossip key is being changed already: %s", a.waitsFor())
	}
	now := g.Keys
	if len(now) == 0 {
		keys, err := peer.ReadGossipKeys(a.cfg.Gossip.KeyFile)
		if err != nil {
			return err
		}
		now = keys[:1]
	}
	fresh := make([]byte, gossipKeyBytes)
	rand.Read(fresh) // never fails: the runtime ends the program first
	return a.quorum.Apply(ctx, quorum.SetGossipKeys(0, quorum.GossipKeys{Keys: [][]byte{now[0], fresh}, Stage: 1}))
}

// rotate goes on with a rotation, when all who are there have followed.
func (a *agent) rotate(ctx context.Context) {
	t := a.quorum.State().Trust
	if !a.quorum.IsLeader() || t.Gossip.Stage == 0 || len(a.behind(ctx, t.Version)) > 0 {
		return
	}
	k := t.Gossip.Keys
	next := quorum.GossipKeys{Keys: [][]byte{k[1], k[0]}, Stage: 2}
	if t.Gossip.Stage == 2 {
		next = quorum.GossipKeys{Keys: k[:1]}
	}
	switch err := a.quorum.Apply(ctx, quorum.SetGossipKeys(t.Gossip.Stage, next)); {
	case err != nil:
		a.complain("the rotation of the gossip key does not go on", err)
	case next.Stage == 0:
		a.log.Warn("the gossip key is changed: the old one opens nothing any more")
		a.seenHere.note("changed the gossip key")
	}
}

// behind are the members that are alive and have not followed to a roll yet. They are
// asked themselves: gossip could be forged.
func (a *agent) behind(ctx context.Context, version uint64) (out []string) {
	r := a.roll()
	if r.Version < version {
		out = append(out, a.cfg.Node)
	}
	for _, m := range a.pool.Members() {
		if m.Status != member.Alive || m.Node == a.cfg.Node || r.gone(m.Node) {
			continue
		}
		if _, enrolled := (quorum.Trust{Members: r.Members}).Member(m.Node); !enrolled {
			continue // whoever has the gossip key can invent members; they hold nothing up
		}
		var s rollState
		if err := a.ask(ctx, m.Node, pathRollState, empty{}, &s); err != nil || s.Version < version {
			out = append(out, m.Node)
		}
	}
	return out
}

// rollState is how far a member has followed.
type rollState struct {
	Version uint64   `json:"version"`
	CAKeys  []string `json:"ca_keys,omitempty"` // the CAs whose keys it keeps, by fingerprint
	CAs     []string `json:"cas,omitempty"`     // the CAs that it believes
	CA      string   `json:"ca,omitempty"`      // the one that signed its certificate
	Arbiter string   `json:"arbiter,omitempty"` // whom it takes for that
}

const pathRollState = "/v1/trust/state"

func (a *agent) giveRollState(context.Context, string, empty) (rollState, error) {
	return rollState{Version: a.roll().Version, CAKeys: a.caKeys(), CAs: a.id.Believes(), CA: a.id.IssuedBy(), Arbiter: a.quorum.Leader()}, nil
}

// waitsFor tells how far a rotation is.
func (a *agent) waitsFor() string {
	t := a.quorum.State().Trust
	step := map[int]string{1: "the new one can be read by those who have it", 2: "it is written with"}[t.Gossip.Stage]
	ctx, cancel := context.WithTimeout(context.Background(), askRoll)
	defer cancel()
	return step + "; still to follow: " + cmp.Or(strings.Join(a.behind(ctx, t.Version), ", "), "nobody, the next step is taken in seconds")
}

// Rotation tells how far what is rotated is (api.Source).
func (a *agent) Rotation(ctx context.Context) (api.Rotation, error) {
	return toArbiter(ctx, a.loop, pathRotation, empty{}, a.rotation)
}

const pathRotation = "/v1/trust/rotation"

func (a *agent) rotation(ctx context.Context, _ string, _ empty) (api.Rotation, error) {
	st := a.quorum.State()
	t := st.Trust
	r := api.Rotation{GossipKey: api.RotationStep{Stage: t.Gossip.Stage, Stages: 3}, CA: a.caRotation(ctx, st), Away: a.away()}
	if t.Gossip.Stage > 0 {
		r.GossipKey.Behind = a.behind(ctx, t.Version)
	}
	return r, nil
}

// remove takes a member out for good: it is refused from now on, its vote is replaced, and
// the gossip key that it knew is changed. It is the arbiter's.
func (a *agent) remove(ctx context.Context, o api.Order, d api.Done) (api.Done, error) {
	m, inPool := a.member(o.To)
	_, enrolled := a.quorum.State().Trust.Member(o.To)
	s := a.quorum.State()
	switch {
	case !inPool && !enrolled:
		return d, fmt.Errorf("%s is no member: `relevo members` shows who is", o.To)
	case a.roll().gone(o.To):
		return d, fmt.Errorf("%s was removed already", o.To)
	case inPool && m.Status == member.Alive && !o.Force && s.Holder == o.To && !s.Released:
		return d, fmt.Errorf("%s is the master, and it is alive: `relevo switchover` hands over without loss, then remove it; or, if it is not in your hands any more, --force refuses it at once, and a standby follows when its lease has run out, with what was copied by then", o.To)
	case o.To == a.cfg.Node:
		return d, fmt.Errorf("%s is the arbiter, which cannot remove itself: run `relevo leave` on it, and remove it then", o.To)
	case inPool && m.Status == member.Alive && !o.Force:
		return d, fmt.Errorf("%s is alive: run `relevo leave` on it first; or, if it is not in your hands any more, --force refuses it at once", o.To)
	case inPool && m.Status == member.Alive && s.Holder == o.To && !s.Released && s.Pause.Phase != quorum.Running:
		return d, fmt.Errorf("%s is the master, and the cluster is %s: it would go on without anybody; `relevo resume` first", o.To, s.Pause.Phase)
	}
	hadKey := a.isVoter(o.To)
	if hadKey {
		// Its vote first: a replacement that turns out to be away as well would leave more
		// votes to wait for than there are.
		if err := a.restStands(o.To); err != nil {
			return d, err
		}
		if err := a.quorum.Remove(ctx, o.To); err != nil {
			return d, err
		}
	}
	if err := a.quorum.Apply(ctx, quorum.Expel(o.To, o.By, o.Why)); err != nil {
		return d, err
	}
	a.seenHere.note("%s was removed by %s", o.To, o.By)
	if inPool && m.Status == member.Alive {
		a.turnAway(ctx, o.To)
	}
	if inPool {
		if err := a.pool.Remove(o.To); err != nil {
			a.log.Debug("gossip goes on about a member that was removed", "node", o.To, "err", err)
		}
	}
	d.Text = o.To + " is no member any more: it is refused from now on, its vote is replaced within seconds"
	if err := a.beginKeys(ctx); err == nil {
		d.Text += ", and the gossip key that it knew is being changed"
	} else if !errors.Is(err, context.Canceled) {
		a.log.Warn("the gossip key is not changed after a removal", "err", err)
	}
	if hadKey {
		d.Text += ". It voted, so it had the CA's key: if the board was stolen, and not only lost, run `relevo rotate ca` now"
	}
	return d, nil
}

// turnAway calls a member that was just removed, and does not believe it any more: so it
// hears that it is refused, and asks why. Otherwise it would when it calls somebody itself,
// which a member that neither votes nor is a candidate seldom does.
func (a *agent) turnAway(ctx context.Context, node string) {
	if err := a.adopt(a.quorum.State().Trust); err != nil {
		a.complain("who is a member is not noted", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_ = a.ask(ctx, node, pathHistory, empty{}, &api.History{}) // it fails: that is what it is for
}

// restStands says whether a majority of the voters but node is there.
func (a *agent) restStands(node string) error {
	servers, err := a.quorum.Servers()
	if err != nil {
		return err
	}
	var away []string
	rest := 0
	for _, s := range servers {
		if !s.Voter || s.Node == node {
			continue
		}
		rest++
		if m, ok := a.member(s.Node); s.Node != a.cfg.Node && (!ok || m.Status != member.Alive) {
			away = append(away, s.Node)
		}
	}
	if rest == 0 {
		return fmt.Errorf("%s is the only one that votes: nothing could be decided any more; with three hosts or more others vote, too", node)
	}
	if there := rest - len(away); 2*there <= rest {
		return fmt.Errorf("without %s there are %d voters, and of these %s: nothing could be decided any more; bring one of them back first", node, rest, areAway(away))
	}
	return nil
}

// replace enrols another key for a name, of a host that comes with an invitation. It is the
// arbiter's.
func (a *agent) replace(ctx context.Context, o api.Order, d api.Done) (api.Done, error) {
	if err := peer.ValidNode(o.To); err != nil {
		return d, err
	}
	switch m, ok := a.member(o.To); {
	case o.To == a.cfg.Node:
		return d, fmt.Errorf("%s is the arbiter, which cannot be replaced: stop it first", o.To)
	case ok && m.Status == member.Alive:
		return d, fmt.Errorf("%s is alive at %s: stop it first, or give the new host another name", o.To, m.Addr)
	}
	d.Text = "the certificates of the board that was " + o.To + " end: the next one of that name is the one with the invitation"
	return d, a.quorum.Apply(ctx, quorum.Replace(o.To, o.Key, o.By))
}

func areAway(nodes []string) string {
	if len(nodes) == 1 {
		return nodes[0] + " is away"
	}
	return strings.Join(nodes, ", ") + " are away"
}
