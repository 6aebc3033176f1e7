package peer

import (
	"crypto/x509"
	"fmt"
	"path/filepath"
	"time"
)

// Due says whether two thirds of the life of this host's certificate are over.
func (i *Identity) Due(now time.Time) bool {
	if now.Before(i.floor) {
		now = i.floor
	}
	return i.Ends().Sub(now) < renewAhead
}

// Outdated says whether this host's certificate is not of the CA that issues now.
func (i *Identity) Outdated() bool { return !i.own.Load().issuer.Equal(i.issuing()) }

// Renew puts another certificate in the place of this host's, on the same key, for all
// connections that are opened from now on; dir is the trust directory.
func (i *Identity) Renew(dir string, der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("the new certificate: %w", err)
	}
	node, err := i.nodeAt(cert, i.floor, nil)
	if err != nil {
		return fmt.Errorf("the new certificate: %w", err)
	}
	if node != i.node || !belong(i.key, cert) {
		return fmt.Errorf("the new certificate is for %.80q, or for another key", node)
	}
	if cert.NotAfter.Before(i.Ends()) && !i.Outdated() {
		return fmt.Errorf("the new certificate ends on %s, before the present one: is the clock of the host that made it right?", day(cert.NotAfter))
	}
	if err := writeCert(filepath.Join(dir, nodeCertFile), cert); err != nil {
		return fmt.Errorf("write the new certificate: %w", err)
	}
	i.use(cert)
	return nil
}

// Recertify makes the next certificate of this host, where the CA's key is.
func (i *Identity) Recertify(a *Authority) []byte {
	der, err := a.Renewed(i.leaf())
	if err != nil {
		return nil // Renew says so
	}
	return der
}
