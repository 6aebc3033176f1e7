// Package config turns relevo.yaml into a [Config]. It is strict: an unknown key,
// a wrong type or a bad value is an error that names file, line and column and
// says what is allowed, and all errors of a file are told together. What is not
// written has a default; reference.yaml beside this file lists every key with it.
package config

import (
	"log/slog"
	"net/netip"
	"time"
)

// DefaultPath is where the agent looks for its configuration.
const DefaultPath = "/etc/relevo/relevo.yaml"

// DefaultSocket is where the agent listens for the CLI.
const DefaultSocket = "/run/relevo/relevo.sock"

// Config is relevo.yaml, checked and with all defaults filled in.
type Config struct {
	// Cluster is the name of the cluster: 1 to 63 of a-z, 0-9 and -. It has no
	// default, so that two clusters on one LAN do not meet by accident.
	Cluster string
	// Node is the name of this host in the cluster, of the same form. Default:
	// the first label of the host name.
	Node string
	// DataDir holds the state: raft log, replica, journal. Absolute.
	DataDir string
	// Interface is the network interface to use; "" = the one with the default
	// route, else the first that is up and not virtual.
	Interface string
	// Advertise is the address that others reach this host at; the zero Addr =
	// the first address of Interface.
	Advertise netip.Addr
	// LeaseTTL is the time to live of the master lease, 3s to 60s. All timings of
	// the lease derive from it.
	LeaseTTL time.Duration
	// MaxLag is how old a standby's copy may be to be promoted without a person.
	MaxLag time.Duration
	// MaxFailovers is how many automatic failovers an hour may see; 0 = none.
	MaxFailovers int
	// Voter says that this host may vote.
	Voter bool

	Gossip Gossip
	Peer   Peer
	// Join lists members to contact, each as host:port; the gossip port is filled
	// in where the file had none. Empty = found by mDNS only.
	Join []string
	MDNS MDNS
	HTTP HTTP
	// Fence is the device that switches a lost master off; no Command = none.
	Fence Fence
	// Health is where the conditions of this host begin.
	Health Health
	// Kubernetes is what the agent shows of the cluster, and to it.
	Kubernetes Kubernetes
	// Services and Cloudy are what this host offers, and to whom beside the LAN.
	Services Services
	Cloudy   Cloudy
	// Socket is the unix socket for the CLI. Absolute, at most 100 bytes.
	Socket string
	Access Access
	Log    Log

	// Candidate is nil on a host that never runs a control plane.
	Candidate *Candidate
}

// Gossip is how the Serf pool is reached.
type Gossip struct {
	Port    int    // tcp and udp
	KeyFile string // the pool's key, 0600
}

// Peer is the one port between agents, mutually authenticated.
type Peer struct {
	Port   int    // tcp
	PKIDir string // ca.crt, node.crt, node.key, and ca.key where it lies
}

// MDNS chooses who speaks multicast DNS.
type MDNS struct{ Backend Backend }

// Backend of MDNS.
type Backend string

// The backends. BackendAuto is Avahi where its daemon runs, else zeroconf.
const (
	BackendAuto     Backend = "auto"
	BackendAvahi    Backend = "avahi"
	BackendZeroconf Backend = "zeroconf"
	BackendOff      Backend = "off"
)

// HTTP is the read-only listener for /metrics, /healthz and /readyz.
type HTTP struct{ Listen string } // ip:port; "" = off

// Fence is a program that switches another host off and confirms that it is off, by its
// exit code 0. It must be known to every voter: any of them may be the arbiter.
type Fence struct {
	Command []string // program (absolute) and arguments
	Timeout time.Duration
}

// Access says what those may do on this host whom nobody gave a role; see docs/roles.md.
type Access struct{ Others Others }

// Others is what local users may that are neither root nor in the group relevo.
type Others string

// What others may.
const (
	OthersNone   Others = "none"
	OthersStatus Others = "status"
)

// Log is what the agent tells the journal.
type Log struct{ Level slog.Level }

