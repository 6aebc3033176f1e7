// Package api is what the agent says of itself: the types (this file; their JSON
// is promised to scripts, so fields are added and never renamed), the server that
// speaks them over a unix socket and shows metrics over TCP, and the client that
// the command line uses.
//
// Times are RFC 3339 in UTC and come from wall clocks: they are for people, and
// nothing is decided by them. Lengths of time are seconds. null is "not known".
package api

import (
	"time"

	"relevo.dev/relevo/health"
)

// Role of a member at this moment.
type Role string

// The roles. A voter that is master or standby is called by the latter.
const (
	RoleMaster  Role = "master"  // holds the lease
	RoleStandby Role = "standby" // a candidate that follows the master
	RoleVoter   Role = "voter"   // votes, and runs no control plane
	RoleMember  Role = "member"  // neither
)

// Status is the cluster as one agent sees it.
type Status struct {
	Cluster   string `json:"cluster"`
	ClusterID string `json:"cluster_id"` // digest of the cluster's CA; tells two clusters of one name apart
	Node      string `json:"node"`       // who says this
	Version   string `json:"version"`    // of the agent that says this
	Role      Role   `json:"role"`       // of Node

	// Term is the newest term that Node knows of; 0 = there never was a master.
	Term uint64 `json:"term"`
	// Master is null while nobody holds the lease.
	Master   *Master   `json:"master"`
	Quorum   Quorum    `json:"quorum"`
	Failover Failover  `json:"failover"`
	Standbys []Standby `json:"standbys"` // best first
	VIP      *VIP      `json:"vip"`      // null without a virtual IP
	Pause    *Pause    `json:"pause"`    // null unless paused
	// Removed is set if this very host was removed from the cluster: its agent then knows
	// nothing else.
	Removed *Removed `json:"removed,omitempty"`
	// Neighbours are other clusters on the same network, as mDNS shows them to Node.
	Neighbours []Neighbour `json:"neighbours,omitempty"`
	// Problems are what a person should see to, the worst first. None = all is
	// well.
	Problems []Problem `json:"problems"`
}

// Degraded says whether somebody should look.
func (s Status) Degraded() bool { return len(s.Problems) > 0 }

// Master is the holder of the lease.
type Master struct {
	Node  string    `json:"node"`
	Term  uint64    `json:"term"`
	Since time.Time `json:"since,omitzero"` // when the term was committed
	// LeaseRemaining is how long the lease holds without another renewal. Known to
	// the holder (its own) and to the arbiter (from the last acknowledgement).
	LeaseRemaining *float64 `json:"lease_remaining_seconds"`
	APIURL         string   `json:"api_url,omitempty"`
	// API is what is known of the API: "ok", "" = not known, else why it does not
	// work, in words.
	API string `json:"api,omitempty"`
}

// Quorum is who votes.
type Quorum struct {
	Voters     int    `json:"voters"`           // in the raft configuration
	Online     int    `json:"online"`           // of them alive in the pool
	Leader     string `json:"leader,omitempty"` // the arbiter; "" = none is known
	HaveQuorum bool   `json:"have_quorum"`
}

// Failover says whether the loss of the master would be survived right now.
type Failover struct {
	Possible bool     `json:"possible"`
	To       string   `json:"to,omitempty"`  // who would be promoted
	Why      []string `json:"why,omitempty"` // why it is not possible
}

// Standby is a candidate that follows the master.
type Standby struct {
	Node  string `json:"node"`
	Ready bool   `json:"ready"`
	Why   string `json:"why,omitempty"` // why it is not ready
	// Revision of its copy, and how many the master is ahead.
	Revision     *uint64 `json:"revision"`
	LagRevisions *uint64 `json:"lag_revisions"`
	// LagSeconds is how long ago the copy had all that the master had. FreshAt is
	// the same as a time of day.
	LagSeconds *float64  `json:"lag_seconds"`
	FreshAt    time.Time `json:"fresh_at,omitzero"`
	Priority   int       `json:"priority,omitempty"`
	Never      bool      `json:"never,omitempty"` // promoted by a person only
	// Version of the control plane's programs on this host: v1.34.1+k3s1.
	Version string `json:"version,omitempty"`
	// Verified is the last comparison of its copy with the master's datastore; null =
	// there was none yet.
	Verified *Verification `json:"verified,omitempty"`
	// Rehearsed is the last rehearsal of a promotion on it; null = there was none yet.
	Rehearsed *Rehearsal `json:"rehearsed,omitempty"`
}

// VIP is the virtual IP.
type VIP struct {
	Address   string `json:"address"` // with the length of its network
	Interface string `json:"interface,omitempty"`
	Held      bool   `json:"held"`             // by Status.Node
	Holder    string `json:"holder,omitempty"` // who should hold it
}

