package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"relevo.dev/relevo/agent/durable"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/peer"
	"relevo.dev/relevo/agent/quorum"
)

// A host that was removed is refused by all others, and would wait for them for ever. So it
// asks who refuses it for the reason (peer.ProtoWhy), and believes only what the CA signed.
// Then its agent takes no part any more, also after a restart, and says so to whoever asks:
// until the host joins again, on another key.

// removal is what is said of a host that was removed.
type removal struct {
	Node string    `json:"node"`
	Key  []byte    `json:"key"` // that it had, as peer.KeySum: the same host may join again
	By   string    `json:"by,omitempty"`
	Why  string    `json:"why,omitempty"`
	At   time.Time `json:"at"` // wall clock of the arbiter
}

const (
	removalKind = "removal"
	maxRemoval  = 4 << 10
	removedFile = "removed.json"
	// whyTurn is how often a host that was refused asks why.
	whyTurn = 5 * time.Second
)

// errRemoved ends the parts of an agent whose host was removed.
var errRemoved = errors.New("this host was removed from the cluster")

// removalOf is the entry about a node that was removed and is not back on that key. A host
// that has joined again is on a key that a roll of before does not know, and was not removed
// on: that roll says nothing of it.
func (r roll) removalOf(node string, key []byte) (out removal, ok bool) {
	if r.has(node, key) {
		return removal{}, false
	}
	for _, x := range r.Removed { // the newest last
		if x.Node == node && (len(x.Key) == 0 || bytes.Equal(x.Key, key)) {
			out, ok = removal{node, key, x.By, x.Why, x.At}, true
		}
	}
	return out, ok
}

// why answers a node that is refused (peer.PortConfig).
func (a *agent) why(node string, key []byte) peer.Verdict {
	r := a.roll()
	if t := a.quorum.State().Trust; t.Version > r.Version {
		r = rollOf(t)
	}
	x, ok := r.removalOf(node, key)
	if !ok {
		return peer.Verdict{}
	}
	v := peer.Verdict{Removed: true, Since: r.CA.Past}
	if len(r.CA.Cross) > 0 {
		v.Since = append(slices.Clip(v.Since), r.CA.Cross)
	}
	cas, err := peer.LoadAuthorities(a.cfg.Peer.PKIDir)
	if err != nil {
		return v // a voter can prove it
	}
	if b, err := json.Marshal(x); err == nil {
		v.Statement = b
		for _, ca := range cas {
			v.Sigs = append(v.Sigs, ca.Sign(removalKind, b))
		}
	}
	return v
}

// parseRemoval reads a statement about this host, from disk or from the network.
func parseRemoval(b []byte, node string, key []byte) (x removal, err error) {
	if len(b) > maxRemoval {
		return x, fmt.Errorf("it has more than %d KiB", maxRemoval>>10)
	}
	if err := json.Unmarshal(b, &x); err != nil {
		return x, err
	}
	if x.Node != node || !bytes.Equal(x.Key, key) {
		return x, fmt.Errorf("it is about another host, or another key of %.63q", x.Node)
	}
	return x, quorum.Trust{Version: 1, Removed: []quorum.Removed{{Node: x.Node, By: x.By, Why: x.Why, At: x.At}}}.Check()
}

// watchRemoval waits until this host learns that it was removed. It returns errRemoved then.
func (a *agent) watchRemoval(ctx context.Context) error {
	t := time.NewTicker(whyTurn)
	defer t.Stop()
	for {
		changed := a.factChanged()
		x, ok := a.roll().removalOf(a.cfg.Node, a.id.KeySum())
		if !ok {
			x, ok = a.askWhy(ctx)
		}
		if ok {
			return a.giveUp(ctx, x)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-t.C:
		}
	}
}

// askWhy asks who refuses this host for the reason, and the voters for the proof. Where it
// is not known who refuses, or that host does not answer any more, the voters can tell.
func (a *agent) askWhy(ctx context.Context) (x removal, removed bool) {
	ask := func(node string) (peer.Verdict, error) {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		return a.port.Why(ctx, node)
	}
	first, refused := a.port.Refusing()
	if !refused {
		return x, false
	}
	for _, node := range putFirst(first, a.voters(true)) {
		v, err := ask(node)
		switch {
		case err == nil && !v.Removed && node == first:
			return x, false // it was something else
		case err != nil || !v.Removed || len(v.Statement) == 0:
			continue
		}
		if x, err = a.believe(v); err == nil {
			return x, true
		}
		a.complain("what "+node+" says of this host is not believed", err)
	}
	return removal{}, false
}

// believe reads what somebody says of this host. The CA that signed it may be one that this
// host has not heard of yet.
func (a *agent) believe(v peer.Verdict) (removal, error) {
	if len(v.Sigs) > maxSigs || !a.id.SignedSince(v.Since, removalKind, v.Statement, v.Sigs...) {
		return removal{}, errors.New("the CA did not sign it")
	}
	return parseRemoval(v.Statement, a.cfg.Node, a.id.KeySum())
}

// giveUp notes the removal, and ends the parts of the agent when the lease of this host, if
// it has one, is over: nobody renews it any more.
func (a *agent) giveUp(ctx context.Context, x removal) error {
	if err := a.keepRemoval(x); err != nil {
		a.log.Warn("that this host was removed is not kept over a restart", "err", err)
	}
	a.learn(x)
	ctx, cancel := context.WithTimeout(ctx, 2*a.cfg.LeaseTTL) // while paused it has no end
	defer cancel()
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for a.host != nil && a.phase() != lease.Standby {
		select {
		case <-ctx.Done():
			return errRemoved
		case <-t.C:
		}
	}
	return errRemoved
}

// learn says it once.
func (a *agent) learn(x removal) {
	if a.gone.Swap(&x) == nil {
		a.log.Error(x.text(a.id.Cluster())+": it takes no part any more", "do", x.advice())
	}
}

func (a *agent) keepRemoval(x removal) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	return durable.Replace(a.removedPath(), b, 0o600)
}

func (a *agent) removedPath() string { return filepath.Join(a.cfg.DataDir, removedFile) }

// wasRemoved says whether this host knew, when it was switched off, that it was removed.
func (a *agent) wasRemoved() (*removal, error) {
	b, err := readBounded(a.removedPath(), maxRemoval)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read whether this host was removed: %w", err)
	}
	if a.id, err = peer.Load(a.cfg.Peer.PKIDir); err != nil {
		return nil, err
	}
	x, err := parseRemoval(b, a.cfg.Node, a.id.KeySum())
	if err != nil {
		return nil, nil // it joined again; or the others will say it once more
	}
	return &x, nil
}

// text says what happened, in one sentence; advice what helps.
func (x removal) text(cluster string) string {
	s := "this host was removed from the cluster " + cluster
	if x.By != "" {
		s += " by " + x.By
	}
	s += " on " + x.At.UTC().Format("2006-01-02 15:04 UTC")
	if x.Why != "" {
		s += " (" + x.Why + ")"
	}
	return s
}

func (removal) advice() string {
	return "to join again: `relevo token create` on a member, and `sudo relevo join TOKEN` here"
}
