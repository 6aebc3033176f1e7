//go:build e2e

package kube

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"relevo.dev/relevo/test/hosts"
)

// TestReal is all that is tried with the real thing, one after the other: its start takes
// as long as the rest.
func TestReal(t *testing.T) {
	all := startReal(t)
	for _, test := range []struct {
		name string
		do   func(*testing.T, *realAPI)
	}{
		{"Token", realToken}, {"Services", realServices}, {"Conditions", realConditions},
		{"Canary", realCanary}, {"Takeover", realTakeover}, {"RotatedToken", rotatedToken},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := *all
			r.t = t
			test.do(t, &r)
			all.rotating = r.rotating
		})
	}
}

// realAPI is kube-apiserver on kine, on loopback.
type realAPI struct {
	t        *testing.T
	dir, url string
	server   func() // starts the API server
	running  map[string]*exec.Cmd
	all      *testing.T // ends after all that is tried with it
	rotating *followed  // had a wrong token, and has a right one
}

// startReal starts them and waits until the API is ready; they end with the test.
func startReal(t *testing.T) *realAPI {
	t.Helper()
	bin, err := hosts.BuildKube(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	r := &realAPI{t: t, all: t, dir: t.TempDir(), running: map[string]*exec.Cmd{}}
	port, err := hosts.FreePort()
	ok(t, err)
	kine := fmt.Sprintf("127.0.0.1:%d", port)
	r.start(bin.Kine, "--endpoint", "sqlite://"+r.dir+"/state.db?_journal=WAL&cache=shared&_busy_timeout=30000",
		"--listen-address", kine, "--metrics-bind-address", "0")
	url, args, err := hosts.LoopbackAPI(r.dir, kine)
	ok(t, err)
	r.url, r.server = url, func() { r.start(bin.APIServer, args...) }
	r.server()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	begin := time.Now()
	ok(t, hosts.Until(ctx, "the server to make its own certificate", func(context.Context) error {
		_, err := os.Stat(r.dir + "/apiserver.crt")
		return err
	}))
	ok(t, r.admin("").WaitReady(ctx))
	t.Logf("ready after %v", time.Since(begin).Round(time.Millisecond))
	return r
}

// stopServer kills the API server; startServer starts it again and waits for it.
func (r *realAPI) stopServer() {
	cmd := r.running["kube-apiserver"]
	cmd.Process.Kill()
	cmd.Wait()
}

func (r *realAPI) startServer() {
	r.t.Helper()
	r.server()
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
	defer cancel()
	ok(r.t, r.admin("").WaitReady(ctx))
}

func (r *realAPI) file(name, text string) string {
	p := filepath.Join(r.dir, name)
	ok(r.t, os.WriteFile(p, []byte(text), 0o600))
	return p
}

// start runs a program until the test ends; what it said is shown if the test failed.
func (r *realAPI) start(path string, args ...string) {
	name := filepath.Base(path)
	cmd := exec.Command(path, args...)
	log, err := os.OpenFile(filepath.Join(r.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ok(r.t, err)
	cmd.Stdout, cmd.Stderr = log, log
	ok(r.t, cmd.Start())
	r.running[name] = cmd
	r.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if r.t.Failed() {
			b, _ := os.ReadFile(log.Name())
			r.t.Logf("%s:\n%s", name, b[max(0, len(b)-4000):])
		}
	})
}

// client is one with a token, for the host that Kubernetes calls node.
func (r *realAPI) client(token, node string) *Client {
	c, err := New(Config{URL: r.url, CAFile: r.dir + "/apiserver.crt", TokenFile: r.file("token-"+token, token), Node: node})
	ok(r.t, err)
	r.t.Cleanup(c.Close)
	return c
}

// admin is one that may do everything.
func (r *realAPI) admin(node string) *Client { return r.client(hosts.LoopbackToken, node) }

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// realCanary runs the canary against it.
func realCanary(t *testing.T, r *realAPI) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := r.admin("")
	for term := uint64(1); term < 3; term++ {
		r, err := c.Canary(ctx, "n1", term)
		ok(t, err)
		t.Logf("canary %d: written after %v, read %v, watched %v, resourceVersion %s", term, r.Wrote, r.Read, r.Watched, r.ResourceVersion)
	}
	if _, err := r.client("wrong", "").Canary(ctx, "n1", 9); err == nil {
		t.Error("a wrong token wrote the canary")
	}
}
