package peer

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
)

// The CA can be changed. The cluster keeps its ID, which later CAs have in their
// certificates, and for a while there are two: the one that goes is believed for the members
// that have no certificate of the other yet. A member that was away meanwhile knows only the
// former one: the others show it, beside their certificate, the new CA's key signed by the
// former (RFC 4210 calls that NewWithOld).

// shown is what this host presents.
type shown struct {
	chain  tls.Certificate
	issuer *x509.Certificate
}

// clusterScheme is that of the URI in the certificate of a CA that is not the first:
// relevo-cluster://CLUSTER-ID.
const clusterScheme = "relevo-cluster"

// ClusterID of the cluster of a CA: the [Fingerprint] of its first one. Two clusters with
// the same name differ in it.
func ClusterID(ca *x509.Certificate) string {
	if len(ca.URIs) == 1 && ca.URIs[0].Scheme == clusterScheme {
		return ca.URIs[0].Host
	}
	return Fingerprint(ca)
}

// Fingerprint of a CA: the first 16 bytes of the SHA-256 of its public key (SPKI), in hex.
func Fingerprint(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:16])
}

// CheckCA makes sure that a certificate is a CA's of a cluster.
func CheckCA(ca *x509.Certificate) error {
	if _, ok := ca.PublicKey.(ed25519.PublicKey); !ok || !ca.IsCA || ca.CheckSignatureFrom(ca) != nil {
		return errors.New("the CA certificate is none that `relevo init` makes")
	}
	if err := validLabel("cluster", ca.Subject.CommonName); err != nil {
		return fmt.Errorf("the CA certificate: %w", err)
	}
	if id, err := hex.DecodeString(ClusterID(ca)); err != nil || len(id) != 16 {
		return fmt.Errorf("the CA certificate names the cluster %.40q, which is no ID of one", ClusterID(ca))
	}
	return nil
}

// cas are those that are believed now, the one that issues first.
func (i *Identity) cas() []*x509.Certificate {
	if r := i.rules.Load(); r != nil && len(r.CAs) > 0 {
		return r.CAs
	}
	return i.files
}

func (i *Identity) issuing() *x509.Certificate { return i.cas()[0] }

// IssuingCA is the fingerprint of the CA that issues now, as this host knows.
func (i *Identity) IssuingCA() string { return Fingerprint(i.issuing()) }

// BelievesAny says whether one of cas is believed here.
func (i *Identity) BelievesAny(cas []*x509.Certificate) bool {
	return slices.ContainsFunc(i.cas(), func(own *x509.Certificate) bool { return slices.ContainsFunc(cas, own.Equal) })
}

// Believes are the fingerprints of the CAs that this host believes.
func (i *Identity) Believes() (out []string) {
	for _, ca := range i.cas() {
		out = append(out, Fingerprint(ca))
	}
	return out
}

// IssuedBy is the fingerprint of the CA that signed this host's certificate.
func (i *Identity) IssuedBy() string { return Fingerprint(i.own.Load().issuer) }

func (i *Identity) leaf() *x509.Certificate { return i.own.Load().chain.Leaf }

// use presents a certificate from now on.
func (i *Identity) use(cert *x509.Certificate) {
	own := &shown{chain: tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: i.key, Leaf: cert}}
	for _, ca := range i.cas() {
		if cert.CheckSignatureFrom(ca) == nil {
			own.issuer = ca
			break
		}
	}
	if own.issuer == nil {
		// Its CA is believed no more. It is shown all the same: the others say why not.
		own.issuer = &x509.Certificate{}
	}
	if r := i.rules.Load(); r != nil && r.Cross != nil && cert.CheckSignatureFrom(r.Cross) == nil {
		own.chain.Certificate = append(own.chain.Certificate, r.Cross.Raw)
	}
	i.own.Store(own)
}

