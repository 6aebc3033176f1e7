// Package kube speaks with the control plane's API: is it ready, does it really
// work. It uses client-go's REST client with slim types of its own.
package kube

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
)

// Config says how to reach the API.
type Config struct {
	URL            string
	CAFile         string
	TokenFile      string
	ClientCertFile string
	ClientKeyFile  string
	// Node is what Kubernetes calls this host; the canary notes it. "" = not noted.
	Node string
	// Timeout of one request; 0 = 5 s.
	Timeout time.Duration
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client speaks with one API server.
type Client struct {
	rest      *rest.RESTClient // of core/v1
	discovery *rest.RESTClient // of discovery.k8s.io/v1
	http      *http.Client
	cfg       Config
}

// maxBody bounds what is read of an answer that is text.
const maxBody = 64 << 10

// New makes a client. It reads the files that cfg names: on a standby they may not be
// there yet, so make it anew for each promotion. What they say later is taken up.
func New(cfg Config) (*Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Dial == nil {
		cfg.Dial = dial
	}
	t, err := newTransport(cfg)
	if err != nil {
		return nil, fmt.Errorf("prepare the client of %s: %w", cfg.URL, err)
	}
	h := &http.Client{Transport: t}
	limit := flowcontrol.NewTokenBucketRateLimiter(50, 100) // a second, at once
	client := func(apiPath string, of schema.GroupVersion) (*rest.RESTClient, error) {
		base, versioned, err := rest.DefaultServerURL(cfg.URL, apiPath, of, cfg.CAFile != "" || cfg.ClientCertFile != "")
		if err != nil {
			return nil, fmt.Errorf("prepare the client of %s: %w", cfg.URL, err)
		}
		return rest.NewRESTClient(base, versioned, rest.ClientContentConfig{
			ContentType: runtime.ContentTypeJSON, AcceptContentTypes: runtime.ContentTypeJSON, GroupVersion: of, Negotiator: codec{},
		}, limit, h)
	}
	r, err := client("/api", coreV1)
	if err != nil {
		return nil, err
	}
	d, err := client("/apis", discoveryV1)
	if err != nil {
		return nil, err
	}
	return &Client{rest: r, discovery: d, http: h, cfg: cfg}, nil
}

// dial notices within half a minute that the host at the other end is gone: a watch
// has nothing to say for minutes.
var dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4}}).DialContext

// Close ends its connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Check is one line of /readyz?verbose.
type Check struct {
	Name string
	OK   bool
	Text string
}

// Readiness is what the API server says of itself.
type Readiness struct {
	OK     bool
	Checks []Check
}

// Failed names the checks that failed.
func (r Readiness) Failed() string {
	var names []string
	for _, c := range r.Checks {
		if !c.OK {
			names = append(names, c.Name)
		}
	}
	return strings.Join(names, ", ")
}

// Ready asks /readyz. The error says why there was no answer; an answer that says
// "not ready" is none.
func (c *Client) Ready(ctx context.Context) (Readiness, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.cfg.URL, "/")+"/readyz?verbose", nil)
	if err != nil {
		return Readiness{}, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return Readiness{}, fmt.Errorf("ask the API whether it is ready: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return Readiness{}, fmt.Errorf("ask the API whether it is ready: %w", err)
	}
	switch res.StatusCode {
	case http.StatusOK, http.StatusInternalServerError, http.StatusServiceUnavailable:
		return Readiness{OK: res.StatusCode == http.StatusOK, Checks: parseChecks(body)}, nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return Readiness{}, fmt.Errorf("ask the API whether it is ready: %s: the credentials in candidate.control_plane.api are not accepted", res.Status)
	}
	return Readiness{}, fmt.Errorf("ask %s whether it is ready: %s", c.cfg.URL, res.Status)
}

// parseChecks reads "[+]ping ok" and "[-]etcd failed: reason withheld".
func parseChecks(body []byte) []Check {
	var out []Check
	sc := bufio.NewScanner(bytes.NewReader(body))
	for sc.Scan() && len(out) < 200 {
		line := sc.Text()
		ok := strings.HasPrefix(line, "[+]")
		if !ok && !strings.HasPrefix(line, "[-]") {
			continue
		}
		name, text, _ := strings.Cut(line[3:], " ")
		out = append(out, Check{name, ok, text})
	}
	return out
}

// WaitReady asks until the API is ready: quickly at first, for a failover waits
// for it.
func (c *Client) WaitReady(ctx context.Context) error {
	last := errors.New("never asked")
	for wait := 100 * time.Millisecond; ; wait = min(wait*5/4, 500*time.Millisecond) {
		r, err := c.Ready(ctx)
		switch {
		case err == nil && r.OK:
			return nil
		case err == nil:
			last = fmt.Errorf("not ready: %s", r.Failed())
		case ctx.Err() == nil:
			last = explain(err, time.Now())
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("wait for the API at %s: %w; last it was: %w", c.cfg.URL, ctx.Err(), last)
		case <-t.C:
		}
	}
}

