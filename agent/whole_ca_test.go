package agent

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/peer"
)

// onDisk are the fingerprints of the CAs in a host's trust directory: those that are
// believed, those whose keys are there, and the one that signed the host's certificate.
func (h *testHost) onDisk() (cas, keys []string, by string) {
	h.w.t.Helper()
	id, err := peer.Load(h.cfg.Peer.PKIDir)
	if err != nil {
		h.w.t.Fatalf("%s: %v", h.name, err)
	}
	keys, err = peer.Authorities(h.cfg.Peer.PKIDir)
	if err != nil {
		h.w.t.Fatalf("%s: %v", h.name, err)
	}
	return id.Believes(), keys, id.IssuedBy()
}

// keyed waits until so many hosts keep the CA's key.
func (w *world) keyed(n int) {
	w.t.Helper()
	w.until(time.Minute, "the voters keep the CA's key", func() bool {
		have := 0
		for _, h := range w.hosts {
			if h.hasCA() {
				have++
			}
		}
		return have == n
	})
}

// rotateCA orders the change of the CA, at whoever is the arbiter.
func (w *world) rotateCA(o api.Order) (d api.Done) {
	w.t.Helper()
	o.Verb, o.To = api.VerbRotate, "ca"
	w.until(time.Minute, "the CA begins to be changed", func() bool {
		var err error
		if d, err = w.hosts[0].order(o); err != nil && !strings.Contains(err.Error(), "try again") {
			w.t.Fatal(err)
		}
		return err == nil
	})
	w.tell("the CA: %s", d.Text)
	return d
}

// oneCA waits until hosts have nothing of any CA but one, which is not the former.
func (w *world) oneCA(former string, hosts ...*testHost) {
	w.t.Helper()
	w.until(3*time.Minute, "the CA is changed", func() bool {
		for _, h := range hosts {
			cas, keys, by := h.onDisk()
			if len(cas) != 1 || cas[0] == former || by != cas[0] || slices.Contains(keys, former) || h.agent.id.IssuedBy() != by || len(h.agent.id.Believes()) != 1 {
				return false
			}
			if h.agent.isVoter(h.name) && len(keys) != 1 {
				return false
			}
		}
		return true
	})
}

// undisturbed makes sure that nothing of it was felt by the mastership.
func (w *world) undisturbed() {
	w.t.Helper()
	if a := w.host("n1").agent; w.master() != "n1" || a.term.Load() != 1 || len(a.quorum.State().History) != 1 {
		w.t.Errorf("the master was changed by it: %s in term %d", w.master(), a.term.Load())
	}
	for _, l := range w.story() {
		if strings.Contains(l, "does not run it any more") {
			w.t.Errorf("the control plane was stopped: %s", l)
		}
	}
}

// impostor is a host with a certificate that somebody made with a stolen key of the CA.
func (w *world) impostor(stolen string, name, ip string) *testHost {
	w.t.Helper()
	h := w.hosts[0].twin(ip, "impostor-"+name+ip)
	h.name = name
	h.cfg = testConfig(w.t, h, nil)
	text, err := peer.Invite(filepath.Join(stolen, "pki"), filepath.Join(stolen, "gossip.key"), name)
	if err == nil {
		_, err = peer.Accept(text, h.cfg.Peer.PKIDir, h.cfg.Gossip.KeyFile)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// knocks tries a host's port with the certificate that lies in the trust directory of h, and
// believes whatever it meets there: only the host may refuse.
func (h *testHost) knocks(at *testHost) error {
	h.w.t.Helper()
	cert, err := tls.LoadX509KeyPair(filepath.Join(h.cfg.Peer.PKIDir, "node.crt"), filepath.Join(h.cfg.Peer.PKIDir, "node.key"))
	if err != nil {
		h.w.t.Fatal(err)
	}
	c, err := h.w.net.Dialer(h.ip)(h.w.t.Context(), "tcp", at.ip+":7947")
	if err != nil {
		h.w.t.Fatal(err)
	}
	tc := tls.Client(c, &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, NextProtos: []string{peer.ProtoHTTP}})
	defer tc.Close()
	req, err := http.NewRequest(http.MethodPost, "http://"+at.name+pathWord, strings.NewReader("{}"))
	if err == nil {
		err = req.Write(tc)
	}
	if err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(tc), req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", res.Status)
	}
	return nil
}

// missed waits until gossip has missed a host, for all who are there.
func (w *world) missed(name string) {
	w.t.Helper()
	w.until(time.Minute, name+" is missed", func() bool {
		return !slices.ContainsFunc(w.hosts, func(h *testHost) bool {
			if h.agent == nil || h.name == name {
				return false
			}
			m, ok := h.agent.member(name)
			return ok && m.Status == member.Alive
		})
	})
}

