package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
)

// Version is that of the API server that runs, such as v1.34.1+k3s1.
func (c *Client) Version(ctx context.Context) (string, error) {
	raw, err := c.rest.Get().AbsPath("/version").Timeout(c.cfg.Timeout).DoRaw(ctx)
	if err != nil {
		return "", fmt.Errorf("ask the API for its version: %w", err)
	}
	var v struct {
		GitVersion string `json:"gitVersion"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return "", fmt.Errorf("ask the API for its version: %w", err)
	}
	return v.GitVersion[:min(len(v.GitVersion), 64)], nil
}

// Advertised are the addresses at which the API server tells everybody in the cluster
// that it is: those of the service kubernetes.
func (c *Client) Advertised(ctx context.Context) ([]netip.Addr, error) {
	raw, err := c.rest.Get().AbsPath("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").Timeout(c.cfg.Timeout).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the API which address it advertises: %w", err)
	}
	var s struct {
		Endpoints []struct {
			Addresses []string `json:"addresses"`
		} `json:"endpoints"`
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("ask the API which address it advertises: %w", err)
	}
	var out []netip.Addr
	for _, e := range s.Endpoints {
		for _, a := range e.Addresses {
			if ip, err := netip.ParseAddr(a); err == nil && len(out) < 64 {
				out = append(out, ip)
			}
		}
	}
	return out, nil
}
