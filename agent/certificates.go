package agent

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"relevo.dev/relevo/agent/replica/files"
)

// Certificates finds out whether the control plane of the copy would be believed at the
// time now, by this host's clock: its CA is valid, and so is one of the serving
// certificates of that CA at least, where the identity has any. An error names the clock:
// on a board without a battery that is what is wrong more often.
func (d *dataset) Certificates(now time.Time) error {
	if d.ca == "" {
		return nil
	}
	var ca []*x509.Certificate
	var serving []named
	err := files.Each(d.mirror, d.identity, maxCertificate, func(path string, data []byte) error {
		list := certificates(data)
		if path == d.ca {
			ca = list
		}
		if len(list) > 0 && !list[0].IsCA && slices.Contains(list[0].ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
			serving = append(serving, named{path, list[0]})
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if ca == nil { // it lies elsewhere
		if data, err := os.ReadFile(d.ca); err == nil {
			ca = certificates(data)
		}
	}
	if d.base != "" {
		serving = nil // k3s makes those anew at its start, with the CA's key
	}
	return judgeCertificates(d.ca, ca, serving, now)
}

// maxCertificate bounds a file that is looked at.
const maxCertificate = 256 << 10

type named struct {
	path string
	*x509.Certificate
}

func certificates(data []byte) (out []*x509.Certificate) {
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			return out
		}
		if b.Type == "CERTIFICATE" {
			if c, err := x509.ParseCertificate(b.Bytes); err == nil {
				out = append(out, c)
			}
		}
	}
}

// judgeCertificates says what is wrong at now.
func judgeCertificates(caPath string, ca []*x509.Certificate, serving []named, now time.Time) error {
	var errs []error
	valid := len(ca) == 0
	for _, c := range ca {
		if err := timely(caPath, c, now); err != nil {
			errs = append(errs, err)
		} else {
			valid = true
		}
	}
	if !valid {
		return errors.Join(errs...)
	}
	errs = nil
	for _, s := range serving {
		if !slices.ContainsFunc(ca, func(c *x509.Certificate) bool { return s.CheckSignatureFrom(c) == nil }) {
			continue // of another CA: not the API's
		}
		err := timely(s.path, s.Certificate, now)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func timely(path string, c *x509.Certificate, now time.Time) error {
	clock := now.UTC().Format(time.DateTime)
	switch {
	case now.Before(c.NotBefore):
		return fmt.Errorf("%s is valid from %s on, and this host's clock says %s: set the clock", path, c.NotBefore.UTC().Format(time.DateTime), clock)
	case now.After(c.NotAfter):
		return fmt.Errorf("%s was valid until %s, and this host's clock says %s: set the clock if that is wrong, else renew the certificate", path, c.NotAfter.UTC().Format(time.DateTime), clock)
	}
	return nil
}
