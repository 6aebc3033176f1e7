package quorum

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// commandVersion is the version of the log entries that this agent writes, and
// the newest that it understands. It grows whenever an older agent would
// understand an entry differently: a new operation, a new field.
const commandVersion = 1

// maxCommand bounds one log entry in bytes: 16 notes of 400 bytes, escaped, fit.
const maxCommand = 64 << 10

// ErrNewer means that another voter wrote what this agent does not know. It
// must not go on with a state that the others do not have.
var ErrNewer = errors.New("written by a newer relevo: upgrade this agent")

// Op names a command.
type Op string

// The commands. What each accepts is told at State.apply.
const (
	OpGrant       Op = "grant"       // Term, Holder, Machine, Reason, Automatic, Fenced, By, Notes
	OpRelease     Op = "release"     // Term, Holder
	OpMachine     Op = "machine"     // Term, Holder, Machine
	OpPause       Op = "pause"       // On, Force, By, Why
	OpResumed     Op = "resumed"     // Epoch
	OpInSync      Op = "in-sync"     // Term, Nodes
	OpAcknowledge Op = "acknowledge" // Term
	OpNote        Op = "note"        // Term, Text

	// About trust, see trust.go.
	OpToken       Op = "token"        // Token, By
	OpTokenRevoke Op = "token-revoke" // ID or none, By
	OpAdmit       Op = "admit"        // ID, Node, Key
	OpEnrol       Op = "enrol"        // Node, Key
	OpRemove      Op = "remove"       // Node, By, Why
	OpGossipKeys  Op = "gossip-keys"  // Epoch, Keys
	OpReplace     Op = "replace"      // Node, Key, By
	OpCA          Op = "ca"           // Epoch, CA
	OpRenewed     Op = "ca-renewed"   // Key (of the CA), Nodes
)

// About access from outside, see access.go.
const (
	OpAccess       Op = "access"        // Access
	OpAccessRevoke Op = "access-revoke" // Access (its name), By
)

// Command is one entry of the replicated log. V and At are filled in by Apply.
type Command struct {
	V         int       `json:"v"`
	Op        Op        `json:"op"`
	Term      uint64    `json:"term,omitempty"`
	Holder    string    `json:"holder,omitempty"`
	Machine   uint64    `json:"machine,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Automatic bool      `json:"automatic,omitempty"`
	Fenced    bool      `json:"fenced,omitempty"`
	By        string    `json:"by,omitempty"`
	Notes     []string  `json:"notes,omitempty"`
	On        bool      `json:"on,omitempty"`
	Force     bool      `json:"force,omitempty"`
	Epoch     uint64    `json:"epoch,omitempty"`
	Nodes     []string  `json:"nodes,omitempty"`
	Why       string    `json:"why,omitempty"`
	Text      string    `json:"text,omitempty"`
	Access    *Access   `json:"access,omitempty"`
	At        time.Time `json:"at,omitzero"` // wall clock of the proposer, for people only

	Token *Token       `json:"token,omitempty"`
	ID    string       `json:"id,omitempty"` // of a token
	Node  string       `json:"node,omitempty"`
	Key   []byte       `json:"key,omitempty"` // SHA-256 of a public key
	Keys  *GossipKeys  `json:"keys,omitempty"`
	CA    *Authorities `json:"ca,omitempty"`
}

// check validates the shape of c: sizes, names, plain text.
func (c Command) check() error {
	errs := []error{
		checkText("reason", c.Reason, maxText),
		checkText("by", c.By, maxName),
		checkText("why", c.Why, maxText),
		checkText("text", c.Text, maxText),
	}
	if len(c.Notes) > maxNotes {
		errs = append(errs, fmt.Errorf("%d notes, at most %d are allowed", len(c.Notes), maxNotes))
	}
	for _, n := range c.Notes {
		errs = append(errs, checkText("note", n, maxText))
	}
	switch c.Op {
	case OpGrant, OpRelease, OpMachine:
		errs = append(errs, checkName("holder", c.Holder))
	case OpInSync:
		if len(c.Nodes) > maxNodes {
			errs = append(errs, fmt.Errorf("%d nodes, at most %d are allowed", len(c.Nodes), maxNodes))
		}
		for _, n := range c.Nodes {
			errs = append(errs, checkName("node", n))
		}
	case OpAccess, OpAccessRevoke:
		errs = append(errs, c.checkAccess())
	case OpNote:
		if c.Text == "" {
			errs = append(errs, errors.New("text is empty"))
		}
	default:
		errs = append(errs, c.checkTrust())
	}
	return errors.Join(errs...)
}

// encode writes c as a log entry.
func (c Command) encode() ([]byte, error) {
	c.V = commandVersion
	if err := c.check(); err != nil {
		return nil, &Refused{Op: c.Op, Why: err.Error()}
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("writing the command %s: %w", c.Op, err)
	}
	if len(raw) > maxCommand {
		return nil, &Refused{Op: c.Op, Why: fmt.Sprintf("it has %d bytes, at most %d are allowed", len(raw), maxCommand)}
	}
	return raw, nil
}

// decode reads a log entry. An error means that this agent cannot know what the
// entry does; it wraps ErrNewer where a newer agent wrote it.
func decode(raw []byte) (Command, error) {
	if len(raw) > maxCommand {
		return Command{}, fmt.Errorf("log entry of %d bytes, at most %d are allowed", len(raw), maxCommand)
	}
	var head struct {
		V  int `json:"v"`
		Op Op  `json:"op"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return Command{}, fmt.Errorf("log entry cannot be read: %w", err)
	}
	if head.V > commandVersion {
		return Command{}, fmt.Errorf("log entry %q has version %d, this agent knows version %d: %w", head.Op, head.V, commandVersion, ErrNewer)
	}
	switch head.Op {
	case OpAccess, OpAccessRevoke:
	case OpGrant, OpRelease, OpMachine, OpPause, OpResumed, OpInSync, OpAcknowledge, OpNote,
		OpToken, OpTokenRevoke, OpAdmit, OpEnrol, OpRemove, OpGossipKeys, OpReplace, OpCA, OpRenewed:
	default:
		return Command{}, fmt.Errorf("log entry %q is unknown: %w", head.Op, ErrNewer)
	}
	if head.V < 1 {
		return Command{}, fmt.Errorf("log entry %q has no version", head.Op)
	}
	var c Command
	if err := strict(raw, &c); err != nil {
		// An unknown field may change the meaning: guessing would diverge.
		return Command{}, fmt.Errorf("log entry %q: %w: %w", head.Op, err, ErrNewer)
	}
	return c, nil
}

