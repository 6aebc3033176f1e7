//go:build e2e || bench

package e2e

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"relevo.dev/relevo/test/hosts"
)

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

// client is client-go as it is, on a host, through the virtual IP.
func (c *cluster) client(from *node, timeout time.Duration) dynamic.ResourceInterface {
	return c.clientOf(hosts.VIP, from, timeout)
}

// clientOf speaks with one address of the API.
func (c *cluster) clientOf(ip string, from *node, timeout time.Duration) dynamic.ResourceInterface {
	return c.dynamic(ip, from, timeout).Resource(configMaps).Namespace("default")
}

// dynamicOf speaks of one resource in the namespace default, through the virtual IP.
func (c *cluster) dynamicOf(from *node, r schema.GroupVersionResource) dynamic.ResourceInterface {
	return c.dynamic(hosts.VIP, from, 0).Resource(r).Namespace("default")
}

func (c *cluster) dynamic(ip string, from *node, timeout time.Duration) dynamic.Interface {
	d, err := dynamic.NewForConfig(&rest.Config{
		Host:            fmt.Sprintf("https://%s:%d", ip, hosts.APIPort),
		BearerToken:     c.kube.Token,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.kube.CA},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return from.DialContext(ctx, network, address)
		},
		Timeout: timeout, QPS: 1e6, Burst: 1e6,
	})
	ok(c.t, err)
	return d
}

// write is one acknowledged write.
type write struct {
	name string
	rv   uint64
	at   time.Time
}

// writer creates ConfigMaps one after the other, for as long as it runs, and
// remembers what was acknowledged.
type writer struct {
	mu     sync.Mutex
	acked  []write
	errs   int
	last   error
	gap    time.Duration // longest time between two acknowledgements
	gapEnd time.Time
	stop   context.CancelFunc
	done   chan struct{}
}

func (c *cluster) startWriter(from *node, prefix string) *writer {
	return c.startWriterTo(hosts.VIP, from, prefix)
}

func (c *cluster) startWriterTo(ip string, from *node, prefix string) *writer {
	return c.startCreating(prefix, 0, c.creator(ip, from))
}

// create makes one object; it returns the resourceVersion at which that was acknowledged.
type create func(ctx context.Context, name string) (uint64, error)

// creator creates ConfigMaps by one address of the API.
func (c *cluster) creator(ip string, from *node) create {
	client := c.clientOf(ip, from, 2*time.Second)
	return func(ctx context.Context, name string) (uint64, error) {
		o, err := client.Create(ctx, configMap(name), metav1.CreateOptions{})
		if err != nil {
			return 0, err
		}
		return version64(o), nil
	}
}

// startCreating starts a writer that creates one thing every pace at most; 0 = one after
// the other.
func (c *cluster) startCreating(prefix string, pace time.Duration, one create) *writer {
	ctx, stop := context.WithCancel(context.Background())
	w := &writer{stop: stop, done: make(chan struct{})}
	c.t.Cleanup(w.end)
	tick := time.NewTicker(max(pace, time.Microsecond))
	go func() {
		defer close(w.done)
		defer tick.Stop()
		last := time.Now()
		for i := 0; ctx.Err() == nil; i++ {
			if pace > 0 {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
			name := fmt.Sprintf("%s-%06d", prefix, i)
			rv, err := one(ctx, name)
			if ctx.Err() != nil {
				return // cut off by the end of the test: neither acknowledged nor refused
			}
			w.mu.Lock()
			if err != nil {
				w.errs++
				w.last = err
			} else {
				now := time.Now()
				w.acked = append(w.acked, write{name, rv, now})
				if g := now.Sub(last); g > w.gap {
					w.gap, w.gapEnd = g, now
				}
				last = now
			}
			w.mu.Unlock()
			if err != nil {
				select { // a refused connection is refused at once
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}
	}()
	return w
}

func configMap(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name}, "data": map[string]any{"of": name},
	}}
}

func version64(o interface{ GetResourceVersion() string }) uint64 {
	n, _ := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	return n
}

func (w *writer) end() { w.stop(); <-w.done }

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// waitFor waits until n more writes are acknowledged.
func (w *writer) waitFor(t *testing.T, n int, d time.Duration) {
	t.Helper()
	from := w.count()
	ok(t, hosts.Until(within(t, d), fmt.Sprintf("%d acknowledged writes", n), func(context.Context) error {
		if got := w.count() - from; got < n {
			w.mu.Lock()
			defer w.mu.Unlock()
			return fmt.Errorf("%d so far; the last error: %v", got, w.last)
		}
		return nil
	}))
}

// check compares what was acknowledged with what is there, and returns the names of
// what is missing. Every resourceVersion must be above all that were seen before.
func (c *cluster) check(w *writer, from *node) (missing []write) {
	c.t.Helper()
	return writers{w}.compare(c, c.there(from))
}

// fresh is a fresh list: name to resourceVersion, and that of the list.
type fresh struct {
	names map[string]uint64
	at    uint64
}

// there is what the API has.
func (c *cluster) there(from *node) fresh {
	c.t.Helper()
	list, err := c.client(from, 30*time.Second).List(within(c.t, time.Minute), metav1.ListOptions{})
	ok(c.t, err)
	there := fresh{map[string]uint64{}, version64(list)}
	for _, o := range list.Items {
		there.names[o.GetName()] = version64(&o)
	}
	return there
}

// compare returns what a writer misses.
func (w *writer) compare(c *cluster, there fresh) (missing []write) {
	c.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	highest := uint64(0)
	for _, a := range w.acked {
		if a.rv <= highest {
			c.t.Errorf("time travel: %s was acknowledged at resourceVersion %d, after %d", a.name, a.rv, highest)
		}
		highest = a.rv
		switch rv, ok := there.names[a.name]; {
		case !ok:
			missing = append(missing, a)
		case rv != a.rv:
			c.t.Errorf("%s is at resourceVersion %d, acknowledged at %d", a.name, rv, a.rv)
		}
	}
	if there.at < highest {
		c.t.Errorf("time travel: the list is at resourceVersion %d, %d was acknowledged", there.at, highest)
	}
	return missing
}

func (w *writer) newest() write {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acked[len(w.acked)-1]
}
