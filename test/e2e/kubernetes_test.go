//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/test/hosts"
)

// kubernetesServices: NodePort Services are created, changed and deleted on the
// real API server and watched by avahi-browse on another host; then the master is lost,
// comes back, and hands over, under that watch.
func kubernetesServices(t *testing.T, c *cluster) {
	m, n4 := c.nodes[0], c.nodes[3]
	b := c.startBrowse(n4, "_http._tcp")
	services, endpoints := c.dynamicOf(n4, schema.GroupVersionResource{Version: "v1", Resource: "services"}),
		c.dynamicOf(n4, schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"})
	create := func(name string, port int) {
		t.Helper()
		_, err := endpoints.Create(within(t, 20*time.Second), endpointSlice(name), metav1.CreateOptions{})
		ok(t, err)
		_, err = services.Create(within(t, 20*time.Second), nodePort(name, port), metav1.CreateOptions{})
		ok(t, err)
	}
	remove := func(name string) {
		t.Helper()
		gone := func(r dynamic.ResourceInterface, name string) { // again, if the connection was to a master that is dead
			ok(t, hosts.Until(within(t, 20*time.Second), name+" to be deleted", func(ctx context.Context) error {
				err := r.Delete(ctx, name, metav1.DeleteOptions{})
				if apierrors.IsNotFound(err) {
					err = nil
				}
				return err
			}))
		}
		gone(services, name)
		gone(endpoints, name+"-x")
	}
	patch := func(r dynamic.ResourceInterface, name, text string) {
		t.Helper()
		_, err := r.Patch(within(t, 20*time.Second), name, types.MergePatchType, []byte(text), metav1.PatchOptions{})
		ok(t, err)
	}

	create("first", 30000) // endpoints and Nodes are followed from now on
	b.seen(t, "first", "30000")
	var created, changed, gone, deleted []time.Duration
	for i := range 8 {
		name, port := fmt.Sprintf("web-%02d", i), 30100+i
		begin := time.Now()
		create(name, port)
		created = append(created, b.seen(t, name, strconv.Itoa(port)).Sub(begin))

		begin = time.Now()
		patch(services, name, fmt.Sprintf(`{"spec": {"ports": [{"name": "http", "port": 80, "nodePort": %d}]}}`, port+500))
		changed = append(changed, n4.resolved(t, name, strconv.Itoa(port+500)).Sub(begin))

		if i%4 == 0 {
			begin = time.Now()
			patch(endpoints, name+"-x", `{"endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": false}}]}`)
			gone = append(gone, b.unseen(t, name).Sub(begin))
			patch(endpoints, name+"-x", `{"endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": true}}]}`)
			b.seen(t, name, strconv.Itoa(port+500))
		}

		begin = time.Now()
		remove(name)
		deleted = append(deleted, b.unseen(t, name).Sub(begin))
	}
	for _, m := range []struct {
		what string
		took []time.Duration
	}{{"created → seen by avahi-browse on n4", created}, {"node port changed → seen", changed}, {"no endpoint ready → gone", gone}, {"deleted → gone", deleted}} {
		t.Logf("%s: %s", m.what, spread(m.took))
	}

	// Every member knows them, and that they are reached at the virtual IP.
	create("second", 30001)
	c.everybodyOffers(t, m.Name, "first", "second")

	// Failover. The old master's announcements are in n4's cache, its successor makes
	// the same: nothing may go away.
	b.seen(t, "second", "30001")
	mark := b.mark()
	p := c.pollServices(n4)
	cut := c.powerOff(m)
	s := c.waitMaster(2*time.Minute, "", c.term+1)
	t.Logf("failover: %s is the master %.1f s after the power cut", s.Master.Node, time.Since(cut).Seconds())
	c.everybodyOffers(t, s.Master.Node, "first", "second")
	t.Logf("failover: its Services are in every member's catalog %.1f s after the power cut; longest time that n4's had not both: %.1f s", time.Since(cut).Seconds(), p.end().Seconds())
	b.steady(t, "a failover", mark, "first", "second")

	// A new Service after the failover, and one that was deleted while its announcer was
	// dead.
	remove("second")
	b.unseen(t, "second")
	create("third", 30002)
	b.seen(t, "third", "30002")
	ok(t, m.Boot(within(t, time.Minute)))
	c.waitReady(2*time.Minute, s.Master.Node, c.term+1)

	// Switchover: the one before goes on until the next one offers the same.
	c.waitStandby(time.Minute, m.Name)
	mark = b.mark()
	p = c.pollServices(n4)
	// A host that has just booted may still believe in its old term for a moment.
	ok(t, hosts.Until(within(t, time.Minute), m.Name+" to be taken for the next master", func(ctx context.Context) error {
		_, err := n4.Run(ctx, "relevo", "step-down", "--to", m.Name, "--why", "test")
		return err
	}))
	c.waitMaster(2*time.Minute, m.Name, c.term+2)
	c.everybodyOffers(t, m.Name, "first", "third")
	t.Logf("switchover: longest time that n4's catalog had not both: %.1f s", p.end().Seconds())
	b.steady(t, "a switchover", mark, "first", "third")
	for _, n := range c.nodes {
		if out, err := n.Run(within(t, 10*time.Second), "relevo", "services"); err != nil || strings.Contains(out, "#2") {
			t.Errorf("%s: %v\n%s", n.Name, err, out)
		}
	}
	out, err := n4.Run(within(t, 10*time.Second), "relevo", "services")
	ok(t, err)
	b.mu.Lock()
	t.Logf("avahi-browse resolved %d times over IPv6", b.overIPv6)
	b.mu.Unlock()
	t.Logf("relevo services on n4:\n%s", out)
}

func nodePort(name string, port int) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": name, "annotations": map[string]any{"relevo.dev/publish": "true"}},
		"spec": map[string]any{"type": "NodePort", "ports": []any{map[string]any{"name": "http", "port": int64(80), "nodePort": int64(port)}}},
	}}
}