// The canary's place.
const (
	canaryNamespace = "kube-system"
	canaryName      = "relevo-canary"
)

// Canary proves that the API works end to end: an object is written, read back,
// and seen by a watch that was open before. It tells how long each took.
type Canary struct {
	Wrote, Read, Watched time.Duration
	ResourceVersion      string
}

// Canary sends one, marked with node and term.
func (c *Client) Canary(ctx context.Context, node string, term uint64) (Canary, error) {
	var out Canary
	begin := time.Now()
	mark := fmt.Sprintf("%s term %d at %s", node, term, begin.UTC().Format(time.RFC3339Nano))

	// The watch first: it must see what comes after it. It begins at the list's
	// revision, not at the object's: after a failover that is compacted.
	was, err := c.get(ctx)
	if err != nil && !apierrors.IsNotFound(err) {
		return out, fmt.Errorf("canary: read before writing: %w", err)
	}
	from, err := c.listVersion(ctx)
	if err != nil {
		return out, fmt.Errorf("canary: list before watching: %w", err)
	}
	w, err := c.rest.Get().Namespace(canaryNamespace).Resource("configmaps").
		Param("watch", "true").Param("fieldSelector", "metadata.name="+canaryName).Param("resourceVersion", from).Watch(ctx)
	if err != nil {
		return out, fmt.Errorf("canary: open a watch: %w", err)
	}
	defer w.Stop()

	wrote, err := c.put(ctx, was, c.noted(was.Data, node, mark))
	if err != nil {
		return out, fmt.Errorf("canary: write: %w", err)
	}
	out.Wrote, out.ResourceVersion = time.Since(begin), wrote.ResourceVersion

	// Without a resourceVersion a read goes to the datastore, not to a cache.
	read, err := c.get(ctx)
	if err != nil {
		return out, fmt.Errorf("canary: read back: %w", err)
	}
	if read.Data["written"] != mark {
		return out, fmt.Errorf("canary: read back %q, wrote %q: the API does not serve what it stored", read.Data["written"], mark)
	}
	out.Read = time.Since(begin)
	if err := seen(ctx, w, mark); err != nil {
		return out, fmt.Errorf("canary: %w", err)
	}
	out.Watched = time.Since(begin)
	return out, nil
}

// seen waits until the watch brings the mark.
func seen(ctx context.Context, w watch.Interface, mark string) error {
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("written and read, but no watch saw it: %w", ctx.Err())
		case ev, ok := <-w.ResultChan():
			switch {
			case !ok:
				return errors.New("the watch ended before it saw what was written")
			case ev.Type == watch.Error:
				return fmt.Errorf("the watch failed: %w", apierrors.FromObject(ev.Object))
			}
			if m, ok := ev.Object.(*ConfigMap); ok && m.Data["written"] == mark {
				return nil
			}
		}
	}
}

func (c *Client) get(ctx context.Context) (*ConfigMap, error) {
	out := &ConfigMap{}
	err := c.rest.Get().Namespace(canaryNamespace).Resource("configmaps").Name(canaryName).Timeout(c.cfg.Timeout).Do(ctx).Into(out)
	return out, err
}

// listVersion is the resourceVersion of now.
func (c *Client) listVersion(ctx context.Context) (string, error) {
	raw, err := c.rest.Get().Namespace(canaryNamespace).Resource("configmaps").
		Param("fieldSelector", "metadata.name="+canaryName).Param("limit", "1").Timeout(c.cfg.Timeout).DoRaw(ctx)
	if err != nil {
		return "", err
	}
	return resourceVersion(raw)
}

// put creates or replaces the canary; a bare API server makes kube-system itself,
// a moment after it is ready.
func (c *Client) put(ctx context.Context, was *ConfigMap, data map[string]string) (*ConfigMap, error) {
	obj := &ConfigMap{
		TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: canaryName, Namespace: canaryNamespace, ResourceVersion: was.ResourceVersion,
			Labels: map[string]string{"app.kubernetes.io/managed-by": "relevo"}},
		Data: data,
	}
	for {
		out := &ConfigMap{}
		req := c.rest.Post()
		if was.ResourceVersion != "" {
			req = c.rest.Put().Name(canaryName)
		}
		err := req.Namespace(canaryNamespace).Resource("configmaps").Timeout(c.cfg.Timeout).Body(obj).Do(ctx).Into(out)
		if !apierrors.IsNotFound(err) || was.ResourceVersion != "" {
			return out, err
		}
		t := time.NewTimer(200 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return out, err
		case <-t.C:
		}
	}
}
