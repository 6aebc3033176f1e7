package agent

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/member"
)

// TestWholeCACancel: a change of the CA is taken back while one member does not answer, and
// another has been switched off that believes the new one already. All is as it was, no connection is lost,
// and the CA can be changed again; once the new one issues there is no way back.
func TestWholeCACancel(t *testing.T) {
	founded(t, "n1 n2 v3 m4 m5", func(t *testing.T, w *world) {
		n1, m4, m5 := w.host("n1"), w.host("m4"), w.host("m5")
		w.steady("n1", 1)
		w.enrolled(5)
		w.keyed(3)
		former := n1.agent.id.IssuingCA()
		cancel := func() (api.Done, error) { return n1.order(api.Order{Verb: api.VerbRotateCancel, To: "ca"}) }
		if _, err := cancel(); err == nil || !strings.Contains(err.Error(), "not being changed") {
			t.Errorf("nothing is taken back: %v", err)
		}
		if _, err := n1.order(api.Order{Verb: api.VerbRotateCancel, To: "tokens"}); err == nil || !strings.Contains(err.Error(), "only ca") {
			t.Errorf("tokens: %v", err)
		}
		op := outside(t, w, "n1", api.AccessRequest{Name: "laptop", Role: api.Operator, Seconds: 36000}, "n1")
		tok := w.token("n1", api.TokenSpec{})
		conn, err := w.host("n2").agent.port.RaftLayer().Dial("n1", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()

		arbiter := w.host(n1.agent.quorum.Leader())
		w.net.Cut(arbiter.ip, m4.ip) // the others hear m4, the arbiter asks it in vain
		w.rotateCA(api.Order{})
		w.until(30*time.Second, "m5 believes the new CA, too", func() bool { return len(m5.agent.id.Believes()) == 2 })
		m5.crash()
		if s := n1.agent.quorum.State().Trust.CA.Stage; s != 1 {
			t.Fatalf("the change is at stage %d: this proves nothing", s)
		}
		d, err := cancel()
		if err != nil || !strings.Contains(d.Text, "stays as it is") {
			t.Fatalf("%+v, %v", d, err)
		}
		as := func(hosts ...*testHost) func() bool {
			return func() bool {
				for _, h := range hosts {
					cas, keys, by := h.onDisk()
					if len(cas) != 1 || cas[0] != former || by != former || len(keys) > 1 || len(keys) == 1 && keys[0] != former || len(h.agent.id.Believes()) != 1 {
						return false
					}
				}
				return true
			}
		}
		w.until(10*time.Second, "nothing of the new CA is left", as(n1, w.host("n2"), w.host("v3")))
		conn.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection was closed: %v", err)
		}
		if r, err := n1.agent.Rotation(t.Context()); err != nil || r.CA.Stage != 0 || r.CA.CA != former {
			t.Errorf("%+v, %v", r, err)
		}
		if _, err := op.Status(t.Context()); err != nil {
			t.Errorf("the access: %v", err)
		}
		w.net.Heal(arbiter.ip, m4.ip)
		m5.boot()
		w.until(2*time.Minute, "those that were away are as before", as(m4, m5))
		w.until(2*time.Minute, "they are there", func() bool {
			return !slices.ContainsFunc([]*testHost{m4, m5}, func(h *testHost) bool {
				m, _ := n1.agent.member(h.name)
				return m.Status != member.Alive || h.meets(n1) != nil || n1.meets(h) != nil
			})
		})
		list, err := n1.agent.Tokens(t.Context())
		if err != nil || !slices.ContainsFunc(list.Tokens, func(k api.Token) bool { return k.ID == tok.ID() && k.State == "revoked" }) {
			t.Errorf("the token: %+v, %v", list, err)
		}

		m5.crash()
		w.missed("m5")
		w.rotateCA(api.Order{})
		w.missing("m5")
		if _, err := cancel(); err == nil || !strings.Contains(err.Error(), "too late") || !strings.Contains(err.Error(), "relevo rotate ca") {
			t.Errorf("after the second step: %v", err)
		}
		m5.boot()
		w.oneCA(former, w.hosts...)
		w.undisturbed()
	})
}
