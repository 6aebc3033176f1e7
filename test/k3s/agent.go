package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// shimName is how what outlives k3s on a node is called.
const shimName = "containerd-shim-runc-v2"

// nodePassword proves to the cluster that a node of this name is this very one.
const nodePassword = "/etc/rancher/node/password"

// node is this host as a node of the cluster.
type node struct {
	o       *options
	http    *http.Client
	servers []string // host:port, the one asked last first
	hash    string   // of the node's password
}

// agent joins the server at the URL and follows where it is, for as long as ctx lasts:
// after the start it goes by the endpoints of the service kubernetes.
func (o *options) agent(ctx context.Context, server string) error {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" {
		return fmt.Errorf("--server %q (or K3S_URL) is no URL of a server", server)
	}
	if err := startShim(o.dataDir); err != nil {
		return err
	}
	hash, err := password()
	if err != nil {
		return err
	}
	n := &node{o: o, servers: []string{u.Host}, hash: hash}
	caHash, _, _ := splitToken(o.token)
	n.http = &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{IdleConnTimeout: time.Second, TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, // the token says which CA
		VerifyConnection: func(cs tls.ConnectionState) error {
			last := cs.PeerCertificates[len(cs.PeerCertificates)-1]
			if caHash != "" && digest(last) != caHash {
				return errors.New("the server's CA is not that of the token")
			}
			pool := x509.NewCertPool()
			pool.AddCert(last)
			_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, DNSName: cs.ServerName})
			return err
		}}}}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	said := ""
	for {
		text := ""
		if err := n.turn(ctx); err != nil {
			if errors.Is(err, errPassword) {
				return err
			}
			text = err.Error()
		}
		if text != said && ctx.Err() == nil {
			said = text
			fmt.Fprintf(os.Stderr, "k3s: node %s, servers %v: %s\n", o.nodeName, n.servers, text)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

var errPassword = errors.New("node password rejected: another host goes by this node's name, or has its password")

// turn is what a node does every second: it is there, and learns where the servers are.
func (n *node) turn(ctx context.Context) error {
	var is struct {
		Metadata struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
	}
	code, err := n.ask(ctx, http.MethodGet, "/api/v1/nodes/"+n.o.nodeName, nil, &is)
	if err != nil {
		return err
	}
	const note = "k3s.io/node-password-hash"
	switch {
	case code == http.StatusNotFound:
		_, err = n.ask(ctx, http.MethodPost, "/api/v1/nodes", map[string]any{"apiVersion": "v1", "kind": "Node",
			"metadata": map[string]any{"name": n.o.nodeName, "annotations": map[string]string{note: n.hash}}}, nil)
		if err != nil {
			return err
		}
	case is.Metadata.Annotations[note] != n.hash:
		return errPassword
	}
	var ep struct {
		Subsets []struct {
			Addresses []struct {
				IP string `json:"ip"`
			} `json:"addresses"`
			Ports []struct {
				Port int `json:"port"`
			} `json:"ports"`
		} `json:"subsets"`
	}
	if _, err := n.ask(ctx, http.MethodGet, "/api/v1/namespaces/default/endpoints/kubernetes", nil, &ep); err != nil {
		return err
	}
	var servers []string
	for _, s := range ep.Subsets {
		for _, a := range s.Addresses {
			for _, p := range s.Ports {
				servers = append(servers, net.JoinHostPort(a.IP, strconv.Itoa(p.Port)))
			}
		}
	}
	if len(servers) == 0 {
		return nil
	}
	n.servers = servers
	text, err := json.MarshalIndent(map[string]any{"ServerURL": "https://" + servers[0], "ServerAddresses": servers}, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Join(n.o.dataDir, "agent", "etc")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return write(filepath.Join(dir, "k3s-agent-load-balancer.json"), text, 0o600)
}

func (n *node) ask(ctx context.Context, method, path string, in, out any) (code int, err error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+n.servers[0]+path, body)
	if err != nil {
		return 0, err
	}
	_, _, secret := splitToken(n.o.token)
	req.Header.Set("Authorization", "Bearer "+secret)
	req.Header.Set("Content-Type", "application/json")
	res, err := n.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	switch {
	case err != nil || res.StatusCode == http.StatusNotFound:
		return res.StatusCode, err
	case res.StatusCode >= 300:
		return res.StatusCode, fmt.Errorf("%s %s: %s", method, path, res.Status)
	case out == nil:
		return res.StatusCode, nil
	}
	return res.StatusCode, json.Unmarshal(text, out)
}

// password is this node's, made at its first start; the digest of it.
func password() (string, error) {
	text, err := os.ReadFile(nodePassword)
	if errors.Is(err, os.ErrNotExist) {
		b := make([]byte, 16)
		rand.Read(b)
		text = []byte(hex.EncodeToString(b) + "\n")
		err = errors.Join(os.MkdirAll(filepath.Dir(nodePassword), 0o755), write(nodePassword, text, 0o600))
	}
	if err != nil {
		return "", fmt.Errorf("the node's password: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), nil
}

// startShim starts what stands for the pods of this node, unless it runs: it has nothing
// to do with us any more once it is started, as those of containerd.
func startShim(dataDir string) error {
	pidFile := filepath.Join(dataDir, "agent", "shim.pid")
	if text, err := os.ReadFile(pidFile); err == nil {
		if comm, err := os.ReadFile("/proc/" + strings.TrimSpace(string(text)) + "/comm"); err == nil && strings.HasPrefix(shimName, strings.TrimSpace(string(comm))) {
			return nil
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	shim := filepath.Join(dataDir, "data", "current", "bin", shimName)
	if err := errors.Join(os.MkdirAll(filepath.Dir(shim), 0o755), os.MkdirAll(filepath.Dir(pidFile), 0o700), link(exe, shim)); err != nil {
		return err
	}
	cmd := exec.Command(shim)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", shimName, err)
	}
	go func() { _ = cmd.Wait() }()
	return write(pidFile, []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o600)
}

// shim waits to be killed.
func shim() {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP)
	for {
		time.Sleep(time.Hour)
	}
}
