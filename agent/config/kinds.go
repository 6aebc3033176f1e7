package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"gopkg.in/yaml.v3"
)

// Where k3s is, unless it was told otherwise.
const (
	k3sDataDir  = "/var/lib/rancher/k3s"
	k3sUnit     = "k3s.service"
	k3sAgent    = "k3s-agent.service"
	k3sPort     = 6443
	k3sNodeDir  = "/etc/rancher/node" // this node's password
	k3sConfDir  = "/etc/rancher/k3s"  // node-ip, node-name and the like among the rest
	controlPath = "candidate.control_plane"
	// The first start of a k3s server on an SD card unpacks it and takes a minute.
	k3sStartTimeout = 2 * time.Minute
)

// kind demands what a kind needs, refuses what makes no sense with it, and fills in
// what follows from it.
func (d *decoder) kind(c *Config) {
	n := d.at[controlPath]
	if n == nil || n.Kind != yaml.MappingNode || d.failed(controlPath+".kind") {
		return
	}
	switch cp := &c.Candidate.ControlPlane; cp.Kind {
	case KindUnits:
		d.needOfUnits(cp)
	case KindK3s:
		d.k3s(c, cp)
	}
}

// given says whether the file has the key.
func (d *decoder) given(key string) bool { return d.at[controlPath+"."+key] != nil }

func (d *decoder) needOfUnits(cp *ControlPlane) {
	if cp.DataDir != "" {
		d.fail(d.at[controlPath+".data_dir"], controlPath+".data_dir", "is of kind k3s, and this is kind units: remove it, or write `kind: k3s`")
	}
	missing := func(section, key string) {
		path := controlPath + "." + key
		if !d.given(key) && !d.failed(path) {
			d.fail(d.at[section], path, "is missing")
		}
	}
	missing(controlPath, "units")
	for _, s := range []struct{ section, key string }{{"datastore", "path"}, {"api", "url"}} {
		missing(controlPath, s.section)
		if at := d.at[controlPath+"."+s.section]; at != nil && at.Kind == yaml.MappingNode {
			missing(controlPath+"."+s.section, s.section+"."+s.key)
		}
	}
}

// k3s derives. Paths: k3s's own layout below its data directory.
func (d *decoder) k3s(c *Config, cp *ControlPlane) {
	fill := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	fill(&cp.DataDir, k3sDataDir)
	server := filepath.Join(cp.DataDir, "server")
	if !d.given("units") {
		cp.Units = []string{k3sUnit}
	}
	if !d.given("standby_units") && !slices.Contains(cp.Units, k3sAgent) {
		cp.StandbyUnits = []string{k3sAgent}
	}
	if !d.given("datastore.path") {
		cp.Datastore.Path = filepath.Join(server, "db", "state.db")
	}
	if !d.given("identity") {
		cp.Identity = []string{
			filepath.Join(server, "token"), filepath.Join(server, "agent-token"),
			filepath.Join(server, "tls"), filepath.Join(server, "cred"), filepath.Join(server, "manifests"),
		}
	}
	d.k3sIdentity(cp, server)
	a, port := &cp.API, k3sPort
	if v := c.Candidate.VIP; v != nil && v.Port != 0 {
		port = v.Port
	}
	if !d.given("api.url") {
		a.URL = "https://127.0.0.1:" + strconv.Itoa(port)
	}
	tls := filepath.Join(server, "tls")
	if !d.given("api.ca_file") {
		a.CAFile = filepath.Join(tls, "server-ca.crt")
	}
	if a.TokenFile == "" && a.ClientCertFile == "" && a.ClientKeyFile == "" {
		a.ClientCertFile, a.ClientKeyFile = filepath.Join(tls, "client-admin.crt"), filepath.Join(tls, "client-admin.key")
	}
	if !d.given("api.start_timeout") {
		a.StartTimeout = k3sStartTimeout
	}
}

// k3sIdentity keeps a list that somebody wrote from making two different servers, or
// two nodes alike.
func (d *decoder) k3sIdentity(cp *ControlPlane, server string) {
	const path = controlPath + ".identity"
	if d.failed(path) {
		return
	}
	for _, need := range []string{filepath.Join(server, "token"), filepath.Join(server, "tls")} {
		if !slices.ContainsFunc(cp.Identity, func(id string) bool { return within(need, id) }) {
			d.fail(d.at[path], path, "lacks %s: without it a standby would be another cluster; leave identity out to have all that k3s needs", need)
		}
	}
	for i, id := range cp.Identity {
		for _, own := range []struct{ path, what string }{
			{k3sNodeDir, "the password of this node"},
			{k3sConfDir, "what is said of this node alone (node-ip, node-name)"},
			{filepath.Join(cp.DataDir, "agent"), "this node's own certificates and images"},
		} {
			if within(own.path, id) || within(id, own.path) {
				d.fail(d.at[path+"="+id], fmt.Sprintf("%s[%d]", path, i), "%s would copy %s to other nodes: leave it out", quote(id), own.what)
			}
		}
	}
}

// MayMiss lists what of Identity need not be there: k3s has an agent-token only if
// agents got one of their own, and manifests unless they were all switched off.
func (cp *ControlPlane) MayMiss() []string {
	if cp.Kind != KindK3s {
		return nil
	}
	server := filepath.Join(cp.DataDir, "server")
	return []string{filepath.Join(server, "agent-token"), filepath.Join(server, "manifests")}
}

// Needed lists files without which the identity is not whole, whatever else is
// there. k3s makes any that is missing anew, and would then be another cluster: the
// token opens what its datastore keeps of these, the CAs sign what agents believe.
func (cp *ControlPlane) Needed() []string {
	if cp.Kind != KindK3s {
		return nil
	}
	var out []string
	for _, f := range []string{
		"token", "tls/server-ca.crt", "tls/server-ca.key", "tls/client-ca.crt", "tls/client-ca.key",
		"tls/request-header-ca.crt", "tls/request-header-ca.key", "tls/service.key",
	} {
		out = append(out, filepath.Join(cp.DataDir, "server", f))
	}
	return out
}