func endpointSlice(service string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
		"metadata":  map[string]any{"name": service + "-x", "labels": map[string]any{"kubernetes.io/service-name": service}},
		"endpoints": []any{map[string]any{"addresses": []any{"10.1.0.1"}, "conditions": map[string]any{"ready": true}}},
		"ports":     []any{map[string]any{"name": "http", "port": int64(80)}},
	}}
}

// browse is avahi-browse that runs until the test ends.
type browsing struct {
	mu       sync.Mutex
	lines    []browsed
	ports    map[string]map[string]bool // of what is there now, by name
	moved    chan struct{}              // closed at the next line
	overIPv6 int                        // resolved by asking over IPv6
	cancel   context.CancelFunc
}

type browsed struct {
	at         time.Time
	sign, name string
	port, addr string
}

func (c *cluster) startBrowse(from *node, typ string) *browsing {
	ctx, cancel := context.WithCancel(context.Background())
	cmd, release, err := from.Command(ctx, "stdbuf", "-oL", "avahi-browse", "-rp", typ)
	ok(c.t, err)
	out, err := cmd.StdoutPipe()
	ok(c.t, err)
	ok(c.t, cmd.Start())
	b := &browsing{ports: map[string]map[string]bool{}, moved: make(chan struct{}), cancel: cancel}
	done := make(chan struct{})
	go func() {
		defer close(done)
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			b.line(strings.Split(sc.Text(), ";"))
		}
		cmd.Wait()
		release()
	}()
	c.t.Cleanup(func() { cancel(); <-done })
	return b
}

func (b *browsing) line(f []string) {
	if len(f) < 6 || f[2] != "IPv4" {
		if f[0] == "=" {
			b.mu.Lock()
			b.overIPv6++
			b.mu.Unlock()
		}
		return
	}
	l := browsed{at: time.Now(), sign: f[0], name: f[3]}
	if len(f) > 8 {
		l.addr, l.port = f[7], f[8]
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, l)
	switch l.sign {
	case "=":
		b.ports[l.name] = map[string]bool{l.port: true} // the newest answer is the one that holds
	case "-":
		delete(b.ports, l.name)
	}
	close(b.moved)
	b.moved = make(chan struct{})
}

// wait waits for a state of what is there, and returns when the line came that made it.
func (b *browsing) wait(t *testing.T, what string, is func() bool) time.Time {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		b.mu.Lock()
		now, moved := is(), b.moved
		at := time.Now()
		if n := len(b.lines); n > 0 {
			at = b.lines[n-1].at
		}
		b.mu.Unlock()
		if now {
			return at
		}
		select {
		case <-moved:
		case <-limit:
			b.mu.Lock()
			defer b.mu.Unlock()
			t.Fatalf("avahi-browse: not %s; the last lines: %+v", what, b.lines[max(0, len(b.lines)-10):])
		}
	}
}

func (b *browsing) seen(t *testing.T, name, port string) time.Time {
	t.Helper()
	return b.wait(t, name+" at port "+port, func() bool { return b.ports[name][port] })
}