// Pause of automatic promotion.
type Pause struct {
	Phase string    `json:"phase"` // paused, resuming
	By    string    `json:"by,omitempty"`
	Why   string    `json:"why,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// Removed says who took a host out of the cluster.
type Removed struct {
	By  string    `json:"by,omitempty"`
	Why string    `json:"why,omitempty"`
	At  time.Time `json:"at"` // by the cluster's clock
}

// Neighbour is another cluster; what it is called is its own word.
type Neighbour struct {
	Cluster   string   `json:"cluster"`
	ClusterID string   `json:"cluster_id"`
	Nodes     []string `json:"nodes"` // that announce it, as far as they are told
	VIP       string   `json:"vip,omitempty"`
}

// Severity of a problem.
type Severity string

// The severities.
const (
	// Critical: the control plane does not work, or its loss would not be survived.
	Critical Severity = "critical"
	// Warning: it works, and this will hurt one day.
	Warning Severity = "warning"
)

// Problem is something a person should see to.
type Problem struct {
	Severity Severity `json:"severity"`
	What     string   `json:"what"`          // one sentence
	Why      string   `json:"why,omitempty"` // the evidence
	Do       string   `json:"do,omitempty"`  // what helps
}

// Members is who is in the pool.
type Members struct {
	Members []Member `json:"members"` // by name
}

// Member is one host.
type Member struct {
	Node      string `json:"node"`
	Address   string `json:"address"` // ip:port of its gossip
	Status    string `json:"status"`  // alive, failed, left, leaving
	Role      Role   `json:"role"`
	Voter     bool   `json:"voter"`     // in the raft configuration
	Arbiter   bool   `json:"arbiter"`   // leads the voters
	Candidate bool   `json:"candidate"` // can run a control plane
	Version   string `json:"version,omitempty"`
	// Since is when this agent saw the member reach Status.
	Since time.Time `json:"since,omitzero"`
	// Copy is how old the copy of a standby is, roughly, as it gossiped last.
	Copy CopyAge `json:"copy,omitempty"`
	// Conditions that hold, as the member gossiped last; the gravest first.
	Conditions []health.Type `json:"conditions,omitempty"`
}

// CopyAge is how old a standby's copy of the datastore is, roughly: Standby has the seconds
// and revisions.
type CopyAge string

// The ages.
const (
	CopyFresh CopyAge = "fresh" // it had all that the master had a moment ago
	CopyLate  CopyAge = "late"  // more than 5 s ago, and than half of max_lag
	CopyStale CopyAge = "stale" // more than max_lag ago, or there is none: not promoted by itself
)

// Services is what the cluster offers.
type Services struct {
	Services []Service `json:"services"`
	// Problems are what is wrong with where services come from: a file with a mistake.
	Problems []Problem `json:"problems"`
	// Backend announces and browses: avahi, zeroconf, off; "" = none now.
	Backend string `json:"backend,omitempty"`
}

// Service is one service as announced by DNS-SD.
type Service struct {
	Name      string    `json:"name"` // instance name, as others see it
	Type      string    `json:"type"` // _http._tcp
	Node      string    `json:"node,omitempty"`
	Host      string    `json:"host,omitempty"`
	Addresses []string  `json:"addresses"`
	Port      int       `json:"port"`
	TXT       []string  `json:"txt,omitempty"`
	Origin    string    `json:"origin"`         // agent, file, kubernetes, cloudy; browsed (seen on the LAN)
	Since     time.Time `json:"since,omitzero"` // it is as health says

	Description string `json:"description,omitempty"`
	// Wanted is the name that it should have had: it was taken, or too long.
	Wanted string `json:"wanted_name,omitempty"`
	// Health is ok, unchecked, checking, failing (then it is not announced) or refused (it
	// cannot be announced); "" = not known. Why is the reason, or a remark.
	Health string `json:"health,omitempty"`
	Why    string `json:"why,omitempty"`
	// Domain is the cluster that offers it, "" = this one; MicroCloud the one of Cloudy.
	Domain     string `json:"domain,omitempty"`
	MicroCloud string `json:"micro_cloud,omitempty"`
	// Public: it was marked for the community to see.
	Public bool `json:"public,omitempty"`
}

// Health is what the members report of themselves.
type Health struct {
	Nodes []NodeHealth `json:"nodes"` // by name
}

// NodeHealth is the report of one node, and what it means.
type NodeHealth struct {
	Node       string             `json:"node"`
	Report     *health.Report     `json:"report"` // null: none came
	Conditions []health.Condition `json:"conditions,omitempty"`
	Why        string             `json:"why,omitempty"` // why there is no report
	// Gossiped are the conditions that hold, as the node gossiped last: they are known
	// of one that does not answer, too.
	Gossiped []health.Type `json:"gossiped,omitempty"`
	Role     Role          `json:"role,omitempty"`
	Status   string        `json:"status,omitempty"` // in the pool: alive, failed, left
	// LagSeconds is how far the copy of a standby is behind; null on other nodes.
	LagSeconds *float64 `json:"lag_seconds,omitempty"`
}

// History is the story of the mastership.
type History struct {
	Changes []Change `json:"changes"` // newest first
}

// Change is one change of master.
type Change struct {
	Term      uint64    `json:"term"`
	Holder    string    `json:"holder"`
	Previous  string    `json:"previous,omitempty"`
	At        time.Time `json:"at"`
	Automatic bool      `json:"automatic"`
	By        string    `json:"by,omitempty"` // the person who asked
	Reason    string    `json:"reason"`
	Notes     []string  `json:"notes,omitempty"` // the evidence that was weighed
	// Steps of the takeover, where the answering agent knows them.
	Steps []Step `json:"steps,omitempty"`
}

// Step of a takeover.
type Step struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

// Failure is the body of an answer that is none.
type Failure struct {
	Error string `json:"error"`
}
