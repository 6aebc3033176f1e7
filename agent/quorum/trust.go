package quorum

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Bounds of what is replicated of the trust between members.
const (
	maxTokens     = 32  // tokens remembered, those that are of no more use first to go
	maxRemoved    = 256 // names that were taken out
	maxUses       = 1000
	maxGossipKeys = 3
	keySize       = 32 // an ed25519 key, a SHA-256 sum, a gossip key
)

// Trust is who is a member by whose word, and how one becomes one. Wall time is in it
// only where a person asked for an end: in a token.
type Trust struct {
	Version uint64      `json:"version"`           // grows by one with each change
	Tokens  []Token     `json:"tokens,omitempty"`  // oldest first
	Members []Enrolled  `json:"members,omitempty"` // by name
	Removed []Removed   `json:"removed,omitempty"` // oldest first
	Gossip  GossipKeys  `json:"gossip,omitzero"`
	CA      Authorities `json:"ca,omitzero"`
}

// Token lets hosts join. Who holds its secret can sign for Key; the secret itself is
// nowhere.
type Token struct {
	ID      string    `json:"id"`
	Key     []byte    `json:"key"`   // ed25519 public key
	Until   time.Time `json:"until"` // by the clock of the arbiter
	Uses    int       `json:"uses"`  // how many hosts may join with it
	Used    int       `json:"used"`
	Node    string    `json:"node,omitempty"`    // the only name that may join with it
	Replace bool      `json:"replace,omitempty"` // Node may take the place of a member of that name
	Revoked bool      `json:"revoked,omitempty"`
	By      string    `json:"by,omitempty"`
	At      time.Time `json:"at"`
}

// Enrolled is a member and its key. Certificates on that key are renewed; and they are
// believed also when they have ended by the clock of the one who looks.
type Enrolled struct {
	Node  string    `json:"node"`
	Key   []byte    `json:"key"`             // SHA-256 of the public key (SPKI) in its certificates
	Token string    `json:"token,omitempty"` // with which it joined
	At    time.Time `json:"at"`              // wall clock of the arbiter, for people only
}

// Removed is a name that was taken out: of its certificates only those count that are
// on the key with which it is enrolled, if it is again.
type Removed struct {
	Node string    `json:"node"`
	Key  []byte    `json:"key,omitempty"` // with which it was enrolled; none: it was not, or an older relevo removed it
	By   string    `json:"by,omitempty"`
	Why  string    `json:"why,omitempty"`
	At   time.Time `json:"at"`
}

// GossipKeys are the keys of the gossip pool, the one to write with first. None: it is
// the one that `relevo init` made, which is not in here.
type GossipKeys struct {
	Keys [][]byte `json:"keys,omitempty"`
	// Stage of a rotation: 0 = none; 1 = the new key can be read by who has this;
	// 2 = it is written with; then the old one goes, and it is 0 again.
	Stage int `json:"stage,omitempty"`
}

// TokenCode names why a token does not let a host in.
type TokenCode string

// The reasons.
const (
	TokenUnknown TokenCode = "unknown"
	TokenExpired TokenCode = "expired"
	TokenRevoked TokenCode = "revoked"
	TokenUsedUp  TokenCode = "used-up"
	TokenName    TokenCode = "other-name" // it is for a host of another name
	NameTaken    TokenCode = "name-taken"
)

// TokenError is why a token does not let a host in.
type TokenError struct {
	Code TokenCode
	Why  string
}

func (e *TokenError) Error() string { return e.Why }

// Token finds one by its id.
func (t Trust) Token(id string) (Token, bool) {
	i := slices.IndexFunc(t.Tokens, func(k Token) bool { return k.ID == id })
	if i < 0 {
		return Token{}, false
	}
	return t.Tokens[i], true
}

// Member finds one by its name.
func (t Trust) Member(node string) (Enrolled, bool) {
	i, ok := slices.BinarySearchFunc(t.Members, node, func(m Enrolled, n string) int { return cmp.Compare(m.Node, n) })
	if !ok {
		return Enrolled{}, false
	}
	return t.Members[i], true
}