func (b *browsing) unseen(t *testing.T, name string) time.Time {
	t.Helper()
	return b.wait(t, name+" gone", func() bool { return b.ports[name] == nil })
}

// resolved asks the LAN, from a host, where a service is until it is at a port, and
// returns when. A browser that runs does not ask again for what it has resolved.
func (n *node) resolved(t *testing.T, name, port string) (at time.Time) {
	t.Helper()
	var conn *net.UDPConn
	ok(t, n.Do(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: n.IP.AsSlice()})
		return err
	}))
	defer conn.Close()
	q := new(dns.Msg).SetQuestion(name+"._http._tcp.local.", dns.TypeSRV)
	ask, err := q.Pack()
	ok(t, err)
	buf := make([]byte, 9000)
	ok(t, hosts.Until(within(t, 30*time.Second), name+" at port "+port, func(context.Context) error {
		if _, err := conn.WriteToUDP(ask, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353}); err != nil {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		at = time.Now()
		var a dns.Msg
		if err := a.Unpack(buf[:n]); err != nil {
			return err
		}
		for _, r := range a.Answer {
			if srv, ok := r.(*dns.SRV); ok && strconv.Itoa(int(srv.Port)) != port {
				return fmt.Errorf("it is at %d", srv.Port)
			} else if ok {
				return nil
			}
		}
		return errors.New("nobody announces it")
	}))
	return at
}

func (b *browsing) mark() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.lines)
}

// steady checks that nothing of these went away since the mark, that nothing came under
// another name, and that they are at the virtual IP.
func (b *browsing) steady(t *testing.T, what string, mark int, names ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.lines[mark:] {
		base, _, _ := strings.Cut(l.name, `\032#`)
		if !slices.Contains(names, base) {
			continue
		}
		if l.sign == "-" || base != l.name {
			t.Errorf("%s made avahi-browse say %s %s", what, l.sign, l.name)
		}
		if l.sign == "=" && l.addr != hosts.VIP {
			t.Errorf("%s: %s is at %s", what, l.name, l.addr)
		}
	}
	t.Logf("%s: avahi-browse on n4 said %d lines, none of them that a Service went", what, len(b.lines)-mark)
}

// everybodyOffers waits until every member that is on lists the Services, from this
// master, at the virtual IP.
func (c *cluster) everybodyOffers(t *testing.T, master string, names ...string) {
	t.Helper()
	ok(t, hosts.Until(within(t, time.Minute), "the Services in every catalog", func(ctx context.Context) error {
		for _, n := range c.nodes {
			if !n.On() {
				continue
			}
			has, err := n.offered(ctx)
			if err != nil {
				return err
			}
			for _, name := range names {
				if s := has[name]; s.Node != master || !slices.Contains(s.Addresses, hosts.VIP) {
					return fmt.Errorf("%s lists %+v for %s", n.Name, s, name)
				}
			}
		}
		return nil
	}))
}

func (n *node) offered(ctx context.Context) (map[string]api.Service, error) {
	var s api.Services
	if err := n.ask(ctx, &s, "services"); err != nil {
		return nil, err
	}
	out := map[string]api.Service{}
	for _, s := range s.Services {
		if s.Origin == "kubernetes" {
			out[s.Name] = s
		}
	}
	return out, nil
}

// poll asks a host again and again for its catalog, and remembers how long two Services
// were not in it.
type poll struct {
	cancel  context.CancelFunc
	done    chan struct{}
	longest time.Duration
	err     error
}

func (c *cluster) pollServices(n *node) *poll {
	ctx, cancel := context.WithCancel(context.Background())
	p := &poll{cancel: cancel, done: make(chan struct{})}
	c.t.Cleanup(func() { p.end() })
	go func() {
		defer close(p.done)
		last := time.Now()
		for ctx.Err() == nil {
			has, err := n.offered(ctx)
			switch {
			case err != nil:
				p.err = errors.Join(err)
			case len(has) >= 2:
				last = time.Now()
			default:
				p.longest = max(p.longest, time.Since(last))
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return p
}

func (p *poll) end() time.Duration { p.cancel(); <-p.done; return p.longest }

func spread(d []time.Duration) string {
	s := slices.Sorted(slices.Values(d))
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return fmt.Sprintf("%d times, median %.0f ms, best %.0f ms, worst %.0f ms", len(s), ms(s[len(s)/2]), ms(s[0]), ms(s[len(s)-1]))
}
