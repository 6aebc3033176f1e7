package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// ProtoWhy is how a node that is refused learns whether it was removed: it shows the
// certificate that nobody believes any more, and is given a statement, a length (4 bytes,
// big endian) and JSON. A refusal alone says nothing of its reason, and anybody on the way
// can make one; so the statement is signed with the CA's key.
const ProtoWhy = "relevo-why/1"

const (
	maxVerdict = 64 << 10
	whyTimeout = 5 * time.Second
)

// Verdict is what a node is told that asks why it is refused.
type Verdict struct {
	// Removed says that the one who was asked takes it for removed; what proves that, where
	// the CA's key is, is the statement.
	Removed   bool     `json:"removed,omitempty"`
	Statement []byte   `json:"statement,omitempty"`
	Sigs      [][]byte `json:"sigs,omitempty"` // see [Authority.Sign]; of two CAs while it is changed
	// Since are the CAs' keys that followed, each signed by the one before (DER, the oldest
	// first): who was away while the CA was changed follows them from the one that it knows.
	Since [][]byte `json:"since,omitempty"`
}

// whyTLS is the configuration towards a node that asks why it is refused: any certificate
// of the CA will do, and any on the key of a node that was removed.
func (i *Identity) whyTLS() *tls.Config {
	c := i.tls("", ProtoWhy)
	c.VerifyConnection = func(s tls.ConnectionState) error {
		_, err := i.refused(s)
		return err
	}
	return c
}

// refused names the other side, also one that was removed.
func (i *Identity) refused(s tls.ConnectionState) (node string, err error) {
	if len(s.PeerCertificates) == 0 {
		return "", errors.New("the peer has no certificate")
	}
	cert := s.PeerCertificates[0]
	node = cert.Subject.CommonName
	if r := i.rules.Load(); r != nil && r.Removed[node] && bytes.Equal(r.RemovedKeys[node], KeySum(cert)) {
		return node, nil // its CA may be gone
	}
	if _, err := i.nodeAt(cert, i.floor, s.PeerCertificates[1:]); err != nil && !errors.Is(err, ErrRemoved) {
		return "", err
	}
	return node, nil
}

// askWhyTLS is the configuration of the node that asks. It believes anybody to be the other
// side, whose CA it may not know: what counts is who signed the answer.
func (i *Identity) askWhyTLS() *tls.Config {
	c := i.tls("", ProtoWhy)
	c.VerifyConnection = nil
	return c
}

// asksOnly says whether a client speaks one protocol and nothing else.
func asksOnly(h *tls.ClientHelloInfo, proto string) bool {
	return slices.Equal(h.SupportedProtos, []string{proto})
}

// tellWhy answers a node that asks why it is refused. Its stranger's place is given back by
// the caller.
func (p *Port) tellWhy(c *tls.Conn, at *place) error {
	if err := at.join(); err != nil {
		return err
	}
	s := c.ConnectionState()
	node, err := p.cfg.Identity.refused(s)
	if err != nil {
		return err
	}
	v := p.cfg.Why(node, KeySum(s.PeerCertificates[0]))
	c.SetDeadline(time.Now().Add(handshakeTimeout))
	if err := writeFrame(c, &v); err != nil {
		return fmt.Errorf("tell %s why it is refused: %w", node, err)
	}
	return c.CloseWrite()
}

// Why asks node what is to be said about this host. Whether the CA signed the answer is the
// caller's to look at.
func (p *Port) Why(ctx context.Context, node string) (v Verdict, err error) {
	asked := p.refusing.Load()
	c, err := p.dial(ctx, node, ProtoWhy)
	if err != nil {
		return v, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(whyTimeout))
	if err := readFrame(c, maxVerdict, &v); err != nil {
		return v, fmt.Errorf("ask %s why it refuses this host: %w", node, explain(err))
	}
	p.refusing.CompareAndSwap(asked, nil)
	return v, nil
}

// isRefusal says whether the other side ended a handshake. (The type of a TLS alert that
// came from there is not exported.)
func isRefusal(err error) bool { return strings.Contains(err.Error(), "remote error: tls: ") }

// noteRefusal remembers who may have refused this host. The alert that says so is lost where
// the connection was reset behind it, so whatever is neither silence nor an unreachable
// host may have been one.
func (p *Port) noteRefusal(node string, err error) {
	if errors.Is(err, ErrUnknownCA) {
		now := time.Now()
		p.unknownCA.Store(&now)
	}
	var ne net.Error
	var op *net.OpError
	switch {
	case isRefusal(err):
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return
	case errors.As(err, &op) && op.Op == "dial":
		return
	}
	p.refusing.Store(&node)
}

// MissedCA says whether a host that was called within a time had a certificate for this cluster
// by a CA that is not known here. Where nobody else answers, the CA was changed without this
// host; or somebody pretends.
func (p *Port) MissedCA(within time.Duration) bool {
	t := p.unknownCA.Load()
	return t != nil && time.Since(*t) < within
}

// noteTurnedAway remembers that somebody called this host and did not believe it.
func (p *Port) noteTurnedAway(err error) {
	if isRefusal(err) {
		p.refusing.CompareAndSwap(nil, new(string))
	}
}

// Refusing is a node that may have refused this host since somebody last answered why; "" if
// it is not known which: it called, and went away when it saw this host's certificate.
func (p *Port) Refusing() (node string, refused bool) {
	if n := p.refusing.Load(); n != nil {
		return *n, true
	}
	return "", false
}
