package peer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestMoved: a node that has another address is found where it came from last, before anybody
// was told.
func TestMoved(t *testing.T) {
	ids := cluster(t, "n1", "n2", "n3")
	synctest.Test(t, func(t *testing.T) {
		nw := newLab()
		a, stopA := nw.port(t, ids["n1"], "n1", handler())
		old, stopOld := nw.port(t, ids["n2"], "n2", handler())
		ask := func() (time.Duration, error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begin, who := time.Now(), ""
			err := a.PostJSON(ctx, "n2", "/who", nil, &who)
			return time.Since(begin), err
		}
		tell := func(p *Port) {
			t.Helper()
			var who string
			if err := p.PostJSON(t.Context(), "n1", "/who", nil, &who); err != nil || who != "n2" {
				t.Fatalf("n1 saw %q, %v", who, err)
			}
		}
		tell(old)
		if _, err := ask(); err != nil {
			t.Fatal(err)
		}

		// What lies on a connection from the old address is not waited for.
		hung := make(chan error, 1)
		go func() { hung <- old.PostJSON(t.Context(), "n1", "/hang", nil, nil) }()
		synctest.Wait()
		begin := time.Now()
		old.Moved("n2b") // not its own: nothing happens
		if _, err := ask(); err != nil || len(hung) > 0 {
			t.Fatal(err, len(hung))
		}
		nw.Cut("n1", "n2")
		nw.Cut("n2", "n1")
		old.Moved("n2")
		if err := <-hung; err == nil || time.Since(begin) > time.Second {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		moved, stopMoved := nw.port(t, ids["n2"], "n2b", handler())
		if _, err := ask(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("found without a word: %v", err)
		}
		tell(moved)
		if took, err := ask(); err != nil || took > 2*secondTry {
			t.Errorf("after %v: %v", took, err)
		}

		// Somebody else who sits there now is not n2. Both are told of.
		stopMoved()
		stopOld()
		a.callers["n2"].CloseIdleConnections()
		_, stopOther := nw.port(t, ids["n3"], "n2b", handler())
		nw.Heal("n1", "n2")
		nw.Heal("n2", "n1")
		took, err := ask()
		wants(t, err, "connect to n2", "refused; nor where it came from last: connect to n2 at n2b:1")
		if took > secondTry/2 {
			t.Errorf("the first was refused, and the second waited for %v", took)
		}
		// It is back at its address.
		_, stopOld = nw.port(t, ids["n2"], "n2", handler())
		if took, err := ask(); err != nil || took > secondTry/2 {
			t.Errorf("after %v: %v", took, err)
		}
		stopOther()
		stopOld()
		stopA()
	})
}
