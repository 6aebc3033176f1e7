package peer

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// ProtoClient is spoken by people's programs from outside of the cluster: HTTP/1.1 with
// what the agent answers on its socket. A certificate of theirs names an access, never a
// node, and is good for nothing else on the port.
const ProtoClient = "relevo-client/1"

// accessScheme is that of the URI in such a certificate: relevo-access://CLUSTER-ID/NAME.
const accessScheme = "relevo-access"

// Access is who is at the other end of a ProtoClient connection, as its certificate says.
// Whether it still may, and what, is for the replicated state to say.
type Access struct {
	Name   string
	Serial string // [AccessSerial]
}

// AccessSerial names the certificate of an access and its key: also who has the CA's key
// cannot make another one of that serial.
func AccessSerial(cert *x509.Certificate) string {
	return cert.SerialNumber.Text(16) + "." + hex.EncodeToString(KeySum(cert)[:16])
}

// accessOf verifies a client's certificate.
func (i *Identity) accessOf(cert *x509.Certificate, now time.Time) (Access, error) {
	if now.Before(i.floor) {
		now = i.floor // a clock that was never set
	}
	if err := i.verify(cert, now, "make another access"); err != nil {
		return Access{}, err
	}
	name := cert.Subject.CommonName
	if len(cert.URIs) == 1 && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		if u := cert.URIs[0]; u.Scheme == accessScheme && u.Host == i.id && u.Path == "/"+name && validLabel("access", name) == nil {
			return Access{name, AccessSerial(cert)}, nil
		}
	}
	return Access{}, fmt.Errorf("the certificate of %.80q is for no access to the cluster %s", name, i.cluster)
}

func (i *Identity) client(s tls.ConnectionState) (Access, error) {
	if len(s.PeerCertificates) == 0 {
		return Access{}, errors.New("the client has no certificate")
	}
	return i.accessOf(s.PeerCertificates[0], time.Now())
}

// IssueAccess signs the key of an access with the CA in dir; it fails where the CA's key
// does not lie. The certificate begins when the CA does, like a node's.
func IssueAccess(dir, name string, pub ed25519.PublicKey, until time.Time) (cert *x509.Certificate, ca *x509.Certificate, err error) {
	if err := validLabel("access", name); err != nil {
		return nil, nil, err
	}
	if len(pub) != ed25519.PublicKeySize {
		return nil, nil, errors.New("the key is no ed25519 key")
	}
	a, err := LoadAuthority(dir)
	if err != nil {
		return nil, nil, err
	}
	if !until.After(a.cert.NotBefore) {
		return nil, nil, fmt.Errorf("it would end on %s, before the cluster began: is the clock of this host right?", day(until))
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name}, NotBefore: a.cert.NotBefore, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{{Scheme: accessScheme, Host: ClusterID(a.cert), Path: "/" + name}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, pub, a.key)
	if err != nil {
		return nil, nil, err
	}
	cert, err = x509.ParseCertificate(der)
	return cert, a.cert, err
}

// Context is what the file of an access holds: everything that a program needs to reach
// the cluster. Whoever has it has the access.
type Context struct {
	Version   int       `json:"version"`
	Cluster   string    `json:"cluster"`
	Name      string    `json:"name"`
	Role      string    `json:"role"` // when it was made, for people
	Expires   time.Time `json:"expires"`
	Addresses []string  `json:"addresses"` // host:port of the members' peer ports
	CA        []byte    `json:"ca"`        // DER
	Cert      []byte    `json:"cert"`      // DER
	Key       []byte    `json:"key"`       // PKCS #8

	// Via opens a plain connection; nil = TCP.
	Via func(ctx context.Context, network, addr string) (net.Conn, error) `json:"-"`

	mu   sync.Mutex
	last string // that answered
	tls  *tls.Config
}

const (
	contextType    = "RELEVO ACCESS"
	contextVersion = 1
	maxAddresses   = 64
)

// Text of the file.
func (c *Context) Text() ([]byte, error) {
	c.Version = contextVersion
	body, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	head := fmt.Sprintf("%s: the access of a relevo %s to the cluster %s, until %s.\nIt is a secret, like a key. Use it with: relevo --context FILE status\n",
		c.Name, c.Role, c.Cluster, day(c.Expires))
	return append([]byte(head), pem.EncodeToMemory(&pem.Block{Type: contextType, Bytes: body})...), nil
}

