//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"relevo.dev/relevo/test/hosts"
)

// informer is client-go's reflector and store, as every controller has one.
type informer struct {
	store cache.Store
	mu    sync.Mutex
	gone  int               // watches refused with 410
	high  uint64            // highest resourceVersion of a list or bookmark
	of    map[string]uint64 // of each object
	back  []string
	most  uint64    // highest resourceVersion of anything
	came  time.Time // when it heard from the newest master first
}

// jump is less than what a promotion adds to the resourceVersions, and more than any test
// writes.
const jump = 500_000

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
	if rv > i.most+jump {
		i.came = time.Now()
	}
	i.most = max(i.most, rv)
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

// sameAsList: with nobody writing, a client's cache is what a fresh list is, without
// anything stale, 5 s after it has heard from the newest master. How soon it tries that
// again is client-go's affair (up to half a minute between two tries); both are told.
func (c *cluster) sameAsList(i *informer, from *node) {
	c.t.Helper()
	begin := time.Now()
	there := c.there(from)
	ok(c.t, hosts.Until(within(c.t, 90*time.Second), "client-go to hear from the newest master", func(context.Context) error {
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.most+jump < there.at {
			return fmt.Errorf("it knows of resourceVersion %d, the API is at %d", i.most, there.at)
		}
		return nil
	}))
	i.mu.Lock()
	came := i.came
	i.mu.Unlock()
	if came.Before(begin) {
		came = begin // there were writers until now
	}
	within5, cancel := context.WithDeadline(c.t.Context(), came.Add(5*time.Second))
	defer cancel()
	err := hosts.Until(within5, "client-go's cache to be what a fresh list is", func(context.Context) error {
		stale := 0
		for name, rv := range there.names {
			got, has, _ := i.store.GetByKey("default/" + name)
			if !has || version64(got.(*unstructured.Unstructured)) != rv {
				stale++
			}
		}
		if n := len(i.store.ListKeys()); stale > 0 || n != len(there.names) {
			return fmt.Errorf("of its %d objects %d are stale or missing; a fresh list has %d", n, stale, len(there.names))
		}
		return nil
	})
	if err != nil {
		c.t.Error(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.back) > 0 {
		c.t.Errorf("the informer saw resourceVersions go back: %v", i.back)
	}
	c.t.Logf("client-go heard from the newest master %+.1f s after the last write, and its cache is what a fresh list is %.2f s later: %d objects; %d watches answered with 410",
		i.came.Sub(begin).Seconds(), time.Since(came).Seconds(), len(there.names), i.gone)
}
