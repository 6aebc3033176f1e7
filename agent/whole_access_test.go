package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/peer"
)

// outside makes an access, and a client that uses it from a host that is no member.
func outside(t *testing.T, w *world, at string, r api.AccessRequest, to string) *api.Client {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r.PublicKey = pub
	made, err := w.host(at).agent.AccessCreate(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := &peer.Context{Cluster: made.Cluster, Name: r.Name, Role: string(r.Role), Expires: made.Access.Expires, Addresses: made.Addresses, CA: made.CA, Cert: made.Certificate, Key: der}
	text, err := file.Text()
	if err != nil {
		t.Fatal(err)
	}
	c, err := peer.ParseContext(text)
	if err != nil {
		t.Fatal(err)
	}
	c.Addresses = []string{net.JoinHostPort(w.host(to).ip, "7947")}
	c.Via = w.net.Dialer("10.99.0.77")
	cl := api.NewRemoteClient("the cluster", c.Dial)
	t.Cleanup(cl.Close)
	return cl
}

// TestWholeAccess: who was given access from outside may do what the role says, at any
// member, until it is revoked or ends.
func TestWholeAccess(t *testing.T) {
	founded(t, "n1 n2 v3", func(t *testing.T, w *world) {
		w.ready("n1", 1)
		refused := func(what string, err error, why string) {
			t.Helper()
			if err == nil || !strings.Contains(err.Error(), why) {
				t.Errorf("%s: %v, want %q", what, err, why)
			}
		}
		op := outside(t, w, "n1", api.AccessRequest{Name: "laptop", Role: api.Operator, Seconds: 3600}, "v3")
		if _, err := op.Do(t.Context(), api.Order{Verb: api.VerbPause, By: "eve", Why: "new switch"}); err != nil {
			t.Errorf("an operator cannot pause: %v", err)
		}
		w.until(10*time.Second, "the pause is known", func() bool {
			return strings.HasPrefix(w.host("n2").agent.quorum.State().Pause.By, "laptop from ")
		})
		_, err := op.Do(t.Context(), api.Order{Verb: api.VerbResume, Force: true})
		refused("resume --force as operator", err, "needs the role admin")
		_, err = op.Do(t.Context(), api.Order{Verb: api.VerbLeave})
		refused("leave as operator", err, "needs the role admin")
		_, err = op.AccessList(t.Context())
		refused("access list as operator", err, "needs the role admin")

		viewer := outside(t, w, "n1", api.AccessRequest{Name: "screen", Role: api.Viewer, Seconds: 120}, "n2")
		_, err = viewer.Do(t.Context(), api.Order{Verb: api.VerbPause})
		refused("pause as viewer", err, "needs the role operator")

		admin := outside(t, w, "n1", api.AccessRequest{Name: "phone", Role: api.Admin, Seconds: 3600, Actions: []string{"access"}}, "v3")
		l, err := admin.AccessList(t.Context())
		if err != nil || len(l.Access) != 3 || l.Access[0].Name != "laptop" {
			t.Errorf("%+v, %v", l, err)
		}
		_, err = admin.Do(t.Context(), api.Order{Verb: api.VerbLeave})
		refused("leave by an access that is limited to access", err, "not among the actions")
		if _, err := admin.AccessRevoke(t.Context(), "laptop"); err != nil {
			t.Fatal(err)
		}
		w.until(10*time.Second, "the revoked one is refused", func() bool {
			_, err := op.Status(t.Context()) // over the connection that it has
			return err != nil && strings.Contains(err.Error(), "was revoked")
		})
		w.until(10*time.Second, "the audit has it all", func() bool {
			v, err := w.host("n2").agent.Audit(t.Context())
			if err != nil || len(v.Failed) > 0 {
				return false
			}
			have := map[string]bool{}
			for _, r := range v.Records {
				have[r.Node+" "+r.By+" "+r.Action+" "+r.Target+" "+r.Outcome] = true
			}
			for _, want := range []string{
				"v3 laptop pause  done", "v3 laptop resume --force  denied", "v3 laptop leave  denied", "n2 screen pause  denied",
				"v3 phone access revoke laptop done", "v3 phone leave  denied",
			} {
				if !have[want] {
					return false
				}
			}
			terms := 0
			for _, r := range v.Records {
				if r.Action == "new term" && r.Target == "n1" && r.Term == 1 {
					terms++
				}
			}
			return terms == 1
		})
		// A new access of the same name does not bring the old file back.
		outside(t, w, "n1", api.AccessRequest{Name: "laptop", Role: api.Admin, Seconds: 3600}, "v3")
		_, err = op.Status(t.Context())
		refused("the file of an access that was given anew", err, "was revoked")
		for range 8 { // asked so often, the connection stays open until the end
			time.Sleep(20 * time.Second)
			if _, err = viewer.Status(t.Context()); err != nil {
				break
			}
		}
		refused("an access that has ended", err, "screen ended on")
		viewer.Close()
		time.Sleep(time.Second) // a certificate is good until the second is over in which it ends
		_, err = viewer.Status(t.Context())
		refused("a new connection after that", err, "by the clock of this host")
		// The arbiter signs: the CA's key need not be where a person is.
		os.Remove(filepath.Join(w.host("n2").cfg.Peer.PKIDir, "ca.key"))
		tablet := outside(t, w, "n2", api.AccessRequest{Name: "tablet", Role: api.Viewer, Seconds: 3600}, "n2")
		if _, err := tablet.Status(t.Context()); err != nil {
			t.Error(err)
		}
		os.Remove(filepath.Join(w.host(w.host("n1").agent.quorum.Leader()).cfg.Peer.PKIDir, "ca.key"))
		_, err = w.host("n1").agent.AccessCreate(t.Context(), api.AccessRequest{Name: "x", Role: api.Viewer, Seconds: 3600, PublicKey: make([]byte, 32)})
		refused("create where nobody can sign", err, "CA's key")
		for what, r := range map[string]api.AccessRequest{
			"is no role":     {Name: "x", Role: "root", Seconds: 3600, PublicKey: make([]byte, 32)},
			"10 years":       {Name: "x", Role: api.Viewer, Seconds: 1 << 40, PublicKey: make([]byte, 32)},
			"lasts from":     {Name: "x", Role: api.Viewer, PublicKey: make([]byte, 32)},
			"no ed25519":     {Name: "x", Role: api.Viewer, Seconds: 3600},
			"is no action":   {Name: "x", Role: api.Viewer, Seconds: 3600, PublicKey: make([]byte, 32), Actions: []string{"burn"}},
			"needs the role": {Name: "x", Role: api.Viewer, Seconds: 3600, PublicKey: make([]byte, 32), Actions: []string{"pause"}},
		} {
			_, err := w.host("n1").agent.AccessCreate(context.Background(), r)
			refused(what, err, what)
		}
	})
}

// TestWholeAccessAtOnce: the file of an access is good at any member as soon as its owner has
// it, wherever it was made; and one that was revoked has the arbiter asked about it now and
// then, not at each request.
func TestWholeAccessAtOnce(t *testing.T) {
	founded(t, "n1 n2 v3 m4", func(t *testing.T, w *world) {
		w.ready("n1", 1)
		var last *api.Client
		for _, at := range []string{"n1", "v3", "m4"} {
			for _, to := range []string{"m4", "n1", "n2", "v3"} {
				last = outside(t, w, at, api.AccessRequest{Name: at + "-" + to, Role: api.Operator, Seconds: 3600}, to)
				if _, err := last.Status(t.Context()); err != nil {
					t.Errorf("made at %s, used at %s at once: %v", at, to, err)
				}
			}
		}
		to := "v3"
		if w.host("n1").agent.quorum.Leader() == to {
			to = "n2"
		}
		again := outside(t, w, "n1", api.AccessRequest{Name: "again", Role: api.Viewer, Seconds: 3600}, to)
		if _, err := w.host("n1").agent.AccessRevoke(t.Context(), "again"); err != nil {
			t.Fatal(err)
		}
		w.until(time.Second, "the revoked one is refused", func() bool { _, err := again.Status(t.Context()); return err != nil })
		for range 200 {
			if _, err := again.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "was revoked") {
				t.Fatal(err)
			}
		}
		s := &w.host(to).agent.strangers
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.no) != 1 || s.asking != 0 {
			t.Errorf("%d accesses are remembered as unknown to the arbiter, %d are asked about", len(s.no), s.asking)
		}
	})
}

// TestStrangers: however often accesses are shown that nobody knows, few are asked about.
func TestStrangers(t *testing.T) {
	var s strangers
	asked := 0
	for range 1000 {
		if s.ask() {
			asked++
		}
	}
	if asked != maxAsking {
		t.Errorf("%d are asked about at once", asked)
	}
	for i := range asked {
		s.answered(fmt.Sprint(i), i > 0)
	}
	if s.refused("0") || !s.refused("1") {
		t.Error("what was not answered is refused, or what was answered is not")
	}
	for i := range 1000 {
		if s.ask() {
			s.answered(fmt.Sprint("more", i), true)
		}
	}
	if len(s.no) < maxStrangers/2 || len(s.no) > maxStrangers {
		t.Errorf("%d are remembered", len(s.no))
	}
}
