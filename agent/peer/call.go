package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

const (
	dialTimeout  = 5 * time.Second
	maxErrorText = 1 << 10
	maxCallers   = 128 // nodes with kept connections; more than a cluster has
	// maxToNode is below the other side's maxPerNode, with room for raft.
	maxToNode = 24
)

// StatusError is an answer other than 200 or 204.
type StatusError struct {
	Node, Path string
	Status     int    // of HTTP
	Message    string // of the other side: one line, at most 1 KiB
}

func (e *StatusError) Error() string {
	if e.Status == http.StatusServiceUnavailable && e.Message != "" { // it refuses: how it was asked is nothing for people
		return e.Node + " says: " + e.Message
	}
	s := fmt.Sprintf("%s on %s: %d %s", e.Path, e.Node, e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// dial opens a connection to node and makes sure that it is node.
func (p *Port) dial(ctx context.Context, node, proto string) (net.Conn, error) {
	if err := ValidNode(node); err != nil {
		return nil, err
	}
	addr, err := p.cfg.Resolve(node)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: where is it? %w", node, err)
	}
	if second := p.where.besides(node, addr); second != "" {
		return p.dialEither(ctx, addr, second, node, proto)
	}
	return p.dialAt(ctx, addr, node, proto)
}

func (p *Port) dialAt(ctx context.Context, addr, node, proto string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := p.cfg.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", node, err)
	}
	if !p.own(c) {
		c.Close()
		return nil, fmt.Errorf("connect to %s: the peer port is closed: %w", node, net.ErrClosed)
	}
	tune(c)
	conf := p.cfg.Identity.ClientTLS(node, proto)
	if proto == ProtoWhy {
		conf = p.cfg.Identity.askWhyTLS()
	}
	tc := tls.Client(c, conf)
	err = tc.HandshakeContext(ctx)
	if err == nil && tc.ConnectionState().NegotiatedProtocol != proto {
		err = fmt.Errorf("it does not speak %s: is its relevo of another version?", proto)
	}
	if err == nil && !p.with(c, node, tc.ConnectionState().PeerCertificates[0]) {
		err = net.ErrClosed
	}
	if err != nil {
		p.noteRefusal(node, err)
		p.disown(c)
		c.Close()
		return nil, fmt.Errorf("connect to %s at %s: %w", node, addr, explain(err))
	}
	return &peerConn{Conn: tc, node: node, closed: sync.OnceFunc(func() { p.disown(c) })}, nil
}

// Meet makes sure that node is at an address, host:port: that it shows a certificate.
func (p *Port) Meet(ctx context.Context, addr, node string) error {
	c, err := p.dialAt(ctx, addr, node, ProtoHTTP)
	if err != nil {
		return err
	}
	return c.Close()
}

// explain turns what a refused certificate looks like into words.
func explain(err error) error {
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.Is(err, ErrUnknownCA):
		return fmt.Errorf("%w (the CA was changed while that host, or this one, was away: `relevo token create --replace` on a member and `relevo join` let it in again)", err)
	case errors.As(err, &unknown):
		return fmt.Errorf("%w (it belongs to another cluster)", err)
	case isRefusal(err):
		return fmt.Errorf("%w (it does not accept our certificate: is it of another cluster, was this host removed, or the CA changed without it? its journal says more)", err)
	}
	return err
}

// caller keeps the connections to one node. One transport a node, so that those to
// a node that has gone silent can be dropped without touching the others.
func (p *Port) caller(node string) (*http.Transport, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, net.ErrClosed
	}
	if t := p.callers[node]; t != nil {
		return t, nil
	}
	if len(p.callers) >= maxCallers {
		return nil, fmt.Errorf("more than %d nodes were called", maxCallers)
	}
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return p.dial(ctx, node, ProtoHTTP)
		},
		MaxConnsPerHost:        maxToNode,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        4 * time.Minute, // before the server closes it
		ResponseHeaderTimeout:  30 * time.Second,
		MaxResponseHeaderBytes: 16 << 10,
		DisableCompression:     true,
	}
	p.callers[node] = t
	return t, nil
}

// Do sends a request to node, over a kept connection if there is one; of the
// request's URL only path and query count. The body of the answer must be closed.
// The request's context bounds everything, the reading of the body included; a
// connection whose request did not end well is not used again, and after a time-out
// none of those that lay idle either. Redirects are not followed.
func (p *Port) Do(node string, req *http.Request) (*http.Response, error) {
	if err := ValidNode(node); err != nil {
		return nil, err
	}
	t, err := p.caller(node)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", node, err)
	}
	r := req.WithContext(req.Context()) // the caller's own is not changed
	r.URL = &url.URL{Scheme: "http", Host: node, Path: req.URL.Path, RawPath: req.URL.RawPath, RawQuery: req.URL.RawQuery}
	r.Host = node // "http": TLS is the dialler's
	res, err := t.RoundTrip(r)
	if err != nil {
		p.dropIfSilent(node, err)
		p.noteRefusal(node, err)
		return nil, explain(err)
	}
	return res, nil
}

// dropIfSilent closes idle connections to a node that did not answer in time: it
// may have lost its power, and they with it.
func (p *Port) dropIfSilent(node string, err error) {
	var ne net.Error
	if !errors.Is(err, context.DeadlineExceeded) && !(errors.As(err, &ne) && ne.Timeout()) {
		return
	}
	p.dropIdle(node)
}

// dropIdle closes the connections to a node that nothing is asked on.
func (p *Port) dropIdle(node string) {
	p.mu.Lock()
	t := p.callers[node]
	p.mu.Unlock()
	if t != nil {
		t.CloseIdleConnections()
	}
}

// GetJSON calls path on node and reads the answer into out; see [Port.PostJSON].
func (p *Port) GetJSON(ctx context.Context, node, path string, out any) error {
	return p.callJSON(ctx, http.MethodGet, node, path, nil, out)
}

// PostJSON calls path on node with in and reads the answer into out; nil = there is
// none to send, or none is wanted. Both may have up to [MaxBody] bytes. Errors name
// node and path; one that the other side gave is a [*StatusError].
func (p *Port) PostJSON(ctx context.Context, node, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("%s on %s: the request: %w", path, node, err)
	}
	if len(body) > MaxBody {
		return fmt.Errorf("%s on %s: the request has %d bytes, and %d are allowed", path, node, len(body), MaxBody)
	}
	return p.callJSON(ctx, http.MethodPost, node, path, body, out)
}

func (p *Port) callJSON(ctx context.Context, method, node, path string, in []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, path, bytes.NewReader(in))
	if err != nil {
		return fmt.Errorf("%s on %s: %w", path, node, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := p.Do(node, req)
	if err != nil {
		return fmt.Errorf("%s on %s: %w", path, node, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusNoContent {
		msg, _ := io.ReadAll(io.LimitReader(res.Body, maxErrorText))
		return &StatusError{node, path, res.StatusCode, oneLine(msg, maxErrorText)}
	}
	// Read to its end, or the connection could not be used again.
	body, err := io.ReadAll(io.LimitReader(res.Body, MaxBody+1))
	switch {
	case err != nil:
		p.dropIfSilent(node, err)
		return fmt.Errorf("%s on %s: its answer: %w", path, node, err)
	case len(body) > MaxBody:
		return fmt.Errorf("%s on %s: its answer has more than %d bytes", path, node, MaxBody)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		// It quotes what it does not like: a number may be as long as the answer.
		return fmt.Errorf("%s on %s: its answer: %s", path, node, oneLine([]byte(err.Error()), maxErrorText))
	}
	return nil
}
