package agent

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"

	"relevo.dev/relevo/agent/peer"
)

// FuzzRoll: of the certificates in a roll, which a fuzzer does not make up, the short ones
// stand for a CA, the one that follows it, and its key signed by the first.
func FuzzRoll(f *testing.F) {
	f.Add([]byte(`{"version":3,"members":[{"node":"n1","key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","at":"2026-01-01T00:00:00Z"}],"removed":[{"node":"n2","at":"2026-01-01T00:00:00Z"}]}`))
	f.Add([]byte(`{"version":1,"members":null,"gossip":{"keys":["AAAA"],"stage":9}}`))
	for stage := range 4 {
		f.Add(fmt.Appendf(nil, `{"version":2,"members":[{"node":"n1","key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}],"ca":{"certs":["AA==","AQ=="],"cross":"Ag==","stage":%d,"renewed":["n1","n2"],"past":["Ag=="]}}`, stage))
		f.Add(fmt.Appendf(nil, `{"version":2,"members":null,"ca":{"certs":["AA=="],"stage":%d}}`, stage))
	}
	dir := f.TempDir()
	id, err := peer.Init(filepath.Join(dir, "pki"), filepath.Join(dir, "gossip.key"), "home", "m1")
	if err != nil {
		f.Fatal(err)
	}
	first, err := peer.LoadAuthority(filepath.Join(dir, "pki"))
	if err != nil {
		f.Fatal(err)
	}
	next, cross, err := peer.NextAuthority(filepath.Join(dir, "pki"))
	if err != nil {
		f.Fatal(err)
	}
	real := [][]byte{first.Certificate().Raw, next.Raw, cross.Raw}
	f.Fuzz(func(t *testing.T, b []byte) {
		var made roll
		if json.Unmarshal(b, &made) == nil {
			put := func(der *[]byte) {
				if len(*der) == 1 {
					*der = real[int((*der)[0])%len(real)]
				}
			}
			for i := range made.CA.Certs {
				put(&made.CA.Certs[i])
			}
			for i := range made.CA.Past {
				put(&made.CA.Past[i])
			}
			put(&made.CA.Cross)
			if full, err := json.Marshal(made); err == nil {
				b = full
			}
		}
		r, err := parseRoll(b)
		if err != nil {
			return
		}
		for _, m := range r.Members {
			if !r.has(m.Node, m.Key) || r.gone(m.Node) {
				t.Errorf("%+v", m)
			}
		}
		rules, err := r.rules()
		if err != nil {
			return
		}
		if len(rules.CAs) != len(r.CA.Certs) || (r.CA.Stage > 0) != (rules.Former != nil) || len(rules.CAs) > 2 {
			t.Errorf("%d CAs of %d, former %v in stage %d", len(rules.CAs), len(r.CA.Certs), rules.Former != nil, r.CA.Stage)
		}
		for _, n := range r.trust().Waiting() {
			if !rules.Waiting[n] {
				t.Errorf("%s is not waited for", n)
			}
		}
		// What is in force never leaves this host without anybody to believe.
		id.SetRules(rules)
		if len(id.Believes()) == 0 || id.IssuingCA() == "" {
			t.Error("nobody is believed")
		}
	})
}
