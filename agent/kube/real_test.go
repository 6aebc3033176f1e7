//go:build e2e

package kube

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"relevo.dev/relevo/test/hosts"
)

// TestRealAPIServer runs the canary against kube-apiserver on kine.
func TestRealAPIServer(t *testing.T) {
	bin, err := hosts.BuildKube(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sa := file("sa.key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	tokens := file("tokens.csv", "secret,relevo,1,system:masters\n")
	kinePort, apiPort := freePort(t), freePort(t)
	start := func(path string, args ...string) {
		name := filepath.Base(path)
		cmd := exec.Command(path, args...)
		log, err := os.Create(filepath.Join(dir, name+".log"))
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
			if t.Failed() {
				b, _ := os.ReadFile(log.Name())
				t.Logf("%s:\n%s", name, b[max(0, len(b)-4000):])
			}
		})
	}
	start(bin.Kine, "--endpoint", "sqlite://"+dir+"/state.db?_journal=WAL&cache=shared&_busy_timeout=30000",
		"--listen-address", fmt.Sprintf("127.0.0.1:%d", kinePort), "--metrics-bind-address", "0")
	start(bin.APIServer, fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", kinePort), fmt.Sprintf("--secure-port=%d", apiPort),
		"--bind-address=127.0.0.1", "--cert-dir="+dir, "--service-account-key-file="+sa, "--service-account-signing-key-file="+sa,
		"--service-account-issuer=https://kubernetes.default.svc", "--token-auth-file="+tokens, "--authorization-mode=RBAC",
		"--service-cluster-ip-range=10.96.0.0/16")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	begin := time.Now()
	var c *Client
	for { // the server makes its own certificate first
		c, err = New(Config{URL: fmt.Sprintf("https://127.0.0.1:%d", apiPort), CAFile: dir + "/apiserver.crt", TokenFile: file("token", "secret")})
		if err == nil || ctx.Err() != nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("ready after %v", time.Since(begin).Round(time.Millisecond))
	for term := uint64(1); term < 3; term++ {
		r, err := c.Canary(ctx, "n1", term)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("canary %d: written after %v, read %v, watched %v, resourceVersion %s", term, r.Wrote, r.Read, r.Watched, r.ResourceVersion)
	}
	wrong, err := New(Config{URL: fmt.Sprintf("https://127.0.0.1:%d", apiPort), CAFile: dir + "/apiserver.crt", TokenFile: file("token2", "wrong")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wrong.Canary(ctx, "n1", 9); err == nil {
		t.Error("a wrong token wrote the canary")
	}
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
