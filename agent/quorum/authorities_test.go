package quorum

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

// changes applies commands as the log does, and makes sure that what comes out can be
// restored.
type changes struct {
	t   *testing.T
	s   State
	now time.Time
}

func (x *changes) do(c Command, refused string) {
	x.t.Helper()
	c.At = x.now
	raw, err := c.encode()
	if err == nil {
		c, err = decode(raw)
	}
	next := x.s
	if err == nil {
		next, err = x.s.apply(c)
	}
	if (err == nil) != (refused == "") || err != nil && !strings.Contains(err.Error(), refused) {
		x.t.Fatalf("%s: %v, want %q", c.Op, err, refused)
	}
	x.s = next
	if err := x.s.check(); err != nil {
		x.t.Fatalf("%s: what came out cannot be restored: %v", c.Op, err)
	}
}

func key(b byte) []byte { return bytes.Repeat([]byte{b}, keySize) }

// TestChangeOfCA: the steps, each from the one before; what hangs on the old one goes with it.
func TestChangeOfCA(t *testing.T) {
	x := &changes{t: t, s: State{Cluster: "home"}, now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
	old, dud, next, third, cross := []byte("old"), []byte("dud"), []byte("new"), []byte("third"), []byte("cross")
	access := func(name string, ca []byte) Command {
		return GiveAccess(Access{Name: name, Serial: "1", Role: "viewer", Expires: x.now.Add(time.Hour), CA: CASum(ca)})
	}
	token := func(id string) Command {
		return NewToken(Token{ID: id, Key: key(9), Until: x.now.Add(time.Hour), Uses: 1}, "ann")
	}
	for i, n := range []string{"n1", "n2", "n3"} {
		x.do(Enrol(n, key(byte(i+1))), "")
	}
	x.do(access("laptop", old), "")
	x.do(token("AAAAAAAA"), "")
	x.do(RenewedBy(next, []string{"n1"}), "not of the CA")
	x.do(EndCA(Authorities{Certs: [][]byte{next}}), "at stage 0")

	x.do(CancelCA(Authorities{Certs: [][]byte{old}}, "ann"), "at stage 0")

	x.do(BeginCA(0, old, dud, cross, "ann"), "")
	x.do(CancelCA(Authorities{Certs: [][]byte{dud}}, "ann"), "not the CA that issues")
	x.do(CancelCA(x.s.Trust.CA, "bob"), "")
	if a := x.s.Trust.CA; len(a.Certs) != 1 || !bytes.Equal(a.Certs[0], old) || a.Stage != 0 || a.Cross != nil || len(a.Past) != 0 || a.By != "bob" || len(x.s.Access) != 1 {
		t.Errorf("taken back: %+v, %+v", a, x.s.Access)
	}
	x.do(BeginCA(0, dud, next, cross, "ann"), "not the one that issues")
	x.do(BeginCA(0, old, dud, cross, "ann"), "")
	if k, _ := x.s.Trust.Token("AAAAAAAA"); !k.Revoked {
		t.Error("a token of the old CA is good")
	}
	x.do(token("BBBBBBBB"), "being changed")
	x.do(access("phone", old), "being changed")
	x.do(BeginCA(0, old, next, cross, "ann"), "at stage 1")
	x.do(BeginCA(1, dud, next, cross, "ann"), "not the one that issues")
	x.do(BeginCA(1, old, next, cross, "ann"), "") // nobody has the key of the dud
	if got := x.s.Trust.Waiting(); len(got) != 3 {
		t.Errorf("waiting for %v", got)
	}
	x.do(TurnCA(Authorities{Certs: [][]byte{old, dud}, Cross: cross}), "not the CAs that were agreed on")
	x.do(TurnCA(x.s.Trust.CA), "")
	x.do(CancelCA(x.s.Trust.CA, "ann"), "at stage 2, not 1")
	x.do(token("CCCCCCCC"), "")
	x.do(access("phone", old), "being changed") // it was signed a moment too early
	x.do(access("phone", next), "")
	x.do(access("laptop", next), "") // in the place of the one that ends
	x.do(RevokeAccess("laptop", "ann"), "")
	x.do(access("screen", next), "")
	x.do(RenewedBy(old, []string{"n1"}), "not of the CA")
	x.do(RenewedBy(next, []string{"n9"}), "no member")
	x.do(RenewedBy(next, []string{"n3", "n1"}), "")
	x.do(RenewedBy(next, []string{"n1"}), "")
	if got := x.s.Trust.Waiting(); !slices.Equal(got, []string{"n2"}) {
		t.Errorf("waiting for %v", got)
	}
	x.do(Expel("n1", "ann", ""), "")
	x.do(Expel("n2", "ann", ""), "")
	if r := x.s.Trust.Removed; len(r) != 2 || !bytes.Equal(r[0].Key, key(1)) || !bytes.Equal(r[1].Key, key(2)) {
		t.Errorf("the keys of who was removed: %+v", r)
	}
	if got := x.s.Trust.Waiting(); len(got) != 0 {
		t.Errorf("waiting for %v", got)
	}
	x.do(BeginCA(2, old, third, cross, "ann"), "cannot go from stage 2 to 1")
	x.do(EndCA(x.s.Trust.CA), "")
	if a := x.s.Trust.CA; len(a.Certs) != 1 || !bytes.Equal(a.Certs[0], next) || a.Stage != 0 || a.Cross != nil || a.Renewed != nil || a.By != "ann" {
		t.Errorf("%+v", a)
	}
	if k, _ := x.s.Trust.Token("CCCCCCCC"); k.Revoked {
		t.Error("a token of the new CA is not good any more")
	}
	x.do(BeginCA(0, old, third, cross, "ann"), "not the one that issues")
	x.do(BeginCA(0, next, third, []byte("cross 3"), "ann"), "")
	x.do(TurnCA(x.s.Trust.CA), "")
	x.do(EndCA(x.s.Trust.CA), "")
	if got := string(bytes.Join(x.s.Trust.CA.Past, []byte(" "))); got != "cross cross 3" {
		t.Errorf("of the changes that have ended %q is kept", got)
	}
	if len(x.s.Access) != 0 {
		t.Errorf("accesses by former CAs: %+v", x.s.Access)
	}
	many := x.s
	for i := range maxPast + 2 {
		now := x.s.Trust.CA.Certs[0]
		x.do(BeginCA(0, now, []byte{byte(i)}, []byte{byte(i)}, "ann"), "")
		x.do(TurnCA(x.s.Trust.CA), "")
		x.do(EndCA(x.s.Trust.CA), "")
	}
	if got := x.s.Trust.CA.Past; len(got) != maxPast || got[maxPast-1][0] != maxPast+1 || len(many.Trust.CA.Past) != 2 {
		t.Errorf("%d changes are kept, the newest %v", len(got), got[len(got)-1])
	}
	for _, bad := range []Authorities{
		{Past: make([][]byte, maxPast+1)}, {Past: [][]byte{nil}},
		{Stage: 3}, {Stage: -1}, {Stage: 1, Certs: [][]byte{old}}, {Stage: 1, Certs: [][]byte{old, next}}, {Certs: [][]byte{nil}}, {Certs: [][]byte{make([]byte, maxCert+1)}},
		{Stage: 1, Certs: [][]byte{old, next}, Cross: cross, Renewed: []string{"n1"}}, {Stage: 2, Certs: [][]byte{old, next}, Cross: cross, Renewed: []string{"n2", "n1"}},
		{Certs: [][]byte{old}, Cross: cross}, {Stage: 2, Certs: [][]byte{old, next}, Cross: cross, Renewed: []string{"\n"}},
	} {
		if bad.check() == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if (Command{Op: OpCA}).check() == nil || (Command{Op: OpRenewed}).check() == nil {
		t.Error("a command without what it is about was taken")
	}
}

// TestNameAndKey: a name has one key, until somebody says otherwise.
func TestNameAndKey(t *testing.T) {
	x := &changes{t: t, s: State{Cluster: "home"}, now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
	x.do(Enrol("n1", key(1)), "")
	x.do(Enrol("n1", key(1)), "enrolled already")
	x.do(Enrol("n1", key(2)), "relevo token create --replace n1")
	x.do(Replace("n1", key(2), "ann"), "")
	if m, _ := x.s.Trust.Member("n1"); !bytes.Equal(m.Key, key(2)) || len(x.s.Trust.Removed) != 1 {
		t.Errorf("%+v, %+v", m, x.s.Trust.Removed)
	}
	x.do(Enrol("n1", key(1)), "relevo remove n1")
	x.do(Expel("n1", "ann", ""), "")
	x.do(Enrol("n1", key(3)), "was removed")
	x.do(Replace("n1", key(3), "ann"), "")
}
