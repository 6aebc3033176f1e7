package agent

import (
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/config"
)

// TestRehearsalDue goes through five weeks minute by minute.
func TestRehearsalDue(t *testing.T) {
	for _, tt := range []struct {
		every time.Duration
		want  int // in 35 days
	}{{7 * 24 * time.Hour, 5}, {24 * time.Hour, 35}, {0, 0}, {6 * time.Hour, 140}} {
		c := &config.Config{Node: "n2", Candidate: &config.Candidate{Rehearsal: config.Rehearsal{Every: tt.every, At: 3 * time.Hour}}}
		a := &agent{cfg: c, host: &Host{Rehearse: &hostRehearsal{}}}
		a.live.Store(c)
		var last *api.Rehearsal
		n := 0
		begin := time.Date(2026, 11, 2, 0, 0, 0, 0, time.Local)
		for now := begin; now.Before(begin.Add(35 * 24 * time.Hour)); now = now.Add(time.Minute) {
			if !a.rehearsalDue(now, last) {
				continue
			}
			n++
			last = &api.Rehearsal{At: now}
			if h := now.Hour(); tt.every >= 24*time.Hour && (h < 3 || h > 4) {
				t.Errorf("every %v: due at %v, which is not the quiet hour", tt.every, now)
			}
		}
		if n != tt.want {
			t.Errorf("every %v: %d times, want %d", tt.every, n, tt.want)
		}
	}
}

func TestChecksInWords(t *testing.T) {
	bad := api.Verification{Node: "n2", Differences: []api.RowDifference{{Revision: 7, Key: "/registry/x", Where: "not the same"}}}
	healed := bad
	healed.Healing = true
	for _, tt := range []struct{ got, want string }{
		{verifiedText(api.Verification{Node: "n2", Equal: true, Rows: 5, Revision: 9}), "n2: equal to the master up to revision 9: 5 rows"},
		{verifiedText(api.Verification{Node: "n2", Error: "no route"}), "n2: could not be compared: no route"},
		{verifiedText(api.Verification{Node: "n2", Error: "the copy is damaged", Healing: true}), "is being copied again"},
		{verifiedText(bad), "revision 7, /registry/x: not the same"},
		{verifiedText(healed), "is being copied again"},
		{rehearsedText(api.Rehearsal{Node: "n2", Error: "kine ended"}), "n2: the rehearsal failed: kine ended"},
		{rehearsedText(api.Rehearsal{Node: "n2", OK: true, ReadySeconds: 14.2, Depth: "database", Why: "little memory"}), "not started: little memory"},
	} {
		if !strings.Contains(tt.got, tt.want) {
			t.Errorf("%q, want %q in it", tt.got, tt.want)
		}
	}
	for _, tt := range []struct {
		s    api.Standby
		want int
	}{
		{api.Standby{}, 0},
		{api.Standby{Verified: &bad}, 1},
		{api.Standby{Verified: &healed}, 0}, // not ready says enough
		{api.Standby{Rehearsed: &api.Rehearsal{}}, 1},
		{api.Standby{Rehearsed: &api.Rehearsal{OK: true}}, 0},
	} {
		if got := checkProblems(tt.s); len(got) != tt.want {
			t.Errorf("%+v: %+v", tt.s, got)
		}
	}
}
