package main

import (
	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/peer"
)

// client reaches the agent: over the socket of this host, or over the network with the
// file that --context names.
func (a *app) client() (*api.Client, error) {
	if a.context == "" {
		return api.NewClient(a.socket), nil
	}
	c, err := peer.LoadContext(a.context)
	if err != nil {
		return nil, err
	}
	return api.NewRemoteClient("the cluster "+c.Cluster, c.Dial), nil
}
