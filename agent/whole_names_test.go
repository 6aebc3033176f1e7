package agent

import (
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/peer"
)

// TestWholeNameAndKey: who comes with an invitation for a member's name is refused, whatever
// the CA says, until a person replaces the member.
func TestWholeNameAndKey(t *testing.T) {
	founded(t, "n1 n2 v3 m4", func(t *testing.T, w *world) {
		n1 := w.host("n1")
		w.enrolled(4)
		second := w.impostor(n1.dir, "m4", "10.0.0.60")
		for _, h := range w.hosts {
			if h.name != "m4" {
				if err := second.knocks(h); err == nil {
					t.Errorf("%s lets in another host of a member's name", h.name)
				}
			}
		}
		id, err := peer.Load(second.cfg.Peer.PKIDir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n1.agent.enrolAsked(t.Context(), "n1", enrolRequest{"m4", id.KeySum()}); err == nil || !strings.Contains(err.Error(), "relevo token create --replace m4") {
			t.Errorf("enrolled: %v", err)
		}
		m4 := w.host("m4")
		if _, err := n1.order(api.Order{Verb: api.VerbReplace, To: "m4", Key: id.KeySum()}); err == nil || !strings.Contains(err.Error(), "is alive") {
			t.Errorf("one that is alive is replaced: %v", err)
		}
		m4.crash()
		w.missed("m4")
		if _, err := n1.order(api.Order{Verb: api.VerbReplace, To: "m4", Key: id.KeySum()}); err != nil {
			t.Fatal(err)
		}
		second.cfg.Join = m4.cfg.Join
		second.boot()
		w.until(2*time.Minute, "the other board is m4", func() bool {
			m, ok := n1.agent.member("m4")
			return ok && m.Status == member.Alive && m.Addr == second.ip && second.meets(n1) == nil
		})
		if err := m4.knocks(n1); err == nil {
			t.Error("the board that was replaced is let in")
		}
		second.crash()
	})
}
