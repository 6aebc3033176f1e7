package agent

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/catalog"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/kube"
)

// fakeKube is the Services of the cluster; they are in its datastore, so every master
// finds the same.
type fakeKube struct {
	mu      sync.Mutex
	view    kube.View
	changed chan struct{} // closed at the next change
	slow    time.Duration // until a source has seen everything once
	asked   map[string]int
}

func newFakeKube() *fakeKube {
	return &fakeKube{changed: make(chan struct{}), asked: map[string]int{}}
}

// put makes Services of the default namespace, each with an endpoint.
func (f *fakeKube) put(names ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.view = kube.View{}
	for i, n := range names {
		f.view.Services = append(f.view.Services, kube.Service{Namespace: "default", Name: n, Type: "LoadBalancer", LoadBalancer: []netip.Addr{netip.MustParseAddr("10.0.0.200")}, Annotations: map[string]string{"relevo.dev/publish": "true"},
			Ports: []kube.ServicePort{{Name: "http", Protocol: "TCP", Port: 80, NodePort: 30000 + i}}})
		f.view.Endpoints = append(f.view.Endpoints, kube.Endpoints{Service: "default/" + n, Ports: []string{"http"}, Nodes: []string{"n2"}})
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// fakeSource follows it from one host, whose control plane has to run.
type fakeSource struct {
	f       *fakeKube
	h       *testHost
	changes chan struct{}
	mu      sync.Mutex
	seen    kube.View
	synced  bool
}

func (h *testHost) services(config.Kubernetes, config.KubernetesAPI) (serviceSource, func(), error) {
	h.w.kube.mu.Lock()
	h.w.kube.asked[h.name]++
	h.w.kube.mu.Unlock()
	return &fakeSource{f: h.w.kube, h: h, changes: make(chan struct{}, 1)}, func() {}, nil
}

func (s *fakeSource) Run(ctx context.Context) error {
	s.f.mu.Lock()
	slow := s.f.slow
	s.f.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(slow):
	}
	for {
		s.f.mu.Lock()
		view, changed := s.f.view, s.f.changed
		s.f.mu.Unlock()
		if s.h.w.master() == s.h.name {
			s.mu.Lock()
			s.seen, s.synced = view, true
			s.mu.Unlock()
			select {
			case s.changes <- struct{}{}:
			default:
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

func (s *fakeSource) Changes() <-chan struct{} { return s.changes }
func (s *fakeSource) Trouble() string          { return "" }

func (s *fakeSource) View() (kube.View, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen, s.synced
}

// lists is what a host's catalog has of Kubernetes: name@owner, sorted.
func (h *testHost) lists() string {
	var out []string
	for _, e := range h.agent.catalog.All() {
		if e.Origin == catalog.Kubernetes {
			out = append(out, e.Name+"@"+e.Owner)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (w *world) listed(want string, hosts ...string) {
	w.t.Helper()
	for _, name := range hosts {
		h := w.host(name)
		w.until(time.Minute, name+" lists "+want, func() bool { return h.lists() == want })
	}
}

// always checks, until it is called back, that a host lists something.
func (w *world) always(host, what string) (end func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			if got := w.host(host).lists(); !strings.Contains(got, what) {
				w.t.Errorf("after %v %s lists %q, without %s", time.Since(w.begin), host, got, what)
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return func() { close(stop); <-done }
}

// TestWholeKubernetesServices: the Services of Kubernetes are offered once, by the master; after a
// failover by the next one, and nothing that was deleted meanwhile stays.
func TestWholeKubernetesServices(t *testing.T) {
	founded(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		w.kube.put("web", "mail")
		w.listed("mail@n1 web@n1", "n1", "n2", "n3", "v4")
		w.kube.put("web")
		w.listed("web@n1", "n1", "n2", "n3", "v4")
		always := w.always("v4", "web@")
		w.host("n1").crash()
		w.kube.put("web", "chat") // in the datastore while nobody follows
		m := w.follows("n1", 2)
		w.listed("chat@"+m.name+" web@"+m.name, "n2", "n3", "v4")
		always()
		w.kube.mu.Lock()
		defer w.kube.mu.Unlock()
		for name, n := range w.kube.asked {
			if name != "n1" && name != m.name || n != 1 {
				t.Errorf("%s followed Kubernetes %d times", name, n)
			}
		}
	})
}

// TestWholeKubernetesSwitchover: who hands over goes on offering until the next one does,
// so that at no moment a member lists nothing.
func TestWholeKubernetesSwitchover(t *testing.T) {
	founded(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		w.kube.put("web")
		w.listed("web@n1", "n1", "n2", "n3", "v4")
		w.kube.mu.Lock()
		w.kube.slow = 10 * time.Second // the API of the next master takes its time
		w.kube.mu.Unlock()
		always := w.always("v4", "web@")
		if _, err := w.host("v4").agent.Do(t.Context(), api.Order{Verb: api.VerbStepDown, To: "n2", By: "ann"}); err != nil {
			t.Error(err)
		}
		m := w.follows("n1", 2)
		w.listed("web@"+m.name, "n1", "n2", "n3", "v4")
		always()
	})
}

// TestWholeKubernetesLinger: what nobody takes over is not offered for ever.
func TestWholeKubernetesLinger(t *testing.T) {
	founded(t, "n1 n2 n3 v4", func(t *testing.T, w *world) {
		w.kube.put("web")
		w.listed("web@n1", "n1", "v4")
		w.isolate(w.host("n1"), true)
		m := w.follows("n1", 2)
		w.kube.put() // gone, and n1 cannot know
		for _, name := range []string{m.name, "v4", "n1"} {
			w.until(2*lingering, name+" lists it no more", func() bool { return w.host(name).lists() == "" })
		}
		w.isolate(w.host("n1"), false)
	})
}
