package agent

import (
	"cmp"
	"context"
	"net/netip"
	"reflect"
	"time"

	"relevo.dev/relevo/agent/catalog"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/kube"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
)

// Services of Kubernetes are offered once and not by every node: by the master's agent,
// or by the arbiter's where no agent runs a control plane. Who gives the duty away keeps
// offering what it knew until the next one does, for a while: to those who look on,
// nothing goes away and comes back. The offers are the same whoever makes them, so two
// who make them at once do not collide.

// serviceSource follows the Services of a cluster.
type serviceSource interface {
	Run(ctx context.Context) error
	Changes() <-chan struct{}
	View() (v kube.View, synced bool)
	Trouble() string // why the view is not the newest
}

// lingering is how long Services stay offered after the duty went to somebody else, if
// that one does not offer them: a standby needs that long to be the master at most.
const lingering = time.Minute

// kubeServices is the duty; it belongs to one goroutine.
type kubeServices struct {
	a      *agent
	cfg    config.Kubernetes // of source
	source serviceSource
	stop   func()
	shown  []catalog.Entry
	told   []catalog.Problem
	since  time.Time // when the duty went; zero = it is ours, or nothing is shown
}

// kubernetes does the duty until ctx ends.
func (a *agent) kubernetes(ctx context.Context) error {
	k := &kubeServices{a: a}
	defer k.end()
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	for {
		changed := a.factChanged()
		k.turn(ctx)
		var news <-chan struct{}
		if k.source != nil {
			news = k.source.Changes()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-news:
		case <-changed:
		case <-a.onDuty:
		case <-t.C:
		}
	}
}

// turn starts, goes on with, or ends what is to be done.
func (k *kubeServices) turn(ctx context.Context) {
	cfg := k.a.live.Load().Kubernetes
	if k.source != nil && !reflect.DeepEqual(cfg, k.cfg) {
		k.end()
	}
	api, mine := k.a.kubernetesDuty()
	switch {
	case cfg.Services == config.ServicesOff:
		k.end()
		k.set(nil, nil)
	case !mine:
		k.end()
		k.linger()
	default:
		k.since = time.Time{}
		if k.source == nil && !k.begin(ctx, cfg, api) {
			return
		}
		k.show()
	}
}

// kubernetesDuty says whether this host offers the Services, and where it finds them.
func (a *agent) kubernetesDuty() (api config.KubernetesAPI, mine bool) {
	api, local, ok := a.live.Load().KubernetesAPI()
	switch {
	case !ok:
		return api, false
	case local || a.quorum.State().Holder != "":
		return api, a.host != nil && a.phase() == lease.Master
	}
	return api, a.quorum.IsLeader()
}

func (k *kubeServices) begin(ctx context.Context, cfg config.Kubernetes, api config.KubernetesAPI) bool {
	if k.a.opts.Services == nil && k.a.opts.Host != nil {
		return false // hosts that are not real have no API to follow
	}
	open := k.a.opts.Services
	if open == nil {
		open = k.a.followServices
	}
	source, end, err := open(cfg, api)
	if err != nil {
		k.set(k.shown, []catalog.Problem{{Text: "Services of Kubernetes: " + err.Error()}})
		return false
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		source.Run(ctx)
	}()
	k.cfg, k.source = cfg, source
	k.stop = func() { cancel(); <-done; end() }
	return true
}

// followServices is the real source.
func (a *agent) followServices(cfg config.Kubernetes, api config.KubernetesAPI) (serviceSource, func(), error) {
	c, err := newKubeClient(api)
	if err != nil {
		return nil, nil, err
	}
	return c.NewWatcher(serviceSettings(cfg), cfg.Selector, a.log), c.Close, nil
}

func newKubeClient(api config.KubernetesAPI) (*kube.Client, error) {
	return kube.New(kube.Config{URL: api.URL, CAFile: api.CAFile, TokenFile: api.TokenFile, ClientCertFile: api.ClientCertFile, ClientKeyFile: api.ClientKeyFile})
}

func serviceSettings(cfg config.Kubernetes) kube.Settings {
	return kube.Settings{Mode: kube.Mode(cfg.Services), Namespaces: cfg.Namespaces}
}

// end ends following; what is shown stays.
func (k *kubeServices) end() {
	if k.source != nil {
		k.stop()
		k.source, k.stop = nil, nil
	}
}

// show declares what the source has seen. As long as it has not seen everything once,
// what was shown before stays.
func (k *kubeServices) show() {
	view, synced := k.source.View()
	entries, problems := k.shown, []catalog.Problem(nil)
	if synced {
		offers, wrong := kube.Translate(view, serviceSettings(k.cfg), k.a.kubernetesPlace())
		entries = make([]catalog.Entry, 0, len(offers))
		for _, o := range offers {
			entries = append(entries, catalog.Entry{ID: o.ID, Name: o.Name, Type: o.Type, Description: o.Description, Host: o.Host, Addrs: o.Addrs, Port: o.Port,
				TXT: o.TXT, Public: o.Public, Health: catalog.OK})
		}
		for _, w := range wrong {
			problems = append(problems, catalog.Problem{Text: w})
		}
	}
	if t := k.source.Trouble(); t != "" {
		problems = append(problems, catalog.Problem{Text: "Services of Kubernetes: " + t})
	}
	k.set(entries, problems)
}

// linger keeps what is shown for a while after the duty went to another host.
func (k *kubeServices) linger() {
	if len(k.shown)+len(k.told) == 0 {
		return
	}
	if k.since.IsZero() {
		k.since = time.Now()
	}
	// What is at this host's own address would be another's under the same name.
	var stays []catalog.Entry
	for _, e := range k.shown {
		if len(e.Addrs) > 0 {
			stays = append(stays, e)
		}
	}
	if time.Since(k.since) > lingering || k.a.othersOffer() {
		stays, k.since = nil, time.Time{}
	}
	k.set(stays, nil)
}

// othersOffer says whether another member offers Services.
func (a *agent) othersOffer() bool {
	for _, e := range a.catalog.All() {
		if e.Origin == catalog.Kubernetes && e.Owner != a.cfg.Node {
			return true
		}
	}
	return false
}

func (k *kubeServices) set(entries []catalog.Entry, problems []catalog.Problem) {
	k.shown, k.told = entries, problems
	k.a.catalog.Set(catalog.Kubernetes, entries, problems)
}

// kubernetesPlace is where this host stands among the Nodes.
func (a *agent) kubernetesPlace() kube.Place {
	p := kube.Place{Node: a.kubernetesNode(), Addr: *a.addr.Load(), Down: map[netip.Addr]bool{}}
	if vip := a.vip(); vip.IsValid() {
		p.VIP, p.VIPHost = vip, a.id.Cluster()+"-kubernetes"
	}
	for _, m := range a.pool.Members() {
		if addr, err := netip.ParseAddr(m.Addr); err == nil && m.Status != member.Alive {
			p.Down[addr] = true
		}
	}
	return p
}

// kubernetesNode is what Kubernetes calls this host.
func (a *agent) kubernetesNode() string {
	return cmp.Or(a.live.Load().Kubernetes.Node, a.cfg.Node)
}
