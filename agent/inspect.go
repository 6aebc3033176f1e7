package agent

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/controlplane"
	"relevo.dev/relevo/agent/durable"
	"relevo.dev/relevo/agent/lease"
)

// A candidate looks at its own control plane while all is well: what would keep it from
// taking over is to be found before the night in which it has to. The master looks at
// what it serves; a standby also compares itself with what the master says of itself.

// How often: what is here is cheap to look at, what goes over the network less so.
const (
	inspectEvery = 15 * time.Second
	askEvery     = time.Minute
)

// Inspector looks at this host's control plane.
type Inspector interface {
	Look(ctx context.Context) (controlplane.Facts, []controlplane.Finding)
}

// about is what the API server that runs here says of itself.
type about interface {
	Version(ctx context.Context) (string, error)
	Advertised(ctx context.Context) ([]netip.Addr, error)
	Served(ctx context.Context) ([]*x509.Certificate, error) // the chain that it shows; nil with http
}

// inspected is what came of it.
type inspected struct {
	mu       sync.Mutex
	facts    controlplane.Facts
	findings []controlplane.Finding // of this host alone
	compared []controlplane.Finding // with the master, on a standby
	served   []controlplane.Finding // of what the API showed last, on the master
	master   masterFacts
}

// masterFacts is what is known of the last master that was another host; it is kept over
// a restart, since it counts most when that master is gone.
type masterFacts struct {
	Node  string             `json:"node"`
	Term  uint64             `json:"term"`
	Facts controlplane.Facts `json:"facts"`
}

// maxFacts bounds the file, in bytes.
const maxFacts = 64 << 10

func (a *agent) factsPath() string { return filepath.Join(a.cfg.DataDir, "master.json") }

