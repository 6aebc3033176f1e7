package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// Watcher follows the Services of a cluster, their endpoints and its Nodes. What it
// knows outlives an API server that goes away: it is corrected by the next list, in
// one step.
type Watcher struct {
	c        *Client
	settings Settings
	selector string
	log      *slog.Logger
	changes  chan struct{} // buffered by one
	first    chan struct{} // closed when the first Service is wanted
	once     sync.Once

	services *store[*apiService, Service]
	slices   *store[*apiSlice, Endpoints]
	nodes    *store[*apiNode, Node]

	mu       sync.Mutex
	troubles map[string]error // by resource
}

// NewWatcher makes one; selector is a label selector for Services, "" = all. The API
// server applies it, so that others do not come in at all.
func (c *Client) NewWatcher(s Settings, selector string, log *slog.Logger) *Watcher {
	w := &Watcher{c: c, settings: s, selector: selector, log: log, changes: make(chan struct{}, 1), first: make(chan struct{}), troubles: map[string]error{}}
	w.services = newStore(maxServices, w.changed, func(o *apiService) (Service, bool) {
		sv, want := convertService(o)
		want = want && s.Wanted(&sv)
		if want {
			w.once.Do(func() { close(w.first) })
		}
		return sv, want
	})
	w.slices = newStore(maxSlices, w.changed, convertSlice)
	w.nodes = newStore(maxNodes, w.changed, convertNode)
	return w
}

func (w *Watcher) changed() {
	select {
	case w.changes <- struct{}{}:
	default:
	}
}

// Changes signals that the view, or what is wrong with it, may be another.
func (w *Watcher) Changes() <-chan struct{} { return w.changes }

// View is what the API said last; synced is whether it has said everything once.
func (w *Watcher) View() (v View, synced bool) {
	var s1, s2, s3 bool
	v.Services, s1, _ = w.services.values()
	v.Endpoints, s2, _ = w.slices.values()
	v.Nodes, s3, _ = w.nodes.values()
	return v, s1 && (len(v.Services) == 0 || s2 && s3)
}

// Trouble says why the view is not the newest, "" if it is.
func (w *Watcher) Trouble() string {
	w.mu.Lock()
	err := errors.Join(w.troubles["services"], w.troubles["endpointslices"], w.troubles["nodes"])
	w.mu.Unlock()
	if err != nil {
		return err.Error()
	}
	for _, full := range []struct {
		what string
		is   bool
		n    int
	}{{"Services", isFull(w.services), maxServices}, {"EndpointSlices", isFull(w.slices), maxSlices}, {"Nodes", isFull(w.nodes), maxNodes}} {
		if full.is {
			return fmt.Sprintf("the cluster has more than %d %s: the rest is not looked at", full.n, full.what)
		}
	}
	return ""
}

func isFull[O metav1.Object, T any](s *store[O, T]) bool {
	_, _, full := s.values()
	return full
}

// note remembers how a resource's last request went; only changes are logged.
func (w *Watcher) note(ctx context.Context, resource string, err error) {
	if ctx.Err() != nil || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return // the end, or a reason to list again
	}
	if err != nil {
		err = whyNot(resource, err)
	}
	w.mu.Lock()
	was := w.troubles[resource]
	w.troubles[resource] = err
	w.mu.Unlock()
	switch {
	case err != nil && was == nil:
		w.log.Warn("Kubernetes' objects cannot be followed; what is known stays announced", "resource", resource, "err", err)
	case err == nil && was != nil:
		w.log.Info("Kubernetes' objects are followed again", "resource", resource)
	default:
		return
	}
	w.changed()
}

func whyNot(resource string, err error) error {
	switch {
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("follow %s: the API does not accept the credentials: is the token expired? (`relevo kubernetes token` makes one): %w", resource, err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("follow %s: not allowed: apply `relevo kubernetes rbac` and use its token: %w", resource, err)
	}
	return fmt.Errorf("follow %s: %w", resource, err)
}

// Run follows until ctx ends. Endpoints and Nodes are followed only when there is a
// Service that is wanted.
func (w *Watcher) Run(ctx context.Context) error {
	// What reflectors log themselves is told by note, in our words.
	ctx = klog.NewContext(ctx, logr.Discard())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		w.follow(ctx, w.c.rest, "services", w.selector, &apiService{}, func() runtime.Object { return &apiServiceList{} }, w.services)
		return nil
	})
	g.Go(func() error {
		select {
		case <-w.first:
			w.follow(ctx, w.c.discovery, "endpointslices", serviceLabel, &apiSlice{}, func() runtime.Object { return &apiSliceList{} }, w.slices)
		case <-ctx.Done():
		}
		return nil
	})
	g.Go(func() error {
		select {
		case <-w.first:
			w.follow(ctx, w.c.rest, "nodes", "", &apiNode{}, func() runtime.Object { return &apiNodeList{} }, w.nodes)
		case <-ctx.Done():
		}
		return nil
	})
	return g.Wait()
}

// follow lists and watches one resource, again and again, until ctx ends.
func (w *Watcher) follow(ctx context.Context, rc *rest.RESTClient, resource, selector string, of runtime.Object, list func() runtime.Object, s cache.ReflectorStore) {
	request := func(o metav1.ListOptions) *rest.Request {
		return options(rc.Get().Resource(resource), selector, o)
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			into := list()
			err := request(o).Timeout(w.c.cfg.Timeout * 6).Do(ctx).Into(into)
			w.note(ctx, resource, err)
			return into, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			wi, err := request(o).Watch(ctx)
			w.note(ctx, resource, err)
			return wi, err
		},
	}
	quiet := logr.Discard()
	cache.NewReflectorWithOptions(lw, of, s, cache.ReflectorOptions{
		Name: "relevo", Logger: &quiet,
		// A failover or a restart of the API server takes seconds.
		Backoff: &wait.Backoff{Duration: 200 * time.Millisecond, Cap: 5 * time.Second, Steps: 8, Factor: 2, Jitter: 0.3},
	}).RunWithContext(ctx)
}

// options puts what a reflector wants into a request.
func options(r *rest.Request, selector string, o metav1.ListOptions) *rest.Request {
	set := func(key, value string) {
		if value != "" {
			r = r.Param(key, value)
		}
	}
	set("labelSelector", selector)
	set("resourceVersion", o.ResourceVersion)
	set("resourceVersionMatch", string(o.ResourceVersionMatch))
	set("continue", o.Continue)
	if o.Limit > 0 {
		set("limit", strconv.FormatInt(o.Limit, 10))
	}
	if o.TimeoutSeconds != nil {
		set("timeoutSeconds", strconv.FormatInt(*o.TimeoutSeconds, 10))
	}
	if o.Watch {
		set("watch", "true")
	}
	if o.AllowWatchBookmarks {
		set("allowWatchBookmarks", "true")
	}
	if o.SendInitialEvents != nil {
		set("sendInitialEvents", strconv.FormatBool(*o.SendInitialEvents))
	}
	return r
}
