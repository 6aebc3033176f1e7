package agent

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/peer"
	"relevo.dev/relevo/agent/quorum"
)

// says is what the agent of a host that was removed answers; "" = it does not know yet.
func (h *testHost) says() string {
	x := h.agent.gone.Load()
	if x == nil {
		return ""
	}
	s, err := (&outcast{*x, h.agent}).Status(h.w.t.Context())
	if err != nil || s.Removed == nil || len(s.Problems) != 1 || s.Problems[0].Severity != api.Critical {
		h.w.t.Fatalf("%+v, %v", s, err)
	}
	o := &outcast{*x, h.agent}
	d, err := o.doctor(h.w.t.Context())
	if err != nil || len(d.Findings) != 1 || d.Findings[0].Result != api.FindingWrong || d.Findings[0].What != s.Problems[0].What || d.Findings[0].Do == "" {
		h.w.t.Errorf("the doctor: %+v, %v", d, err)
	}
	for what, ask := range map[string]func() error{
		"history": func() error { _, err := o.History(h.w.t.Context()); return err },
		"explain": func() error { _, err := o.Explain(h.w.t.Context(), 0); return err },
		"boards":  func() error { _, err := o.Health(h.w.t.Context()); return err },
		"order":   func() error { _, err := o.Do(h.w.t.Context(), api.Order{Verb: api.VerbPause}); return err },
	} {
		if err := ask(); err == nil || !strings.Contains(err.Error(), s.Problems[0].What) || !strings.Contains(err.Error(), "relevo join TOKEN") {
			h.w.t.Errorf("%s: %v", what, err)
		}
	}
	if d, err := o.Do(h.w.t.Context(), api.Order{Verb: api.VerbLeave}); err != nil || !strings.Contains(d.Text, "nothing left to leave") {
		h.w.t.Errorf("it leaves with %q, %v", d.Text, err)
	}
	return s.Problems[0].What
}

// TestWholeRemoved: a host that was removed says by whom, whether it was alive then or comes
// back later; it stays so over a restart, and joins again with a token.
func TestWholeRemoved(t *testing.T) {
	founded(t, "n1 n2 v3 m4", func(t *testing.T, w *world) {
		n1, n2, m4 := w.host("n1"), w.host("n2"), w.host("m4")
		w.steady("n1", 1)
		w.enrolled(4)
		arbiter := w.host(n1.agent.quorum.Leader())
		if _, err := m4.order(api.Order{Verb: api.VerbRemove, To: "n1"}); err == nil || !strings.Contains(err.Error(), "n1 is the master, and it is alive: `relevo switchover`") {
			t.Errorf("removal of the master: %v", err)
		}
		if _, err := m4.order(api.Order{Verb: api.VerbRemove, To: arbiter.name}); err == nil || !strings.Contains(err.Error(), "cannot remove itself") {
			t.Errorf("removal of the arbiter: %v", err)
		}
		m4.crash()
		w.missed("m4")
		for _, name := range []string{"m4", "n2"} {
			if _, err := n1.order(api.Order{Verb: api.VerbRemove, To: name, Force: true, Why: "sold"}); err != nil {
				t.Fatal(err)
			}
		}
		w.until(time.Minute, "they are shown no more", func() bool {
			v, err := n1.agent.Members(t.Context())
			s, err2 := n1.agent.Status(t.Context())
			told := slices.ContainsFunc(s.Problems, func(p api.Problem) bool { return strings.Contains(p.What, "m4") || strings.Contains(p.What, "n2") })
			return err == nil && err2 == nil && !told && len(v.Members) == 2 && v.Members[0].Node == "n1" && v.Members[1].Node == "v3"
		})
		liar, _ := foundCluster(t)
		fake := w.statement(n2, filepath.Join(liar, "pki"))
		if x, err := n2.agent.believe(fake); err == nil {
			t.Errorf("another CA's word is taken: %+v", x)
		}
		old := w.statement(n2, n1.cfg.Peer.PKIDir)
		if _, err := n2.agent.believe(old); err != nil {
			t.Errorf("the CA's word: %v", err)
		}
		// Gossip has not missed it yet.
		w.until(time.Minute, "n2 may come back at once", func() bool { return n1.agent.roll().gone("n2") })
		tok := w.token("n1", api.TokenSpec{})
		if _, err := n2.joins(tok, "n2", "n1"); err != nil {
			t.Errorf("n2 is not let in again: %v", err)
		}
		m4.boot()
		for _, h := range []*testHost{n2, m4} {
			w.until(time.Minute, h.name+" says that it was removed", func() bool { return h.says() != "" })
			if got := h.says(); !strings.Contains(got, "was removed from the cluster home by ann@n1 on 2000-01-01 00:0") || !strings.Contains(got, "(sold)") {
				t.Errorf("%s: %s", h.name, got)
			}
		}
		n2.shutdown() // not with an error
		n2.boot()
		if got := n2.gone(); got == "" || n2.agent.port != nil {
			t.Errorf("after a restart: %q, or it takes part", got)
		}
		time.Sleep(time.Minute)
		n2.shutdown()
		if left, removed := n2.departed(); left || removed != n2.gone() {
			t.Errorf("how n2 went is not known: %v, %q", left, removed)
		}
		n2.enters(tok, "n1")
		w.until(2*time.Minute, "n2 is a member again", func() bool {
			m, _ := n1.agent.member("n2")
			return m.Status == member.Alive && n2.meets(n1) == nil && n1.meets(n2) == nil
		})
		w.ready("n1", 1)
		if n2.agent.gone.Load() != nil {
			t.Error("n2 believes that it was removed")
		}
		if _, removed := n2.departed(); removed != "" {
			t.Errorf("n2 is a member, and %s", removed)
		}
		if x, err := n2.agent.believe(old); err == nil {
			t.Errorf("what was said of its former key is taken: %+v", x)
		}
	})
}