// inspect looks until ctx ends.
func (a *agent) inspect(ctx context.Context) error {
	if a.host == nil || a.host.Inspector == nil {
		return nil
	}
	if m, err := readMasterFacts(a.factsPath()); err != nil {
		a.log.Warn("what is known of the last master cannot be read", "err", err)
	} else {
		a.inspected.mu.Lock()
		a.inspected.master = m
		a.inspected.mu.Unlock()
	}
	t := time.NewTicker(inspectEvery)
	defer t.Stop()
	var asked lease.Time
	var was lease.Phase
	var of uint64
	for {
		phase, term, now := a.phase(), a.term.Load(), a.clock()
		far := asked == 0 || now-asked >= askEvery || phase != was || term != of
		if far {
			asked, was, of = now, phase, term
		}
		a.look(ctx, phase, far)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// look is one round; far says that the network may be used.
func (a *agent) look(ctx context.Context, phase lease.Phase, far bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	in := &a.inspected
	facts, findings := a.host.Inspector.Look(ctx)
	in.mu.Lock()
	facts.Running, facts.Served = in.facts.Running, in.facts.Served
	master := in.master
	in.mu.Unlock()
	if phase != lease.Master {
		facts.Running, facts.Served = "", ""
	}
	var compared []controlplane.Finding
	switch {
	case phase == lease.Master && far:
		facts.Running, facts.Served = "", ""
		more := a.lookAtAPI(ctx, &facts)
		in.mu.Lock()
		in.served = more
		in.mu.Unlock()
	case phase == lease.Standby && far:
		if m, err := a.askMaster(ctx); err != nil {
			a.log.Debug("the master was not asked for its versions", "err", err)
		} else if !reflect.DeepEqual(m, master) {
			master = m
			if err := writeMasterFacts(a.factsPath(), m); err != nil {
				a.log.Warn("what is known of the master is not noted", "err", err)
			}
		}
	}
	switch phase {
	case lease.Master:
		in.mu.Lock()
		findings = append(findings, in.served...)
		in.mu.Unlock()
		findings = append(findings, a.lookAtIdentity(phase, facts.Served)...)
	case lease.Standby:
		if master.Node != "" {
			compared = controlplane.Compare(facts, master.Facts)
		}
		compared = append(compared, a.lookAtIdentity(phase, master.Facts.Served)...)
	default:
		return // what is half done is not judged
	}
	if ctx.Err() != nil {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, f := range slices.Concat(findings, compared) {
		if !slices.Contains(in.findings, f) && !slices.Contains(in.compared, f) {
			a.log.Warn("this would hurt in a failover", "what", f.What, "do", f.Do, "keeps_from_taking_over", f.Blocks)
		}
	}
	in.facts, in.findings, in.compared, in.master = facts, findings, compared, master
}

// askMaster asks the present master for its facts.
func (a *agent) askMaster(ctx context.Context) (masterFacts, error) {
	s := a.quorum.State()
	if s.Holder == "" || s.Holder == a.cfg.Node || s.Released {
		return masterFacts{}, errors.New("no other host is the master")
	}
	m := masterFacts{Node: s.Holder, Term: s.Term}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := a.port.PostJSON(ctx, s.Holder, pathFacts, empty{}, &m.Facts); err != nil {
		return m, err
	}
	if m.Facts.Kind == "" {
		return m, errors.New("it has not looked yet")
	}
	return m, nil
}

// tellFacts answers it.
func (a *agent) tellFacts(context.Context, string, empty) (controlplane.Facts, error) {
	a.inspected.mu.Lock()
	defer a.inspected.mu.Unlock()
	return a.inspected.facts, nil
}

// lookAtAPI looks at what the master serves, and notes it in facts.
func (a *agent) lookAtAPI(ctx context.Context, facts *controlplane.Facts) (out []controlplane.Finding) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	api, ok := a.host.API.(about)
	if !ok {
		return nil
	}
	if version, err := api.Version(ctx); err == nil {
		facts.Running = version
	} else {
		a.log.Debug("the API does not tell its version", "err", err)
	}
	if vip := a.vip(); vip.IsValid() {
		at, err := api.Advertised(ctx)
		if err == nil && len(at) > 0 && (len(at) != 1 || at[0] != vip) {
			out = append(out, controlplane.Finding{What: fmt.Sprintf("the API server advertises %s and not the virtual IP %s: what runs in the cluster would look for the API on a host that is lost", addrs(at), vip),
				Do: "give the API server --advertise-address=" + vip.String() + " (k3s: advertise-address in its config.yaml), on every candidate"})
		}
	}
	if chain, err := api.Served(ctx); err == nil && len(chain) > 0 { // else it is the business of who watches the API
		sum := sha256.Sum256(chain[0].Raw)
		facts.Served = hex.EncodeToString(sum[:])
		out = append(out, judgeServed(chain[0], a.names(), a.cfg.Candidate.ControlPlane.Kind == config.KindK3s, time.Now())...)
	}
	return out
}

func addrs(l []netip.Addr) (s string) {
	for i, a := range l {
		if i > 0 {
			s += ", "
		}
		s += a.String()
	}
	return s
}

// blocked says why this host must not take over, "" if it may. own: it has the newest
// data itself, so that it need not be compared with a master that was.
func (a *agent) blocked(own bool) string {
	in := &a.inspected
	in.mu.Lock()
	defer in.mu.Unlock()
	all := in.findings
	if !own {
		all = slices.Concat(all, in.compared)
	}
	for _, f := range all {
		if f.Blocks {
			return sentence(f)
		}
	}
	return ""
}

// sentence is a finding in one line.
func sentence(f controlplane.Finding) string {
	if f.Do == "" {
		return f.What
	}
	return f.What + ": " + f.Do
}

// found is what a person should know of this host.
func (a *agent) found() (version string, out []controlplane.Finding) {
	in := &a.inspected
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.facts.Version(), slices.Concat(in.findings, in.compared, a.unannounced())
}

// unannounced: it would take the virtual IP all the same, so it is no reason not to.
func (a *agent) unannounced() []controlplane.Finding {
	if a.host == nil {
		return nil
	}
	n, ok := a.host.Address.(announcer)
	if !ok {
		return nil
	}
	err := n.Trouble()
	if err == nil {
		return nil
	}
	return []controlplane.Finding{{What: "it cannot tell the network where the virtual IP is, so clients would look for the API elsewhere for up to a minute: " + err.Error(),
		Do: "`systemctl status relevo-packet.socket` and `systemctl restart relevo-packet.socket`; it is tried again by itself"}}
}

func readMasterFacts(path string) (m masterFacts, err error) {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return m, nil
	case err != nil:
		return m, err
	case len(text) > maxFacts:
		return m, fmt.Errorf("%s is larger than %d KiB", path, maxFacts>>10)
	}
	return m, json.Unmarshal(text, &m)
}

func writeMasterFacts(path string, m masterFacts) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(text) > maxFacts {
		return errors.New("it says more of itself than is kept")
	}
	return durable.Replace(path, text, 0o600)
}