// issuer is the CA of a certificate, whatever the time: one that is believed; or one that is
// not known here, for which the one that issues, as far as this host knows, vouches in via.
func (i *Identity) issuer(cert *x509.Certificate, via []*x509.Certificate) (*x509.Certificate, error) {
	cas := i.cas()
	for _, ca := range cas {
		if cert.CheckSignatureFrom(ca) == nil {
			return ca, nil
		}
	}
	if len(via) > 0 {
		if x := via[0]; x.IsCA && x.CheckSignatureFrom(cas[0]) == nil && ClusterID(x) == i.id && cert.CheckSignatureFrom(x) == nil {
			return x, nil
		}
	}
	if slices.ContainsFunc(cert.URIs, func(u *url.URL) bool { return u.Host == i.id }) {
		return nil, fmt.Errorf("%w %s (%.8s…)", ErrUnknownCA, i.cluster, i.id)
	}
	return nil, fmt.Errorf("not a certificate of the cluster %s (%.8s…): %w", i.cluster, i.id, x509.UnknownAuthorityError{Cert: cert})
}

// ErrUnknownCA says that a certificate names this cluster, and is not of a CA that is known
// here: one of the two sides missed that the CA was changed; or somebody pretends.
var ErrUnknownCA = errors.New("a certificate by a CA that is not known here, for the cluster")

// Signed says whether the CA signed a statement: the one that issues, or, as long as that
// one does not issue yet, also the one that comes.
func (i *Identity) Signed(what string, statement []byte, signatures ...[]byte) bool {
	return anySigned(i.speaking(), what, statement, signatures)
}

// SignedSince is Signed, also by a CA that followed meanwhile, as crosses prove; see
// [Verdict].
func (i *Identity) SignedSince(crosses [][]byte, what string, statement []byte, signatures ...[]byte) bool {
	cas := i.speaking()
	return anySigned(append(cas, following(cas, i.id, crosses)...), what, statement, signatures)
}

// speaking are the CAs whose word counts here.
func (i *Identity) speaking() (out []*x509.Certificate) {
	r := i.rules.Load()
	for n, ca := range i.cas() {
		if n > 0 && r != nil && ca.Equal(r.Former) {
			continue // it signs nothing any more
		}
		out = append(out, ca)
	}
	return out
}

func anySigned(cas []*x509.Certificate, what string, statement []byte, signatures [][]byte) bool {
	return slices.ContainsFunc(cas, func(ca *x509.Certificate) bool {
		return slices.ContainsFunc(signatures, func(sig []byte) bool {
			return ed25519.Verify(ca.PublicKey.(ed25519.PublicKey), signed(what, statement), sig)
		})
	})
}

// following are the CAs that followed one of cas, as crosses (DER, the oldest first) prove:
// each is the key of a CA of the cluster, signed by the one before.
func following(cas []*x509.Certificate, cluster string, crosses [][]byte) (out []*x509.Certificate) {
	for _, der := range crosses[:min(len(crosses), maxCrosses)] {
		x, err := x509.ParseCertificate(der)
		if err != nil || !x.IsCA || ClusterID(x) != cluster {
			continue
		}
		if _, ok := x.PublicKey.(ed25519.PublicKey); !ok {
			continue
		}
		by := func(ca *x509.Certificate) bool { return x.CheckSignatureFrom(ca) == nil }
		if slices.ContainsFunc(cas, by) || slices.ContainsFunc(out, by) {
			out = append(out, x)
		}
	}
	return out
}

// maxCrosses is how many changes of the CA are followed.
const maxCrosses = 32

// next makes the CA that follows this one, and its key signed by this one.
func (a *Authority) next() (*Authority, *x509.Certificate, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	// It begins when the first one did: no clock that was right for that one is wrong now.
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: a.cert.Subject.CommonName, Organization: []string{"relevo"}},
		NotBefore: a.cert.NotBefore, NotAfter: notAfter, URIs: []*url.URL{{Scheme: clusterScheme, Host: ClusterID(a.cert)}},
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	sign := func(parent *x509.Certificate, by ed25519.PrivateKey) (*x509.Certificate, error) {
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, by)
		if err != nil {
			return nil, err
		}
		return x509.ParseCertificate(der)
	}
	cert, err := sign(tmpl, key)
	if err != nil {
		return nil, nil, err
	}
	tmpl.SerialNumber = serial()
	cross, err := sign(a.cert, a.key)
	return &Authority{cert, key}, cross, err
}

