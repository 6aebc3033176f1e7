package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"relevo.dev/relevo/agent/peer"
	"relevo.dev/relevo/agent/quorum"
)

// roll is who is a member, and by which keys.
type roll struct {
	Version uint64             `json:"version"`
	Members []quorum.Enrolled  `json:"members"`
	Removed []quorum.Removed   `json:"removed,omitempty"`
	Gossip  quorum.GossipKeys  `json:"gossip,omitzero"`
	CA      quorum.Authorities `json:"ca,omitzero"`
}

// signedRoll is a roll as JSON, and the signatures of the CAs, where somebody made some: of
// two while the CA is changed, since who was away believes the old one alone.
type signedRoll struct {
	Roll json.RawMessage `json:"roll,omitempty"`
	Sigs [][]byte        `json:"sigs,omitempty"`
	of   uint64
}

func rollOf(t quorum.Trust) roll {
	return roll{Version: t.Version, Members: t.Members, Removed: t.Removed, Gossip: t.Gossip, CA: t.CA}
}

// trust is the part of the replicated state that the roll is made of.
func (r roll) trust() quorum.Trust {
	return quorum.Trust{Version: r.Version, Members: r.Members, Removed: r.Removed, Gossip: r.Gossip, CA: r.CA}
}

func rollIn(dataDir string) string { return filepath.Join(dataDir, "trust.json") }

func (a *agent) rollPath() string { return rollIn(a.cfg.DataDir) }

func (a *agent) roll() roll {
	a.trust.mu.Lock()
	defer a.trust.mu.Unlock()
	return a.trust.roll
}

// readRoll puts in force what was known when this host was switched off.
func (a *agent) readRoll() error {
	r, err := loadRoll(a.rollPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	rules, err := r.rules()
	if err == nil && a.bygone(rules) {
		a.log.Info("what this host knew of the members is of before it joined again: it asks for it anew")
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s is damaged (%w): remove it; it comes back from the other members", a.rollPath(), err)
	}
	a.trust.roll = r
	a.id.SetRules(rules)
	return nil
}

// bygone says whether rules are of before this host joined again: the CA was changed while it
// was no member, and by what it knew then it would believe nobody. In a change of the CA that
// it takes part in there is always one that it believes already.
func (a *agent) bygone(r peer.Rules) bool { return len(r.CAs) > 0 && !a.id.BelievesAny(r.CAs) }

func loadRoll(path string) (r roll, err error) {
	b, err := readBounded(path, maxRoll)
	if err != nil {
		return r, fmt.Errorf("read who is a member: %w", err)
	}
	s, err := parseSigned(b)
	if err == nil {
		r, err = parseRoll(s.Roll)
	}
	if err != nil {
		err = fmt.Errorf("%s is damaged (%w): remove it; it comes back from the other members", path, err)
	}
	return r, err
}

// readBounded reads a file, but not much more than limit bytes of it: whoever parses it
// refuses what is longer.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit+1))
}

// MayInvite says whether the host node would be let in with an invitation that is made now,
// as far as the data directory of this host knows.
func MayInvite(dataDir, node string) error {
	r, err := loadRoll(rollIn(dataDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, member := r.trust().Member(node)
	switch {
	case member:
		return fmt.Errorf("there is a member called %s already, and its name is bound to its key: if another board takes its place, `relevo token create --replace %[1]s` lets it in, or, where no member can be reached, `relevo invite --replace %[1]s`", node)
	case r.gone(node):
		return fmt.Errorf("%s was removed: `relevo token create --node %[1]s` lets it in again, or, where no member can be reached, `relevo invite --replace %[1]s`", node)
	case r.CA.Stage == 1:
		return errors.New("the CA is being changed, and an invitation that is made now would not survive that: try again in some seconds; `relevo rotate status` tells how far it is")
	}
	return nil
}

func parseSigned(b []byte) (s signedRoll, err error) {
	if len(b) > maxRoll {
		return s, fmt.Errorf("it has more than %d KiB", maxRoll>>10)
	}
	return s, json.Unmarshal(b, &s)
}

// maxSigs bounds the signatures that are looked at.
const maxSigs = 4

// parseRoll reads a roll from disk or from the network.
func parseRoll(b []byte) (roll, error) {
	var r roll
	if err := json.Unmarshal(b, &r); err != nil {
		return roll{}, err
	}
	return r, r.trust().Check()
}

func (r roll) rules() (peer.Rules, error) {
	rules := peer.Rules{Keys: map[string][]byte{}, Removed: map[string]bool{}, RemovedKeys: map[string][]byte{}}
	for _, m := range r.Members {
		rules.Keys[m.Node] = m.Key
	}
	for _, x := range r.Removed {
		rules.Removed[x.Node] = true
		if len(x.Key) > 0 {
			rules.RemovedKeys[x.Node] = x.Key
		}
	}
	return rules, r.believe(&rules)
}

// has says whether node is enrolled with that key.
func (r roll) has(node string, key []byte) bool {
	m, ok := r.trust().Member(node)
	return ok && bytes.Equal(m.Key, key)
}

// gone says whether node was removed and has not come back.
func (r roll) gone(node string) bool {
	_, back := r.trust().Member(node)
	return !back && slices.ContainsFunc(r.Removed, func(x quorum.Removed) bool { return x.Node == node })
}
