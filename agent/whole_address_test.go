package agent

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/lease"
)

// testAddress is the virtual IP: who has it tells those who are within reach, and the
// others go by what they heard last.
type testAddress testHost

func (d *testAddress) Claim(ctx context.Context, _ uint64) error { return d.Announce(ctx) }
func (d *testAddress) Release(context.Context) error             { return nil }
func (d *testAddress) Defend(context.Context) (net.HardwareAddr, error) {
	return nil, nil
}

func (d *testAddress) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (d *testAddress) Trouble() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mute
}

func (d *testAddress) Announce(context.Context) error {
	for _, o := range d.w.hosts {
		if o.ip != d.ip && d.w.net.IsCut(d.ip, o.ip) {
			continue
		}
		o.mu.Lock()
		o.neighbour = d.name
		o.mu.Unlock()
	}
	return nil
}

// TestWholeAddress: who was cut off while the master changed learns where the virtual IP
// is soon after it is back, and does not go on asking the old master.
func TestWholeAddress(t *testing.T) {
	founded(t, "n1 n2 n3 n4", func(t *testing.T, w *world) {
		n1 := w.host("n1")
		var away *testHost // one of four has no vote: the others are a quorum without it and n1
		w.until(time.Minute, "three vote", func() bool {
			voters := 0
			for _, h := range w.hosts {
				if n1.agent.isVoter(h.name) {
					voters++
				} else {
					away = h
				}
			}
			return voters == 3
		})
		knows := func(h *testHost) string {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.neighbour
		}
		w.until(time.Minute, away.name+" knows the master", func() bool { return knows(away) == "n1" })
		w.isolate(away, true)
		w.isolate(n1, true)
		m := w.follows("n1", 2)
		w.tell("%s is the master", m.name)
		if knows(away) != "n1" {
			t.Fatal(away.name, " heard of the change while it was cut off")
		}
		w.isolate(n1, false)
		w.isolate(away, false)
		w.until(20*time.Second, away.name+" knows the new master", func() bool { return knows(away) == m.name })
		w.until(time.Minute, "n1 is a standby", func() bool { return n1.agent.phase() == lease.Standby })
	})
}

// TestWholeMute: that a host could not tell the network where the virtual IP is is in the
// status of all, and keeps it from nothing.
func TestWholeMute(t *testing.T) {
	founded(t, "n1 n2 n3", func(t *testing.T, w *world) {
		n1, n2 := w.host("n1"), w.host("n2")
		told := func() bool {
			st, err := n1.agent.Status(t.Context())
			return err == nil && slices.ContainsFunc(st.Problems, func(p api.Problem) bool {
				return strings.HasPrefix(p.What, "n2: it cannot tell the network where the virtual IP is") && strings.Contains(p.What, "nobody listens") &&
					strings.Contains(p.Do, "systemctl status relevo-packet.socket") && p.Severity == api.Warning
			})
		}
		if told() {
			t.Error("told before it was so")
		}
		mute := func(err error) {
			n2.mu.Lock()
			defer n2.mu.Unlock()
			n2.mute = err
		}
		mute(errors.New("nobody listens"))
		if !told() {
			t.Error("nobody was told")
		}
		if why := n2.agent.candidate(w.now()); !why.Ready {
			t.Errorf("it is kept from taking over: %+v", why)
		}
		mute(nil)
		if told() {
			t.Error("told after it was over")
		}
	})
}

func TestReminder(t *testing.T) {
	var r reminder
	for i, c := range []struct {
		at    time.Duration
		alive int
		due   bool
	}{
		{time.Hour, 3, true}, // the first time
		{time.Hour + 5*time.Second, 3, false},
		{time.Hour + 10*time.Second, 2, false}, // one is gone,
		{time.Hour + 15*time.Second, 3, true},  // and back
		{time.Hour + 20*time.Second, 3, false},
		{time.Hour + 45*time.Second, 3, true}, // who is no member
	} {
		if got := r.due(lease.Time(c.at), c.alive); got != c.due {
			t.Errorf("%d: due %v", i, got)
		}
	}
}