// Candidate is what makes a host able to be master.
type Candidate struct {
	// Priority breaks the tie between standbys that are equally fresh: -100 to
	// 100, the highest is promoted first.
	Priority int
	// Never keeps a copy on this host, but it is promoted by a person only.
	Never        bool
	ControlPlane ControlPlane
	Replica      Replica
	Rehearsal    Rehearsal
	// VIP is nil without a virtual IP.
	VIP *VIP
}

// Kind of a control plane.
type Kind string

// The kinds.
const (
	KindUnits Kind = "units" // systemd units that the file names
	KindK3s   Kind = "k3s"   // a k3s server on its SQLite; kinds.go derives the rest
)

// ControlPlane is what "the master" is on this host.
type ControlPlane struct {
	Kind Kind
	// DataDir is k3s's (--data-dir); "" with kind units.
	DataDir string
	// Units are systemd services in the order they are started; they are stopped
	// in reverse. At least one.
	Units []string
	// StandbyUnits run while this host is a standby and are stopped before it is
	// promoted.
	StandbyUnits []string
	Datastore    Datastore
	// Identity lists the files and directories that a standby needs to be the
	// same master: CA, service-account keys, token. Absolute.
	Identity []string
	API      API
}

// DatastoreKind is the kind of a datastore.
type DatastoreKind string

// DatastoreKine is kine on SQLite.
const DatastoreKine DatastoreKind = "kine"

// Datastore is where the control plane keeps its objects.
type Datastore struct {
	Kind DatastoreKind
	Path string // the SQLite file. Absolute.
}

// API is how this host asks its own API server whether it works. With https the
// CA file and one of token and client certificate are there.
type API struct {
	URL            string // https://host:port; http only on loopback
	CAFile         string
	TokenFile      string // bearer token; "" = none
	ClientCertFile string // client certificate and key, both or none
	ClientKeyFile  string
	StartTimeout   time.Duration // from the start of the units to a working API
	Grace          time.Duration // how long a master may stay without a working API
}

// Replica is how this host keeps its copy of the master's datastore.
type Replica struct {
	// SyncInterval is how long rows may wait in memory before they are written to disk,
	// all at once.
	SyncInterval time.Duration
	// VerifyInterval is how often the copy is compared with the master's datastore; 0 =
	// only when a person asks.
	VerifyInterval time.Duration
}

// Rehearsal is when and how this host tries a promotion while it is a standby.
type Rehearsal struct {
	Every  time.Duration // 0 = only when a person asks
	At     time.Duration // the quiet hour begins so long after midnight, local time
	Memory int64         // bytes that the control plane may take; with less available the database alone is rehearsed
}

// VIP is the virtual IP that follows the master.
type VIP struct {
	Address   netip.Prefix // host address with the length of its network: 10.77.0.100/24
	Interface string       // "" = Config.Interface
	Port      int          // of the API on it
}

// defaults is what holds where the file says nothing. Node is filled in later.
func defaults() *Config {
	c := &Config{
		DataDir:      "/var/lib/relevo",
		LeaseTTL:     6 * time.Second,
		MaxLag:       10 * time.Second,
		MaxFailovers: 2,
		Voter:        true,
		Gossip:       Gossip{Port: 7946, KeyFile: "/etc/relevo/gossip.key"},
		Peer:         Peer{Port: 7947, PKIDir: "/etc/relevo/pki"},
		MDNS:         MDNS{Backend: BackendAuto},
		HTTP:         HTTP{Listen: "127.0.0.1:7948"},
		Fence:        Fence{Timeout: 10 * time.Second},
		Socket:       DefaultSocket,
		Access:       Access{Others: OthersNone},
		Log:          Log{Level: slog.LevelInfo},
		Health:       healthDefaults(),
		Kubernetes:   kubernetesDefaults(),
	}
	c.serviceDefaults()
	return c
}

func candidateDefaults() *Candidate {
	return &Candidate{ControlPlane: ControlPlane{
		Kind:      KindUnits,
		Datastore: Datastore{Kind: DatastoreKine},
		API:       API{StartTimeout: 60 * time.Second, Grace: 30 * time.Second},
	}, Replica: Replica{SyncInterval: 30 * time.Second, VerifyInterval: 24 * time.Hour},
		Rehearsal: Rehearsal{Every: 7 * 24 * time.Hour, At: 3 * time.Hour, Memory: 600 << 20}}
}
