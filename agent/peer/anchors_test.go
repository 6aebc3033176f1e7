package peer

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// meeting is a handshake of two members, and what each says of the other.
func meeting(t *testing.T, client, server *Identity, reckless bool) (atClient, atServer error) {
	t.Helper()
	lab := newLab()
	l, err := lab.Listen("s:1")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		b, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer b.Close()
		s := tls.Server(b, server.ServerTLS(ProtoHTTP))
		if err = s.Handshake(); err == nil {
			_, err = s.Write([]byte{1})
		}
		done <- err
	}()
	a, err := lab.dialer("c")(t.Context(), "tcp", "s:1")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	cfg := client.ClientTLS(server.Node(), ProtoHTTP)
	if reckless {
		cfg.VerifyConnection = nil
	}
	c := tls.Client(a, cfg)
	if err = c.Handshake(); err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	return err, <-done
}

func understand(t *testing.T, what string, a, b *Identity) {
	t.Helper()
	for _, p := range [][2]*Identity{{a, b}, {b, a}} {
		if err1, err2 := meeting(t, p[0], p[1], false); err1 != nil || err2 != nil {
			t.Errorf("%s: %s calls %s: %v; %v", what, p[0].Node(), p[1].Node(), err1, err2)
		}
	}
}

// changing is a cluster whose CA is changed; n1 votes.
type changing struct {
	t          *testing.T
	home       host
	ids        map[string]*Identity
	dirs       map[string]host
	old        *Authority
	next       *x509.Certificate
	cross      *x509.Certificate
	keys       map[string][]byte
	everywhere []string // who hears of each step
}

func newChanging(t *testing.T) *changing {
	h, n1 := found(t, "n1")
	c := &changing{t: t, home: h, ids: map[string]*Identity{"n1": n1}, dirs: map[string]host{"n1": h}, keys: map[string][]byte{}}
	for _, n := range []string{"n2", "away"} {
		to := newHost(t)
		id, err := Accept(h.invite(t, n), to.dir, to.gossip)
		if err != nil {
			t.Fatal(err)
		}
		c.ids[n], c.dirs[n] = id, to
	}
	for n, id := range c.ids {
		c.keys[n] = id.KeySum()
	}
	for _, id := range c.ids {
		id.SetRules(Rules{Keys: c.keys})
	}
	c.everywhere = []string{"n1", "n2"}
	var err error
	if c.old, err = LoadAuthority(h.dir); err != nil {
		t.Fatal(err)
	}
	if c.next, c.cross, err = NextAuthority(h.dir); err != nil {
		t.Fatal(err)
	}
	return c
}

// rules of a stage; waiting have no certificate of the new CA yet.
func (c *changing) rules(stage int, waiting ...string) Rules {
	r := Rules{Keys: c.keys, CAs: []*x509.Certificate{c.old.cert, c.next}, Former: c.old.cert, Cross: c.cross, Waiting: map[string]bool{}}
	for _, w := range waiting {
		r.Waiting[w] = true
	}
	switch stage {
	case 2:
		r.CAs = []*x509.Certificate{c.next, c.old.cert}
	case 3:
		r.CAs, r.Former, r.Cross = []*x509.Certificate{c.next}, nil, nil
	}
	return r
}

func (c *changing) hears(node string, r Rules) {
	c.t.Helper()
	if err := WriteCAs(c.dirs[node].dir, r.CAs); err != nil {
		c.t.Fatal(err)
	}
	c.ids[node].SetRules(r)
}