// steal copies what a thief of a voter's card has.
func (h *testHost) steal() string {
	h.w.t.Helper()
	dir := h.dir + "-stolen"
	if err := os.MkdirAll(filepath.Join(dir, "pki"), 0o700); err != nil {
		h.w.t.Fatal(err)
	}
	for _, f := range []string{"pki/ca.crt", "pki/ca.key", "pki/node.crt", "pki/node.key", "gossip.key"} {
		b, err := os.ReadFile(filepath.Join(h.dir, f))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, f), b, 0o600)
		}
		if err != nil {
			h.w.t.Fatal(err)
		}
	}
	return dir
}

// TestWholeCA: a voter is stolen and removed, and the CA changed: the lease goes on, every
// member has a certificate of the new CA, and the stolen key opens nothing.
func TestWholeCA(t *testing.T) {
	founded(t, "n1 n2 v3 v4 m5", func(t *testing.T, w *world) {
		n1 := w.host("n1")
		w.steady("n1", 1)
		w.enrolled(5)
		w.keyed(3)
		former := n1.agent.id.IssuingCA()
		var stolen *testHost
		for _, h := range w.hosts[1:] {
			if h.hasCA() && h.name != n1.agent.quorum.Leader() {
				stolen = h
			}
		}
		loot := stolen.steal()
		tok := w.token("n1", api.TokenSpec{})
		op := outside(t, w, "n1", api.AccessRequest{Name: "laptop", Role: api.Operator, Seconds: 36000}, "n1")
		w.until(10*time.Second, "the access works", func() bool { _, err := op.Status(t.Context()); return err == nil })
		// What the CA's key is good for, until then: a name that is free. Not one that is taken.
		if err := w.impostor(loot, "new", "10.0.0.60").knocks(n1); err != nil {
			t.Errorf("with the CA's key, before it is changed: %v", err)
		}
		if err := w.impostor(loot, "m5", "10.0.0.61").knocks(n1); err == nil {
			t.Error("a certificate for a member's name on another key is believed")
		}
		if _, err := n1.order(api.Order{Verb: api.VerbRemove, To: stolen.name, Force: true}); err != nil {
			t.Fatal(err)
		}
		stolen.crash()
		d := w.rotateCA(api.Order{})
		for _, want := range []string{tok.ID(), "laptop"} {
			if !strings.Contains(d.Text, want) {
				t.Errorf("the answer says nothing of %s: %s", want, d.Text)
			}
		}
		// What was agreed on is in force a moment later on each host.
		thief := w.impostor(loot, "new", "10.0.0.62")
		w.until(time.Second, "the stolen key is good for no new name any more", func() bool { return thief.knocks(w.host(n1.agent.quorum.Leader())) != nil })
		if _, err := n1.order(api.Order{Verb: api.VerbRotate, To: "ca"}); err == nil || !strings.Contains(err.Error(), "already") {
			t.Errorf("a second change: %v", err)
		}
		rest := slices.DeleteFunc(slices.Clone(w.hosts), func(h *testHost) bool { return h == stolen })
		w.oneCA(former, rest...)
		r, err := n1.agent.Rotation(t.Context())
		if err != nil || r.CA.Stage != 0 || r.CA.CA == former || len(r.CA.Missing) > 0 {
			t.Errorf("%+v, %v", r, err)
		}
		for _, h := range rest {
			if err := w.impostor(loot, "new", "10.0.0.63").knocks(h); err == nil {
				t.Errorf("%s believes the stolen key", h.name)
			}
			for _, o := range rest {
				if o != h {
					if err := h.meets(o); err != nil {
						t.Errorf("%s does not reach %s: %v", h.name, o.name, err)
					}
				}
			}
		}
		op.Close()
		if _, err := op.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "the cluster's CA was changed") || !strings.Contains(err.Error(), "relevo access create") {
			t.Errorf("the file of an access by the former CA: %v", err)
		}
		op = outside(t, w, "m5", api.AccessRequest{Name: "laptop", Role: api.Operator, Seconds: 36000}, "m5")
		w.until(10*time.Second, "the new file works, also with a member that does not vote", func() bool { _, err := op.Status(t.Context()); return err == nil })
		m5 := w.host("m5").agent
		if l, err := m5.AccessList(t.Context()); err != nil || len(l.Access) != 1 || l.Access[0].Name != "laptop" {
			t.Errorf("%+v, %v", l, err)
		}
		if _, err := m5.AccessRevoke(t.Context(), "laptop"); err != nil {
			t.Error(err)
		}
		w.until(10*time.Second, "it is revoked there, too", func() bool {
			_, err := op.Status(t.Context())
			return err != nil && strings.Contains(err.Error(), "was revoked")
		})
		w.undisturbed()

		// The next host comes with a token of the new CA; and all survive a power cut.
		board := stolen.twin("10.0.0.70", "board")
		board.name = "v6"
		board.cfg = testConfig(t, board, stolen.cfg.Join)
		w.hosts = append(slices.Clone(rest), board)
		if _, err := board.joins(tok, board.name, "n1"); err == nil {
			t.Error("a token of the former CA lets a host in")
		}
		board.enters(w.token("m5", api.TokenSpec{}), "n1")
		w.enrolled(5)
		w.until(time.Minute, "it is a member", func() bool { return board.meets(n1) == nil && n1.meets(board) == nil })
		for _, h := range w.hosts {
			h.crash()
		}
		for _, h := range w.hosts {
			h.boot()
		}
		w.until(2*time.Minute, "there is a master again", func() bool { return w.master() == "n1" })
		// And the CA can be changed again.
		former = n1.agent.id.IssuingCA()
		w.rotateCA(api.Order{})
		w.oneCA(former, w.hosts...)
	})
}

