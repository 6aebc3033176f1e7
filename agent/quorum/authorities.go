package quorum

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Authorities are the CAs that the members believe, once the CA was changed or is being
// changed. None: it is the one that `relevo init` made, which is not in here. No key is in
// here either.
type Authorities struct {
	Certs [][]byte `json:"certs,omitempty"` // DER, the one that issues first
	Cross []byte   `json:"cross,omitempty"` // DER: the new one's key, signed by the old one
	// Stage of a change: 0 = none; 1 = the new one, the second of Certs, is believed by
	// who has this, and the change can still be taken back; 2 = it is the first, and issues;
	// then the old one goes, and it is 0.
	Stage   int       `json:"stage,omitempty"`
	Renewed []string  `json:"renewed,omitempty"` // members with a certificate of the new one, by name
	By      string    `json:"by,omitempty"`      // who began it
	At      time.Time `json:"at,omitzero"`       // wall clock of the arbiter, for people only
	// Past has a Cross of each change that has ended, the newest last: what proves to who was
	// away for it which CA speaks for the cluster now.
	Past [][]byte `json:"past,omitempty"`
}

// maxPast bounds the changes of the CA that are remembered.
const maxPast = 16

const maxCert = 2 << 10 // bytes of one; ours have about 500

// Waiting are the members that have no certificate of the new CA yet, while there is one.
func (t Trust) Waiting() (out []string) {
	if t.CA.Stage == 0 {
		return nil
	}
	for _, m := range t.Members {
		if _, ok := slices.BinarySearch(t.CA.Renewed, m.Node); !ok || t.CA.Stage == 1 {
			out = append(out, m.Node)
		}
	}
	return out
}

// CASum names a CA in an [Access], in bytes of SHA-256 of its certificate.
func CASum(der []byte) []byte {
	sum := sha256.Sum256(der)
	return sum[:caSumSize]
}

const caSumSize = 16

// issues says whether a CA is the one that issues; known is whether that is in here.
func (a Authorities) issues(sum []byte) (yes, known bool) {
	if len(a.Certs) == 0 {
		return false, false
	}
	return bytes.Equal(sum, CASum(a.Certs[0])), true
}

func (a Authorities) check() error {
	want := map[int]int{0: 1, 1: 2, 2: 2}[a.Stage]
	switch {
	case a.Stage < 0 || a.Stage > 2 || len(a.Certs) != want && !(a.Stage == 0 && len(a.Certs) == 0):
		return fmt.Errorf("CAs: %d at stage %d", len(a.Certs), a.Stage)
	case (a.Stage > 0) != (len(a.Cross) > 0) || len(a.Cross) > maxCert:
		return fmt.Errorf("CAs: a signature of %d bytes of the old one at stage %d", len(a.Cross), a.Stage)
	case len(a.Past) > maxPast || slices.ContainsFunc(a.Past, func(c []byte) bool { return len(c) == 0 || len(c) > maxCert }):
		return fmt.Errorf("CAs: %d changes that have ended, or one of them is proved by nothing", len(a.Past))
	case len(a.Renewed) > maxNodes || a.Stage < 2 && len(a.Renewed) > 0:
		return fmt.Errorf("CAs: %d certificates by the new one at stage %d", len(a.Renewed), a.Stage)
	}
	for _, c := range a.Certs {
		if len(c) == 0 || len(c) > maxCert {
			return fmt.Errorf("CAs: a certificate of %d bytes", len(c))
		}
	}
	before := ""
	for _, n := range a.Renewed {
		if n <= before {
			return fmt.Errorf("CAs: %q after %q", n, before)
		}
		before = n
		if err := checkName("node", n); err != nil {
			return fmt.Errorf("CAs: %w", err)
		}
	}
	return checkText("by", a.By, maxName)
}

