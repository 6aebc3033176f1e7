package config

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// YAML writes c as a relevo.yaml in which nothing is left to defaults. Parsing it
// gives c again.
func (c *Config) YAML() string {
	var w writer
	w.str(0, "cluster", c.Cluster)
	w.str(0, "node", c.Node)
	w.str(0, "data_dir", c.DataDir)
	w.str(0, "interface", c.Interface)
	advertise := ""
	if c.Advertise.IsValid() {
		advertise = c.Advertise.String()
	}
	w.str(0, "advertise", advertise)
	w.raw(0, "lease_ttl", Short(c.LeaseTTL))
	w.raw(0, "max_lag", Short(c.MaxLag))
	w.raw(0, "max_failovers", strconv.Itoa(c.MaxFailovers))
	w.raw(0, "voter", strconv.FormatBool(c.Voter))
	w.raw(0, "gossip", "")
	w.raw(1, "port", strconv.Itoa(c.Gossip.Port))
	w.str(1, "key_file", c.Gossip.KeyFile)
	w.raw(0, "peer", "")
	w.raw(1, "port", strconv.Itoa(c.Peer.Port))
	w.str(1, "pki_dir", c.Peer.PKIDir)
	w.list(0, "join", c.Join)
	w.raw(0, "mdns", "")
	w.str(1, "backend", string(c.MDNS.Backend))
	w.raw(0, "http", "")
	w.str(1, "listen", c.HTTP.Listen)
	w.raw(0, "fence", "")
	w.list(1, "command", c.Fence.Command)
	w.raw(1, "timeout", Short(c.Fence.Timeout))
	w.health(c.Health)
	w.kubernetes(c.Kubernetes)
	w.services(c)
	w.str(0, "socket", c.Socket)
	w.raw(0, "access", "")
	w.str(1, "others", string(c.Access.Others))
	w.raw(0, "log", "")
	w.str(1, "level", strings.ToLower(c.Log.Level.String()))
	if c.Candidate != nil {
		w.candidate(c.Candidate)
	}
	return w.b.String()
}

type writer struct{ b strings.Builder }

func (w *writer) candidate(c *Candidate) {
	w.raw(0, "candidate", "")
	w.raw(1, "priority", strconv.Itoa(c.Priority))
	w.raw(1, "never", strconv.FormatBool(c.Never))
	cp := c.ControlPlane
	w.raw(1, "control_plane", "")
	w.str(2, "kind", string(cp.Kind))
	w.str(2, "data_dir", cp.DataDir)
	w.list(2, "units", cp.Units)
	w.list(2, "standby_units", cp.StandbyUnits)
	w.raw(2, "datastore", "")
	w.str(3, "kind", string(cp.Datastore.Kind))
	w.str(3, "path", cp.Datastore.Path)
	w.list(2, "identity", cp.Identity)
	w.raw(2, "api", "")
	w.str(3, "url", cp.API.URL)
	w.str(3, "ca_file", cp.API.CAFile)
	w.str(3, "token_file", cp.API.TokenFile)
	w.str(3, "client_cert_file", cp.API.ClientCertFile)
	w.str(3, "client_key_file", cp.API.ClientKeyFile)
	w.raw(3, "start_timeout", Short(cp.API.StartTimeout))
	w.raw(3, "grace", Short(cp.API.Grace))
	w.raw(1, "replica", "")
	w.raw(2, "sync_interval", Short(c.Replica.SyncInterval))
	w.raw(2, "verify_interval", orOffText(c.Replica.VerifyInterval))
	w.raw(1, "rehearsal", "")
	w.raw(2, "every", orOffText(c.Rehearsal.Every))
	w.str(2, "at", timeOfDayText(c.Rehearsal.At))
	w.raw(2, "memory", strconv.FormatInt(c.Rehearsal.Memory>>20, 10)+"MiB")
	if v := c.VIP; v != nil {
		w.raw(1, "vip", "")
		w.str(2, "address", v.Address.String())
		w.str(2, "interface", v.Interface)
		w.raw(2, "port", strconv.Itoa(v.Port))
	}
}

// raw writes a key with a value that needs no quotes; "" begins a section.
func (w *writer) raw(depth int, key, value string) {
	w.b.WriteString(strings.Repeat("  ", depth) + key + ":")
	if value != "" {
		w.b.WriteString(" " + value)
	}
	w.b.WriteByte('\n')
}

func (w *writer) str(depth int, key, value string) { w.raw(depth, key, scalar(value)) }

func (w *writer) list(depth int, key string, values []string) {
	if len(values) == 0 {
		w.raw(depth, key, "[]")
		return
	}
	w.raw(depth, key, "")
	for _, v := range values {
		fmt.Fprintf(&w.b, "%s- %s\n", strings.Repeat("  ", depth+1), scalar(v))
	}
}

// What YAML reads as text without quotes, here and in older parsers.
var (
	bare   = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9/._-]*$`) })
	unbare = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(?i:true|false|yes|no|on|y|n|null)$`) })
)

func scalar(s string) string {
	if bare().MatchString(s) && !unbare().MatchString(s) {
		return s
	}
	return strconv.Quote(s)
}
