package peer

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ProtoJoin is how a host that has no certificate yet asks for one: one message and one
// answer, each a length (4 bytes, big endian) and JSON.
//
// The member shows its certificate and the CA's; the host goes on only if the CA is the
// one in its token. It signs the connection (TLS's exported key material, so that a
// message is worth nothing on any other connection) and what it asks for with the key of
// its token. Its private key stays where it was made: the member signs a request.
const ProtoJoin = "relevo-join/1"

const (
	joinVersion    = 1
	maxJoinRequest = 4 << 10
	maxJoinReply   = 32 << 10
	maxJoinPeers   = 16
	joinTimeout    = 20 * time.Second // of one exchange: the voters write to SD cards
	exporterLabel  = "EXPORTER-relevo-join-1"
	joinKeyFile    = "join.key" // the node's key before it has a certificate
)

// JoinRequest is what a host asks.
type JoinRequest struct {
	Version int    `json:"version"`
	Token   string `json:"token"` // its ID
	Node    string `json:"node"`
	CSR     []byte `json:"csr"` // PKCS #10
	Proof   []byte `json:"proof"`

	exporter []byte            // of the connection
	pub      ed25519.PublicKey // in CSR
	from     net.Addr
}

// JoinReply answers it.
type JoinReply struct {
	// Code and Error say why not; see quorum.TokenCode, and the codes below.
	Code  string `json:"code,omitempty"`
	Error string `json:"error,omitempty"`
	// See are addresses (host:port) of members that can answer, where this one cannot.
	See []string `json:"see,omitempty"`

	CA     []byte   `json:"ca,omitempty"`     // DER
	Cert   []byte   `json:"cert,omitempty"`   // DER
	Gossip []byte   `json:"gossip,omitempty"` // the pool's key
	Peers  []string `json:"peers,omitempty"`  // gossip addresses of members
}

// Codes of a JoinReply, beside those of a token.
const (
	JoinBadProof  = "bad-proof"  // the host does not hold the token's secret
	JoinElsewhere = "elsewhere"  // another member can answer, see See
	JoinBusy      = "busy"       // too many ask
	JoinNotNow    = "not-now"    // no quorum, no disk
	JoinNotUs     = "not-joined" // the request is not understood
)

// JoinError is a member's refusal.
type JoinError struct{ Address, Code, Why string }

func (e *JoinError) Error() string { return e.Why }

// ErrImpostor says that what answered does not have the CA that the token names.
var ErrImpostor = errors.New("it is not of the cluster that the token is for")

func (r *JoinRequest) statement() []byte {
	h := sha256.New()
	for _, part := range [][]byte{[]byte("relevo join 1"), r.exporter, []byte(r.Token), []byte(r.Node), r.CSR} {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(part)))
		h.Write(n[:])
		h.Write(part)
	}
	return h.Sum(nil)
}

// check makes sure that a request from the network is one.
func (r *JoinRequest) check() error {
	if r.Version != joinVersion {
		return fmt.Errorf("it has version %d, and this relevo understands %d: use the same version of relevo on both hosts", r.Version, joinVersion)
	}
	if len(r.Token) != groupSize {
		return errors.New("it names no token")
	}
	if err := ValidNode(r.Node); err != nil {
		return err
	}
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		return fmt.Errorf("the certificate request: %w", err)
	}
	pub, ok := csr.PublicKey.(ed25519.PublicKey)
	if !ok || csr.CheckSignature() != nil || csr.Subject.CommonName != r.Node {
		return errors.New("the certificate request is not of the host that asks")
	}
	r.pub = pub
	return nil
}

// Proves says whether who asks holds the secret of the token with that public key.
func (r *JoinRequest) Proves(public []byte) bool {
	return len(public) == ed25519.PublicKeySize && ed25519.Verify(public, r.statement(), r.Proof)
}

// KeySum is the SHA-256 of the key that is to be certified (SPKI).
func (r *JoinRequest) KeySum() []byte {
	der, err := x509.MarshalPKIXPublicKey(r.pub)
	if err != nil {
		return nil // cannot be: it was parsed
	}
	sum := sha256.Sum256(der)
	return sum[:]
}

// Key is the key that is to be certified.
func (r *JoinRequest) Key() ed25519.PublicKey { return r.pub }

// From is where it came from.
func (r *JoinRequest) From() net.Addr { return r.from }

