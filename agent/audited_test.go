package agent

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
)

// TestDeniedAreFew: whoever may do nothing cannot fill the card.
func TestDeniedAreFew(t *testing.T) {
	w := newAuditor(t.TempDir())
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	count := func(n int) (let int) {
		for range n {
			if w.admit(at) {
				let++
			}
		}
		return let
	}
	if got := count(100); got != deniedFew {
		t.Errorf("%d of 100 in a minute", got)
	}
	at = at.Add(time.Minute)
	if got := count(3); got != 3 {
		t.Errorf("%d of 3 a minute later", got)
	}
	at = at.Add(-time.Hour) // the clock was set
	if got := count(3); got != 3 {
		t.Errorf("%d of 3 after the clock was set back", got)
	}
}

// TestKnock: why a port is not reached is told, and one that is reached is left at once.
func TestKnock(t *testing.T) {
	dial := errors.New("no route to host")
	a := &agent{opts: Options{Net: &Net{Dial: func(context.Context, string, string) (net.Conn, error) {
		if dial != nil {
			return nil, dial
		}
		c, _ := net.Pipe()
		return c, nil
	}}}}
	if why := a.knock(t.Context(), "10.0.0.1:1"); why != "no route to host" {
		t.Errorf("%q", why)
	}
	dial = nil
	if why := a.knock(t.Context(), "10.0.0.1:1"); why != "" {
		t.Errorf("%q", why)
	}
}

func TestWithoutEchoes(t *testing.T) {
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	typed := api.AuditRecord{Node: "n2", At: at, By: "ann", From: "the socket, uid 0", Action: "pause", Outcome: api.Carried}
	echoed := api.AuditRecord{Node: "v3", At: at.Add(time.Second), By: "ann", From: fromMember + "n2", Action: "pause", Outcome: api.Carried}
	later, other, own, lie := echoed, echoed, echoed, typed
	later.At = at.Add(time.Hour) // which n2 has not written down
	other.Target = "n1"
	own.Node = "n2" // a member that speaks of itself
	lie.Outcome = api.Refused
	for _, c := range []struct{ all, want []api.AuditRecord }{
		{[]api.AuditRecord{typed, echoed}, []api.AuditRecord{typed}},
		{[]api.AuditRecord{echoed, typed}, []api.AuditRecord{typed}},
		{[]api.AuditRecord{echoed}, []api.AuditRecord{echoed}},
		{[]api.AuditRecord{typed, later}, []api.AuditRecord{typed, later}},
		{[]api.AuditRecord{typed, other}, []api.AuditRecord{typed, other}},
		{[]api.AuditRecord{own}, []api.AuditRecord{own}},
		{[]api.AuditRecord{lie, echoed}, []api.AuditRecord{lie, echoed}},
	} {
		if got := withoutEchoes(slices.Clone(c.all)); !slices.Equal(got, c.want) {
			t.Errorf("%+v became %+v", c.all, got)
		}
	}
}
