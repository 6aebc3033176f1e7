//go:build e2e || bench

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

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
	ctx, stop := context.WithCancel(context.Background())
	w := &writer{stop: stop, done: make(chan struct{})}
	client := c.clientOf(ip, from, 2*time.Second)
	c.t.Cleanup(w.end)
	go func() {
		defer close(w.done)
		last := time.Now()
		for i := 0; ctx.Err() == nil; i++ {
			name := fmt.Sprintf("%s-%06d", prefix, i)
			o, err := client.Create(ctx, configMap(name), metav1.CreateOptions{})
			if ctx.Err() != nil {
				return // cut off by the end of the test: neither acknowledged nor refused
			}
			w.mu.Lock()
			if err != nil {
				w.errs++
				w.last = err
			} else {
				now := time.Now()
				w.acked = append(w.acked, write{name, version64(o), now})
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
	list, err := c.client(from, 30*time.Second).List(within(c.t, time.Minute), metav1.ListOptions{})
	ok(c.t, err)
	there := map[string]uint64{}
	for _, o := range list.Items {
		there[o.GetName()] = version64(&o)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	highest := uint64(0)
	for _, a := range w.acked {
		if a.rv <= highest {
			c.t.Errorf("time travel: %s was acknowledged at resourceVersion %d, after %d", a.name, a.rv, highest)
		}
		highest = a.rv
		switch rv, ok := there[a.name]; {
		case !ok:
			missing = append(missing, a)
		case rv != a.rv:
			c.t.Errorf("%s is at resourceVersion %d, acknowledged at %d", a.name, rv, a.rv)
		}
	}
	if got := version64(list); got < highest {
		c.t.Errorf("time travel: the list is at resourceVersion %d, %d was acknowledged", got, highest)
	}
	c.t.Logf("%d writes acknowledged, %d found again, %d lost; %d attempts failed; longest time without a write %.3f s; resourceVersion now %d",
		len(w.acked), len(w.acked)-len(missing), len(missing), w.errs, w.gap.Seconds(), version64(list))
	return missing
}

// informer is client-go's reflector and store, as every controller has one.
type informer struct {
	store cache.Store
	mu    sync.Mutex
	gone  int               // watches refused with 410
	high  uint64            // highest resourceVersion of a list or bookmark
	of    map[string]uint64 // of each object
	back  []string
}

func (c *cluster) startInformer(from *node) *informer {
	i := &informer{store: cache.NewStore(cache.MetaNamespaceKeyFunc), of: map[string]uint64{}}
	client := c.client(from, 0)
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := client.List(ctx, o)
			if err == nil {
				i.see("", version64(list))
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := client.Watch(ctx, o)
			if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
				i.expired()
			}
			if err != nil {
				return nil, err
			}
			return watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
				if e.Type == watch.Error {
					if err := apierrors.FromObject(e.Object); apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
						i.expired()
					}
				} else if o, ok := e.Object.(*unstructured.Unstructured); ok {
					// A list that is streamed begins with objects of any age; its bookmark counts.
					name := o.GetName()
					if e.Type == watch.Bookmark {
						name = ""
					}
					i.see(name, version64(o))
				}
				return e, true
			}), nil
		},
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	r := cache.NewReflectorWithOptions(lw, &unstructured.Unstructured{}, i.store, cache.ReflectorOptions{Name: "e2e"})
	go func() { defer close(done); r.RunWithContext(ctx) }()
	c.t.Cleanup(func() { stop(); <-done })
	return i
}

func (i *informer) expired() { i.mu.Lock(); i.gone++; i.mu.Unlock() }

// see checks that neither the whole ("") nor any object goes back in time.
func (i *informer) see(name string, rv uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if was := i.of[name]; rv < was {
		i.back = append(i.back, fmt.Sprintf("%q at %d after %d", name, rv, was))
	}
	i.of[name] = max(i.of[name], rv)
	if name == "" {
		i.high = i.of[name]
	}
}

// waitHas waits until the informer's store has an object.
func (i *informer) waitHas(t *testing.T, name string, d time.Duration) {
	t.Helper()
	ok(t, hosts.Until(within(t, d), "the informer to see "+name, func(context.Context) error {
		if _, there, _ := i.store.GetByKey("default/" + name); !there {
			return errors.New("its store has " + strconv.Itoa(len(i.store.ListKeys())) + " objects, and not this one")
		}
		return nil
	}))
}

func (w *writer) newest() write {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acked[len(w.acked)-1]
}
