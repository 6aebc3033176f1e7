package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"relevo.dev/relevo/agent/lease"
)

// Every host that votes or could be the master asks the API of the present master now
// and then, through the network as a client would, and tells the arbiter: an API that
// works on its own host and that nobody reaches is no use.

// probeRequest is what is told.
type probeRequest struct {
	Term uint64 `json:"term"`
	OK   bool   `json:"ok"`
	Ever bool   `json:"ever"` // this host reached an API of the cluster before
	Why  string `json:"why,omitempty"`
}

// maxWhy bounds the reason, in bytes.
const maxWhy = 200

// endpoint is where the API is reached from outside while this host is the master, as it
// is gossiped; "" = nowhere (plain http on loopback).
func (a *agent) endpoint() string {
	c := a.cfg.Candidate
	switch {
	case c == nil || !strings.HasPrefix(c.ControlPlane.API.URL, "https:"):
		return ""
	case c.VIP != nil:
		return net.JoinHostPort(c.VIP.Address.Addr().String(), strconv.Itoa(c.VIP.Port))
	}
	return net.JoinHostPort(a.addr.Load().String(), strconv.Itoa(portOf(c.ControlPlane.API.URL)))
}

// probes asks until ctx ends.
func (a *agent) probes(ctx context.Context) error {
	if a.cfg.Candidate == nil && !a.cfg.Voter {
		return nil
	}
	probe := a.opts.Probe
	if probe == nil {
		p := newProber(a.caFile())
		defer p.close()
		probe = p.probe
	}
	t := time.NewTicker(a.loop.tm.Probe())
	defer t.Stop()
	ever, said, of := false, true, uint64(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		s := a.quorum.State()
		m, known := a.member(s.Holder)
		target := m.Tags[tagAPI]
		// Only a master that says it serves: one that is being promoted has no API yet.
		if !known || s.Released || s.Holder == a.cfg.Node || target == "" || m.Tags[tagTerm] != strconv.FormatUint(s.Term, 10) {
			continue
		}
		err := validEndpoint(target)
		if err == nil {
			cctx, cancel := context.WithTimeout(ctx, a.loop.tm.TTL/2)
			err = probe(cctx, target)
			cancel()
		}
		if ctx.Err() != nil {
			return nil
		}
		req := probeRequest{Term: s.Term, OK: err == nil, Ever: ever || err == nil}
		ever = req.Ever
		if err != nil {
			req.Why = cut(err.Error(), maxWhy)
		}
		if ever && (req.OK != said || of != 0 && of != s.Term) {
			if said = req.OK; req.OK {
				a.seenHere.note("reaches the API of %s at %s", s.Holder, target)
			} else {
				a.seenHere.note("does not reach the API of %s at %s: %s", s.Holder, target, req.Why)
			}
		}
		of = s.Term
		cctx, cancel := context.WithTimeout(ctx, a.loop.tm.TTL/3)
		_, err = toArbiter(cctx, a.loop, pathProbe, req, a.probed)
		cancel()
		if err != nil {
			a.log.Debug("what the probe saw is not delivered", "err", err)
		}
	}
}

// probed is asked of the arbiter.
func (a *agent) probed(ctx context.Context, from string, in probeRequest) (empty, error) {
	if len(in.Why) > maxWhy {
		return empty{}, fmt.Errorf("the reason has %d bytes, at most %d are allowed", len(in.Why), maxWhy)
	}
	a.loop.post(ctx, lease.Probed{From: from, Term: in.Term, OK: in.OK, Ever: in.Ever, Why: in.Why})
	return empty{}, nil
}

// validEndpoint keeps a gossiped tag from being anything but an address and a port.
func validEndpoint(s string) error {
	if ap, err := netip.ParseAddrPort(s); err != nil || !ap.Addr().IsValid() || ap.Addr().IsMulticast() || ap.Addr().IsUnspecified() {
		return fmt.Errorf("%.60q is no address of an API", s)
	}
	return nil
}

// caFile is the CA of the API, "" on a host that is no candidate: it has none.
func (a *agent) caFile() string {
	if a.cfg.Candidate == nil {
		return ""
	}
	return a.cfg.Candidate.ControlPlane.API.CAFile
}

// prober keeps the connection: a handshake costs 34 ms on an ARMv6 board.
type prober struct {
	http *http.Client
	tr   *http.Transport
}

// newProber makes one. With a CA file, whoever answers must have a certificate of that
// CA, for whichever name: the question is whether this is our API, not how it is called.
// Without, as on a host that only votes, whoever answers counts: nothing is sent, and
// nothing that is answered is used.
func newProber(caFile string) *prober {
	conf := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection does it, without a name
		VerifyConnection: func(cs tls.ConnectionState) error {
			if caFile == "" {
				return nil
			}
			pem, err := os.ReadFile(caFile) // it may have come since
			if err != nil {
				return nil
			}
			pool, inter := x509.NewCertPool(), x509.NewCertPool()
			pool.AppendCertsFromPEM(pem)
			for _, c := range cs.PeerCertificates[1:] {
				inter.AddCert(c)
			}
			_, err = cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: inter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			if unknown := (x509.UnknownAuthorityError{}); errors.As(err, &unknown) {
				return fmt.Errorf("somebody else answers there: %w", err)
			}
			return nil // what else may be wrong with it, the master itself sees better
		},
	}
	tr := &http.Transport{
		DialContext: (&net.Dialer{Timeout: 3 * time.Second}).DialContext, TLSClientConfig: conf,
		MaxIdleConns: 1, IdleConnTimeout: 3 * time.Minute, DisableCompression: true,
	}
	return &prober{&http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, tr}
}

func (p *prober) close() { p.tr.CloseIdleConnections() }

// probe asks once; a connection that was kept and is dead gets a second try. The API
// server answers everybody who asks /readyz unless that is switched off: then it says
// 401 or 403, and works.
func (p *prober) probe(ctx context.Context, target string) error {
	first, cancel := context.WithTimeout(ctx, time.Until(deadlineOf(ctx))/2)
	err := p.ask(first, target)
	cancel()
	if err != nil && ctx.Err() == nil {
		p.tr.CloseIdleConnections()
		err = p.ask(ctx, target)
	}
	return err
}

func deadlineOf(ctx context.Context) time.Time {
	if d, ok := ctx.Deadline(); ok {
		return d
	}
	return time.Now().Add(6 * time.Second)
}

func (p *prober) ask(ctx context.Context, target string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+target+"/readyz", nil)
	if err != nil {
		return err
	}
	res, err := p.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // what was asked is known
		}
		return err
	}
	defer res.Body.Close()
	io.Copy(io.Discard, io.LimitReader(res.Body, 16<<10))
	if res.StatusCode >= 500 {
		return fmt.Errorf("https://%s/readyz: %s", target, res.Status)
	}
	return nil
}