// LoadContext reads the file of an access; nobody else may be able to.
func LoadContext(path string) (*Context, error) {
	if err := private(path); err != nil {
		return nil, fmt.Errorf("the access: %w", err)
	}
	text, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("the access: %w", err)
	}
	c, err := ParseContext(text)
	if err != nil {
		return nil, fmt.Errorf("the access in %s: %w", path, err)
	}
	return c, nil
}

// ParseContext checks the text of such a file.
func ParseContext(text []byte) (*Context, error) {
	if len(text) > maxFile {
		return nil, errors.New("too long for an access")
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != contextType {
		return nil, fmt.Errorf("this is no access, or not all of it: it should hold -----BEGIN %s----- and -----END %[1]s-----; `relevo access create` makes one", contextType)
	}
	c := &Context{}
	dec := json.NewDecoder(bytes.NewReader(block.Bytes))
	if err := dec.Decode(c); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	if c.Version != contextVersion {
		return nil, fmt.Errorf("it has version %d, and this relevo understands %d", c.Version, contextVersion)
	}
	ca, err := x509.ParseCertificate(c.CA)
	if err != nil {
		return nil, fmt.Errorf("it is damaged: CA: %w", err)
	}
	if err := CheckCA(ca); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	cert, err := x509.ParseCertificate(c.Cert)
	if err != nil {
		return nil, fmt.Errorf("it is damaged: certificate: %w", err)
	}
	key, err := parseKey("key", c.Key)
	if err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	if !belong(key, cert) {
		return nil, errors.New("its key and certificate do not belong together")
	}
	if len(c.Addresses) == 0 || len(c.Addresses) > maxAddresses {
		return nil, fmt.Errorf("it has %d addresses, 1 to %d are needed", len(c.Addresses), maxAddresses)
	}
	for _, a := range c.Addresses {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return nil, fmt.Errorf("its address %.80q: %w", a, err)
		}
	}
	i := &Identity{cluster: ca.Subject.CommonName, id: ClusterID(ca), key: key, files: []*x509.Certificate{ca}, floor: ca.NotBefore}
	is, err := i.accessOf(cert, ca.NotBefore)
	switch {
	case err != nil:
		return nil, err
	case is.Name != c.Name || i.cluster != c.Cluster || c.Role != "" && validLabel("role", c.Role) != nil:
		return nil, errors.New("it contradicts itself")
	}
	i.use(cert)
	c.tls = i.ClientTLS("", ProtoClient) // any node of the cluster
	return c, nil
}

// Dial reaches a member, the one that answered last first.
func (c *Context) Dial(ctx context.Context) (net.Conn, error) {
	if end := c.tls.Certificates[0].Leaf.NotAfter; time.Now().After(end) {
		return nil, fmt.Errorf("the access %s ended on %s, by the clock of this host: an admin of %s can make another with `relevo access create`", c.Name, day(end), c.Cluster)
	}
	c.mu.Lock()
	addrs := slices.Clone(c.Addresses)
	if i := slices.Index(addrs, c.last); i > 0 {
		addrs[0], addrs[i] = addrs[i], addrs[0]
	}
	c.mu.Unlock()
	var errs []string
	for _, a := range addrs {
		conn, err := c.dial(ctx, a)
		if err == nil {
			c.mu.Lock()
			c.last = a
			c.mu.Unlock()
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		errs = append(errs, fmt.Sprintf("%s: %v", a, err))
	}
	return nil, fmt.Errorf("no member of %s can be reached: %s", c.Cluster, strings.Join(errs, "; "))
}

// tryFor bounds what one address may take of the time for all: a board that is off does
// not refuse, it is silent.
const tryFor = 2 * time.Second

func (c *Context) dial(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	via := c.Via
	if via == nil {
		via = (&net.Dialer{}).DialContext
	}
	conn, err := via(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	tc := tls.Client(conn, c.tls)
	if err := tc.HandshakeContext(ctx); err != nil {
		conn.Close()
		if errors.Is(err, ErrUnknownCA) {
			return nil, fmt.Errorf("%w: the cluster's CA was changed (`relevo rotate ca`), and the access %s ended with the one before: an admin of %s can make another with `relevo access create`", err, c.Name, c.Cluster)
		}
		return nil, explain(err)
	}
	if tc.ConnectionState().NegotiatedProtocol != ProtoClient {
		conn.Close()
		return nil, fmt.Errorf("it does not speak %s: is its relevo older?", ProtoClient)
	}
	return tc, nil
}
