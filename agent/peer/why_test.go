package peer

import (
	"bytes"
	"log/slog"
	"testing"
	"testing/synctest"
)

// TestWhy: who was removed is told so on its old certificate, and gets in nowhere else with
// it; nobody who is not of this cluster can ask.
func TestWhy(t *testing.T) {
	ids := cluster(t, "n1", "n2")
	_, stranger := found(t, "n2")
	synctest.Test(t, func(t *testing.T) {
		nw := newLab()
		l, err := nw.Listen("n1:1")
		if err != nil {
			t.Fatal(err)
		}
		var asked []string
		p, err := Listen(PortConfig{Identity: ids["n1"], Listener: l, Handler: handler(), Dial: nw.dialer("n1"), Log: slog.New(slog.DiscardHandler),
			Resolve: func(node string) (string, error) { return node + ":1", nil },
			Why: func(node string, key []byte) Verdict {
				if !bytes.Equal(key, ids["n2"].KeySum()) {
					t.Error("not the key that was shown")
				}
				asked = append(asked, node)
				return Verdict{Statement: []byte("gone"), Sigs: [][]byte{[]byte("by the CA")}}
			}})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- p.Run(t.Context()) }()
		n2, stop2 := nw.port(t, ids["n2"], "n2", nil)
		other, stop3 := nw.port(t, stranger, "n3", nil)

		var who string
		if err := n2.PostJSON(t.Context(), "n1", "/who", nil, &who); err != nil || n2.Refusing() != "" {
			t.Errorf("a member: %v, refused by %q", err, n2.Refusing())
		}
		ids["n1"].SetRules(Rules{Removed: map[string]bool{"n2": true}})
		p.DropNode("n2")
		n2.DropNode("n1")
		if err := n2.PostJSON(t.Context(), "n1", "/who", nil, &who); err == nil {
			t.Error("a removed node is let in")
		}
		if by := n2.Refusing(); by != "n1" || n2.Refusing() != "" {
			t.Errorf("refused by %q", by)
		}
		v, err := n2.Why(t.Context(), "n1")
		if err != nil || string(v.Statement) != "gone" || len(v.Sigs) != 1 || string(v.Sigs[0]) != "by the CA" {
			t.Errorf("%+v, %v", v, err)
		}
		// Somebody who is of another cluster; it does not believe n1 either.
		if _, err := other.Why(t.Context(), "n1"); err == nil {
			t.Error("another cluster's node is told")
		}
		if _, err := p.Why(t.Context(), "n2"); err == nil {
			t.Error("n2 tells, and has nothing to tell")
		}
		if len(asked) != 1 || asked[0] != "n2" {
			t.Errorf("asked for %v", asked)
		}
		stop2()
		stop3()
		p.Close()
		<-done
		if n := p.limits.joiners; n != 0 {
			t.Errorf("%d places are not given back", n)
		}
	})
}