// JoinConfig says how to join.
type JoinConfig struct {
	Token Token
	Node  string // name of this host in the cluster
	// Addresses of peer ports (host:port) to try, in this order.
	Addresses []string
	Dir       string // of the trust files
	Gossip    string // file of the pool's key
	Leave     bool   // though there are trust files of another cluster: the caller moves them
	// Dial opens a plain connection; nil = TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Joined is a host that was let in, before it is written down.
type Joined struct {
	bundle bundle
	Peers  []string // gossip addresses of members
}

// Cluster is the name of the cluster.
func (j *Joined) Cluster() string { return j.bundle.Cluster }

// ClusterID tells the cluster from others of that name.
func (j *Joined) ClusterID() string { return j.bundle.ClusterID }

// Install writes the trust files.
func (j *Joined) Install(dir, gossipKeyFile string) (*Identity, error) {
	if err := j.bundle.install(dir, gossipKeyFile); err != nil {
		return nil, err
	}
	if err := os.Remove(filepath.Join(dir, joinKeyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("install the trust files: %w", err)
	}
	// What it had of another CA, before the CA was changed without it.
	if err := PruneAuthority(dir); err != nil {
		return nil, fmt.Errorf("install the trust files: %w", err)
	}
	return Load(dir)
}

// Join asks members, one after the other, to be let in. The node's key is made here and
// kept in Dir, so that a second try after a lost answer is the same host. Nothing else is
// written before [Joined.Install].
func Join(ctx context.Context, cfg JoinConfig) (*Joined, error) {
	if err := ValidNode(cfg.Node); err != nil {
		return nil, err
	}
	elsewhere, err := mayJoin(cfg)
	if err != nil {
		return nil, err
	}
	key, err := joinKey(cfg.Dir)
	if err != nil {
		return nil, err
	}
	var errs []error
	asked := map[string]bool{}
	for todo := slices.Clone(cfg.Addresses); len(todo) > 0 && len(asked) < maxJoinPeers; {
		addr := todo[0]
		todo = todo[1:]
		if asked[addr] {
			continue
		}
		asked[addr] = true
		j, see, err := askToJoin(ctx, cfg, key, addr, elsewhere)
		if err == nil {
			return j, nil
		}
		if errors.Is(err, ErrExists) {
			return nil, err
		}
		var refused *JoinError
		if errors.As(err, &refused) && refused.Code != JoinElsewhere && refused.Code != JoinBusy && refused.Code != JoinNotNow || errors.Is(err, ErrImpostor) {
			return nil, fmt.Errorf("join by %s: %w", addr, err)
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
		todo = append(see[:min(len(see), maxJoinPeers)], todo...)
	}
	if len(errs) == 0 {
		return nil, errors.New("join: no member's address is known")
	}
	return nil, fmt.Errorf("join: no member could let this host in: %w", errors.Join(errs...))
}

// mayJoin refuses to leave another cluster by accident. Where the CA that the token names is
// not known here, the CA itself will tell whether it is of the cluster of this host: it may
// have been changed without this host. elsewhere is what is to be said if it is not.
func mayJoin(cfg JoinConfig) (elsewhere func(ca *x509.Certificate) error, err error) {
	there := present(append(trustFiles(cfg.Dir), cfg.Gossip)...)
	same := func(*x509.Certificate) error { return nil }
	if len(there) == 0 || cfg.Leave {
		return same, nil
	}
	cas, err := readCerts(filepath.Join(cfg.Dir, caCertFile))
	if err != nil {
		return nil, fmt.Errorf("%w, or did: there is %v, but %v; if it is of no use to anybody, `relevo join --leave-old` moves it aside", ErrExists, there, err)
	}
	if slices.ContainsFunc(cas, cfg.Token.of) {
		return same, nil
	}
	return func(ca *x509.Certificate) error {
		if ClusterID(ca) == ClusterID(cas[0]) {
			return nil
		}
		return fmt.Errorf("%w, %.63q (%.8s…) in %s, and the token is for another, %.63q (%.8s…): nothing was changed; if it shall leave that, `relevo join --leave-old` does so, and keeps its files aside",
			ErrExists, cas[0].Subject.CommonName, ClusterID(cas[0]), cfg.Dir, ca.Subject.CommonName, ClusterID(ca))
	}, nil
}

// joinKey is the key that this host joins with.
func joinKey(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, joinKeyFile)
	if key, err := readKey(path); err == nil {
		return key, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the key of an earlier try to join: %w; remove it and try again", err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	if err := writeKey(path, key); err != nil {
		return nil, fmt.Errorf("make a key for this host: %w", err)
	}
	return key, nil
}

// askToJoin asks one member. It goes on only if elsewhere has nothing against the CA that is
// there, and is the one of the token.
func askToJoin(ctx context.Context, cfg JoinConfig, key ed25519.PrivateKey, addr string, elsewhere func(*x509.Certificate) error) (*Joined, []string, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	c, err := dial(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	var ca *x509.Certificate
	tc := tls.Client(c, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{ProtoJoin},
		InsecureSkipVerify: true, // the check below takes the place of the library's
		VerifyConnection: func(s tls.ConnectionState) error {
			if ca, err = cfg.Token.vouchedFor(s.PeerCertificates); err != nil {
				return err
			}
			return elsewhere(ca)
		},
		SessionTicketsDisabled: true,
	})
	if err := tc.HandshakeContext(ctx); err != nil {
		if strings.Contains(err.Error(), "remote error: tls: ") {
			err = fmt.Errorf("%w (its relevo does not let hosts join by a token: is it of another version?)", err)
		}
		return nil, nil, err
	}
	s := tc.ConnectionState()
	if s.NegotiatedProtocol != ProtoJoin {
		return nil, nil, fmt.Errorf("it does not speak %s: is its relevo of another version?", ProtoJoin)
	}
	r := JoinRequest{Version: joinVersion, Token: cfg.Token.ID(), Node: cfg.Node}
	if r.CSR, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cfg.Node}}, key); err != nil {
		return nil, nil, err
	}
	if r.exporter, err = s.ExportKeyingMaterial(exporterLabel, nil, 32); err != nil {
		return nil, nil, err
	}
	r.Proof = ed25519.Sign(cfg.Token.signer(), r.statement())
	if err := writeFrame(tc, &r); err != nil {
		return nil, nil, err
	}
	var a JoinReply
	if err := readFrame(tc, maxJoinReply, &a); err != nil {
		return nil, nil, fmt.Errorf("its answer: %w", err)
	}
	if a.Code != "" || a.Error != "" {
		return nil, a.See, &JoinError{addr, oneLine([]byte(a.Code), 40), oneLine([]byte(a.Error), maxErrorText)}
	}
	j, err := a.joined(cfg.Node, ca, key)
	return j, nil, err
}

