//go:build e2e

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// send writes an object by its path, and checks what the server says to it.
func (r *realAPI) send(c *Client, verb, path, body string) error {
	req := c.rest.Verb(verb).AbsPath(path).SetHeader("Content-Type", map[string]string{"PATCH": string(types.MergePatchType)}[verb])
	if verb == http.MethodPost || verb == http.MethodPut {
		req.SetHeader("Content-Type", "application/json")
	}
	if body != "" {
		req = req.Body([]byte(body))
	}
	return req.Do(r.t.Context()).Error()
}

// clientOf is a client with the token in a file.
func (r *realAPI) clientOf(file string) *Client {
	c, err := New(Config{URL: r.url, CAFile: r.dir + "/apiserver.crt", TokenFile: file})
	ok(r.t, err)
	r.t.Cleanup(c.Close)
	return c
}

func (r *realAPI) must(c *Client, verb, path, body string) {
	r.t.Helper()
	if err := r.send(c, verb, path, body); err != nil {
		r.t.Fatalf("%s %s: %v", verb, path, err)
	}
}

// clear takes away what a test published, and web; NAME-x is the slice of NAME.
func (r *realAPI) clear(names ...string) {
	c := r.admin("")
	for _, name := range append(names, "web") {
		for _, path := range []string{services + "/" + name, slicesPath + "/" + name + "-x"} {
			if err := r.send(c, "DELETE", path, ""); err != nil && !apierrors.IsNotFound(err) {
				r.t.Error(err)
			}
		}
	}
}

const services = "/api/v1/namespaces/default/services"

func slice(service string, ready bool) string {
	return fmt.Sprintf(`{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "%s-x", "labels": {"kubernetes.io/service-name": %[1]q}},
		"addressType": "IPv4", "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": %v}}], "ports": [{"name": "http", "port": 80}]}`, service, ready)
}

const slicesPath = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"

func serviceText(name string, port int) string {
	return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Service", "metadata": {"name": %q, "annotations": {"relevo.dev/publish": "true"}},
		"spec": {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": %d}]}}`, name, port)
}

// followed is a watcher and what it makes of what it sees.
type followed struct {
	t *testing.T
	w *Watcher
}

func follow(t *testing.T, c *Client, selector string) *followed {
	f := &followed{t, c.NewWatcher(Settings{Mode: Annotated}, selector, slog.New(slog.NewTextHandler(os.Stderr, nil)))}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); f.w.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	return f
}

func (f *followed) now() string {
	v, synced := f.w.View()
	if !synced {
		return "not synced"
	}
	offers, _ := Translate(v, Settings{Mode: Annotated}, atVIP)
	return strings.TrimSpace(show(offers))
}

// until waits until what is to be announced has these names and ports, and returns how
// long that took.
func (f *followed) until(what string, want ...string) time.Duration {
	f.t.Helper()
	begin := time.Now()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	for {
		got := f.now()
		lines := strings.Split(got, "\n")
		if got == "" {
			lines = nil
		}
		same := len(lines) == len(want)
		for i := range lines {
			same = same && strings.HasPrefix(lines[i], want[i])
		}
		if same {
			took := time.Since(begin)
			f.t.Logf("%s: after %v", what, took.Round(time.Millisecond))
			return took
		}
		select {
		case <-f.w.Changes():
		case <-time.After(time.Second):
		case <-limit.C:
			f.t.Fatalf("%s: it is\n%s\nnot\n%q; trouble: %s", what, got, want, f.w.Trouble())
		}
	}
}

func web(name string, port int) string {
	return fmt.Sprintf("default/%s/http: %[1]s|_http._tcp home-kubernetes 192.168.1.100 %d", name, port)
}

