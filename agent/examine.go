package agent

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/controlplane"
	"relevo.dev/relevo/agent/replica/files"
)

// Examine looks at a candidate's control plane from outside of the agent, for `relevo
// doctor`: what the agent itself looks at, without the API. active says that the control
// plane runs here. What is known of the last master and mirrored of its identity can be
// read by root only; without that, it is left out.
func Examine(ctx context.Context, cfg *config.Config, m controlplane.Looker, active bool) (version string, out []controlplane.Finding) {
	c := cfg.Candidate
	cp := c.ControlPlane
	facts, out := inspector(c, m).Look(ctx)
	k3s := cp.Kind == config.KindK3s
	spec := files.Spec{Roots: cp.Identity, MayMiss: cp.MayMiss(), Needed: cp.Needed()}
	if active {
		scan := files.NewScanner(spec, 0)
		man, certs, err := scan.Certificates()
		if err == nil {
			err = scan.Whole(man)
		}
		if err != nil {
			return facts.Version(), append(out, controlplane.Finding{What: fmt.Sprintf("the identity is not whole: %v", err), Do: "put the files back: the standbys have what they had"})
		}
		return facts.Version(), append(out, judgeIdentity(certs, "", k3s, time.Now())...)
	}
	master, err := readMasterFacts(filepath.Join(cfg.DataDir, "master.json"))
	if err != nil || master.Node == "" {
		return facts.Version(), out
	}
	out = append(out, controlplane.Compare(facts, master.Facts)...)
	mirror := files.NewMirror(filepath.Join(cfg.DataDir, "replica", "identity"), spec)
	if err := mirror.Load(); err != nil {
		return facts.Version(), append(out, controlplane.Finding{Blocks: true, What: err.Error(), Do: "it is mirrored again when the agent is restarted: systemctl restart relevo.service"})
	}
	n := namesOf(c, cfg.Advertise)
	return facts.Version(), append(out, judgeMirror(mirror.Certificates(), master.Facts.Served, n, k3s, time.Now())...)
}

// namesOf is what the configuration says of the names; own is the address of this host,
// as far as it is known.
func namesOf(c *config.Candidate, own netip.Addr) names {
	n := names{own: own, api: apiHost(c.ControlPlane.API.URL)}
	if c.VIP != nil {
		n.vip = c.VIP.Address.Addr()
	}
	return n
}
