package config

import "reflect"

// Reload takes over from next what an agent can change while it runs: log.level,
// max_lag, max_failovers, fence, health (but for its probe), kubernetes, join, candidate.priority,
// candidate.never, candidate.replica.verify_interval and candidate.rehearsal but for its
// memory. It returns
// what the agent runs with from now on, and the keys that next changes and that wait
// for a restart.
func (c *Config) Reload(next *Config) (now *Config, waiting []string) {
	n := *c
	n.Log, n.MaxLag, n.MaxFailovers, n.Fence, n.Join = next.Log, next.MaxLag, next.MaxFailovers, next.Fence, next.Join
	probe := c.Health.Probe
	n.Health = next.Health
	n.Health.Probe = probe
	n.Kubernetes = next.Kubernetes
	if c.Candidate != nil && next.Candidate != nil {
		cand := *c.Candidate
		cand.Priority, cand.Never = next.Candidate.Priority, next.Candidate.Never
		cand.Rehearsal.Every, cand.Rehearsal.At = next.Candidate.Rehearsal.Every, next.Candidate.Rehearsal.At
		cand.Replica.VerifyInterval = next.Candidate.Replica.VerifyInterval
		n.Candidate = &cand
	}
	for _, k := range []struct {
		key  string
		a, b any
	}{
		{"cluster", n.Cluster, next.Cluster}, {"node", n.Node, next.Node}, {"data_dir", n.DataDir, next.DataDir},
		{"interface", n.Interface, next.Interface}, {"advertise", n.Advertise, next.Advertise}, {"lease_ttl", n.LeaseTTL, next.LeaseTTL},
		{"voter", n.Voter, next.Voter}, {"gossip", n.Gossip, next.Gossip}, {"peer", n.Peer, next.Peer}, {"mdns", n.MDNS, next.MDNS},
		{"http", n.HTTP, next.HTTP}, {"services", n.Services, next.Services}, {"cloudy", n.Cloudy, next.Cloudy}, {"socket", n.Socket, next.Socket}, {"access", n.Access, next.Access}, {"health.probe", n.Health.Probe, next.Health.Probe}, {"candidate", n.Candidate, next.Candidate},
	} {
		if !reflect.DeepEqual(k.a, k.b) {
			waiting = append(waiting, k.key)
		}
	}
	return &n, waiting
}
