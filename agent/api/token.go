package api

import (
	"context"
	"time"
)

// TokenSpec is which token is wanted.
type TokenSpec struct {
	TTL  float64 `json:"ttl_seconds,omitempty"` // 0 = a day
	Uses int     `json:"uses,omitempty"`        // how many hosts may join with it; 0 = one
	Node string  `json:"node,omitempty"`        // the only name that may join with it
	// Replace lets Node take the place of a board of that name, whose certificates end.
	Replace bool `json:"replace,omitempty"`

	// Between agents: what the voters keep. The command line leaves them empty.
	ID  string `json:"id,omitempty"`
	Key []byte `json:"key,omitempty"`
	CA  string `json:"ca,omitempty"` // that the token names
}

// Tokens are those that let hosts join, or did; newest first.
type Tokens struct {
	Tokens []Token `json:"tokens"`
}

// Token is one, without its secret, which nobody keeps.
type Token struct {
	ID      string    `json:"id"`
	State   string    `json:"state"` // good, expired, used up, revoked
	Until   time.Time `json:"until"`
	Uses    int       `json:"uses"`
	Used    int       `json:"used"`
	Node    string    `json:"node,omitempty"`
	Replace bool      `json:"replace,omitempty"`
	By      string    `json:"by,omitempty"`
	At      time.Time `json:"at"` // when it was made
}

// Tokens lists the tokens.
func (c *Client) Tokens(ctx context.Context) (Tokens, error) { return get[Tokens](ctx, c, "tokens") }

// Rotation is how far what is rotated is.
type Rotation struct {
	GossipKey RotationStep `json:"gossip_key"`
	CA        CARotation   `json:"ca"`
	// Away are members that are not there. They get the new keys when they are back.
	Away []string `json:"away,omitempty"`
}

// RotationStep is one of them.
type RotationStep struct {
	Stage  int      `json:"stage"` // 0 = nothing is being changed
	Stages int      `json:"stages"`
	Behind []string `json:"behind,omitempty"` // members that are there and have not followed yet
}

// CARotation is the change of the CA.
type CARotation struct {
	RotationStep
	CA    string    `json:"ca"`             // fingerprint of the one that issues now
	By    string    `json:"by,omitempty"`   // who began it
	Since time.Time `json:"since,omitzero"` // when
	// Missing are members without a certificate of the new CA: for them, and for nobody
	// else, the old one is believed.
	Missing []string `json:"missing,omitempty"`
	// Access are the accesses whose files end with the old CA.
	Access []string `json:"access,omitempty"`
}

// Rotation asks how far it is.
func (c *Client) Rotation(ctx context.Context) (Rotation, error) {
	return get[Rotation](ctx, c, "rotation")
}