// changeCA is changeTrust for the commands about the CA. t is the next state.
func (t *Trust) changeCA(c Command) error {
	was := t.CA
	if c.Op == OpRenewed {
		if yes, _ := was.issues(c.Key); was.Stage != 2 || !yes {
			return errors.New("these certificates are not of the CA that is being changed to")
		}
		next := slices.Clone(was.Renewed)
		for _, n := range c.Nodes {
			if _, ok := t.Member(n); !ok {
				return fmt.Errorf("%s is no member", n)
			}
			if i, ok := slices.BinarySearch(next, n); !ok {
				next = slices.Insert(next, i, n)
			}
		}
		if len(next) > maxNodes {
			return fmt.Errorf("%d members have certificates by the new CA, and %d are possible", len(next), maxNodes)
		}
		t.CA.Renewed = next
		return nil
	}
	if c.Epoch != uint64(was.Stage) {
		return fmt.Errorf("the change of the CA is at stage %d, not %d", was.Stage, c.Epoch)
	}
	next := *c.CA
	issuing := func(a Authorities) []byte {
		if len(a.Certs) == 0 {
			return nil
		}
		return a.Certs[0]
	}
	switch {
	case was.Stage <= 1 && next.Stage == 1: // begun; or another one, if nobody has the key
		if old := issuing(was); old != nil && !bytes.Equal(old, issuing(next)) {
			return errors.New("the CA that is to be changed is not the one that issues")
		}
		// A token names the CA: those that there are would let nobody in.
		t.Tokens = slices.Clone(t.Tokens)
		for i := range t.Tokens {
			t.Tokens[i].Revoked = true
		}
		next.At = c.At
	case was.Stage == 1 && next.Stage == 2:
		if !bytes.Equal(was.Certs[0], next.Certs[1]) || !bytes.Equal(was.Certs[1], next.Certs[0]) {
			return errors.New("they are not the CAs that were agreed on")
		}
		next.At, next.By = was.At, was.By
	case was.Stage == 1 && next.Stage == 0: // taken back: the new one has issued nothing
		if !bytes.Equal(was.Certs[0], issuing(next)) {
			return errors.New("it is not the CA that issues")
		}
		next.At = c.At
	case was.Stage == 2 && next.Stage == 0:
		if !bytes.Equal(was.Certs[0], issuing(next)) {
			return errors.New("it is not the CA that was agreed on")
		}
		next.At, next.By = was.At, was.By
		was.Past = append(slices.Clip(was.Past), was.Cross)
		was.Past = was.Past[max(0, len(was.Past)-maxPast):]
	default:
		return fmt.Errorf("the change of the CA cannot go from stage %d to %d", was.Stage, next.Stage)
	}
	next.Past = was.Past
	t.CA = next
	return nil
}

// ofIssuing drops the accesses of CAs that are believed no more.
func (s State) ofIssuing(t Trust) []Access {
	if t.CA.Stage != 0 {
		return s.Access
	}
	return slices.DeleteFunc(slices.Clone(s.Access), func(x Access) bool {
		yes, known := t.CA.issues(x.CA)
		return known && !yes
	})
}

func (c Command) checkCA() error {
	if c.Op == OpRenewed {
		errs := []error{}
		if len(c.Nodes) == 0 || len(c.Nodes) > maxNodes || len(c.Key) != caSumSize {
			errs = append(errs, fmt.Errorf("%d certificates of a CA with a sum of %d bytes", len(c.Nodes), len(c.Key)))
		}
		for _, n := range c.Nodes {
			errs = append(errs, checkName("node", n))
		}
		return errors.Join(errs...)
	}
	if c.CA == nil {
		return errors.New("there are no CAs")
	}
	return c.CA.check()
}

// BeginCA has a new CA believed beside the old one (both DER); cross is the new one's key
// signed by the old one. stage is what is agreed on at present: 0, or 1 to take another new
// one.
func BeginCA(stage int, old, next, cross []byte, by string) Command {
	return Command{Op: OpCA, Epoch: uint64(stage), CA: &Authorities{Certs: [][]byte{old, next}, Cross: cross, Stage: 1, By: fit(by)}}
}

// TurnCA has the new CA issue from now on.
func TurnCA(a Authorities) Command {
	return Command{Op: OpCA, Epoch: 1, CA: &Authorities{Certs: [][]byte{a.Certs[1], a.Certs[0]}, Cross: a.Cross, Stage: 2}}
}

// EndCA has the old CA believed no more.
func EndCA(a Authorities) Command {
	return Command{Op: OpCA, Epoch: 2, CA: &Authorities{Certs: a.Certs[:1]}}
}

// CancelCA takes a change back of which only the first step is done: the new CA is believed
// no more.
func CancelCA(a Authorities, by string) Command {
	return Command{Op: OpCA, Epoch: 1, CA: &Authorities{Certs: a.Certs[:1], By: fit(by)}}
}

// RenewedBy notes members that have a certificate of the new CA (DER).
func RenewedBy(ca []byte, nodes []string) Command {
	nodes = slices.Clone(nodes)
	slices.Sort(nodes)
	return Command{Op: OpRenewed, Key: CASum(ca), Nodes: nodes}
}

// Replace enrols another key for a name: the certificates of the one before end.
func Replace(node string, key []byte, by string) Command {
	return Command{Op: OpReplace, Node: node, Key: key, By: fit(by)}
}
