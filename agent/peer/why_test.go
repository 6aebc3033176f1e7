package peer

import (
	"bytes"
	"log/slog"
	"slices"
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
		key := ids["n2"].KeySum()
		p, err := Listen(PortConfig{Identity: ids["n1"], Listener: l, Handler: handler(), Dial: nw.dialer("n1"), Log: slog.New(slog.DiscardHandler),
			Resolve: func(node string) (string, error) { return node + ":1", nil },
			Why: func(node string, shown []byte) Verdict {
				if !bytes.Equal(shown, key) {
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
		if err := n2.PostJSON(t.Context(), "n1", "/who", nil, &who); err != nil || n2.refusing.Load() != nil {
			t.Errorf("a member: %v, refused by %v", err, n2.refusing.Load())
		}
		ids["n1"].SetRules(Rules{Removed: map[string]bool{"n2": true}})
		p.DropNode("n2")
		n2.DropNode("n1")
		if err := n2.PostJSON(t.Context(), "n1", "/who", nil, &who); err == nil {
			t.Error("a removed node is let in")
		}
		if by, ok := n2.Refusing(); by != "n1" || !ok {
			t.Errorf("refused by %q", by)
		}
		v, err := n2.Why(t.Context(), "n1")
		if err != nil || string(v.Statement) != "gone" || len(v.Sigs) != 1 || string(v.Sigs[0]) != "by the CA" {
			t.Errorf("%+v, %v", v, err)
		}
		if by, ok := n2.Refusing(); ok {
			t.Errorf("%q told why", by)
		}
		if err := p.PostJSON(t.Context(), "n2", "/who", nil, &who); err == nil {
			t.Error("a removed node is called")
		}
		synctest.Wait()
		if by, ok := n2.Refusing(); by != "" || !ok {
			t.Errorf("who was called, and not believed, hears of it: %q, %v", by, ok)
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
		// A host that was removed, with a certificate that the CA which is believed did not sign:
		// its key alone says who it is.
		ids["n1"].SetRules(Rules{Removed: map[string]bool{"n2": true}, RemovedKeys: map[string][]byte{"n2": ids["n2"].KeySum()}})
		if _, err := other.Why(t.Context(), "n1"); err == nil {
			t.Error("another key is told, for its name")
		}
		ids["n1"].SetRules(Rules{Removed: map[string]bool{"n2": true}, RemovedKeys: map[string][]byte{"n2": stranger.KeySum()}})
		key = stranger.KeySum()
		if v, err := other.Why(t.Context(), "n1"); err != nil || string(v.Statement) != "gone" {
			t.Errorf("%+v, %v", v, err)
		}
		if err := other.PostJSON(t.Context(), "n1", "/who", nil, &who); err == nil {
			t.Error("it is let in by it")
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

// TestSignedSince: the word of a CA that followed counts, if a chain of changes leads from the
// one that is known to it, without a gap and in this cluster.
func TestSignedSince(t *testing.T) {
	h, n1 := found(t, "n1")
	_, other := found(t, "n1")
	first, err := LoadAuthority(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	cas, crosses := []*Authority{first}, [][]byte{}
	for range 3 {
		ca, cross, err := cas[len(cas)-1].next()
		if err != nil {
			t.Fatal(err)
		}
		cas, crosses = append(cas, ca), append(crosses, cross.Raw)
	}
	what := []byte("gone")
	sig := func(n int) []byte { return cas[n].Sign("removal", what) }
	leaf, err := cas[0].issue("n2", cas[0].key.Public())
	if err != nil {
		t.Fatal(err)
	}
	long := append(slices.Repeat([][]byte{crosses[0]}, maxCrosses), crosses...)
	for _, x := range []struct {
		name  string
		id    *Identity
		since [][]byte
		sig   []byte
		want  bool
	}{
		{"its own CA", n1, nil, sig(0), true},
		{"the next", n1, crosses[:1], sig(1), true},
		{"the one after that", n1, crosses, sig(3), true},
		{"one between", n1, crosses, sig(2), true},
		{"nothing proves it", n1, nil, sig(1), false},
		{"a gap", n1, [][]byte{crosses[0], crosses[2]}, sig(3), false},
		{"the wrong way round", n1, [][]byte{crosses[1], crosses[0]}, sig(2), false},
		{"signed by a CA that is not in the chain", n1, crosses[:2], sig(3), false},
		{"another cluster", other, crosses, sig(3), false},
		{"no CA", n1, [][]byte{leaf.Raw}, sig(0)[:10], false},
		{"garbage", n1, [][]byte{nil, []byte("x")}, sig(1), false},
		{"longer than is read", n1, long, sig(3), false},
	} {
		if got := x.id.SignedSince(x.since, "removal", what, x.sig); got != x.want {
			t.Errorf("%s: believed %v", x.name, got)
		}
		if x.id.SignedSince(x.since, "roll", what, x.sig) {
			t.Errorf("%s: a statement of another kind is believed", x.name)
		}
	}
}