// vouchedFor makes sure that a server has a certificate of the CA that the token names,
// and returns the CA's. No time is looked at: this host may not know it.
func (t Token) vouchedFor(chain []*x509.Certificate) (*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, fmt.Errorf("it shows no certificate: %w", ErrImpostor)
	}
	for _, ca := range chain[1:] {
		pub, ok := ca.PublicKey.(ed25519.PublicKey)
		if !ok || !t.of(ca) || !ca.IsCA {
			continue
		}
		if leaf := chain[0]; !ed25519.Verify(pub, leaf.RawTBSCertificate, leaf.Signature) || leaf.SignatureAlgorithm != x509.PureEd25519 || leaf.IsCA {
			break
		}
		return ca, nil
	}
	return nil, fmt.Errorf("%w (%s…): its CA does not have the fingerprint in the token. Either the token is of another cluster, or somebody between here and there pretends to be yours: nothing was sent to it", ErrImpostor, t.ClusterPrefix()[:8])
}

// joined checks an answer: it must make this host what it asked to be, by the CA that
// was seen.
func (a *JoinReply) joined(node string, ca *x509.Certificate, key ed25519.PrivateKey) (*Joined, error) {
	cert, err := x509.ParseCertificate(a.Cert)
	if err != nil {
		return nil, fmt.Errorf("its answer: the certificate: %w", err)
	}
	id, err := newIdentity([]*x509.Certificate{ca}, cert, key)
	switch {
	case err != nil:
		return nil, fmt.Errorf("its answer: %w", err)
	case !belong(key, cert) || id.node != node:
		return nil, fmt.Errorf("its answer: a certificate for %.80q on another key", id.node)
	case len(a.Gossip) != gossipKeySize:
		return nil, fmt.Errorf("its answer: a gossip key of %d bytes", len(a.Gossip))
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	j := &Joined{bundle: bundle{invitationVersion, id.cluster, id.id, node, ca.Raw, cert.Raw, der, a.Gossip}}
	for _, p := range a.Peers[:min(len(a.Peers), maxJoinPeers)] {
		if _, _, err := net.SplitHostPort(p); err == nil && len(p) < 100 {
			j.Peers = append(j.Peers, p)
		}
	}
	return j, nil
}

func writeFrame(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

// readFrame reads one message of at most so many bytes. Fields that are not known are of
// a newer relevo, and ignored.
func readFrame(r io.Reader, most uint32, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > most {
		return fmt.Errorf("a message of %d bytes, and %d are allowed", n, most)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