// NextAuthority makes another CA for the cluster, and keeps its key beside the present
// one's. cross is the new CA's key signed by the present one. Nobody believes it yet.
func NextAuthority(dir string) (ca, cross *x509.Certificate, err error) {
	a, err := LoadAuthority(dir)
	if err != nil {
		return nil, nil, err
	}
	cas, keys, err := readAuthorities(dir)
	if err != nil {
		return nil, nil, err
	}
	b, cross, err := a.next()
	if err != nil {
		return nil, nil, err
	}
	// What nobody agreed on before is left behind, but for the newest: an answer may be late.
	others := 0
	for i := len(keys) - 1; i >= 0; i-- {
		if ofAny(cas, keys[i]) {
			continue
		}
		if others++; others > keepProposed {
			keys = slices.Delete(keys, i, i+1)
		}
	}
	return b.cert, cross, writeKeys(filepath.Join(dir, CAKeyFile), append(keys, b.key))
}

// keepProposed is how many keys of CAs that nobody believes are kept.
const keepProposed = 3

// WriteCAs notes which CAs are believed, the one that issues first.
func WriteCAs(dir string, cas []*x509.Certificate) error {
	was, err := readCerts(filepath.Join(dir, caCertFile))
	if err == nil && slices.EqualFunc(was, cas, (*x509.Certificate).Equal) {
		return nil
	}
	return writeCerts(filepath.Join(dir, caCertFile), cas)
}

// Authorities are the fingerprints of the CAs whose keys are on this host.
func Authorities(dir string) ([]string, error) {
	keys, err := readKeys(filepath.Join(dir, CAKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, k := range keys {
		der, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(der)
		out = append(out, hex.EncodeToString(sum[:16]))
	}
	return out, err
}

// ExportAuthorities are the keys of CAs on this host, as [KeepAuthority] takes them
// (PKCS #8).
func ExportAuthorities(dir string) (out [][]byte, err error) {
	keys, err := readKeys(filepath.Join(dir, CAKeyFile))
	for _, k := range keys {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return nil, err
		}
		out = append(out, der)
	}
	return out, err
}

// KeepAuthority writes keys of CAs down that are believed here, on a host that votes.
func KeepAuthority(dir string, pkcs8 ...[]byte) error {
	cas, err := readCerts(filepath.Join(dir, caCertFile))
	if err != nil {
		return err
	}
	path := filepath.Join(dir, CAKeyFile)
	keep, err := readKeys(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	had, ours := len(keep), false
	for _, der := range pkcs8 {
		key, err := parseKey("the CA's key", der)
		if err != nil {
			return err
		}
		if !ofAny(cas, key) {
			continue // of a CA that goes, or is not heard of here yet
		}
		ours = true
		if !slices.ContainsFunc(keep, func(k ed25519.PrivateKey) bool { return k.Equal(key) }) {
			keep = append(keep, key)
		}
	}
	switch {
	case !ours:
		return errors.New("it is not the key of this cluster's CA")
	case len(keep) == had:
		return nil
	}
	return writeKeys(path, keep)
}

// PruneAuthority removes the keys of CAs that are believed no more.
func PruneAuthority(dir string) error {
	cas, err := readCerts(filepath.Join(dir, caCertFile))
	if err != nil {
		return err
	}
	path := filepath.Join(dir, CAKeyFile)
	keys, err := readKeys(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	left := slices.DeleteFunc(slices.Clone(keys), func(k ed25519.PrivateKey) bool { return !ofAny(cas, k) })
	switch {
	case len(left) == len(keys):
		return nil
	case len(left) == 0:
		return os.Remove(path)
	}
	return writeKeys(path, left)
}
