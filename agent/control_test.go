package agent

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"relevo.dev/relevo/agent/lease"
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

// onlyNode is the one peer that answers.
type onlyNode struct {
	node  string
	reply renewReply
	asked int
}

func (p *onlyNode) PostJSON(_ context.Context, node, path string, _, out any) error {
	p.asked++
	if node != p.node || path != pathRenew {
		return errors.New("nobody there")
	}
	*out.(*renewReply) = p.reply
	return nil
}

// TestRenewalWithoutLeader: while raft does not tell who the arbiter is, after a moment without
// a network, the lease is renewed with the last one, if that is it still.
func TestRenewalWithoutLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			last  string
			reply renewReply
			asked int
			acked bool
			why   string
		}{
			{"n2", renewReply{OK: true}, 1, true, ""},
			{"n2", renewReply{Why: "it is the arbiter no more", StepDown: "x"}, 1, false, errNoArbiter.Error()},
			{"n3", renewReply{OK: true}, 1, false, errNoArbiter.Error()},
			{"", renewReply{OK: true}, 0, false, errNoArbiter.Error()},
		} {
			p := &onlyNode{node: "n2", reply: test.reply}
			tm := lease.Timings{TTL: 6 * time.Second}
			l := &loop{
				node: "n1", quorum: lateArbiter{from: time.Now().Add(time.Hour)}, peers: p, tm: tm, log: slog.New(slog.DiscardHandler), base: t.Context(),
				clock: func() lease.Time { return time.Minute }, saw: func(string, ...any) {}, events: make(chan lease.Event, 4), calls: make(chan func()),
				holder: lease.NewHolder("n1", tm, lease.Lease{}, false), lastOther: test.last,
			}
			l.sendRenewal(t.Context(), lease.SendRenewal{Term: 3})
			ended := make(chan struct{})
			go func() { l.wg.Wait(); close(ended) }()
			for going := true; going; {
				select {
				case f := <-l.calls:
					f()
				case <-ended:
					going = false
				}
			}
			acked := false
			select {
			case e := <-l.events:
				acked = e == lease.Acked{Term: 3, SentAt: time.Minute}
			default:
			}
			if acked != test.acked || p.asked != test.asked || l.lastWhy != test.why {
				t.Errorf("%+v: acknowledged: %v, asked %d times, not renewed because %q", test, acked, p.asked, l.lastWhy)
			}
		}
	})
}

// TestViewGivenUp: who does not wait for the loop any more has what it asked the loop to write to
// for itself; the race detector sees if not.
func TestViewGivenUp(t *testing.T) {
	l := &loop{calls: make(chan func(), 1)}
	for _, runs := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		n, begun := 0, make(chan struct{})
		ended := make(chan error, 1)
		go func() {
			err := l.view(ctx, func() {
				close(begun)
				for i := range 1000 {
					n = i
				}
			})
			n++
			ended <- err
		}()
		call := <-l.calls
		if runs {
			go call()
			<-begun
		}
		cancel()
		if err := <-ended; (err == nil) != runs {
			t.Errorf("run %v: %v", runs, err)
		}
		if !runs {
			call() // the loop comes to it late
		}
		if want := map[bool]int{false: 1, true: 1000}[runs]; n != want {
			t.Errorf("run %v: %d, want %d", runs, n, want)
		}
	}
}
