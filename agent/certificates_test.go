package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"
)

func TestCertificates(t *testing.T) {
	at := func(s string) time.Time {
		when, err := time.Parse(time.DateOnly, s)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	make := func(from, to string, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: at(from), NotAfter: at(to), BasicConstraintsValid: true}
		if ca == nil {
			c.IsCA, c.KeyUsage, ca, caKey = true, x509.KeyUsageCertSign, c, key
		} else {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}
		der, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		if c, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		return c, key
	}
	ca, key := make("2026-01-01", "2036-01-01", nil, nil)
	foreign, foreignKey := make("2026-01-01", "2036-01-01", nil, nil)
	server, _ := make("2026-01-01", "2027-01-01", ca, key)
	renewed, _ := make("2026-12-01", "2028-01-01", ca, key)
	other, _ := make("2020-01-01", "2021-01-01", foreign, foreignKey)
	one := []named{{"/pki/apiserver.crt", server}, {"/pki/other.crt", other}}
	both := append(one, named{"/pki/new.crt", renewed})
	for _, tt := range []struct {
		what    string
		ca      []*x509.Certificate
		serving []named
		now     string
		want    string
	}{
		{"all is well", []*x509.Certificate{ca}, one, "2026-06-01", ""},
		{"no RTC", []*x509.Certificate{ca}, one, "1970-01-02", "this host's clock says 1970-01-02"},
		{"expired", []*x509.Certificate{ca}, one, "2027-06-01", "/pki/apiserver.crt was valid until 2027-01-01"},
		{"expired, and one was renewed", []*x509.Certificate{ca}, both, "2027-06-01", ""},
		{"a CA that was renewed", []*x509.Certificate{foreign, ca}, nil, "2026-06-01", ""},
		{"the CA has ended", []*x509.Certificate{ca}, nil, "2037-01-01", "ca.crt was valid until 2036"},
		{"the API makes its own", []*x509.Certificate{ca}, nil, "2026-06-01", ""},
		{"no CA here", nil, one, "1970-01-02", ""},
	} {
		err := judgeCertificates("/pki/ca.crt", tt.ca, tt.serving, at(tt.now))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.what, err, tt.want)
		}
	}
}