// TestWholeRemovedCA: a host that was removed while it was off comes back after the CA was
// changed, twice: it knows none of those that there are now, and says all the same that it was
// removed, and by whom. It joins again with a token, which nothing of what it knew stands in
// the way of; and so does one that was told of its removal before.
func TestWholeRemovedCA(t *testing.T) {
	founded(t, "n1 n2 v3 v4 m5", func(t *testing.T, w *world) {
		n1 := w.host("n1")
		w.steady("n1", 1)
		w.enrolled(5)
		w.keyed(3)
		was := n1.agent.id.IssuingCA()
		w.rotateCA(api.Order{}) // so that the CA is in what they know of the members
		w.oneCA(was, w.hosts...)
		gone := []*testHost{w.host("n2"), w.host("m5")}
		var rest []*testHost
		for _, h := range w.hosts {
			if !slices.Contains(gone, h) {
				rest = append(rest, h)
			}
		}
		off, told := gone[0], gone[1]
		off.crash()
		w.missed(off.name)
		for _, h := range gone {
			w.until(time.Minute, h.name+" is removed", func() bool {
				_, err := n1.order(api.Order{Verb: api.VerbRemove, To: h.name, Why: "sold", Force: h == told})
				return err == nil || n1.agent.roll().gone(h.name)
			})
		}
		w.until(15*time.Second, told.name+" is told", func() bool { return told.says() != "" })
		knew := n1.agent.id.IssuingCA()
		for range 2 {
			former := n1.agent.id.IssuingCA()
			w.rotateCA(api.Order{})
			w.oneCA(former, rest...)
		}
		for _, h := range gone {
			if h == off {
				h.boot()
			}
			if cas, _, _ := h.onDisk(); len(cas) != 1 || cas[0] != knew {
				t.Fatalf("%s knows %v: this proves nothing", h.name, cas)
			}
			w.until(time.Minute, h.name+" says that it was removed", func() bool { return h.says() != "" })
			if got := h.says(); !strings.Contains(got, "was removed from the cluster home by ann@n1 on 2000-01-01 00:") || !strings.Contains(got, "(sold)") {
				t.Errorf("%s: %s", h.name, got)
			}
			h.shutdown()
			if h.gone() == "" {
				t.Errorf("%s has forgotten it over a restart", h.name)
			}
			h.enters(w.token("n1", api.TokenSpec{}), "n1")
		}
		w.enrolled(5)
		w.until(2*time.Minute, "they are members again", func() bool {
			for _, h := range gone {
				if m, _ := n1.agent.member(h.name); m.Status != member.Alive || h.meets(n1) != nil || n1.meets(h) != nil {
					return false
				}
			}
			return true
		})
		w.ready("n1", 1)
		for _, h := range w.hosts {
			cas, keys, by := h.onDisk()
			if len(cas) != 1 || by != cas[0] || len(keys) > 1 {
				t.Errorf("%s believes %v, has the keys of %v and a certificate by %s", h.name, cas, keys, by)
			}
		}
		// From a host's own raft log may come what was agreed on before, also about the CA.
		foreign, _ := foundCluster(t)
		ca, err := peer.LoadAuthority(filepath.Join(foreign, "pki"))
		if err != nil {
			t.Fatal(err)
		}
		old := n1.agent.quorum.State().Trust
		old.Version, old.CA.Certs = old.Version+1, [][]byte{ca.Certificate().Raw}
		if err := gone[0].agent.adopt(old); err != nil || gone[0].agent.roll().Version == old.Version {
			t.Errorf("a host believes nobody any more: %v", err)
		}
		w.undisturbed()
	})
}

