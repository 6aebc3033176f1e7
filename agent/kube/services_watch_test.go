package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeAPI lists what it is told to and sends events into the watches that are open; it
// does not know the streamed lists of newer servers.
type fakeAPI struct {
	mu      sync.Mutex
	version int
	items   map[string]map[string]string // resource, key: object
	watches map[string][]chan string
	history []fakeEvent
	oldest  map[string]int // resource: watches from before that are too old
	deny    int            // status code for everything; 0 = none
	lists   map[string]int
	query   map[string]string // of the newest list
}

type fakeEvent struct {
	resource string
	version  int
	text     string
}

func newFakeAPI(t *testing.T) (*fakeAPI, *Client) {
	f := &fakeAPI{version: 10, items: map[string]map[string]string{"services": {}, "endpointslices": {}, "nodes": {}}, watches: map[string][]chan string{}, oldest: map[string]int{}, lists: map[string]int{}, query: map[string]string{}}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	c, err := New(Config{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return f, c
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resource := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	kind := map[string]string{"services": "Service", "endpointslices": "EndpointSlice", "nodes": "Node"}[resource]
	api := "v1"
	if resource == "endpointslices" {
		api = "discovery.k8s.io/v1"
	}
	w.Header().Set("Content-Type", "application/json")
	f.mu.Lock()
	if f.deny != 0 {
		code := f.deny
		f.mu.Unlock()
		status(w, code)
		return
	}
	q := r.URL.Query()
	if q.Get("sendInitialEvents") != "" {
		f.mu.Unlock()
		status(w, http.StatusUnprocessableEntity)
		return
	}
	if q.Get("watch") == "" {
		f.lists[resource]++
		f.query[resource] = r.URL.RawQuery
		var items []string
		for _, o := range f.items[resource] {
			items = append(items, o)
		}
		fmt.Fprintf(w, `{"kind": "%sList", "apiVersion": %q, "metadata": {"resourceVersion": "%d"}, "items": [%s]}`, kind, api, f.version, strings.Join(items, ","))
		f.mu.Unlock()
		return
	}
	ch := make(chan string, 20)
	from, _ := strconv.Atoi(q.Get("resourceVersion"))
	if from < f.oldest[resource] {
		ch <- tooOld
		close(ch)
	}
	for _, e := range f.history {
		if e.resource == resource && e.version > from && from >= f.oldest[resource] {
			ch <- e.text
		}
	}
	if from >= f.oldest[resource] {
		f.watches[resource] = append(f.watches[resource], ch)
	}
	f.mu.Unlock()
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case ev, ok := <-ch:
			if !ok {
				return
			}
			fmt.Fprintln(w, ev)
			w.(http.Flusher).Flush()
		}
	}
}

func status(w http.ResponseWriter, code int) {
	reason := map[int]string{401: "Unauthorized", 403: "Forbidden", 422: "Invalid"}[code]
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": %q, "code": %d, "message": "no"}`, reason, code)
}

// put stores an object and tells the watches, unless quietly.
func (f *fakeAPI) put(resource, name, text string, quietly bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	typ := "ADDED"
	if _, had := f.items[resource][name]; had {
		typ = "MODIFIED"
	}
	was := f.items[resource][name]
	if text == "" {
		typ, text = "DELETED", was
		delete(f.items[resource], name)
	} else {
		text = strings.Replace(text, `"metadata": {`, fmt.Sprintf(`"metadata": {"resourceVersion": "%d", `, f.version), 1)
		f.items[resource][name] = text
	}
	if !quietly {
		e := fakeEvent{resource, f.version, fmt.Sprintf(`{"type": %q, "object": %s}`, typ, oneLine(text))}
		f.history = append(f.history, e)
		f.send(resource, e.text)
	}
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

func (f *fakeAPI) send(resource, event string) {
	for _, ch := range f.watches[resource] {
		ch <- event
	}
}

const tooOld = `{"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old resource version"}}`

// expire tells the watches that they are too old, and ends them.
func (f *fakeAPI) expire(resource string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.oldest[resource] = f.version
	f.send(resource, tooOld)
	for _, ch := range f.watches[resource] {
		close(ch)
	}
	f.watches[resource] = nil
}

func (f *fakeAPI) refuse(code int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deny = code
	for r, chs := range f.watches {
		for _, ch := range chs {
			close(ch)
		}
		f.watches[r] = nil
	}
}

func typed(kind, api, text string) string {
	return strings.Replace(text, "{", fmt.Sprintf(`{"kind": %q, "apiVersion": %q, `, kind, api), 1)
}

func fakeService(name string, port int) string {
	return typed("Service", "v1", strings.NewReplacer(`"name": "web"`, fmt.Sprintf(`"name": %q`, name), "30080", fmt.Sprint(port)).Replace(nodePort))
}

func fakeSlice(service string) string {
	return typed("EndpointSlice", "discovery.k8s.io/v1", fmt.Sprintf(`{"metadata": {"name": "%s-x", "namespace": "default", "labels": {"kubernetes.io/service-name": %[1]q}}, "endpoints": [{"conditions": {"ready": true}}], "ports": [{"name": "http", "port": 80}]}`, service))
}

// watching runs a watcher and gives what it makes of what it sees after each change.
type watching struct {
	t    *testing.T
	w    *Watcher
	seen []string // every state, in order, without repeats
}

func watchFake(t *testing.T, c *Client, selector string) *watching {
	g := &watching{t: t, w: c.NewWatcher(Settings{Mode: Annotated}, selector, slog.New(slog.DiscardHandler))}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); g.w.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	return g
}