// Admits says whether the token id lets a host join as node, at a time; a *TokenError if
// not. key is the host's: who lost the answer may ask again, and that is no second use.
func (t Trust) Admits(id, node string, key []byte, at time.Time) error {
	refuse := func(c TokenCode, format string, args ...any) error {
		return &TokenError{c, fmt.Sprintf(format, args...)}
	}
	k, ok := t.Token(id)
	if !ok {
		return refuse(TokenUnknown, "this cluster knows no token %s: it was used up or withdrawn long ago, or is of another cluster; `relevo token create` on a member makes a new one", id)
	}
	m, member := t.Member(node)
	again := member && m.Token == id && bytes.Equal(m.Key, key)
	switch {
	case k.Revoked:
		return refuse(TokenRevoked, "the token %s was withdrawn: `relevo token create` on a member makes a new one", id)
	case k.Node != "" && k.Node != node:
		return refuse(TokenName, "the token %s is for a host called %s, and this one is %s: use --node, or another token", id, k.Node, node)
	case again:
		return nil
	case at.After(k.Until):
		return refuse(TokenExpired, "the token %s was good until %s, and the clock of the cluster says %s: `relevo token create` on a member makes a new one",
			id, k.Until.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	case k.Used >= k.Uses:
		return refuse(TokenUsedUp, "the token %s was used %d times, as often as it may: `relevo token create` on a member makes a new one", id, k.Used)
	case member && !k.Replace:
		return refuse(NameTaken, "there is a member called %s already: give this host another name with --node; or, if it takes the place of that board, make a token for that on a member: relevo token create --replace %[1]s", node)
	}
	return nil
}

// changeTrust is apply for the commands about trust.
func (s State) changeTrust(c Command) (Trust, error) {
	t := s.Trust
	t.Version++
	switch c.Op {
	case OpToken:
		k := *c.Token
		k.Used, k.Revoked, k.By, k.At = 0, false, c.By, c.At
		if _, ok := t.Token(k.ID); ok {
			return t, fmt.Errorf("there is a token %s already", k.ID)
		}
		if t.CA.Stage == 1 {
			return t, errChanging
		}
		list := slices.Clone(t.Tokens)
		for len(list) >= maxTokens {
			i := slices.IndexFunc(list, func(o Token) bool { return o.dead(c.At) })
			if i < 0 {
				return t, fmt.Errorf("%d tokens are good already: withdraw some with `relevo token revoke`", len(list))
			}
			list = slices.Delete(list, i, i+1)
		}
		t.Tokens = append(list, k)

	case OpTokenRevoke:
		list, n := slices.Clone(t.Tokens), 0
		for i := range list {
			if (list[i].ID == c.ID || c.ID == "") && !list[i].Revoked {
				list[i].Revoked = true
				n++
			}
		}
		if n == 0 && c.ID != "" {
			return t, fmt.Errorf("there is no token %s that could be withdrawn", c.ID)
		}
		t.Tokens = list

	case OpAdmit:
		if err := t.Admits(c.ID, c.Node, c.Key, c.At); err != nil {
			return t, err
		}
		if m, ok := t.Member(c.Node); ok && !bytes.Equal(m.Key, c.Key) {
			// Another board of that name: the old one's certificates end.
			var err error
			old := c
			if k, ok := t.Token(c.ID); ok {
				old.By = k.By
			}
			if t.Removed, err = t.removed(old, "replaced by another board"); err != nil {
				return t, err
			}
		}
		again := false
		if m, ok := t.Member(c.Node); ok {
			again = m.Token == c.ID && bytes.Equal(m.Key, c.Key)
		}
		if !again {
			t.Tokens = slices.Clone(t.Tokens)
			i := slices.IndexFunc(t.Tokens, func(k Token) bool { return k.ID == c.ID })
			t.Tokens[i].Used++
		}
		return t, t.enrol(c)

	case OpEnrol:
		m, member := t.Member(c.Node)
		if member && bytes.Equal(m.Key, c.Key) {
			return t, fmt.Errorf("%s is enrolled already", c.Node)
		}
		if member {
			return t, fmt.Errorf("there is a member called %s already, with another key: `relevo token create --replace %[1]s` on a member lets another board take its place, `relevo remove %[1]s` takes it out", c.Node)
		}
		if i := slices.IndexFunc(t.Removed, func(r Removed) bool { return r.Node == c.Node }); i >= 0 {
			return t, fmt.Errorf("%s was removed from the cluster by %s: it can join again with a token", c.Node, orNobody(t.Removed[i].By))
		}
		return t, t.enrol(c)

	case OpReplace:
		var err error
		if t.Removed, err = t.removed(c, "replaced by another board"); err != nil {
			return t, err
		}
		return t, t.enrol(c)

	case OpCA, OpRenewed:
		return t, t.changeCA(c)

	case OpRemove:
		var err error
		if t.Removed, err = t.removed(c, c.Why); err != nil {
			return t, err
		}
		t.Members = slices.DeleteFunc(slices.Clone(t.Members), func(m Enrolled) bool { return m.Node == c.Node })
		t.CA.Renewed = slices.DeleteFunc(slices.Clone(t.CA.Renewed), func(n string) bool { return n == c.Node })

	case OpGossipKeys:
		if c.Epoch != uint64(t.Gossip.Stage) {
			return t, fmt.Errorf("the rotation of the gossip key is at stage %d, not %d", t.Gossip.Stage, c.Epoch)
		}
		t.Gossip = *c.Keys
	}
	return t, nil
}

var errChanging = errors.New("the CA is being changed, which what is made now would not survive: try again in some seconds; `relevo rotate status` tells how far it is")

func (k Token) dead(at time.Time) bool { return k.Revoked || k.Used >= k.Uses || at.After(k.Until) }

// removed is the list of those who were, with a name added or moved to the end.
func (t Trust) removed(c Command, why string) ([]Removed, error) {
	list := slices.DeleteFunc(slices.Clone(t.Removed), func(r Removed) bool { return r.Node == c.Node })
	if len(list) >= maxRemoved {
		return list, fmt.Errorf("%d names were removed already, and none of them may be forgotten: `relevo rotate ca` makes all old certificates worthless", len(list))
	}
	m, _ := t.Member(c.Node)
	return append(list, Removed{Node: c.Node, Key: m.Key, By: c.By, Why: why, At: c.At}), nil
}

// enrol notes the certificate of a member. The list it changes is its own.
func (t *Trust) enrol(c Command) error {
	e := Enrolled{Node: c.Node, Key: c.Key, Token: c.ID, At: c.At}
	i, ok := slices.BinarySearchFunc(t.Members, c.Node, func(m Enrolled, n string) int { return cmp.Compare(m.Node, n) })
	list := slices.Clone(t.Members)
	switch {
	case ok:
		list[i] = e
	case len(list) >= maxNodes:
		return fmt.Errorf("there are %d members already, and no more are possible", len(list))
	default:
		list = slices.Insert(list, i, e)
	}
	t.Members = list
	return nil
}

// Check validates what came from a disk, or from another member.
func (t Trust) Check() error {
	switch {
	case len(t.Tokens) > maxTokens || len(t.Members) > maxNodes || len(t.Removed) > maxRemoved:
		return fmt.Errorf("%d tokens, %d members and %d removed: more than are kept", len(t.Tokens), len(t.Members), len(t.Removed))
	case t.Version == 0 && (len(t.Tokens) > 0 || len(t.Members) > 0 || len(t.Removed) > 0 || len(t.Gossip.Keys) > 0 || len(t.CA.Certs) > 0):
		return errors.New("version 0 is not empty")
	}
	for _, k := range t.Tokens {
		if err := errors.Join(k.check(), checkText("by", k.By, maxName)); err != nil {
			return fmt.Errorf("token: %w", err)
		}
		if k.Used < 0 || k.Used > k.Uses {
			return fmt.Errorf("token %s: used %d times of %d", k.ID, k.Used, k.Uses)
		}
	}
	before := ""
	for _, m := range t.Members {
		if m.Node <= before {
			return fmt.Errorf("member %q after %q", m.Node, before)
		}
		before = m.Node
		if err := (Command{Op: OpEnrol, Node: m.Node, Key: m.Key, ID: m.Token}).check(); err != nil {
			return fmt.Errorf("member: %w", err)
		}
	}
	for _, r := range t.Removed {
		if err := errors.Join(checkName("node", r.Node), checkText("by", r.By, maxName), checkText("why", r.Why, maxText)); err != nil {
			return fmt.Errorf("removed: %w", err)
		}
		if len(r.Key) != 0 && len(r.Key) != keySize {
			return fmt.Errorf("removed: %s: its key's sum has %d bytes, %d are needed", r.Node, len(r.Key), keySize)
		}
	}
	return errors.Join(t.Gossip.check(), t.CA.check())
}

func (k Token) check() error {
	errs := []error{checkName("id", k.ID)}
	if k.Node != "" {
		errs = append(errs, checkName("node", k.Node))
	}
	switch {
	case len(k.Key) != keySize:
		errs = append(errs, fmt.Errorf("its key has %d bytes, %d are needed", len(k.Key), keySize))
	case k.Uses < 1 || k.Uses > maxUses:
		errs = append(errs, fmt.Errorf("%d uses, 1 to %d are allowed", k.Uses, maxUses))
	case k.Replace && k.Node == "":
		errs = append(errs, errors.New("it may replace, but names nobody"))
	}
	return errors.Join(errs...)
}

func (g GossipKeys) check() error {
	if len(g.Keys) > maxGossipKeys || g.Stage < 0 || g.Stage > 2 || g.Stage > 0 && len(g.Keys) < 2 {
		return fmt.Errorf("gossip keys: %d at stage %d", len(g.Keys), g.Stage)
	}
	for _, k := range g.Keys {
		if len(k) != keySize {
			return fmt.Errorf("gossip keys: one of %d bytes, %d are needed", len(k), keySize)
		}
	}
	return nil
}

// checkTrust validates the shape of a command about trust.
func (c Command) checkTrust() error {
	switch c.Op {
	case OpToken:
		if c.Token == nil {
			return errors.New("there is no token")
		}
		return c.Token.check()
	case OpTokenRevoke:
		if c.ID == "" {
			return nil // all of them
		}
		return checkName("id", c.ID)
	case OpCA, OpRenewed:
		return c.checkCA()
	case OpAdmit, OpEnrol, OpReplace:
		errs := []error{checkName("node", c.Node)}
		if c.Op == OpAdmit || c.ID != "" {
			errs = append(errs, checkName("id", c.ID))
		}
		if len(c.Key) != keySize {
			errs = append(errs, fmt.Errorf("its key's sum has %d bytes, %d are needed", len(c.Key), keySize))
		}
		return errors.Join(errs...)
	case OpRemove:
		return checkName("node", c.Node)
	case OpGossipKeys:
		if c.Keys == nil {
			return errors.New("there are no keys")
		}
		return c.Keys.check()
	}
	return nil
}

// NewToken makes a token known.
func NewToken(k Token, by string) Command { return Command{Op: OpToken, Token: &k, By: fit(by)} }

// RevokeToken withdraws a token; "" = all.
func RevokeToken(id, by string) Command { return Command{Op: OpTokenRevoke, ID: id, By: fit(by)} }

// Admit takes a host in by a token; key is the SHA-256 of its public key.
func Admit(token, node string, key []byte) Command {
	return Command{Op: OpAdmit, ID: token, Node: node, Key: key}
}

// Enrol notes the key of a member that came with an invitation.
func Enrol(node string, key []byte) Command { return Command{Op: OpEnrol, Node: node, Key: key} }

// Expel takes a member out: its certificates count no more.
func Expel(node, by, why string) Command {
	return Command{Op: OpRemove, Node: node, By: fit(by), Why: fit(why)}
}

// SetGossipKeys goes on with a rotation that is at a stage.
func SetGossipKeys(stage int, keys GossipKeys) Command {
	return Command{Op: OpGossipKeys, Epoch: uint64(stage), Keys: &keys}
}