// TestWholeRefusedByNobody: a member that may have refused this host, and is off since, is not
// asked for ever: the others say that this host was not removed.
func TestWholeRefusedByNobody(t *testing.T) {
	founded(t, "n1 n2 v3 m4", func(t *testing.T, w *world) {
		n1, m4 := w.host("n1"), w.host("m4")
		w.steady("n1", 1)
		w.enrolled(4)
		m4.crash()
		l, err := w.net.Listen(m4.ip + ":7947")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { // whoever calls is hung up on
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		if err := n1.meets(m4); err == nil {
			t.Error("m4 is there")
		}
		l.Close()
		<-done
		if by, refused := n1.agent.port.Refusing(); !refused || by != "m4" {
			t.Fatalf("refused by %q, %v: this proves nothing", by, refused)
		}
		w.until(2*whyTurn, "somebody else has told n1 that it was not refused", func() bool { _, refused := n1.agent.port.Refusing(); return !refused })
		if n1.agent.gone.Load() != nil {
			t.Error("n1 believes that it was removed")
		}
		w.ready("n1", 1)
	})
}

// statement is what a voter with the CA's key in a folder would say of a host.
func (w *world) statement(h *testHost, pki string) peer.Verdict {
	w.t.Helper()
	ca, err := peer.LoadAuthority(pki)
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := json.Marshal(removal{Node: h.name, Key: h.agent.id.KeySum()})
	if err != nil {
		w.t.Fatal(err)
	}
	return peer.Verdict{Statement: b, Sigs: [][]byte{ca.Sign(removalKind, b)}}
}

// gone is what was known at the start.
func (h *testHost) gone() string {
	x, err := newAgent(h.cfg, Options{Log: h.logger()}).wasRemoved() // the one that runs is busy
	if err != nil || x == nil {
		return ""
	}
	return x.text("home")
}

// TestWholeRemovedMaster: a master that was cut off while the cluster was paused goes on
// without an end; if it was removed meanwhile, it ends when it hears of it.
func TestWholeRemovedMaster(t *testing.T) {
	founded(t, "n1 n2 v3 v4", func(t *testing.T, w *world) {
		n1, n2 := w.host("n1"), w.host("n2")
		w.steady("n1", 1)
		w.enrolled(4)
		if _, err := n2.order(api.Order{Verb: api.VerbPause}); err != nil {
			t.Fatal(err)
		}
		w.until(time.Minute, "n1 knows of the pause", func() bool { return n1.leased() > 1<<60 })
		w.isolate(n1, true)
		w.missed("n1")
		w.until(time.Minute, "n1 is removed", func() bool {
			_, err := n2.order(api.Order{Verb: api.VerbRemove, To: "n1", Why: "sold"})
			return err == nil || n2.agent.roll().gone("n1")
		})
		time.Sleep(time.Minute)
		if w.master() != "n1" {
			t.Fatal("n1 does not go on: this proves nothing")
		}
		w.isolate(n1, false)
		w.until(time.Minute, "n1 has heard of it", func() bool { return n1.says() != "" })
		w.until(time.Minute, "n1 has ended its control plane", func() bool { return w.master() == "" })
		w.until(time.Minute, "n1 has no lease", func() bool { return n1.leased() == 0 })
	})
}

// What is agreed on says of a host that joined again nothing before it knows its new key.
func TestRemovalOf(t *testing.T) {
	first, second, new := []byte("first"), []byte("second"), []byte("new")
	r := roll{Removed: []quorum.Removed{{Node: "n2", Key: first, By: "ann"}, {Node: "n3"}, {Node: "n2", Key: second, By: "bob"}}}
	for _, x := range []struct {
		node string
		key  []byte
		by   string
		ok   bool
	}{{"n2", first, "ann", true}, {"n2", second, "bob", true}, {"n2", new, "", false}, {"n3", new, "", true}, {"n4", new, "", false}} {
		if got, ok := r.removalOf(x.node, x.key); ok != x.ok || got.By != x.by {
			t.Errorf("%s on the %s key: %+v, %v", x.node, x.key, got, ok)
		}
	}
	r.Members = []quorum.Enrolled{{Node: "n3", Key: new}}
	if got, ok := r.removalOf("n3", new); ok {
		t.Errorf("it is a member: %+v", got)
	}
}

// A statement that is about somebody else, or about a key that this host had before, says
// nothing of this host.
func FuzzRemoval(f *testing.F) {
	key := make([]byte, 32)
	b, err := json.Marshal(removal{"n2", key, "ann@n1", "sold", time.Unix(1, 0).UTC()})
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{string(b), `{"node":"n3"}`, `{"node":"n2","key":"AAAA"}`, `{}`, `null`, `[`, `{"node":"n2","key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","by":"\u001b[2J"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := parseRemoval(b, "n2", key)
		if err == nil && (x.Node != "n2" || !bytes.Equal(x.Key, key) || strings.ContainsAny(x.text("home"), "\x1b\n")) {
			t.Errorf("%q is taken for %+v", b, x)
		}
	})
}