// strict decodes exactly one JSON value without unknown fields.
func strict(raw []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the value")
	}
	return nil
}

// Grant gives the next term to one machine of holder. fenced says that a fence device
// confirmed that the holder before is off.
func Grant(term uint64, holder string, machine uint64, reason string, automatic, fenced bool, by string, notes []string) Command {
	if len(notes) > maxNotes {
		notes = notes[:maxNotes]
	}
	plain := make([]string, len(notes))
	for i, n := range notes {
		plain[i] = fit(n)
	}
	return Command{Op: OpGrant, Term: term, Holder: holder, Machine: machine, Reason: fit(reason), Automatic: automatic, Fenced: fenced, By: by, Notes: plain}
}

// Machine names another machine of the holder's name as the holder of term.
func Machine(term uint64, holder string, machine uint64) Command {
	return Command{Op: OpMachine, Term: term, Holder: holder, Machine: machine}
}

// Release gives a term back.
func Release(term uint64, holder, why string) Command {
	return Command{Op: OpRelease, Term: term, Holder: holder, Why: fit(why)}
}

// InSync notes who has the newest data, now that the holder of term serves.
func InSync(term uint64, nodes []string) Command {
	return Command{Op: OpInSync, Term: term, Nodes: nodes}
}

// Resumed ends a pause after the holder has shown that it knows.
func Resumed(epoch uint64) Command { return Command{Op: OpResumed, Epoch: epoch} }

// SetPause switches automatic promotion off, or on again; force ends a pause without
// the holder's word.
func SetPause(on, force bool, by, why string) Command {
	return Command{Op: OpPause, On: on, Force: force, By: fit(by), Why: fit(why)}
}

// Acknowledge makes the automatic failovers up to term not count any more.
func Acknowledge(term uint64) Command { return Command{Op: OpAcknowledge, Term: term} }

// Note adds a line to the history of term.
func Note(term uint64, text string) Command { return Command{Op: OpNote, Term: term, Text: fit(text)} }

// fit makes a text that carries an error's words fit for the log: a failover must
// not be refused because its reason is too long.
func fit(s string) string {
	s = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s), "")
	for len(s) > maxText {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}