func (g *watching) state() string {
	v, synced := g.w.View()
	if !synced {
		return "not synced"
	}
	offers, _ := Translate(v, Settings{Mode: Annotated}, atVIP)
	var names []string
	for _, o := range offers {
		names = append(names, fmt.Sprintf("%s:%d", o.Name, o.Port))
	}
	return strings.Join(names, " ")
}

func (g *watching) until(want string, and func() bool) {
	g.t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for {
		s := g.state()
		if n := len(g.seen); n == 0 || g.seen[n-1] != s {
			g.seen = append(g.seen, s)
		}
		if s == want && (and == nil || and()) {
			return
		}
		select {
		case <-g.w.Changes():
		case <-limit.C:
			g.t.Fatalf("it is %q, not %q; trouble: %q; seen: %q", s, want, g.w.Trouble(), g.seen)
		}
	}
}

func TestWatcher(t *testing.T) {
	f, c := newFakeAPI(t)
	g := watchFake(t, c, "announce=lan")
	g.until("", nil)
	f.mu.Lock()
	if f.lists["endpointslices"]+f.lists["nodes"] > 0 {
		t.Error("endpoints or nodes are followed though no Service is wanted")
	}
	if !strings.Contains(f.query["services"], "labelSelector=announce%3Dlan") {
		t.Errorf("the API is asked %s: without the selector", f.query["services"])
	}
	f.mu.Unlock()
	f.put("services", "web", fakeService("web", 30080), false)
	f.put("endpointslices", "web", fakeSlice("web"), false)
	g.until("web:30080", nil)
	f.put("services", "web", fakeService("web", 31000), false)
	g.until("web:31000", nil)

	// A watch that is too old: what changed meanwhile comes with a new list.
	f.put("services", "two", fakeService("two", 30082), true)
	f.put("endpointslices", "two", fakeSlice("two"), true)
	g.seen = nil
	f.expire("endpointslices")
	f.expire("services")
	g.until("two:30082 web:31000", nil)
	for _, s := range g.seen {
		if !strings.Contains(s, "web:31000") {
			t.Errorf("web went away on the way: %q", g.seen)
		}
	}

	// The API refuses, then answers again: what is known stays, what was deleted goes.
	f.refuse(http.StatusUnauthorized)
	g.until("two:30082 web:31000", func() bool { return strings.Contains(g.w.Trouble(), "credentials") })
	f.put("services", "web", "", true)
	f.refuse(http.StatusForbidden)
	g.until("two:30082 web:31000", func() bool { return strings.Contains(g.w.Trouble(), "kubernetes rbac") })
	g.seen = nil
	f.refuse(0)
	g.until("two:30082", func() bool { return g.w.Trouble() == "" })
	for _, s := range g.seen {
		if !strings.Contains(s, "two:30082") {
			t.Errorf("two went away on the way: %q", g.seen)
		}
	}
	f.put("services", "two", "", false)
	g.until("", nil)
}

// What changes without a change of what is kept wakes nobody.
func TestWatcherIsQuiet(t *testing.T) {
	calls := 0
	s := newStore(10, func() { calls++ }, convertNode)
	node := func(heartbeat string) *apiNode {
		var n apiNode
		if err := json.Unmarshal([]byte(`{"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "`+heartbeat+`"}]}}`), &n); err != nil {
			t.Fatal(err)
		}
		return &n
	}
	s.Replace([]any{node("2026-01-01T00:00:00Z")}, "1")
	for i := range 10 {
		s.Update(node(fmt.Sprintf("2026-01-01T00:05:%02dZ", i)))
	}
	s.Replace([]any{node("2026-01-01T00:10:00Z")}, "2")
	if calls != 1 {
		t.Errorf("woken %d times, once is enough", calls)
	}
}
