package controlplane

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"relevo.dev/relevo/systemd"
)

// Finding is something that would hurt when this host has to take over, found while all
// is well.
type Finding struct {
	// Blocks: it would not work, or do harm. The host is not ready as long as it lasts.
	Blocks bool   `json:"blocks,omitempty"`
	What   string `json:"what"`
	Do     string `json:"do,omitempty"`
}

// Facts are what a candidate tells the others of its control plane.
type Facts struct {
	Kind     string    `json:"kind"`
	Programs []Program `json:"programs,omitempty"`
	// Running is the version of the API server that runs here now; "" = none, or it is
	// not known.
	Running string `json:"running,omitempty"`
	// Settings of k3s that must be alike on all servers of a cluster.
	Settings map[string]string `json:"settings,omitempty"`
	// Served is the SHA-256 in hex of the certificate that the API shows; "" = not known.
	Served string `json:"served,omitempty"`
}

func (f Facts) version(program string) string {
	for _, p := range f.Programs {
		if p.Name == program {
			return p.Version
		}
	}
	return ""
}

// Version is the one to show to people: of k3s, or of the API server.
func (f Facts) Version() string {
	for _, name := range []string{"k3s", "kube-apiserver"} {
		if v := f.version(name); v != "" {
			return v
		}
	}
	return ""
}

// Looker is what an Inspector needs of systemd.
type Looker interface {
	State(ctx context.Context, unit string) (systemd.State, error)
	Exec(ctx context.Context, unit string) (systemd.Exec, error)
}

// InspectorConfig says what there should be.
type InspectorConfig struct {
	Kind           string
	Units          []string
	StandbyUnits   []string
	StandbyIfThere bool
	Systemd        Looker
	VIP            netip.Addr // invalid = none
	Port           int        // of the API
	DataDir        string     // k3s's
	ConfigFile     string     // k3s's; "" = where it is
	Ask            func(ctx context.Context, path string) ([]byte, error)
}

// Inspector looks at this host's control plane: is all there that a start would need,
// of which version, and does its configuration fit.
type Inspector struct {
	cfg      InspectorConfig
	versions versions
}

// NewInspector makes one.
func NewInspector(cfg InspectorConfig) *Inspector {
	if cfg.ConfigFile == "" {
		cfg.ConfigFile = k3sConfigFile
	}
	return &Inspector{cfg: cfg, versions: versions{run: cfg.Ask}}
}

// Look takes some milliseconds, and a program's start whenever its file has changed.
func (i *Inspector) Look(ctx context.Context) (Facts, []Finding) {
	facts := Facts{Kind: i.cfg.Kind}
	var found []Finding
	execs := map[string]systemd.Exec{}
	for _, u := range slices.Concat(i.cfg.Units, i.cfg.StandbyUnits) {
		standby := !slices.Contains(i.cfg.Units, u)
		s, err := i.cfg.Systemd.State(ctx, u)
		switch {
		case err != nil:
			found = append(found, Finding{What: err.Error(), Do: "look whether systemd is in order: systemctl status"})
			continue
		case s.Load == notFound && standby && i.cfg.StandbyIfThere:
			continue
		case s.Load != "loaded":
			found = append(found, Finding{Blocks: !standby, What: fmt.Sprintf("the unit %s is %s", u, s.Load), Do: "install it, or correct candidate.control_plane in the configuration"})
			continue
		}
		e, err := i.cfg.Systemd.Exec(ctx, u)
		if err != nil || e.Path == "" {
			continue
		}
		execs[u] = e
		p, err := i.versions.of(ctx, e.Path)
		if err != nil && ctx.Err() == nil {
			found = append(found, Finding{Blocks: !standby, What: fmt.Sprintf("%s cannot start: %v", u, err), Do: "install the same version as on the master"})
		}
		if !standby && !slices.ContainsFunc(facts.Programs, func(q Program) bool { return q.Path == p.Path }) {
			facts.Programs = append(facts.Programs, p)
		}
	}
	if i.cfg.Kind == KindK3s {
		settings, more := i.k3s(execs)
		facts.Settings, found = settings, append(found, more...)
	}
	return facts, found
}

// Compare judges this host by what is known of the master.
func Compare(own, master Facts) []Finding {
	return append(Skew(own, master), differences(own, master)...)
}