// TestWholeCAAway: the change waits for a member that is away, 400 days long, and lets it in;
// the former CA is believed for that member alone meanwhile.
func TestWholeCAAway(t *testing.T) {
	for _, vote := range []bool{true, false} {
		if testing.Short() && !vote {
			continue
		}
		t.Run(map[bool]string{true: "a voter", false: "no voter"}[vote], func(t *testing.T) {
			founded(t, "n1 n2 v3 v4 m5", func(t *testing.T, w *world) {
				n1, away := w.host("n1"), w.host("m5")
				w.steady("n1", 1)
				w.enrolled(5)
				w.voteless()
				if vote {
					if away = w.host("v3"); !n1.agent.isVoter("v3") {
						away = w.host("v4")
					}
				}
				w.until(time.Minute, "voters keep the key", func() bool { return away.hasCA() == vote })
				former := n1.agent.id.IssuingCA()
				loot := n1.steal()
				away.crash()
				w.missed(away.name)
				w.steady("n1", 1)
				if d := w.rotateCA(api.Order{}); !strings.Contains(d.Text, away.name) {
					t.Errorf("the answer says nothing of who is away: %s", d.Text)
				}
				w.until(3*time.Minute, "only that one is missing", func() bool {
					r, err := n1.agent.Rotation(t.Context())
					return err == nil && r.CA.Stage == 2 && slices.Equal(r.CA.Missing, []string{away.name}) && len(r.CA.Behind) == 0
				})
				s, err := n1.agent.Status(t.Context())
				if err != nil || !slices.ContainsFunc(s.Problems, func(p api.Problem) bool {
					return strings.Contains(p.What, "the CA is being changed, and waits for "+away.name)
				}) {
					t.Errorf("the status says nothing of it: %+v, %v", s.Problems, err)
				}
				for _, name := range []string{"new", away.name} {
					if err := w.impostor(loot, name, "10.0.0.60").knocks(n1); err == nil {
						t.Errorf("the former CA is believed for %s on a key of a thief", name)
					}
				}
				w.undisturbed()
				for _, h := range w.hosts {
					if h != away {
						h.crash()
					}
				}
				time.Sleep(400 * day)
				for _, h := range w.hosts {
					h.boot()
				}
				w.oneCA(former, w.hosts...)
				w.until(2*time.Minute, "all are there", func() bool {
					for _, h := range w.hosts {
						if m, ok := n1.agent.member(h.name); !ok || m.Status != member.Alive || h != n1 && h.meets(n1) != nil {
							return false
						}
					}
					return w.master() != ""
				})
			})
		})
	}
}

