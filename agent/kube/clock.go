package kube

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// explain adds to an error about a certificate's time what this host's clock says: on a
// board without a battery the clock is more often wrong than the certificate.
func explain(err error, now time.Time) error {
	var bad x509.CertificateInvalidError
	if !errors.As(err, &bad) || bad.Reason != x509.Expired {
		return err
	}
	return fmt.Errorf("%w; this host's clock says %s: if that is wrong, set it (timedatectl), else renew the certificate", err, now.UTC().Format(time.DateTime))
}
