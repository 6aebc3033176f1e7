package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"net/url"
	"strconv"
)

// Version is that of the API server that runs.
func (k *kubeAPI) Version(ctx context.Context) (string, error) {
	c, err := k.make(false)
	if err != nil {
		return "", err
	}
	return c.Version(ctx)
}

// Advertised are the addresses at which it says to be.
func (k *kubeAPI) Advertised(ctx context.Context) ([]netip.Addr, error) {
	c, err := k.make(false)
	if err != nil {
		return nil, err
	}
	return c.Advertised(ctx)
}

// Served is the certificate chain that it shows to whoever comes; nil with http.
func (k *kubeAPI) Served(ctx context.Context) ([]*x509.Certificate, error) {
	u, err := url.Parse(k.cfg.URL)
	if err != nil || u.Scheme != "https" {
		return nil, err
	}
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}} // only looked at
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), strconv.Itoa(portOf(k.cfg.URL))))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates, nil
}
