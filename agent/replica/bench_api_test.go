package replica

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"relevo.dev/relevo/agent/replica/kine/kinetest"
	"relevo.dev/relevo/test/hosts"
)

// apiServer is a kube-apiserver before a kine, on loopback.
type apiServer struct {
	cmd    *exec.Cmd
	url    string
	client *http.Client
}

// startAPI runs it until the benchmark ends. It is skipped where none was built.
func startAPI(b *testing.B, k *kinetest.Server) *apiServer {
	b.Helper()
	found, _ := filepath.Glob("../../.cache/kube-apiserver-*/kube-apiserver")
	if len(found) == 0 {
		b.Skip("kube-apiserver is not built: `make e2e` builds it")
	}
	url, args, err := hosts.LoopbackAPI(b.TempDir(), k.Address)
	if err != nil {
		b.Fatal(err)
	}
	s := &apiServer{url: url, cmd: exec.Command(found[0], args...)}
	log := &bytes.Buffer{}
	s.cmd.Stderr = log
	if err := s.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		if b.Failed() {
			b.Logf("%s", log.Bytes()[max(0, log.Len()-2000):])
		}
	})
	// The certificate is made by the server itself, on loopback, for this run.
	s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxIdleConnsPerHost: 8}}
	ctx, cancel := context.WithTimeout(b.Context(), 2*time.Minute)
	defer cancel()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for s.call(ctx, http.MethodGet, "/api/v1/namespaces/default", "") != nil {
		select {
		case <-ctx.Done():
			b.Fatal("the API server does not come up")
		case <-look.C:
		}
	}
	return s
}

func (s *apiServer) call(ctx context.Context, method, path, body string) error {
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+hosts.LoopbackToken)
	req.Header.Set("Content-Type", "application/json")
	res, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s %s", method, path, res.Status, text)
	}
	return err
}

// create makes one ConfigMap; n and i make its name.
func (s *apiServer) create(ctx context.Context, i, n int) error {
	return s.call(ctx, http.MethodPost, "/api/v1/namespaces/default/configmaps",
		fmt.Sprintf(`{"metadata":{"name":"object-%d-%d"},"data":{"value":%q}}`, i, n, value))
}

func (s *apiServer) PID() int { return s.cmd.Process.Pid }

// CPU is what it has used; 0 if it is gone.
func (s *apiServer) CPU() time.Duration {
	d, _ := kinetest.CPU(s.PID())
	return d
}