// realServices follows a real API server: create, change, endpoints gone and back,
// delete, a restart, a compaction, a server that is gone while things change.
func realServices(t *testing.T, r *realAPI) {
	defer r.clear("two", "three")
	c := r.admin("")
	f := follow(t, r.admin(""), "")
	f.until("nothing")
	r.must(c, "POST", services, serviceText("web", 30080))
	f.until("no endpoints yet")
	r.must(c, "POST", slicesPath, slice("web", true))
	f.until("created", web("web", 30080))
	r.must(c, "PATCH", services+"/web", `{"spec": {"ports": [{"name": "http", "port": 80, "nodePort": 31000}]}}`)
	f.until("node port changed", web("web", 31000))
	r.must(c, "PUT", slicesPath+"/web-x", slice("web", false))
	f.until("no endpoint is ready")
	r.must(c, "PUT", slicesPath+"/web-x", slice("web", true))
	f.until("an endpoint is ready", web("web", 31000))
	r.must(c, "PATCH", services+"/web", `{"metadata": {"annotations": {"relevo.dev/publish": "false"}}}`)
	f.until("not to be published")
	r.must(c, "PATCH", services+"/web", `{"metadata": {"annotations": {"relevo.dev/publish": "true"}}}`)
	f.until("to be published", web("web", 31000))

	// The server is away: what is known stays.
	r.stopServer()
	for f.w.Trouble() == "" {
		select {
		case <-f.w.Changes():
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Logf("away: %s", f.w.Trouble())
	f.until("what is known stays", web("web", 31000))
	r.startServer()
	r.must(c, "POST", slicesPath, slice("two", true))
	r.must(c, "POST", services, serviceText("two", 30082))
	f.until("followed again after a restart", web("two", 30082), web("web", 31000))
	if w := f.w.Trouble(); w != "" {
		t.Errorf("still troubled: %s", w)
	}
	r.must(c, "DELETE", services+"/two", "")
	f.until("deleted", web("web", 31000))

	// What changes while nobody follows, and is compacted: 410, and a new list.
	r.stopServer()
	r.startServer()
	c2 := r.admin("")
	r.must(c2, "DELETE", services+"/web", "")
	r.must(c2, "POST", services, serviceText("three", 30083))
	r.must(c2, "POST", slicesPath, slice("three", true))
	f.until("deleted and created around a restart", web("three", 30083))
}

// realToken: the manifests give a token that reads what it must and writes
// nothing, and a token that is rotated is read again.
func realToken(t *testing.T, r *realAPI) {
	defer r.clear()
	c := r.admin("")
	r.must(c, "POST", services, serviceText("web", 30080))
	r.must(c, "POST", slicesPath, slice("web", true))
	for _, doc := range strings.Split(Manifests(RBAC{Namespace: "kube-system"}), "\n---\n") {
		r.apply(c, doc)
	}
	if _, err := c.ReadToken(t.Context(), "kube-system"); err == nil || !strings.Contains(err.Error(), "has no token yet") {
		t.Errorf("a Secret that nobody has filled: %v", err)
	}
	token, err := c.MakeToken(t.Context(), "kube-system", time.Hour)
	ok(t, err)
	// There is no controller manager here; the test does what it does.
	r.must(c, "PATCH", "/api/v1/namespaces/kube-system/secrets/relevo", `{"stringData": {"token": "lasting"}}`)
	if got, err := c.ReadToken(t.Context(), "kube-system"); err != nil || got != "lasting" {
		t.Errorf("the lasting token: %q, %v", got, err)
	}
	path := r.file("rotated", "not a token")
	owner := *r
	owner.t = r.all
	f := follow(r.all, owner.clientOf(path), "")
	for !strings.Contains(f.w.Trouble(), "credentials") {
		select {
		case <-f.w.Changes():
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Logf("with a wrong token: %s", f.w.Trouble())
	r.file("rotated", token)
	r.rotating = f
	reader := r.clientOf(path)
	for _, w := range []struct{ verb, path, body string }{
		{"POST", services, serviceText("evil", 30099)}, {"DELETE", services + "/web", ""}, {"POST", "/api/v1/namespaces/default/configmaps", `{"metadata": {"name": "x"}}`},
		{"GET", "/api/v1/namespaces/kube-system/secrets", ""}, {"GET", "/api/v1/pods", ""}, {"PATCH", "/api/v1/nodes/n1/status", `{}`},
	} {
		if err := r.send(reader, w.verb, w.path, w.body); !apierrors.IsForbidden(err) {
			t.Errorf("%s %s with the reader's token: %v, want it forbidden", w.verb, w.path, err)
		}
	}
}

// rotatedToken: the watcher that was refused reads its file anew. client-go does so once a
// minute, so that minute is spent on the other tests.
func rotatedToken(t *testing.T, r *realAPI) {
	c := r.admin("")
	r.must(c, "POST", services, serviceText("web", 30080))
	r.must(c, "POST", slicesPath, slice("web", true))
	r.rotating.t = t
	r.rotating.until("with a right token", web("web", 30080))
}

// apply is what kubectl apply -f does.
func (r *realAPI) apply(c *Client, doc string) {
	r.t.Helper()
	o := yamlObject(r.t, doc)
	path := map[string]string{"ServiceAccount": "/api/v1/namespaces/kube-system/serviceaccounts/", "Secret": "/api/v1/namespaces/kube-system/secrets/",
		"ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles/", "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/"}[o["kind"].(string)]
	body, _ := json.Marshal(o)
	name := o["metadata"].(map[string]any)["name"].(string)
	err := c.rest.Patch(types.ApplyYAMLPatchType).AbsPath(path+name).Param("fieldManager", "test").Body(body).Do(r.t.Context()).Error()
	if err != nil {
		r.t.Fatalf("apply %s: %v", doc, err)
	}
}

func yamlObject(t *testing.T, doc string) (o map[string]any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
		t.Fatalf("%v in %s", err, doc)
	}
	return o
}

// realConditions writes conditions to a Node that has others, with the narrow
// token, and to none at all.
func realConditions(t *testing.T, r *realAPI) {
	c := r.admin("")
	for _, doc := range strings.Split(Manifests(RBAC{Namespace: "kube-system", Conditions: true, Nodes: []string{"n1", "n9"}}), "\n---\n") {
		r.apply(c, doc)
	}
	token, err := c.MakeToken(t.Context(), "kube-system", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	writer := r.clientOf(r.file("writer", token))
	for _, n := range []string{"n1", "n2"} {
		r.must(c, "POST", "/api/v1/nodes", `{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "`+n+`"}}`)
	}
	r.must(c, "PATCH", "/api/v1/nodes/n1/status", `{"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}, {"type": "ReadonlyFilesystem", "status": "False", "reason": "FilesystemIsNotReadOnly"}]}}`)
	n1 := writer.NewNodeWriter("n1")
	now := time.Now()
	full := Condition{Type: "DiskFull", Status: "True", Reason: "DiskIsFull", Message: "2 % of / are free", Since: now.Add(-time.Minute)}
	hot := Condition{Type: "Hot", Status: "False", Reason: "NotHot", Since: now.Add(-time.Hour)}
	if err := n1.Write(t.Context(), []Condition{full, hot}, now); err != nil {
		t.Fatal(err)
	}
	full.Status, full.Message = "False", "30 % of / are free"
	if err := n1.Write(t.Context(), []Condition{full, hot}, now.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	var node apiNode
	if err := c.rest.Get().Resource("nodes").Name("n1").Do(t.Context()).Into(&node); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, c := range node.Status.Conditions {
		got[c.Type] = c.Status
	}
	if len(got) != 4 || got["Ready"] != "True" || got["ReadonlyFilesystem"] != "False" || got["RelevoDiskFull"] != "False" || got["RelevoHot"] != "False" {
		t.Errorf("the Node has %v", got)
	}
	raw, err := c.rest.Get().AbsPath("/api/v1/namespaces/default/events").DoRaw(t.Context())
	if err != nil || strings.Count(string(raw), `"involvedObject":{"kind":"Node","name":"n1","uid":"n1"`) != 2 {
		t.Errorf("events: %v %s", err, raw)
	}
	if err := writer.NewNodeWriter("n2").Write(t.Context(), []Condition{full}, now); !apierrors.IsForbidden(err) {
		t.Errorf("writing to another Node than those named: %v", err)
	}
	if err := writer.NewNodeWriter("n9").Write(t.Context(), []Condition{full}, now); !apierrors.IsNotFound(err) || !strings.Contains(err.Error(), "kubernetes.node") {
		t.Errorf("writing to no Node: %v", err)
	}
	if err := r.send(writer, "PATCH", "/api/v1/nodes/n1", `{"metadata": {"labels": {"a": "b"}}}`); !apierrors.IsForbidden(err) {
		t.Errorf("labelling a Node: %v", err)
	}
}
