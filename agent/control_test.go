package agent

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// lateArbiter is a quorum that has no arbiter until a moment.
type lateArbiter struct {
	quorumAPI
	from time.Time
}

func (q lateArbiter) Leader() string {
	if time.Now().Before(q.from) {
		return ""
	}
	return "n2"
}

// What a person orders while the arbiter's office moves is not refused at once; without
// an arbiter it is refused in the end.
func TestAwaitArbiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &loop{quorum: lateArbiter{from: time.Now().Add(arbiterLimit / 2)}}
		if err := l.awaitArbiter(t.Context()); err != nil {
			t.Errorf("an arbiter that comes in time: %v", err)
		}
		l.quorum = lateArbiter{from: time.Now().Add(2 * arbiterLimit)}
		if err := l.awaitArbiter(t.Context()); !errors.Is(err, errNoArbiter) {
			t.Errorf("no arbiter: %v", err)
		}
	})
}
