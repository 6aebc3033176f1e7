package quorum

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Access is what somebody outside of the cluster was given: the certificate with Serial
// may do what Role may, until Expires. What is not in the state may nothing, so that
// taking it out is all that revoking needs.
type Access struct {
	Name    string    `json:"name"`
	Serial  string    `json:"serial"` // of the certificate, hex
	Role    string    `json:"role"`
	Nodes   []string  `json:"nodes,omitempty"`   // it is limited to; none = all
	Actions []string  `json:"actions,omitempty"` // it is limited to; none = all
	Expires time.Time `json:"expires"`
	By      string    `json:"by,omitempty"`
	At      time.Time `json:"at,omitzero"`  // wall clock of the arbiter, for people only
	CA      []byte    `json:"ca,omitempty"` // by which its certificate is, see CASum; it ends with that one
}

// Bounds of what is replicated about access.
const (
	maxAccess  = 32 // at one time
	maxLimits  = 16 // nodes, or actions, of one
	maxLimited = 64 // bytes of one of these
)

// GiveAccess lets a certificate in.
func GiveAccess(x Access) Command {
	x.By = fit(x.By)
	return Command{Op: OpAccess, Access: &x, By: x.By}
}

// RevokeAccess lets it in no more.
func RevokeAccess(name, by string) Command {
	return Command{Op: OpAccessRevoke, Access: &Access{Name: name}, By: fit(by)}
}

func (c Command) checkAccess() error {
	switch x := c.Access; {
	case x == nil:
		return errors.New("no access is named")
	case c.Op == OpAccessRevoke:
		return checkName("access", x.Name)
	default:
		return x.check()
	}
}

func (x Access) check() error {
	errs := []error{checkName("access", x.Name), checkText("serial", x.Serial, maxLimited), checkText("role", x.Role, maxLimited), checkText("by", x.By, maxText)}
	if len(x.CA) > keySize {
		errs = append(errs, fmt.Errorf("the sum of its CA has %d bytes", len(x.CA)))
	}
	if x.Serial == "" || x.Role == "" || x.Expires.IsZero() {
		errs = append(errs, errors.New("an access needs a serial, a role and an end"))
	}
	for _, l := range [][]string{x.Nodes, x.Actions} {
		if len(l) > maxLimits {
			errs = append(errs, fmt.Errorf("%d limits, at most %d are allowed", len(l), maxLimits))
		}
		for _, s := range l {
			errs = append(errs, checkText("limit", s, maxLimited))
		}
	}
	return errors.Join(errs...)
}

// changeAccess is what remains after c.
func (s State) changeAccess(c Command) ([]Access, error) {
	named := func(x Access) bool { return x.Name == c.Access.Name }
	i := slices.IndexFunc(s.Access, named)
	if c.Op == OpAccessRevoke {
		if i < 0 {
			return nil, fmt.Errorf("there is no access called %s", c.Access.Name)
		}
		return slices.DeleteFunc(slices.Clone(s.Access), named), nil
	}
	// One of the CA that goes makes place for the next: its owner needs another file.
	former := i >= 0 && s.Trust.CA.Stage == 2 && !bytes.Equal(s.Access[i].CA, c.Access.CA)
	if i >= 0 && s.Access[i].Expires.After(c.At) && !former {
		return nil, fmt.Errorf("there is an access called %s already, a %s until %s: revoke it, or choose another name", s.Access[i].Name, s.Access[i].Role, s.Access[i].Expires.UTC().Format(time.DateOnly))
	}
	if yes, known := s.Trust.CA.issues(c.Access.CA); s.Trust.CA.Stage == 1 || known && !yes {
		return nil, errChanging
	}
	out := slices.DeleteFunc(slices.Clone(s.Access), named)
	if len(out) >= maxAccess {
		out = slices.DeleteFunc(out, func(x Access) bool { return x.Expires.Before(c.At) })
	}
	if len(out) >= maxAccess {
		return nil, fmt.Errorf("%d accesses are given already: revoke those that nobody needs", maxAccess)
	}
	x := *c.Access
	x.At = c.At
	return append(out, x), nil
}

func checkAccesses(all []Access) error {
	if len(all) > maxAccess {
		return fmt.Errorf("%d accesses, at most %d are kept", len(all), maxAccess)
	}
	for i, x := range all {
		if err := x.check(); err != nil {
			return fmt.Errorf("access %d: %w", i, err)
		}
	}
	return nil
}
