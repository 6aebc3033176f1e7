package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

// writer is somebody who uses the cluster: it creates one ConfigMap after the
// other, wherever the API answers, and remembers what was acknowledged.
type writer struct {
	urls  []string
	token string
	http  *http.Client

	mu      sync.Mutex
	acked   []ack
	tried   int
	backAt  time.Time // first acknowledgement after the break
	brokeAt time.Time
}

type ack struct {
	name     string
	revision int64
	at       time.Time
}

func newWriter(urls []string, caFile, token string) (*writer, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &writer{urls: urls, token: token, http: &http.Client{Timeout: 2 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: 4}}}, nil
}

func (w *writer) call(ctx context.Context, method, url string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+w.token)
	res, err := w.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", res.Status)
	}
	return json.NewDecoder(res.Body).Decode(out)
}

type configMap struct {
	Metadata struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
}

// run writes until ctx ends.
func (w *writer) run(ctx context.Context) {
	at := 0
	for n := 1; ctx.Err() == nil; n++ {
		name := fmt.Sprintf("order-%05d", n)
		for ctx.Err() == nil {
			var out configMap
			in := map[string]any{"kind": "ConfigMap", "apiVersion": "v1", "metadata": map[string]any{"name": name, "namespace": "default"}, "data": map[string]string{"n": strconv.Itoa(n)}}
			w.mu.Lock()
			w.tried++
			w.mu.Unlock()
			err := w.call(ctx, http.MethodPost, w.urls[at]+"/api/v1/namespaces/default/configmaps", in, &out)
			if err == nil {
				rev, _ := strconv.ParseInt(out.Metadata.ResourceVersion, 10, 64)
				w.mu.Lock()
				w.acked = append(w.acked, ack{name, rev, time.Now()})
				if !w.brokeAt.IsZero() && w.backAt.IsZero() {
					w.backAt = time.Now()
				}
				w.mu.Unlock()
				break
			}
			if err.Error() == "409 Conflict" {
				break // it was written, and the answer was lost: not acknowledged, not counted
			}
			at = (at + 1) % len(w.urls)
			pause(ctx, 20*time.Millisecond)
		}
		pause(ctx, 4*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// broke says that from now on an acknowledgement means that the API is back.
func (w *writer) broke() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.brokeAt = time.Now()
}

func (w *writer) state() (acked []ack, back time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]ack(nil), w.acked...), w.backAt
}

// check compares what was acknowledged with what the API has now.
func (w *writer) check(ctx context.Context, url string) (found int, lost []string, backwards int, err error) {
	var list struct {
		Items []configMap `json:"items"`
	}
	if err := w.call(ctx, http.MethodGet, url+"/api/v1/namespaces/default/configmaps", nil, &list); err != nil {
		return 0, nil, 0, err
	}
	have := map[string]string{}
	for _, i := range list.Items {
		have[i.Metadata.Name] = i.Metadata.ResourceVersion
	}
	acked, _ := w.state()
	last := int64(0)
	for _, a := range acked {
		if have[a.name] == strconv.FormatInt(a.revision, 10) {
			found++
		} else {
			lost = append(lost, a.name)
		}
		if a.revision <= last {
			backwards++
		}
		last = a.revision
	}
	return found, lost, backwards, nil
}