func (c *changing) renews(node string) {
	c.t.Helper()
	ca, err := LoadAuthority(c.home.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	if !c.ids[node].Outdated() {
		c.t.Errorf("%s does not know that its certificate is of the former CA", node)
	}
	if err := c.ids[node].Renew(c.dirs[node].dir, c.ids[node].Recertify(ca)); err != nil {
		c.t.Fatal(err)
	}
	again, err := Load(c.dirs[node].dir)
	if err != nil || again.IssuedBy() != Fingerprint(c.next) || c.ids[node].Outdated() {
		c.t.Errorf("%s on disk: %v", node, err)
	}
}

// TestChangeOfCA: at no step are there two members that do not understand each other, also
// with one that was away for all of it; and who has the former CA's key is nobody.
func TestChangeOfCA(t *testing.T) {
	c := newChanging(t)
	n1, n2, away := c.ids["n1"], c.ids["n2"], c.ids["away"]
	if id := ClusterID(c.next); id != n1.ClusterID() || Fingerprint(c.next) == id || CheckCA(c.next) != nil {
		t.Fatalf("the new CA is of the cluster %s, the old one of %s", id, n1.ClusterID())
	}
	all := func(what string) {
		t.Helper()
		understand(t, what, n1, n2)
		understand(t, what, n1, away)
		understand(t, what, n2, away)
	}
	// thief has the old CA's key: certificates of a name that is free, and of a member.
	thief := func(name string) *Identity {
		b, err := c.old.bundle(name, make([]byte, gossipKeySize))
		if err != nil {
			t.Fatal(err)
		}
		_, cert, key, err := b.parts()
		if err != nil {
			t.Fatal(err)
		}
		id, err := newIdentity([]*x509.Certificate{c.old.cert}, cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	refused := func(what string, who *Identity, at *Identity, why error) {
		t.Helper()
		if _, err := meeting(t, who, at, true); !errors.Is(err, why) {
			t.Errorf("%s: %s refuses with %v, want %v", what, at.Node(), err, why)
		}
	}
	if _, err := meeting(t, thief("new"), n1, false); err != nil {
		t.Errorf("before the change: %v; an invitation would not work", err)
	}
	refused("before the change", thief("n2"), n1, ErrOtherKey)
	all("before")
	c.hears("n1", c.rules(1, "n1", "n2", "away"))
	all("one believes both")
	c.hears("n2", c.rules(1, "n1", "n2", "away"))
	all("two believe both")
	refused("both are believed", thief("new"), n1, ErrFormerCA)
	c.hears("n1", c.rules(2, "n1", "n2", "away"))
	all("one knows that the new one issues")
	c.renews("n1")
	all("one has a certificate by the new one")
	c.hears("n2", c.rules(2, "n2", "away"))
	c.renews("n2")
	all("two have")
	c.hears("n1", c.rules(2, "away"))
	all("only who was away has an old one")
	// What the CA says: old members believe the old one, others the new one alone.
	text := []byte("x")
	cas, err := LoadAuthorities(c.home.dir)
	if err != nil || len(cas) != 2 || cas[0].Certificate().Equal(c.old.cert) {
		t.Fatalf("%d keys, %v", len(cas), err)
	}
	byNew, byOld := cas[0].Sign("roll", text), cas[1].Sign("roll", text)
	if !away.Signed("roll", text, byNew, byOld) || away.Signed("roll", text, byNew) || !n1.Signed("roll", text, byNew) || n1.Signed("roll", text, byOld) {
		t.Error("signatures")
	}
	refused("the new one issues", thief("new"), n1, ErrFormerCA)
	refused("the new one issues", thief("n2"), n1, ErrOtherKey)
	stolen := thief("n2")
	stolen.key = n2.key // and n2's key, from its card
	cert, err := c.old.Certify("n2", n2.key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	stolen.use(cert)
	refused("a member that has a new one", stolen, n1, ErrFormerCA)

	// Who was away had heard of another new CA, whose key was lost.
	dud, duds, err := c.old.next()
	if err != nil {
		t.Fatal(err)
	}
	lost := c.rules(1, "n1", "n2", "away")
	lost.CAs, lost.Cross = []*x509.Certificate{c.old.cert, dud.cert}, duds
	c.hears("away", lost)
	all("another new one was begun with")
	// Who was away is back.
	c.hears("away", c.rules(2, "away"))
	c.renews("away")
	all("all have")
	for n := range c.ids {
		c.hears(n, c.rules(3))
		if err := PruneAuthority(c.dirs[n].dir); err != nil {
			t.Error(err)
		}
		all("the old one goes")
		if _, err := Load(c.dirs[n].dir); err != nil {
			t.Error(err)
		}
	}
	refused("afterwards", thief("new"), n1, ErrUnknownCA)
	refused("afterwards", stolen, n1, ErrUnknownCA)
	if n1.Signed("roll", text, byOld) {
		t.Error("the old one's signature counts")
	}
	// A CA that the thief made, and for which the old one vouches.
	mine, cross, err := c.old.next()
	if err != nil {
		t.Fatal(err)
	}
	evil := thief("evil")
	leaf, err := mine.Certify("evil", evil.key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	evil.rules.Store(&Rules{Cross: cross})
	evil.use(leaf)
	if len(evil.own.Load().chain.Certificate) != 2 {
		t.Fatal("the thief does not show what it could")
	}
	refused("afterwards, by a CA of the thief's", evil, n1, ErrUnknownCA)
	c.hears("n1", c.rules(2, "away"))
	refused("meanwhile, by a CA of the thief's", evil, n1, ErrUnknownCA)
	c.hears("n1", c.rules(1, "n1", "n2", "away"))
	refused("at its beginning, by a CA of the thief's", evil, n1, ErrFormerCA)
	c.hears("n1", c.rules(3))
	if keys, err := Authorities(c.home.dir); err != nil || !slices.Equal(keys, []string{Fingerprint(c.next)}) {
		t.Errorf("keys of CAs that are left: %v, %v", keys, err)
	}
	// And once more: the second change is as the first.
	next2, _, err := NextAuthority(c.home.dir)
	if err != nil || ClusterID(next2) != n1.ClusterID() {
		t.Errorf("the CA after that: %v", err)
	}
}

// TestChangedCAAndTokens: a token is of one CA; who belongs to the cluster by the former one
// enters anew with a token of the next, and not another cluster.
func TestChangedCAAndTokens(t *testing.T) {
	c := newChanging(t)
	n1 := c.ids["n1"]
	was := NewToken(n1)
	c.hears("n1", c.rules(2, "n2", "away"))
	c.renews("n1")
	now := NewToken(n1)
	own := n1.own.Load()
	chain := []*x509.Certificate{own.chain.Leaf, own.issuer}
	if _, err := now.vouchedFor(chain); err != nil {
		t.Error(err)
	}
	if _, err := was.vouchedFor(chain); !errors.Is(err, ErrImpostor) {
		t.Errorf("a token of the former CA: %v", err)
	}
	if !strings.HasPrefix(Fingerprint(c.next), now.ClusterPrefix()) {
		t.Errorf("the token is for %s", now.ClusterPrefix())
	}
	away := c.dirs["away"]
	_, stranger := found(t, "n1")
	for name, h := range map[string]host{"away, with the former CA": away, "home, with both": c.home, "a bare one": newHost(t)} {
		elsewhere, err := mayJoin(JoinConfig{Token: now, Dir: h.dir, Gossip: h.gossip})
		if err == nil {
			err = elsewhere(c.next)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A token of another cluster, of which nothing is known before it answers.
	elsewhere, err := mayJoin(JoinConfig{Token: NewToken(stranger), Dir: away.dir, Gossip: away.gossip})
	if err != nil {
		t.Fatal(err)
	}
	wants(t, elsewhere(stranger.issuing()), "already belongs to a cluster", "the token is for another", away.dir)
	_, err = Accept(c.home.invite(t, "away"), away.dir, away.gossip)
	wants(t, err, "the CA was changed", away.dir)
	// Accepting one that is of a CA among those believed leaves the others.
	if _, err := Accept(c.home.invite(t, "n1"), c.home.dir, c.home.gossip); err != nil {
		t.Error(err)
	}
	if cas, err := readCerts(filepath.Join(c.home.dir, caCertFile)); err != nil || len(cas) != 2 {
		t.Errorf("%d CAs, %v", len(cas), err)
	}
}

// TestRenewedWithAnotherClock: a certificate by the new CA is taken also if it ends before the
// present one, by the clock of the host that made it: without it this host would be refused.
func TestRenewedWithAnotherClock(t *testing.T) {
	c := newChanging(t)
	n2 := c.ids["n2"]
	c.hears("n1", c.rules(2, "n1", "n2", "away"))
	ca, err := LoadAuthority(c.home.dir)
	if err != nil {
		t.Fatal(err)
	}
	early, err := ca.issueFor("n2", n2.key.Public(), ca.cert.NotBefore, n2.Ends().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if err := n2.Renew(c.dirs["n2"].dir, early.Raw); err == nil {
		t.Error("a certificate by a CA that is not believed yet is taken")
	}
	c.hears("n2", c.rules(2, "n2", "away"))
	if err := n2.Renew(c.dirs["n2"].dir, early.Raw); err != nil {
		t.Error(err)
	}
	earlier, err := ca.issueFor("n2", n2.key.Public(), ca.cert.NotBefore, n2.Ends().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	wants(t, n2.Renew(c.dirs["n2"].dir, earlier.Raw), "before the present one")
}

// TestChangedCAAndAccess: the file of an access works until the former CA goes, and says
// then why not.
func TestChangedCAAndAccess(t *testing.T) {
	c := newChanging(t)
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	cert, ca, err := IssueAccess(c.home.dir, "laptop", pub, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := (&Context{Cluster: "home", Name: "laptop", Role: "viewer", Addresses: []string{"n1:1"}, CA: ca.Raw, Cert: cert.Raw, Key: der}).Text()
	if err != nil {
		t.Fatal(err)
	}
	dial := func() error {
		lab := newLab()
		_, stop := lab.port(t, c.ids["n1"], "n1", nil)
		defer stop()
		x, err := ParseContext(text)
		if err != nil {
			t.Fatal(err)
		}
		x.Via = lab.dialer("laptop")
		conn, err := x.Dial(t.Context())
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := dial(); err != nil {
		t.Error(err)
	}
	c.hears("n1", c.rules(2, "n1", "n2", "away"))
	c.renews("n1")
	if err := dial(); err != nil {
		t.Errorf("while the former CA is believed: %v", err)
	}
	c.hears("n1", c.rules(3))
	wants(t, dial(), "the cluster's CA was changed", "relevo access create")
	// One key, one access: not even the CA can make a second certificate for it.
	again, _, err := IssueAccess(c.home.dir, "laptop", make([]byte, 32), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	again.SerialNumber = cert.SerialNumber
	if AccessSerial(again) == AccessSerial(cert) || len(AccessSerial(cert)) > 64 {
		t.Errorf("the serial %s does not hang on the key", AccessSerial(cert))
	}
}

func TestKeysOfCAs(t *testing.T) {
	c := newChanging(t)
	keys, err := ExportAuthorities(c.home.dir)
	if err != nil || len(keys) != 2 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	to := c.dirs["n2"].dir
	if have, err := Authorities(to); err != nil || len(have) != 0 {
		t.Errorf("%v, %v", have, err)
	}
	if err := KeepAuthority(to, keys...); err != nil {
		t.Fatal(err)
	}
	have, err := Authorities(to)
	if err != nil || !slices.Equal(have, []string{Fingerprint(c.old.cert)}) {
		t.Errorf("kept without being believed: %v, %v", have, err)
	}
	if err := WriteCAs(to, []*x509.Certificate{c.next, c.old.cert}); err != nil {
		t.Fatal(err)
	}
	_, err = LoadAuthority(to)
	wants(t, err, "a voter gets it from the others")
	if err := KeepAuthority(to, keys...); err != nil {
		t.Fatal(err)
	}
	if a, err := LoadAuthority(to); err != nil || !a.cert.Equal(c.next) {
		t.Errorf("%v", err)
	}
	_, stranger, _ := ed25519.GenerateKey(rand.Reader)
	der, _ := x509.MarshalPKCS8PrivateKey(stranger)
	wants(t, KeepAuthority(to, der), "not the key of this cluster's CA")
	wants(t, KeepAuthority(to, []byte("x")), "the CA's key")
	if err := WriteCAs(to, []*x509.Certificate{c.next}); err != nil {
		t.Fatal(err)
	}
	if err := PruneAuthority(to); err != nil {
		t.Fatal(err)
	}
	if have, err := Authorities(to); err != nil || !slices.Equal(have, []string{Fingerprint(c.next)}) {
		t.Errorf("%v, %v", have, err)
	}
	if st, err := os.Stat(filepath.Join(to, CAKeyFile)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
}

// TestCAsThatNobodyAgreedOn: a change that is ordered again and again, and never agreed on,
// leaves a file of keys that can be read.
func TestCAsThatNobodyAgreedOn(t *testing.T) {
	dir := t.TempDir()
	if _, err := Init(dir, filepath.Join(t.TempDir(), "gossip.key"), "home", "n1"); err != nil {
		t.Fatal(err)
	}
	first, err := Authorities(dir)
	if err != nil {
		t.Fatal(err)
	}
	var last string
	for range 20 {
		ca, _, err := NextAuthority(dir)
		if err != nil {
			t.Fatal(err)
		}
		last = Fingerprint(ca)
	}
	have, err := Authorities(dir)
	if err != nil || have[0] != first[0] || have[len(have)-1] != last || len(have) != keepProposed+2 {
		t.Errorf("%v, %v: the first is %s, the newest %s", have, err, first, last)
	}
}
