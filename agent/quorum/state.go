package quorum

import (
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"
)

// Bounds of what is replicated. All of it lies in memory and on the SD card of
// every voter, so it is small and stays small.
const (
	maxHistory = 64  // changes kept, newest last
	maxNotes   = 16  // notes of one change
	maxNodes   = 64  // nodes in the in-sync set
	maxText    = 400 // bytes of one reason, note, or "why"
	maxName    = 253 // bytes of a node's, cluster's or person's name (longest DNS name)
)

// State is all that the voters agree on: who holds the master lease, in which
// term, and what people asked for. A State is never changed in place: readers
// may keep it, and must not write to its slices.
type State struct {
	Cluster  string   `json:"cluster"`           // name of the cluster
	Term     uint64   `json:"term"`              // mastership term; 0 = never granted
	Holder   string   `json:"holder"`            // node; "" = nobody
	Machine  uint64   `json:"machine,omitempty"` // which one of that name, by its hardware
	Released bool     `json:"released"`          // the holder gave the term back: it has stopped
	Pause    Pause    `json:"pause"`             // see Pause
	InSync   []string `json:"in_sync,omitempty"` // who had the newest data when a holder was last seen serving
	Served   uint64   `json:"served"`            // term of that holder; 0 = none ever served
	Ack      uint64   `json:"ack"`               // a person acknowledged failovers up to this term
	Access   []Access `json:"access,omitempty"`  // at most 32
	History  []Change `json:"history,omitempty"` // at most 64, newest last
	Trust    Trust    `json:"trust,omitzero"`    // see Trust
}

// PausePhase says whether automatic promotion is switched off.
type PausePhase string

// A pause ends in two steps: after a person asked for it (Resuming) the arbiter
// waits until the holder has shown that it knows; until then it may run without a
// lease, and nobody else may be promoted.
const (
	Running  PausePhase = ""
	Paused   PausePhase = "paused"
	Resuming PausePhase = "resuming"
)

// Pause stops automatic promotion. Epoch grows by one each time Pause is
// switched on or off, so that "this pause" can be told from a later one.
type Pause struct {
	Phase PausePhase `json:"phase,omitempty"`
	Epoch uint64     `json:"epoch"`
	By    string     `json:"by,omitempty"`
	Why   string     `json:"why,omitempty"`
	At    time.Time  `json:"at,omitzero"` // wall clock of the arbiter, for people only
}

// Change is one change of master, as told to people later.
type Change struct {
	Term      uint64 `json:"term"`
	Holder    string `json:"holder"`
	Previous  string `json:"previous,omitempty"` // holder of the term before; "" = nobody
	Reason    string `json:"reason"`
	Automatic bool   `json:"automatic"`
	// Released says that Previous gave its term back, so that it had stopped; Fenced that
	// a fence device confirmed that it is off.
	Released bool      `json:"released,omitempty"`
	Fenced   bool      `json:"fenced,omitempty"`
	At       time.Time `json:"at"`              // wall clock of the arbiter, for people only
	By       string    `json:"by,omitempty"`    // the person or node that asked for it
	Notes    []string  `json:"notes,omitempty"` // the evidence in words
}

// Refused is the answer to a command that the replicated state does not allow.
// Every voter comes to the same answer, and the state is unchanged.
type Refused struct {
	Op  Op     // the command
	Why string // in words, e.g. "term 7 is taken, the next is 8"
	err error  // what Why says, if it has a type of its own
}

// Unwrap gives a *TokenError, where it is one.
func (r *Refused) Unwrap() error { return r.err }

// Error says which command was refused and why.
func (r *Refused) Error() string { return fmt.Sprintf("%s refused: %s", r.Op, r.Why) }

