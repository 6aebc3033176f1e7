package agent

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
)

// missing waits until a change of the CA waits for these hosts alone.
func (w *world) missing(names ...string) {
	w.t.Helper()
	w.until(3*time.Minute, "the change of the CA waits for them alone", func() bool {
		t := w.hosts[0].agent.quorum.State().Trust
		return t.CA.Stage == 2 && slices.Equal(t.Waiting(), names)
	})
}

// TestWholeCATwice: a member that had its certificate by the second CA is switched off before
// it hears that the first one has gone, and is back when the third one issues.
func TestWholeCATwice(t *testing.T) {
	founded(t, "n1 n2 v3 m4 m5", func(t *testing.T, w *world) {
		n1, m4, m5 := w.host("n1"), w.host("m4"), w.host("m5")
		w.enrolled(5)
		w.keyed(3)
		first := n1.agent.id.IssuingCA()
		m4.crash()
		w.missed(m4.name)
		w.rotateCA(api.Order{})
		w.missing("m4")
		second := n1.agent.id.IssuingCA()
		m5.crash() // believes the first one still
		if cas, _, by := m5.onDisk(); len(cas) != 2 || by != second {
			t.Fatalf("m5 believes %v and has a certificate by %s: this proves nothing", cas, by)
		}
		w.missed(m5.name)
		m4.boot()
		w.oneCA(first, n1, w.host("n2"), w.host("v3"), m4)
		w.rotateCA(api.Order{})
		w.missing("m5")
		m5.boot()
		w.oneCA(second, w.hosts...)
		if by := n1.agent.id.IssuedBy(); by == first {
			t.Error("the first CA issues")
		}
		w.undisturbed()
	})
}

// TestWholeCAFailover: the master is lost in the middle of a change of the CA. A standby takes
// over as always, and the change goes on.
func TestWholeCAFailover(t *testing.T) {
	founded(t, "n1 n2 v3 m4", func(t *testing.T, w *world) {
		n1, n2, m4 := w.host("n1"), w.host("n2"), w.host("m4")
		w.enrolled(4)
		w.keyed(3)
		former := n1.agent.id.IssuingCA()
		m4.crash()
		w.missed(m4.name)
		w.steady("n1", 1)
		w.rotateCA(api.Order{})
		w.missing("m4")
		n1.crash()
		w.follows("n1", 2)
		m4.boot()
		w.until(3*time.Minute, "the change ends without the old master, which had a new certificate", func() bool {
			ca := n2.agent.quorum.State().Trust.CA
			return ca.Stage == 0 && len(ca.Certs) == 1
		})
		n1.boot()
		w.oneCA(former, w.hosts...)
		w.ready("n2", 2)
	})
}

// TestWholeCAKept: the negative control. Where the former CA stays believed by mistake, what
// the tests above look at shows it.
func TestWholeCAKept(t *testing.T) {
	founded(t, "n1 n2 v3", func(t *testing.T, w *world) {
		n1 := w.host("n1")
		w.enrolled(3)
		w.keyed(3)
		loot := w.host("n2").steal()
		former := n1.agent.id.IssuingCA()
		w.rotateCA(api.Order{})
		w.oneCA(former, w.hosts...)
		if err := w.impostor(loot, "new", "10.0.0.60").knocks(n1); err == nil {
			t.Fatal("the former CA is believed")
		}
		text, err := os.ReadFile(filepath.Join(loot, "pki", "ca.crt"))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := pem.Decode(text)
		old, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		rules, err := n1.agent.roll().rules()
		if err != nil {
			t.Fatal(err)
		}
		rules.CAs = append(rules.CAs, old)
		n1.agent.id.SetRules(rules)
		if err := w.impostor(loot, "new", "10.0.0.61").knocks(n1); err != nil {
			t.Errorf("a CA that is believed is not: %v", err)
		}
	})
}
