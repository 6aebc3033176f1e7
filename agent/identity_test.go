package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/controlplane"
	"relevo.dev/relevo/agent/replica/files"
)

// certificate makes one that names ips and ends after days.
func certificate(t *testing.T, path string, ca bool, days int, ips ...string) files.Cert {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: ca, BasicConstraintsValid: ca, NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(0, 0, days)}
	for _, ip := range ips {
		c.IPAddresses = append(c.IPAddresses, net.ParseIP(ip))
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return files.Cert{Path: path, SHA256: path, Certificate: c} // a digest is as good as a name
}

// One finding or none, told by a part of it; a leading ! blocks.
func oneFinding(t *testing.T, what string, got []controlplane.Finding, want string) {
	t.Helper()
	text, blocks := strings.CutPrefix(want, "!")
	if len(got) > 1 || (len(got) == 0) != (want == "") || len(got) == 1 && (got[0].Blocks != blocks || !strings.Contains(got[0].What, text) || got[0].Do == "") {
		t.Errorf("%s: %+v, want %q", what, got, want)
	}
}

func TestCertificatesAreJudged(t *testing.T) {
	vip := names{vip: netip.MustParseAddr("10.0.0.100"), api: "127.0.0.1", own: netip.MustParseAddr("10.0.0.2")}
	none := names{api: "127.0.0.1", own: netip.MustParseAddr("10.0.0.2")}
	now := time.Now()
	good := certificate(t, "api.crt", false, 300, "127.0.0.1", "10.0.0.100")
	ca := certificate(t, "ca.crt", true, 3000)
	for name, tc := range map[string]struct {
		certs          []files.Cert
		served         string
		n              names
		k3s            bool
		master, mirror string
	}{
		"good":                   {[]files.Cert{ca, good}, "api.crt", vip, false, "", ""},
		"without a virtual IP":   {[]files.Cert{ca, good}, "api.crt", none, false, "", "!does not name [10.0.0.2]"},
		"virtual IP not named":   {[]files.Cert{certificate(t, "api.crt", false, 300, "127.0.0.1")}, "api.crt", vip, false, "", "!api.crt, does not name [10.0.0.100]"},
		"loopback not named":     {[]files.Cert{certificate(t, "api.crt", false, 300, "10.0.0.100")}, "api.crt", vip, false, "", "!does not name [127.0.0.1]"},
		"another one lacks it":   {[]files.Cert{good, certificate(t, "kubelet.crt", false, 300)}, "api.crt", vip, false, "", ""},
		"k3s adds its own names": {[]files.Cert{certificate(t, "api.crt", false, 300)}, "api.crt", vip, true, "", ""},
		"ends soon":              {[]files.Cert{certificate(t, "api.crt", false, 29, "127.0.0.1", "10.0.0.100")}, "api.crt", vip, false, "api.crt ends on", ""},
		"ended":                  {[]files.Cert{certificate(t, "api.crt", false, -1, "127.0.0.1", "10.0.0.100")}, "api.crt", vip, false, "api.crt ended on", "!api.crt, ended on"},
		"three end":              {[]files.Cert{certificate(t, "a", false, 9), certificate(t, "b", false, 5), certificate(t, "c", false, 7)}, "", vip, false, "3 certificates, as b, ends on", ""},
		"k3s renews":             {[]files.Cert{certificate(t, "api.crt", false, -1)}, "api.crt", vip, true, "api.crt ended on", ""},
		"CA ends soon":           {[]files.Cert{certificate(t, "ca.crt", true, 80)}, "", vip, false, "CA ca.crt ends on", ""},
		"CA ended":               {[]files.Cert{certificate(t, "ca.crt", true, -1)}, "", vip, true, "CA ca.crt ended on", "!the CA ca.crt ended on"},
		"shown, not copied":      {[]files.Cert{ca}, "other", vip, false, "is not part of the identity", ""},
		"k3s keeps it elsewhere": {[]files.Cert{ca}, "other", vip, true, "", ""},
	} {
		oneFinding(t, name+" on the master", judgeIdentity(tc.certs, tc.served, tc.k3s, now), tc.master)
		oneFinding(t, name+" on a standby", judgeMirror(tc.certs, tc.served, tc.n, tc.k3s, now), tc.mirror)
	}
	oneFinding(t, "served", judgeServed(good.Certificate, vip, true, now), "")
	oneFinding(t, "served, not named", judgeServed(certificate(t, "x", false, 300, "127.0.0.1").Certificate, vip, true, now), "does not name [10.0.0.100]")
	oneFinding(t, "served, ends", judgeServed(certificate(t, "x", false, 3, "127.0.0.1", "10.0.0.100").Certificate, vip, true, now), "ends on")
}
