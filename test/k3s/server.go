package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// server is datastore, API and this host as a node, until ctx ends or one of them does.
func (o *options) server(ctx context.Context) error {
	if o.url != "" {
		return errors.New("--server: joining another server needs etcd, which this stand-in has not")
	}
	if err := o.identity(); err != nil {
		return err
	}
	if o.advertise == "" {
		o.advertise = o.nodeIP
	}
	dir := filepath.Join(o.dataDir, "server")
	sock := filepath.Join(dir, "kine.sock")
	if err := os.Remove(sock); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	died := make(chan error, 2)
	kine, err := o.child(died, "kine", "--endpoint", "sqlite://"+filepath.Join(dir, "db", "state.db")+"?_journal=WAL&cache=shared&_busy_timeout=30000",
		"--listen-address", "unix://"+sock, "--metrics-bind-address", "0")
	if err != nil {
		return err
	}
	defer end(kine)
	if err := until(ctx, died, func() bool {
		c, err := net.Dial("unix", sock)
		if err == nil {
			c.Close()
		}
		return err == nil
	}); err != nil {
		return fmt.Errorf("wait for the datastore: %w", err)
	}
	crt := func(name string) string { return filepath.Join(dir, "tls", name) }
	args := []string{"--etcd-servers=unix://" + sock, "--secure-port=" + o.port, "--allow-privileged=true",
		"--tls-cert-file=" + crt("serving-kube-apiserver.crt"), "--tls-private-key-file=" + crt("serving-kube-apiserver.key"),
		"--client-ca-file=" + crt("client-ca.crt"), "--cert-dir=" + crt("temporary-certs"),
		"--service-account-key-file=" + crt("service.key"), "--service-account-signing-key-file=" + crt("service.current.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--token-auth-file=" + filepath.Join(dir, "cred", "passwd"),
		"--requestheader-client-ca-file=" + crt("request-header-ca.crt"), "--requestheader-allowed-names=system:auth-proxy",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + crt("client-auth-proxy.crt"), "--proxy-client-key-file=" + crt("client-auth-proxy.key"),
		"--authorization-mode=Node,RBAC", "--service-cluster-ip-range=" + o.serviceCIDR}
	if o.advertise != "" {
		args = append(args, "--advertise-address="+o.advertise)
	}
	api, err := o.child(died, "kube-apiserver", args...)
	if err != nil {
		return err
	}
	defer end(api)
	url := "https://127.0.0.1:" + o.port
	client, err := o.adminClient()
	if err != nil {
		return err
	}
	if err := until(ctx, died, func() bool {
		res, err := client.Get(url + "/readyz")
		if err == nil {
			res.Body.Close()
		}
		return err == nil && res.StatusCode == http.StatusOK
	}); err != nil {
		return fmt.Errorf("wait for the API: %w", err)
	}
	if err := notify("READY=1\nSTATUS=k3s is up and running"); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "k3s: %s is up and running\n", version)
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		return err
	}
	o.token = string(token)
	go func() { died <- o.agent(ctx, url) }()
	select {
	case <-ctx.Done():
		return nil
	case err := <-died:
		return err
	}
}

// child starts one of the programs that k3s has in its own process: it is killed with
// us, however we end. The kernel ties that to the thread that started it.
func (o *options) child(died chan<- error, name string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(filepath.Join(o.dataDir, "data", "current", "bin", name), args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			died <- fmt.Errorf("%s ended: %w", name, errors.Join(cmd.Wait(), errors.New("it should not")))
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return cmd, nil
}

// end is what the end of a process does to what is in it: nothing is graceful.
func end(c *exec.Cmd) { _ = c.Process.Kill() }

func until(ctx context.Context, died <-chan error, ok func() bool) error {
	for t := time.NewTicker(50 * time.Millisecond); ; {
		if ok() {
			t.Stop()
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-died:
			return err
		case <-t.C:
		}
	}
}

func (o *options) adminClient() (*http.Client, error) {
	dir := filepath.Join(o.dataDir, "server", "tls")
	ca, err := os.ReadFile(filepath.Join(dir, "server-ca.crt"))
	if err != nil {
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "client-admin.crt"), filepath.Join(dir, "client-admin.key"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}}}, nil
}

// notify tells systemd.
func notify(state string) error {
	sock := os.Getenv("NOTIFY_SOCKET")
	if sock == "" {
		return nil
	}
	c, err := net.Dial("unixgram", sock)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(state))
	return err
}
