package agent

import (
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/replica"
)

// The tag must not change with every beat of an idle stream, and say "stale" exactly where
// the copy is too old to be promoted.
func TestCopyAge(t *testing.T) {
	const now = lease.Time(time.Hour)
	at := func(lag time.Duration) replica.Position {
		return replica.Position{Complete: true, FreshAt: now - lag}
	}
	for _, tt := range []struct {
		name   string
		pos    replica.Position
		maxLag time.Duration
		want   api.CopyAge
	}{
		{"a moment ago", at(0), 10 * time.Second, api.CopyFresh},
		{"between two beats", at(4 * time.Second), 10 * time.Second, api.CopyFresh},
		{"half of max_lag", at(6 * time.Second), 10 * time.Second, api.CopyLate},
		{"max_lag", at(10 * time.Second), 10 * time.Second, api.CopyLate},
		{"more", at(10*time.Second + 1), 10 * time.Second, api.CopyStale},
		{"a large max_lag", at(20 * time.Second), time.Minute, api.CopyFresh},
		{"a small one", at(4 * time.Second), 3 * time.Second, api.CopyStale},
		{"never", replica.Position{Complete: true}, time.Minute, api.CopyStale},
		{"half a copy", replica.Position{FreshAt: now}, time.Minute, api.CopyStale},
	} {
		if got := copyAge(tt.pos, now, tt.maxLag); got != tt.want {
			t.Errorf("%s: %s, not %s", tt.name, got, tt.want)
		}
	}
}