// apply returns the state after c. It is a pure function: same state and same
// command give the same result on every voter, whatever its clock says.
func (s State) apply(c Command) (State, error) {
	refuse := func(format string, args ...any) (State, error) {
		err := fmt.Errorf(format, args...)
		return s, &Refused{Op: c.Op, Why: err.Error(), err: errors.Unwrap(err)}
	}
	if err := c.check(); err != nil {
		return refuse("%v", err)
	}
	switch c.Op {
	case OpGrant:
		if c.Term != s.Term+1 {
			return refuse("term %d was asked for, the next is %d (term %d is held by %s)", c.Term, s.Term+1, s.Term, orNobody(s.Holder))
		}
		if s.Pause.Phase != Running {
			// The arbiter checks this too; but a pause may have been agreed on
			// between its look and this entry, and the holder of a paused cluster
			// runs without a deadline.
			return refuse("the cluster is %s (by %s), nobody is promoted", s.Pause.Phase, orNobody(s.Pause.By))
		}
		s.History = bounded(append(slices.Clone(s.History), Change{
			Term: c.Term, Holder: c.Holder, Previous: s.Holder, Reason: c.Reason,
			Automatic: c.Automatic, Released: s.Released, Fenced: c.Fenced, At: c.At, By: c.By, Notes: c.Notes,
		}))
		s.Term, s.Holder, s.Machine, s.Released = c.Term, c.Holder, c.Machine, false

	case OpMachine:
		if c.Term != s.Term || c.Holder != s.Holder || s.Released {
			return refuse("%s does not hold term %d: term %d is held by %s", c.Holder, c.Term, s.Term, orNobody(s.Holder))
		}
		if s.Pause.Phase != Running {
			return refuse("the cluster is %s (by %s): its holder may run without a deadline, another machine called %s may not have the term", s.Pause.Phase, orNobody(s.Pause.By), c.Holder)
		}
		s.Machine = c.Machine

	case OpRelease:
		if c.Term != s.Term || c.Holder != s.Holder {
			return refuse("%s cannot give back term %d: term %d is held by %s", c.Holder, c.Term, s.Term, orNobody(s.Holder))
		}
		if s.Released {
			return refuse("term %d was given back already", s.Term)
		}
		s.Released = true

	case OpPause:
		phase := Resuming
		switch {
		case c.On && s.Pause.Phase == Paused:
			return refuse("the cluster is paused already (by %s)", orNobody(s.Pause.By))
		case c.On:
			phase = Paused
		case s.Pause.Phase == Running:
			return refuse("the cluster is not paused")
		case c.Force:
			phase = Running // the person vouches that no holder runs any more
		case s.Pause.Phase == Resuming:
			return refuse("the cluster is resuming already: %s has not answered yet", orNobody(s.Holder))
		}
		s.Pause = Pause{Phase: phase, Epoch: s.Pause.Epoch + 1, By: c.By, Why: c.Why, At: c.At}

	case OpResumed:
		if s.Pause.Phase != Resuming || s.Pause.Epoch != c.Epoch {
			return refuse("the cluster is not resuming from pause %d", c.Epoch)
		}
		s.Pause = Pause{Epoch: s.Pause.Epoch + 1}

	case OpInSync:
		if c.Term != s.Term || s.Released {
			return refuse("term %d does not serve any more", c.Term)
		}
		s.InSync, s.Served = slices.Clone(c.Nodes), c.Term

	case OpAcknowledge:
		if c.Term > s.Term {
			return refuse("term %d has not been yet, the newest is %d", c.Term, s.Term)
		}
		if c.Term < s.Ack {
			return refuse("term %d was acknowledged already, up to term %d", c.Term, s.Ack)
		}
		s.Ack = c.Term

	case OpNote:
		i := slices.IndexFunc(s.History, func(h Change) bool { return h.Term == c.Term })
		if i < 0 {
			return refuse("term %d is not in the history", c.Term)
		}
		if len(s.History[i].Notes) >= maxNotes {
			return refuse("term %d has %d notes already", c.Term, maxNotes)
		}
		s.History = slices.Clone(s.History)
		s.History[i].Notes = append(slices.Clone(s.History[i].Notes), c.Text)

	case OpAccess, OpAccessRevoke:
		all, err := s.changeAccess(c)
		if err != nil {
			return refuse("%v", err)
		}
		s.Access = all
	case OpToken, OpTokenRevoke, OpAdmit, OpEnrol, OpRemove, OpGossipKeys, OpReplace, OpCA, OpRenewed:
		t, err := s.changeTrust(c)
		if err != nil {
			return refuse("%w", err)
		}
		s.Trust = t
		if c.Op == OpCA {
			s.Access = s.ofIssuing(t)
		}

	default:
		return refuse("this agent does not know it")
	}
	return s, nil
}

