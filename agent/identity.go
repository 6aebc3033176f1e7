package agent

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/controlplane"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/replica/files"
)

// Before their end certificates are a problem: a leaf is renewed within a day by who
// remembers, a CA takes longer.
const (
	leafSoon = 30 * 24 * time.Hour
	caSoon   = 90 * 24 * time.Hour
)

// identity is the files that make this host the master, as they lie here: in place on
// the master, mirrored on a standby.
type identity struct {
	scan   *files.Scanner
	mirror *files.Mirror
}

// names are what the API's certificate must name on this host.
type names struct {
	vip netip.Addr // invalid = none
	api string     // the host at which the agent asks its own API
	own netip.Addr // this host's address
}

func (a *agent) names() names { return namesOf(a.cfg.Candidate, *a.addr.Load()) }

// apiHost is the host of an https URL; "" for http.
func apiHost(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" {
		return ""
	}
	return u.Hostname()
}

// missing are the names that a certificate lacks and that somebody goes by: everybody by
// the virtual IP, or by the host's address if there is none; the agent by its own.
func (n names) missing(c *x509.Certificate) []string {
	var out []string
	add := func(name string) {
		if name != "" && c.VerifyHostname(name) != nil && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	add(n.api)
	if n.vip.IsValid() {
		add(n.vip.String())
	} else if n.own.IsValid() {
		add(n.own.String())
	}
	return out
}

// lookAtIdentity judges the files; served is the digest of the certificate that the
// master shows now, "" if it is not known.
func (a *agent) lookAtIdentity(phase lease.Phase, served string) []controlplane.Finding {
	id, cp := a.host.Identity, a.cfg.Candidate.ControlPlane
	if id == nil || len(cp.Identity) == 0 {
		return nil
	}
	k3s, now := cp.Kind == config.KindK3s, time.Now()
	if phase == lease.Master {
		man, certs, err := id.scan.Certificates()
		if err == nil {
			err = id.scan.Whole(man)
		}
		if err != nil {
			return []controlplane.Finding{{What: fmt.Sprintf("the identity is not whole on the master: %v", err), Do: "put the files back: the standbys have what they had, in /var/lib/relevo/replica/identity"}}
		}
		return judgeIdentity(certs, served, k3s, now)
	}
	var out []controlplane.Finding
	if pos := a.host.Follower.Position(); pos.Complete && pos.IdentityErr != "" {
		out = append(out, controlplane.Finding{What: "its copy of the identity is an old one: " + pos.IdentityErr, Do: "look at the files on the master"})
	}
	if kept := id.mirror.Vanished(); len(kept) > 0 {
		out = append(out, controlplane.Finding{What: fmt.Sprintf("%s vanished on the master; the copy here is kept until %s", some(len(kept), "file", kept[0].Path), kept[0].Since.Add(files.KeepVanished).Format(time.DateTime)),
			Do: "put it back on the master, unless it was meant"})
	}
	return append(out, judgeMirror(id.mirror.Certificates(), served, a.names(), k3s, now)...)
}

// some is "x.key", or "3 files, as x.key,".
func some(n int, what, first string) string {
	if n == 1 {
		return first
	}
	return fmt.Sprintf("%d %ss, as %s,", n, what, first)
}

// judgeServed judges what the master shows to its clients.
func judgeServed(c *x509.Certificate, n names, k3s bool, now time.Time) []controlplane.Finding {
	var out []controlplane.Finding
	if lack := n.missing(c); len(lack) > 0 {
		out = append(out, controlplane.Finding{What: fmt.Sprintf("the certificate of the API does not name %v", lack), Do: renames(k3s)})
	}
	if left := c.NotAfter.Sub(now); left < leafSoon {
		out = append(out, controlplane.Finding{What: "the certificate of the API " + ends(c.NotAfter, now), Do: renewal(k3s)})
	}
	return out
}

func ends(at, now time.Time) string {
	if at.Before(now) {
		return "ended on " + at.Format(time.DateOnly)
	}
	return "ends on " + at.Format(time.DateOnly)
}

func renewal(k3s bool) string {
	if k3s {
		return "restart k3s on the master at a quiet moment: it renews at its start what ends within 90 days"
	}
	return "renew it on the master"
}

func renames(k3s bool) string {
	if k3s {
		return "give the virtual IP as tls-san in /etc/rancher/k3s/config.yaml of every candidate, and restart k3s on the master at a quiet moment"
	}
	return "make one that does, on the master"
}

// judgeIdentity looks at the certificates of the master: what ends soon, and whether the one
// that is shown is among them.
func judgeIdentity(certs []files.Cert, served string, k3s bool, now time.Time) []controlplane.Finding {
	var out []controlplane.Finding
	var leaves, cas []files.Cert
	inside := false
	for _, c := range certs {
		inside = inside || c.SHA256 == served
		switch left := c.NotAfter.Sub(now); {
		case c.IsCA && left < caSoon:
			cas = append(cas, c)
		case !c.IsCA && left < leafSoon:
			leaves = append(leaves, c)
		}
	}
	first := func(l []files.Cert) files.Cert {
		return slices.MinFunc(l, func(a, b files.Cert) int { return a.NotAfter.Compare(b.NotAfter) })
	}
	if len(leaves) > 0 {
		c := first(leaves)
		out = append(out, controlplane.Finding{What: some(len(leaves), "certificate", c.Path) + " " + ends(c.NotAfter, now), Do: renewal(k3s)})
	}
	if len(cas) > 0 {
		c := first(cas)
		out = append(out, controlplane.Finding{What: "the CA " + some(len(cas), "CA", c.Path) + " " + ends(c.NotAfter, now), Do: "make a new one, and tell every client: that takes time"})
	}
	if served != "" && !inside && !k3s && len(certs) > 0 {
		out = append(out, controlplane.Finding{What: "the certificate that the API shows is not part of the identity: a standby would show another, or none",
			Do: "name its file, and its key's, in candidate.control_plane.identity"})
	}
	return out
}

// judgeMirror looks at those that a standby would use: what it would not work with.
// k3s makes a leaf that has ended anew at its start, and adds its own names to the one
// that it serves: its configuration says the rest.
func judgeMirror(certs []files.Cert, served string, n names, k3s bool, now time.Time) []controlplane.Finding {
	var out []controlplane.Finding
	block := func(what, do string) {
		out = append(out, controlplane.Finding{Blocks: true, What: what, Do: do})
	}
	for _, c := range certs {
		switch {
		case c.IsCA && c.NotAfter.Before(now):
			block("the CA "+c.Path+" "+ends(c.NotAfter, now), "make a new one on the master")
		case k3s || c.SHA256 != served:
		case c.NotAfter.Before(now):
			block("the certificate of the API, "+c.Path+", "+ends(c.NotAfter, now), renewal(k3s))
		default:
			if lack := n.missing(c.Certificate); len(lack) > 0 {
				block(fmt.Sprintf("the certificate of the API, %s, does not name %v", c.Path, lack), renames(k3s))
			}
		}
	}
	return out
}
