package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Fuzzers of what lies behind a barrier that no fuzzer guesses: a signature, base64, a check
// symbol. What they make up is signed, or encoded, as somebody would who may.

// fill puts DER that is right where v, an object of JSON, says nothing of it. nil: it is no
// object of that kind.
func fill(text []byte, v any, set func()) []byte {
	if json.Unmarshal(text, v) != nil {
		return nil
	}
	set()
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return b
}

func armour(kind string, body []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: body})
}

// FuzzContextBody is FuzzContext inside of its armour.
func FuzzContextBody(f *testing.F) {
	dir, _ := initIn(f, "n1")
	good, err := ParseContext(contextOf(f, dir, "laptop", time.Now().Add(time.Hour)))
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{
		`{"version":1,"cluster":"home","name":"laptop","role":"admin","expires":"2027-01-01T00:00:00Z","addresses":["n1:1"]}`,
		`{"version":1,"cluster":"home","name":"laptop","addresses":["[::1]:1","10.0.0.1:99999","x"]}`,
		`{"version":1,"cluster":"\u001b[2J","name":"laptop","addresses":["n1:1"]}`,
		`{"version":2}`, `{"version":1,"addresses":[]}`, `{"version":1,"ca":"AAAA"}`, `{"version":1,"cert":"AAAA"}`, `{"version":1,"key":"AAAA"}`, `[]`, `{"x":1}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		ParseContext(armour(contextType, body))
		var c Context
		full := fill(body, &c, func() {
			if c.CA == nil && c.Cert == nil && c.Key == nil {
				c.CA, c.Cert, c.Key = good.CA, good.Cert, good.Key
			}
		})
		got, err := ParseContext(armour(contextType, full))
		if err != nil {
			return
		}
		if got.Cluster != "home" || got.Name != "laptop" || len(got.Addresses) == 0 || len(got.Addresses) > maxAddresses || got.tls == nil {
			t.Errorf("accepted %+v", got)
		}
		again, err := got.Text()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseContext(again); err != nil && len(again) <= maxFile {
			t.Errorf("%v\n%s", err, again)
		}
	})
}

// FuzzInvitationBody is FuzzInvitation inside of its armour.
func FuzzInvitationBody(f *testing.F) {
	h, id := found(f, "n1")
	good, _, err := parseInvitation(h.invite(f, "n2"))
	if err != nil {
		f.Fatal(err)
	}
	other, _ := found(f, "n1")
	foreign, _, err := parseInvitation(other.invite(f, "n2"))
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{
		`{"version":1,"cluster":"home","node":"n2"}`, `{"version":1,"cluster":"home","node":"n3"}`, `{"version":1,"cluster":"home2","node":"n2"}`,
		`{"version":1,"cluster":"home","node":"n2","gossip":"AAAA"}`, `{"version":1,"cluster":"home","node":"n2","cluster_id":"00"}`,
		`{"version":1,"ca":"AAAA"}`, `{"version":1,"cert":"AAAA"}`, `{"version":1,"key":"AAAA"}`, `{"version":9,"new":1}`, `{"version":1,"new":1}`, `[]`,
	} {
		f.Add([]byte(s), uint8(0))
	}
	for i := range uint8(8) {
		f.Add([]byte(`{"version":1,"cluster":"home","node":"n2"}`), i)
	}
	f.Fuzz(func(t *testing.T, body []byte, mixed uint8) {
		parseInvitation(armour(invitationType, body))
		var b bundle
		full := fill(body, &b, func() {
			from := func(bit int) *bundle {
				if mixed>>bit&1 == 1 {
					return foreign
				}
				return good
			}
			if b.CA == nil {
				b.CA = from(0).CA
			}
			if b.Cert == nil {
				b.Cert = from(1).Cert
			}
			if b.Key == nil {
				b.Key = from(2).Key
			}
			if b.Gossip == nil {
				b.Gossip = good.Gossip
			}
			if b.ClusterID == "" {
				b.ClusterID = good.ClusterID
			}
		})
		got, to, err := parseInvitation(armour(invitationType, full))
		if err != nil {
			return
		}
		if to.Node() != "n2" || got.Node != "n2" || to.ClusterID() != id.ClusterID() || got.Cluster != "home" || len(got.Gossip) != gossipKeySize || mixed&7 != 0 {
			t.Errorf("accepted %+v", got)
		}
	})
}

// FuzzJoinAsked: a request to join that is signed as it should be. What is proved is exactly
// what is in it.
func FuzzJoinAsked(f *testing.F) {
	tok, _ := testToken(f)
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	f.Add([]byte(`{"version":1,"token":"00000000","node":"n2"}`), "n2", "x")
	f.Add([]byte(`{"version":1,"token":"00000000","node":"n2"}`), "n3", "")
	f.Add([]byte(`{"version":2,"token":"0000000","node":"../x","csr":"AAAA"}`), "../x", "\x00")
	f.Fuzz(func(t *testing.T, body []byte, subject, exporter string) {
		var r JoinRequest
		if json.Unmarshal(body, &r) != nil {
			return
		}
		if r.CSR == nil {
			var err error
			if r.CSR, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: subject}}, key); err != nil {
				return
			}
		}
		r.exporter = []byte(exporter)
		r.Proof = ed25519.Sign(tok.signer(), r.statement())
		var w bytes.Buffer
		if writeFrame(&w, &r) != nil {
			return
		}
		var got JoinRequest
		if readFrame(&w, maxJoinRequest, &got) != nil || got.check() != nil {
			return
		}
		if got.Version != joinVersion || ValidNode(got.Node) != nil || len(got.Token) != groupSize || !got.Key().Equal(key.Public()) || got.Node != subject {
			t.Fatalf("%+v", got)
		}
		got.exporter = r.exporter
		sane := got.Token == r.Token // what is no UTF-8 is not what was signed
		if got.Proves(tok.Public()) != sane {
			t.Fatalf("proved: %v, and it was signed so: %v", !sane, sane)
		}
		for _, change := range []func(*JoinRequest){
			func(r *JoinRequest) { r.exporter = append([]byte{0}, r.exporter...) },
			func(r *JoinRequest) { r.Token = "1" + r.Token[1:] + "x" },
			func(r *JoinRequest) { r.Node += "x" },
			func(r *JoinRequest) { r.CSR = r.CSR[1:] },
			func(r *JoinRequest) { r.exporter, r.Token = append(r.exporter, r.Token[0]), r.Token[1:] },
		} {
			other := got
			if change(&other); other.Proves(tok.Public()) {
				t.Fatalf("%+v is taken for %+v", other, got)
			}
		}
	})
}

// FuzzCertificate: a certificate that the cluster's CA signed, whatever is in it, is for a
// node, for an access, or for nothing; and only for the name that is in it twice.
func FuzzCertificate(f *testing.F) {
	h, id := found(f, "n1")
	ca, err := LoadAuthority(h.dir)
	if err != nil {
		f.Fatal(err)
	}
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	tok := NewToken(id)
	me := id.ClusterID()
	f.Add("n2", "relevo://ID/n2", "", uint8(0), int16(0), int16(10))
	f.Add("n2", "relevo-access://ID/n2", "", uint8(1), int16(0), int16(10))
	f.Add("n2", "relevo-access://ID/n2", "relevo://ID/n2", uint8(0), int16(0), int16(10))
	f.Add("n2", "relevo://ID/n3", "relevo-cluster://ID", uint8(2), int16(-10), int16(-5))
	f.Add("../n2", "relevo://ID/../n2", "", uint8(0), int16(5), int16(10))
	f.Fuzz(func(t *testing.T, name, uri, uri2 string, bits uint8, from, to int16) {
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
			NotBefore: id.floor.AddDate(0, 0, int(from)), NotAfter: id.floor.AddDate(0, 0, int(to)), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		if bits&1 == 0 {
			tmpl.ExtKeyUsage = append(tmpl.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		}
		if bits&2 != 0 {
			tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, true, x509.KeyUsageCertSign
		}
		for _, s := range []string{uri, uri2} {
			if u, err := url.Parse(strings.ReplaceAll(s, "ID", me)); err == nil && s != "" {
				tmpl.URIs = append(tmpl.URIs, u)
			}
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, pub, ca.key)
		if err != nil {
			return
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		at := id.floor.AddDate(0, 0, 1)
		node, asNode := id.nodeOf(cert, at)
		access, asAccess := id.accessOf(cert, at)
		names := func(scheme, name string) bool {
			for _, u := range cert.URIs {
				if u.Scheme == scheme && u.Host == me && u.Path == "/"+name {
					return true
				}
			}
			return false
		}
		switch {
		case asNode == nil && asAccess == nil:
			t.Fatalf("%q with %v is a node and an access", name, cert.URIs)
		case asNode == nil && (node != name || ValidNode(node) != nil || !names("relevo", node) || at.Before(cert.NotBefore) || at.After(cert.NotAfter)):
			t.Fatalf("%q with %v is the node %q", name, cert.URIs, node)
		case asAccess == nil && (access.Name != name || !names(accessScheme, name) || len(cert.URIs) != 1 || bits&1 == 0 || at.Before(cert.NotBefore) || at.After(cert.NotAfter)):
			t.Fatalf("%q with %v is the access %+v", name, cert.URIs, access)
		}
		for _, err := range []error{asNode, asAccess} {
			if err != nil && (strings.ContainsAny(err.Error(), "\x1b\n") || len(err.Error()) > 1000) {
				t.Fatalf("%q", err)
			}
		}
		// As the answer to one who joins, as a CA that followed, and as that of a token.
		for _, wants := range []string{"n2", name}[bits>>7&1:] {
			reply := JoinReply{Cert: der, Gossip: make([]byte, gossipKeySize), Peers: []string{uri, uri2, "10.0.0.1:7946"}}
			if j, err := reply.joined(wants, ca.cert, key); err == nil && (wants != name || j.ClusterID() != me || len(j.Peers) > 3 || !names("relevo", name)) {
				t.Fatalf("%q with %v lets %q in as %+v", name, cert.URIs, wants, j)
			}
		}
		for _, x := range following([]*x509.Certificate{ca.cert}, me, [][]byte{der}) {
			if bits&2 == 0 || ClusterID(x) != me {
				t.Fatalf("%v is a CA that followed", x.Subject)
			}
		}
		if got, err := tok.vouchedFor([]*x509.Certificate{cert, cert, ca.cert}); err == nil && (got != ca.cert || cert.IsCA) {
			t.Fatalf("%v is taken for the CA", got.Subject)
		}
		// Nothing of it makes it a CA of a cluster: it did not sign itself.
		if CheckCA(cert) == nil {
			t.Fatalf("%v is a CA", cert.Subject)
		}
	})
}

// FuzzTokenSymbols: any symbols with a right check are a token or another version; one slip
// of the pen is found where it is, and what was meant is told.
func FuzzTokenSymbols(f *testing.F) {
	f.Add([]byte("012345678901234567890123456789012345"), uint8(0), uint8(1))
	f.Add(bytes.Repeat([]byte{2}, 36), uint8(47), uint8(31))
	f.Fuzz(func(t *testing.T, data []byte, at, other uint8) {
		if len(data) < tokenGroups*groupData {
			return
		}
		var text strings.Builder
		for g := range tokenGroups {
			group := data[g*groupData : (g+1)*groupData]
			for i := range group {
				group[i] &= 31
			}
			for _, s := range protect(g, group) {
				text.WriteByte(alphabet[s])
			}
		}
		was := text.String()
		tok, err := ParseToken(was)
		if version := data[0] >> 1; (err == nil) != (version == tokenVersion) {
			t.Fatalf("%s of version %d: %v", was, version, err)
		}
		if err == nil && strings.ReplaceAll(tok.String(), "-", "") != was {
			t.Fatalf("%s became %s", was, tok)
		}
		i, to := int(at)%tokenSymbols, alphabet[other&31]
		if was[i] == to {
			return
		}
		_, err = ParseToken(was[:i] + string(to) + was[i+1:])
		if err == nil || !strings.Contains(err.Error(), where(i)) || !strings.HasSuffix(err.Error(), "meant to be "+string(was[i])) {
			t.Fatalf("%q for %q at %s: %v", to, was[i], where(i), err)
		}
	})
}

// FuzzVerdict: nothing that somebody says of this host is believed without the signature of
// a CA that it knows or that followed one, in whatever order the CAs are told.
func FuzzVerdict(f *testing.F) {
	h, id := found(f, "n1")
	first, err := LoadAuthority(h.dir)
	if err != nil {
		f.Fatal(err)
	}
	strange, _ := found(f, "n1")
	foreign, err := LoadAuthority(strange.dir)
	if err != nil {
		f.Fatal(err)
	}
	cas, crosses := []*Authority{first}, [][]byte{first.cert.Raw}
	for range 3 {
		ca, cross, err := cas[len(cas)-1].next()
		if err != nil {
			f.Fatal(err)
		}
		cas, crosses = append(cas, ca), append(crosses, cross.Raw)
	}
	f.Add([]byte(`{"removed":true,"statement":"eA==","sigs":["AAAA"],"since":["AAAA"]}`), []byte{1, 2, 3}, uint8(3))
	f.Add([]byte(`{"statement":"eA=="}`), []byte{3, 2, 1}, uint8(3))
	f.Add([]byte(`{"statement":"eA=="}`), []byte{1, 9, 3}, uint8(4))
	f.Fuzz(func(t *testing.T, text, order []byte, by uint8) {
		var v Verdict
		frame := append([]byte{0, 0, byte(len(text) >> 8), byte(len(text))}, text...)
		if len(text) > maxVerdict || readFrame(bytes.NewReader(frame), maxVerdict, &v) != nil {
			return
		}
		if id.SignedSince(v.Since, "removal", v.Statement, v.Sigs...) {
			t.Fatalf("%q is believed", text)
		}
		reached := 0 // the newest CA to which the told ones lead
		for _, o := range order[:min(len(order), maxCrosses-len(v.Since)%maxCrosses)] {
			i := int(o) % (len(crosses) + 1)
			if i == len(crosses) {
				v.Since = append(v.Since, foreign.cert.Raw)
				continue
			}
			if len(v.Since) < maxCrosses && i <= reached+1 {
				reached = max(reached, i)
			}
			v.Since = append(v.Since, crosses[i])
		}
		signer, should := foreign, false
		if i := int(by) % (len(cas) + 1); i < len(cas) {
			signer, should = cas[i], i <= reached
		}
		v.Sigs = append(v.Sigs, signer.Sign("removal", v.Statement))
		if got := id.SignedSince(v.Since, "removal", v.Statement, v.Sigs...); got != should {
			t.Fatalf("by %d, told %v: believed %v, not %v", by, order, got, should)
		}
		if id.SignedSince(v.Since, "roll", v.Statement, v.Sigs...) || id.SignedSince(v.Since, "removal", append(v.Statement, 0), v.Sigs...) {
			t.Fatal("a signature for something else is believed")
		}
	})
}