// check validates a state that came from a disk or from another voter.
func (s State) check() error {
	if err := checkName("cluster", s.Cluster); err != nil {
		return err
	}
	if s.Holder != "" {
		if err := checkName("holder", s.Holder); err != nil {
			return err
		}
	}
	switch {
	case s.Term == 0 && (s.Holder != "" || s.Released || len(s.History) > 0):
		return errors.New("term 0 has a holder or a history")
	case s.Term > 0 && s.Holder == "":
		return fmt.Errorf("term %d has no holder", s.Term)
	case s.Served > s.Term || len(s.InSync) > maxNodes:
		return fmt.Errorf("term %d served with %d in sync, the newest is %d", s.Served, len(s.InSync), s.Term)
	case s.Pause.Phase != Running && s.Pause.Phase != Paused && s.Pause.Phase != Resuming:
		return fmt.Errorf("pause: the phase %q is unknown", s.Pause.Phase)
	case s.Ack > s.Term:
		return fmt.Errorf("term %d is acknowledged, the newest is %d", s.Ack, s.Term)
	case len(s.History) > maxHistory:
		return fmt.Errorf("%d changes in the history, at most %d are kept", len(s.History), maxHistory)
	}
	if err := errors.Join(checkText("by", s.Pause.By, maxName), checkText("why", s.Pause.Why, maxText)); err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	if err := checkAccesses(s.Access); err != nil {
		return err
	}
	before := uint64(0)
	for _, h := range s.History {
		if h.Term <= before || h.Term > s.Term {
			return fmt.Errorf("history: term %d after term %d, the newest is %d", h.Term, before, s.Term)
		}
		before = h.Term
		c := Command{Op: OpGrant, Term: h.Term, Holder: h.Holder, Reason: h.Reason, By: h.By, Notes: h.Notes}
		if err := errors.Join(c.check(), checkText("previous", h.Previous, maxName)); err != nil {
			return fmt.Errorf("history: term %d: %w", h.Term, err)
		}
	}
	if err := s.Trust.Check(); err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	return nil
}

func bounded(h []Change) []Change {
	if n := len(h) - maxHistory; n > 0 {
		h = h[n:]
	}
	return h
}

func orNobody(name string) string {
	if name == "" {
		return "nobody"
	}
	return name
}

// checkName accepts what can be a host, cluster or node name.
func checkName(what, name string) error {
	if name == "" {
		return fmt.Errorf("%s is empty", what)
	}
	if len(name) > maxName {
		return fmt.Errorf("%s has %d bytes, at most %d are allowed", what, len(name), maxName)
	}
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '.', r == '_':
		default:
			return fmt.Errorf("%s %q has the character %q: letters, digits, '-', '.' and '_' are allowed", what, name, r)
		}
	}
	return nil
}

// checkText accepts one printable line: it ends up on people's terminals.
func checkText(what, text string, limit int) error {
	if len(text) > limit {
		return fmt.Errorf("%s has %d bytes, at most %d are allowed", what, len(text), limit)
	}
	if !utf8.ValidString(text) {
		return fmt.Errorf("%s is not valid UTF-8", what)
	}
	for _, r := range text {
		if r < ' ' || r == 0x7f {
			return fmt.Errorf("%s has the control character %U: one line of plain text is allowed", what, r)
		}
	}
	return nil
}