// TestWholeCAFinish: a person ends a change that waits; who was away is refused, and comes
// back with a token.
func TestWholeCAFinish(t *testing.T) {
	founded(t, "n1 n2 v3 m4", func(t *testing.T, w *world) {
		n1, away := w.host("n1"), w.host("m4")
		w.steady("n1", 1)
		w.enrolled(4)
		w.keyed(3)
		former := n1.agent.id.IssuingCA()
		finish := api.Order{Verb: api.VerbRotate, To: "ca", Finish: true}
		if _, err := n1.order(finish); err == nil || !strings.Contains(err.Error(), "not being changed") {
			t.Errorf("the end of nothing: %v", err)
		}
		away.crash()
		w.missed("m4")
		w.rotateCA(api.Order{})
		if _, err := n1.order(finish); err == nil || !strings.Contains(err.Error(), "does not issue yet") {
			t.Errorf("too early: %v", err)
		}
		w.until(3*time.Minute, "only m4 is missing", func() bool {
			return slices.Equal(n1.agent.quorum.State().Trust.Waiting(), []string{"m4"}) && n1.agent.quorum.State().Trust.CA.Stage == 2
		})
		d, err := n1.order(finish)
		if err != nil || !strings.Contains(d.Text, "relevo token create --replace m4") {
			t.Fatalf("%+v, %v", d, err)
		}
		w.oneCA(former, n1, w.host("n2"), w.host("v3"))
		away.boot()
		time.Sleep(time.Minute)
		if err := n1.meets(away); err == nil {
			t.Error("who has the former CA's certificate is called")
		}
		if err := away.meets(n1); err == nil {
			t.Error("who has the former CA's certificate is let in")
		} else if !strings.Contains(err.Error(), "the CA") {
			t.Errorf("it is not told why: %v", err)
		}
		said := func(h *testHost) bool {
			s, err := h.agent.Status(t.Context())
			return err == nil && slices.ContainsFunc(s.Problems, func(p api.Problem) bool {
				return strings.Contains(p.What, "by a CA that this host does not know") && strings.Contains(p.Do, "relevo token create --replace "+h.name)
			})
		}
		w.until(time.Minute, "m4 says why nobody answers it", func() bool { return said(away) })
		if said(n1) || said(w.host("v3")) {
			t.Error("a member says that it does not know the CA")
		}
		away.crash()
		tok := w.token("n1", api.TokenSpec{Node: "m4", Replace: true})
		w.missed("m4")
		away.enters(tok, "n1")
		w.until(2*time.Minute, "it is back", func() bool {
			m, ok := n1.agent.member("m4")
			return ok && m.Status == member.Alive && away.meets(n1) == nil && n1.meets(away) == nil
		})
		w.undisturbed()
	})
}

// TestWholeCAArbiter: the arbiter is lost at each step of the change, with all that it alone
// had; the next one goes on by itself.
func TestWholeCAArbiter(t *testing.T) {
	for _, step := range []string{"begun", "issuing", "one renewed"} {
		if testing.Short() && step != "begun" {
			continue
		}
		t.Run(step, func(t *testing.T) {
			founded(t, "n1 n2 v3 v4 v5 m6", func(t *testing.T, w *world) {
				n1, away := w.host("n1"), w.host("m6") // so that the change has to wait
				w.steady("n1", 1)
				w.enrolled(6)
				w.keyed(5)
				former := n1.agent.id.IssuingCA()
				away.crash()
				w.missed(away.name)
				w.steady("n1", 1)
				arbiter := w.host(n1.agent.quorum.Leader())
				w.tell("the arbiter is %s, away is %s", arbiter.name, away.name)
				lost := make(chan struct{})
				go func() { // in the very moment of the step
					defer close(lost)
					for a := arbiter.agent; ; {
						changed := a.factChanged()
						ca := a.quorum.State().Trust.CA
						if step == "begun" && ca.Stage == 1 || step == "issuing" && ca.Stage == 2 || step == "one renewed" && len(ca.Renewed) > 0 {
							arbiter.unplug()
							return
						}
						<-changed
					}
				}()
				w.until(time.Minute, "it begins", func() bool {
					_, err := n1.order(api.Order{Verb: api.VerbRotate, To: "ca"})
					select {
					case <-lost: // before it could answer, it may be
						return true
					default:
						return err == nil
					}
				})
				<-lost
				dud := arbiter.agent.quorum.State().Trust.CA
				w.tell("the arbiter is lost at stage %d, renewed: %v", dud.Stage, dud.Renewed)
				arbiter.crash()
				key, err := fingerprint(dud.Certs[min(1, len(dud.Certs)-1)])
				if err != nil {
					t.Fatal(err)
				}
				spread := slices.ContainsFunc(w.hosts, func(h *testHost) bool { return h.agent != nil && slices.Contains(h.agent.caKeys(), key) })
				w.until(3*time.Minute, "the next arbiter goes on", func() bool {
					t := n1.agent.quorum.State().Trust
					return t.CA.Stage == 2 && len(t.CA.Renewed) >= 4
				})
				if now := n1.agent.quorum.State().Trust.CA.Certs; step == "begun" && !spread && slices.Equal(now[0], dud.Certs[1]) {
					t.Error("a CA issues whose key was lost with the host that made it")
				}
				arbiter.boot()
				away.boot()
				w.oneCA(former, w.hosts...)
				// An election may take longer than a lease: that is another matter.
				w.until(2*time.Minute, "there is a master", func() bool { return w.master() != "" })
			})
		})
	}
}
