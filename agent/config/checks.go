package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// finish fills in what depends on other keys or on the host, and checks what
// concerns several keys together.
func (d *decoder) finish(c *Config, hostname func() (string, error)) {
	d.nodeName(c, hostname)
	d.joinPorts(c)
	d.ports(c)
	d.kubernetesAPI(c)
	d.cloudy(c)
	if c.Candidate != nil {
		d.kind(c)
		d.credentials(c)
		d.paths(c)
		d.units(c)
		d.address(c)
	}
}

// nodeName takes the host name where none is given. "localhost" is what a board
// without a name calls itself: two of them would collide.
func (d *decoder) nodeName(c *Config, hostname func() (string, error)) {
	if c.Node != "" || d.failed("node") {
		return
	}
	h, err := hostname()
	if err != nil {
		d.fail(d.at["node"], "node", "is not given, and the host name cannot be read: %v", err)
		return
	}
	h, _, _ = strings.Cut(strings.ToLower(h), ".")
	if err := checkName(h); err != nil {
		d.fail(d.at["node"], "node", "is not given, and the host name cannot serve: %v; give `node: NAME`", err)
		return
	}
	if h == "localhost" {
		d.fail(d.at["node"], "node", `is not given, and the host is called "localhost" like any other: give it a name (hostnamectl set-hostname) or write `+"`node: NAME`")
		return
	}
	c.Node = h
}

func (d *decoder) failed(path string) bool {
	return slices.ContainsFunc(d.errs, func(e *Error) bool { return e.Path == path })
}

func (d *decoder) joinPorts(c *Config) {
	seen := map[string]bool{}
	for i, s := range c.Join {
		h, port, _ := net.SplitHostPort(s)
		if port == "" {
			c.Join[i] = net.JoinHostPort(h, strconv.Itoa(c.Gossip.Port))
		}
		if seen[c.Join[i]] {
			d.fail(d.at["join="+s], fmt.Sprintf("join[%d]", i), "%s is in the list twice", quote(c.Join[i]))
		}
		seen[c.Join[i]] = true
	}
}

// ports that one host listens on must differ.
func (d *decoder) ports(c *Config) {
	if c.Gossip.Port == c.Peer.Port {
		n, path := d.at["peer.port"], "peer.port"
		if n == nil {
			n, path = d.at["gossip.port"], "gossip.port"
		}
		d.fail(n, path, "%d is both gossip.port and peer.port: they must differ", c.Peer.Port)
	}
	if ap, err := netip.ParseAddrPort(c.HTTP.Listen); err == nil {
		if p := int(ap.Port()); p == c.Gossip.Port || p == c.Peer.Port {
			d.fail(d.at["http.listen"], "http.listen", "port %d is taken by gossip.port or peer.port: they must differ", p)
		}
	}
}

func (d *decoder) credentials(c *Config) {
	a := c.Candidate.ControlPlane.API
	d.credentialsOf("candidate.control_plane.api", KubernetesAPI{a.URL, a.CAFile, a.TokenFile, a.ClientCertFile, a.ClientKeyFile}, "is needed to prove that the API works")
}

// within says whether path is dir or lies in it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// paths keeps out of the mirrored identity what must not be alike on two hosts.
func (d *decoder) paths(c *Config) {
	cp := c.Candidate.ControlPlane
	const base = "candidate.control_plane.identity"
	for i, id := range cp.Identity {
		at, path := d.at[base+"="+id], fmt.Sprintf("%s[%d]", base, i)
		for _, own := range []struct{ path, what string }{
			{c.Peer.PKIDir, "this host's own keys (peer.pki_dir)"},
			{c.Gossip.KeyFile, "relevo's own key (gossip.key_file)"},
			{c.DataDir, "relevo's own state (data_dir)"},
			{cp.Datastore.Path, "the datastore (datastore.path), which is replicated by itself"},
		} {
			if own.path != "" && (within(own.path, id) || within(id, own.path)) {
				d.fail(at, path, "%s would copy %s to other hosts: name narrower paths", quote(id), own.what)
			}
		}
		for j, other := range cp.Identity {
			if i != j && within(id, other) {
				d.fail(at, path, "%s lies in %s, which is in the list as well: remove one", quote(id), quote(other))
			}
		}
	}
	if cp.Datastore.Path != "" && within(cp.Datastore.Path, c.Peer.PKIDir) {
		d.fail(d.at["candidate.control_plane.datastore.path"], "candidate.control_plane.datastore.path", "%s lies in peer.pki_dir", quote(cp.Datastore.Path))
	}
}

func (d *decoder) units(c *Config) {
	const base = "candidate.control_plane."
	cp := c.Candidate.ControlPlane
	if n := d.at[base+"units"]; n != nil && len(cp.Units) == 0 && len(n.Content) == 0 {
		d.fail(n, base+"units", "is empty: at least one service is needed, such as [k3s.service]")
	}
	for i, u := range cp.StandbyUnits {
		if slices.Contains(cp.Units, u) {
			d.fail(d.at[base+"standby_units="+u], fmt.Sprintf("%sstandby_units[%d]", base, i), "%s is in units as well: a standby must not run it", quote(u))
		}
	}
}

func (d *decoder) address(c *Config) {
	v := c.Candidate.VIP
	if v == nil || !v.Address.IsValid() {
		return
	}
	if c.Advertise == v.Address.Addr() {
		d.fail(d.at["candidate.vip.address"], "candidate.vip.address", "%s is this host's own address (advertise): the virtual IP moves between hosts", v.Address.Addr())
	}
}
