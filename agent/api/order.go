package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Verb is what a person wants done.
type Verb string

// The verbs.
const (
	// VerbPause stops automatic promotion: the master keeps running, also without a quorum.
	VerbPause Verb = "pause"
	// VerbResume ends a pause, after the holder has shown that it knows. With Force the
	// person vouches that no holder runs any more.
	VerbResume Verb = "resume"
	// VerbStepDown is VerbSwitchover; with Force the master stops even if nobody can follow.
	VerbStepDown Verb = "step-down"
	// VerbFailover gives the next term away when nobody is promoted by itself. With Force
	// neither readiness, nor lag, nor the flap limit, nor the number of voters counts.
	VerbFailover Verb = "failover"
	// VerbLeave takes this host out of the cluster, with its vote; a master hands over
	// first. The agent goes on until it is stopped.
	VerbLeave Verb = "leave"
	// VerbRemove takes a member out that is lost for good; To names it.
	VerbRemove Verb = "remove"
	// VerbAcknowledge makes the automatic failovers so far not count any more.
	VerbAcknowledge Verb = "acknowledge"
	// VerbVerify compares the copy of a standby (To; "" = of each) with the master's
	// datastore. A copy that differs is copied again, unless Keep.
	VerbVerify Verb = "verify"
	// VerbTokenCreate makes a token that lets hosts join; Token says which.
	VerbTokenCreate Verb = "token-create"
	// VerbTokenRevoke withdraws the token To; all of them, if that is empty.
	VerbTokenRevoke Verb = "token-revoke"
	// VerbRotate changes what To names: gossip-key, ca or tokens. With Finish it ends a
	// change of the CA although members are missing.
	VerbRotate Verb = "rotate"
	// VerbRotateCancel takes a change of the CA back (To is ca), as long as the new one has
	// issued nothing.
	VerbRotateCancel Verb = "rotate-cancel"
	// VerbReplace lets the host with Key take the place of the member To, whose certificates
	// end; the host comes with an invitation.
	VerbReplace Verb = "replace"
	// VerbRehearse tries a promotion on a standby (To; "" = on each).
	VerbRehearse Verb = "rehearse"
)

// Order is a request to act.
type Order struct {
	Verb  Verb   `json:"verb"`
	To    string `json:"to,omitempty"` // the successor that is wished for
	Why   string `json:"why,omitempty"`
	Force bool   `json:"force,omitempty"`
	Keep  bool   `json:"keep,omitempty"` // only compare
	// Finish a change of the CA that waits for members.
	Finish bool `json:"finish,omitempty"`
	// DryRun only looks whether a switchover, or to leave, would be done. It changes nothing, so
	// it is no event for the audit.
	DryRun bool `json:"dry_run,omitempty"`
	// Key of VerbReplace: the SHA-256 of a public key.
	Key []byte `json:"key,omitempty"`
	// By is who asks, as the command line knows it (sudo hides it from the agent).
	By string `json:"by,omitempty"`
	// Token of VerbTokenCreate; nil = the defaults.
	Token *TokenSpec `json:"token,omitempty"`
}

// Done is the answer to an Order.
type Done struct {
	Text string `json:"text"` // what was done, and what follows
	Term uint64 `json:"term"` // the newest term before it
	// Plan is the answer to VerbSwitchover.
	Plan *Plan `json:"plan,omitempty"`
	// Verified is the answer to VerbVerify, by node.
	Verified []Verification `json:"verified,omitempty"`
	// Token is what a new host needs, a secret. It is told once.
	Token string `json:"token,omitempty"`
	// Rehearsed is the answer to VerbRehearse, by node.
	Rehearsed []Rehearsal `json:"rehearsed,omitempty"`
}

// maxOrder bounds the body of an Order.
const maxOrder = 4 << 10

// Explanation is why the arbiter does what it does, or did.
type Explanation struct {
	Term    uint64  `json:"term"`
	Change  *Change `json:"change"`  // of Term
	Arbiter string  `json:"arbiter"` // who says the rest; "" = none is known
	// What the arbiter would do if the holder were lost now.
	Possible bool     `json:"possible"`
	To       string   `json:"to,omitempty"`
	Over     bool     `json:"over"`                             // the term may be given away
	Wait     float64  `json:"wait_seconds,omitempty"`           // until it may be, if no renewal comes
	Why      []string `json:"why,omitempty"`                    // why nothing would happen
	Notes    []string `json:"notes,omitempty"`                  // the evidence, a line a candidate
	Failed   []string `json:"members_without_answer,omitempty"` // and why
	Views    []View   `json:"views"`                            // by name
	// Holder is what is known of the holder: its renewals, what gossip says, who reaches
	// its API through the network.
	Holder []string `json:"holder,omitempty"`
	// Timeline is what the members saw around the change, or lately if Term is the present
	// one and nothing was asked for; oldest first.
	Timeline []Sight `json:"timeline"`
	// Knew is when the first member knew of Term; zero if none remembers.
	Knew time.Time `json:"knew,omitzero"`
}

// Sight is one thing that one member saw.
type Sight struct {
	At   time.Time `json:"at"` // by the clock of the host that answers
	Node string    `json:"node"`
	Term uint64    `json:"term"` // the newest that the member knew then
	Text string    `json:"text"`
}

// View is how one member sees the mastership.
type View struct {
	Node           string   `json:"node"`
	Term           uint64   `json:"term"`
	Phase          string   `json:"phase"`   // of its holder machine
	Arbiter        string   `json:"arbiter"` // whom it takes for the arbiter
	LeaseRemaining *float64 `json:"lease_remaining_seconds"`
	Copy           string   `json:"copy,omitempty"` // of the datastore, in words
}

const pathDo = "/v1/do"

// order mounts the one request that acts, for who has the role that the verb needs.
func (s *Server) order(mux *http.ServeMux) {
	mux.HandleFunc("POST "+pathDo, func(w http.ResponseWriter, r *http.Request) {
		who, _ := WhoOf(r.Context())
		var o Order
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOrder))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&o); err != nil {
			fail(w, http.StatusBadRequest, "the order is not understood: "+err.Error())
			return
		}
		if err := who.May(o.Action(), s.cfg.Node, o.To); err != nil {
			s.denied(w, who, o.Action(), err)
			return
		}
		if rank[LowestRole(o.Action())] < rank[Operator] {
			fail(w, http.StatusBadRequest, fmt.Sprintf("%.40q is a question and no order", o.Verb))
			return
		}
		switch {
		case who.Remote:
			o.By = who.Name + " from " + who.From
		case who.Role != Admin || o.By == "": // root says for whom sudo acts
			o.By = who.Name
		}
		e := Event{Who: who, Action: o.Action(), Target: o.To, Outcome: Carried, Why: o.Why}
		if !who.Remote && who.Role == Admin {
			e.Who.Name = o.By // for whom sudo acts
		}
		d, err := s.cfg.Source.Do(r.Context(), o)
		if err != nil {
			e.Outcome, e.Why = Refused, err.Error()
		}
		if !o.DryRun {
			s.event(e)
		}
		if err != nil {
			fail(w, http.StatusConflict, err.Error())
			return
		}
		write(w, d)
	})
}

// Do asks the agent to act.
func (c *Client) Do(ctx context.Context, o Order) (Done, error) {
	return post[Done](ctx, c, "do", o)
}

// Explain asks why; term 0 is the present one.
func (c *Client) Explain(ctx context.Context, term uint64) (Explanation, error) {
	return ask[Explanation](ctx, c, http.MethodGet, fmt.Sprintf("explain?term=%d", term), nil)
}
