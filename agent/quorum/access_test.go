package quorum

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestAccess: one of a name, bounded, forgotten when revoked.
func TestAccess(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	give := func(name string, until time.Time) Command {
		c := GiveAccess(Access{Name: name, Serial: "ab12", Role: "operator", Expires: until, By: "ann@n1"})
		c.At = now
		return c
	}
	s := State{Cluster: "home"}
	must := func(c Command, refused string) {
		t.Helper()
		raw, err := c.encode()
		if err == nil {
			c, err = decode(raw)
		}
		next := s
		if err == nil {
			next, err = s.apply(c)
		}
		if (err == nil) != (refused == "") || err != nil && !strings.Contains(err.Error(), refused) {
			t.Fatalf("%v, want %q", err, refused)
		}
		s = next
		if err := s.check(); err != nil {
			t.Fatalf("what came out cannot be restored: %v", err)
		}
	}
	must(give("laptop", now.Add(time.Hour)), "")
	must(give("laptop", now.Add(time.Hour)), "called laptop already")
	must(RevokeAccess("phone", "ann@n1"), "no access called phone")
	must(RevokeAccess("laptop", "ann@n1"), "")
	if len(s.Access) != 0 {
		t.Errorf("%+v remains", s.Access)
	}
	must(give("old", now.Add(-time.Hour)), "")
	must(give("old", now.Add(time.Hour)), "") // an ended one makes place for its successor
	if len(s.Access) != 1 || !s.Access[0].At.Equal(now) {
		t.Errorf("%+v", s.Access)
	}
	must(give("ended", now.Add(-time.Minute)), "")
	for i := len(s.Access); i < maxAccess; i++ {
		must(give(fmt.Sprint("x", i), now.Add(time.Hour)), "")
	}
	must(give("one-more", now.Add(time.Hour)), "") // in the place of the one that ended
	must(give("too-many", now.Add(time.Hour)), "32 accesses")
	for _, bad := range []Access{
		{Name: "a b", Serial: "1", Role: "viewer", Expires: now}, {Name: "a", Role: "viewer", Expires: now},
		{Name: "a", Serial: "1", Expires: now}, {Name: "a", Serial: "1", Role: "viewer"},
		{Name: "a", Serial: "1", Role: "viewer", Expires: now, Nodes: make([]string, maxLimits+1)},
		{Name: "a", Serial: "1", Role: "viewer\x1b", Expires: now},
	} {
		if bad.check() == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if (Command{Op: OpAccess}).check() == nil {
		t.Error("an access without one was taken")
	}
}
