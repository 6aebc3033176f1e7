// Command demo shows a failover on one machine, without root: four agents on
// loopback, three of them candidates with a small stand-in for the control plane,
// one that only votes. The master is killed with -9; a standby takes over with the
// data.
package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"relevo.dev/relevo/agent"
	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/peer"
	"relevo.dev/relevo/test/demo/standin"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "agent":
		err = runAgent(ctx, os.Args[2])
	case len(os.Args) == 7 && os.Args[1] == "standin":
		err = standin.Serve(ctx, standin.Config{DB: os.Args[2], Listen: os.Args[3], CertFile: os.Args[4], KeyFile: os.Args[5], TokenFile: os.Args[6]})
	default:
		err = demo(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// node is one agent of the demo.
type node struct {
	name              string
	dir               string
	candidate         bool
	gossip, peer, api int
	cmd               *exec.Cmd
	done              chan struct{}
}

func (n *node) url() string { return "https://127.0.0.1:" + strconv.Itoa(n.api) }

func runAgent(ctx context.Context, dir string) error {
	cfg, err := config.Load(filepath.Join(dir, "relevo.yaml"))
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: cfg.Log.Level}))
	root := filepath.Dir(dir)
	// All of them are this machine, and pretend not to be.
	machine := fnv.New64a()
	machine.Write([]byte(dir))
	// Four hosts on one machine, whose disk may be busy: it is not theirs.
	opts := agent.Options{Version: "demo", HealthRoot: dir, Log: log, ConfigPath: filepath.Join(dir, "relevo.yaml"), Machine: machine.Sum64() | 1}
	if c := cfg.Candidate; c != nil {
		opts.Host = demoHost(dir, "standin", c.ControlPlane.Datastore.Path, strings.TrimPrefix(c.ControlPlane.API.URL, "https://"),
			filepath.Join(dir, "pki-kubernetes", "api.crt"), filepath.Join(dir, "pki-kubernetes", "api.key"), filepath.Join(root, "token"))
	}
	return agent.Run(ctx, cfg, opts)
}

var begin = time.Now()

func say(format string, args ...any) {
	fmt.Printf("%7.2fs  %s\n", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
}

func demo(ctx context.Context) (err error) {
	fmt.Println("relevo demo: three hosts that can run the control plane, one that only votes.")
	fmt.Println("They are processes on loopback; the control plane is a small stand-in on SQLite.")
	fmt.Println()
	root, err := os.MkdirTemp("", "relevo-demo-")
	if err != nil {
		return err
	}
	nodes, err := prepare(root)
	if err != nil {
		return err
	}
	defer func() {
		for _, n := range nodes {
			n.kill()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "the agents' logs are kept in", root)
		} else {
			os.RemoveAll(root)
		}
	}()
	for _, n := range nodes {
		if err := n.start(); err != nil {
			return err
		}
	}
	say("four agents started: n1, n2, n3 are candidates, n4 only votes")
	watch := api.NewClient(filepath.Join(nodes[3].dir, "s")) // through the voter's eyes
	defer watch.Close()
	var st api.Status
	ask := func() bool {
		s, err := watch.Status(ctx)
		if err == nil {
			st = s
		}
		return err == nil
	}
	if err := waitFor(ctx, 60*time.Second, "a first master", func() bool { return ask() && st.Master != nil && st.Master.API == "ok" }); err != nil {
		return err
	}
	say("%s is the master in term %d: the first of this cluster", st.Master.Node, st.Master.Term)
	if err := waitFor(ctx, 60*time.Second, "two standbys that are ready", func() bool {
		return ask() && st.Failover.Possible && ready(st) >= 2 && st.Quorum.Voters == 3 && st.Quorum.Leader != st.Master.Node
	}); err != nil {
		return fmt.Errorf("%w: %+v", err, st)
	}
	say("%d standbys have its data; %d voters, %s is the arbiter; a failover would go to %s", ready(st), st.Quorum.Voters, st.Quorum.Leader, st.Failover.To)

	var urls []string
	for _, n := range nodes[:3] {
		urls = append(urls, n.url())
	}
	w, err := newWriter(urls, filepath.Join(root, "api-ca.crt"), "demo-token")
	if err != nil {
		return err
	}
	wctx, stopWriting := context.WithCancel(ctx)
	written := make(chan struct{})
	go func() { defer close(written); w.run(wctx) }()
	defer func() { stopWriting(); <-written }()
	pause(ctx, 4*time.Second)
	acked, _ := w.state()
	say("a client has had %d writes acknowledged, and goes on", len(acked))

	old := byName(nodes, st.Master.Node)
	oldTerm := st.Term
	w.broke()
	killed := time.Now()
	old.killControlPlane()
	say("kill -9 of the control plane on %s", old.name)
	pause(ctx, 200*time.Millisecond)
	old.kill()
	say("kill -9 of its agent, too: the host is gone")

	if err := waitFor(ctx, 60*time.Second, "the next term", func() bool { return ask() && st.Term > oldTerm && st.Master != nil }); err != nil {
		return err
	}
	say("the lease ran out; %s was given term %d  (%.1f s after the kill)", st.Master.Node, st.Term, time.Since(killed).Seconds())
	if err := waitFor(ctx, 60*time.Second, "the API", func() bool { _, back := w.state(); return !back.IsZero() }); err != nil {
		return err
	}
	_, back := w.state()
	say("the API works again: the client's next write is acknowledged  (%.1f s after the kill)", back.Sub(killed).Seconds())
	pause(ctx, 2*time.Second)
	stopWriting()
	<-written
	if err := waitFor(ctx, 30*time.Second, "a finished promotion", func() bool { return ask() && st.Master != nil && st.Master.API == "ok" }); err != nil {
		return err
	}
	for _, line := range promotion(ctx, watch, st.Term) {
		fmt.Println("          " + line)
	}
	found, lost, backwards, err := w.check(ctx, byName(nodes, st.Master.Node).url())
	if err != nil {
		return err
	}
	acked, _ = w.state()
	say("acknowledged %d, found again %d, lost %d; revisions that went back: %d", len(acked), found, len(lost), backwards)

	if err := old.start(); err != nil {
		return err
	}
	say("%s is switched on again", old.name)
	if err := waitFor(ctx, 60*time.Second, old.name+" as a standby", func() bool {
		for _, s := range st.Standbys {
			if ask() && s.Node == old.name && s.Ready && st.Master != nil {
				return true
			}
		}
		ask()
		return false
	}); err != nil {
		return err
	}
	say("%s has copied what it missed and is a standby now; %s stays the master", old.name, st.Master.Node)
	fmt.Println()
	if len(lost) > 0 || backwards > 0 {
		return fmt.Errorf("FAILED: lost %v, %d revisions went back", lost, backwards)
	}
	fmt.Printf("OK: the master was killed and nothing was lost: %d of %d acknowledged writes are there, %.1f s without an API.\n", found, len(acked), back.Sub(killed).Seconds())
	return nil
}

func ready(st api.Status) int {
	n := 0
	for _, s := range st.Standbys {
		if s.Ready && s.LagRevisions != nil {
			n++
		}
	}
	return n
}

func byName(nodes []*node, name string) *node {
	for _, n := range nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// promotion is what the history tells of the takeover.
func promotion(ctx context.Context, c *api.Client, term uint64) []string {
	h, err := c.History(ctx)
	if err != nil {
		return nil
	}
	for _, ch := range h.Changes {
		if ch.Term == term {
			return append([]string{"why:  " + ch.Reason}, ch.Notes...)
		}
	}
	return nil
}

func (n *node) start() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(n.dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	n.cmd = exec.Command(exe, "agent", n.dir)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		return err
	}
	cmd, done := n.cmd, make(chan struct{})
	n.done = done
	go func() { cmd.Wait(); close(done) }()
	return nil
}

func (n *node) killControlPlane() {
	if b, err := os.ReadFile(filepath.Join(n.dir, "standin.pid")); err == nil {
		if pid, err := strconv.Atoi(string(b)); err == nil {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func (n *node) kill() {
	if n.cmd == nil {
		return
	}
	syscall.Kill(-n.cmd.Process.Pid, syscall.SIGKILL)
	<-n.done
	n.cmd = nil
}

// prepare writes everything that four hosts need into root.
func prepare(root string) ([]*node, error) {
	var nodes []*node
	for i, name := range []string{"n1", "n2", "n3", "n4"} {
		n := &node{name: name, dir: filepath.Join(root, name), candidate: i < 3}
		for _, p := range []*int{&n.gossip, &n.peer, &n.api} {
			port, err := freePort()
			if err != nil {
				return nil, err
			}
			*p = port
		}
		nodes = append(nodes, n)
	}
	err := errors.Join(
		os.WriteFile(filepath.Join(root, "token"), []byte("demo-token\n"), 0o600),
		certificate(filepath.Join(root, "api-ca.crt"), filepath.Join(root, "api.key")))
	first := nodes[0]
	for i, n := range nodes {
		pki, key := filepath.Join(n.dir, "pki"), filepath.Join(n.dir, "gossip.key")
		if err = errors.Join(err, os.MkdirAll(filepath.Join(n.dir, "data"), 0o700)); err != nil {
			return nil, err
		}
		if i == 0 {
			if _, err = peer.Init(pki, key, "demo", n.name); err != nil {
				return nil, err
			}
			// The identity of the control plane is on the first host only; the others get
			// it from the master.
			id := filepath.Join(n.dir, "pki-kubernetes")
			err = errors.Join(os.MkdirAll(id, 0o700), link(filepath.Join(root, "api-ca.crt"), filepath.Join(id, "api.crt")), link(filepath.Join(root, "api.key"), filepath.Join(id, "api.key")),
				os.WriteFile(filepath.Join(n.dir, "data", "bootstrap"), nil, 0o600))
		} else {
			var inv []byte
			if inv, err = peer.Invite(filepath.Join(first.dir, "pki"), filepath.Join(first.dir, "gossip.key"), n.name); err == nil {
				_, err = peer.Accept(inv, pki, key)
			}
			err = errors.Join(err, os.MkdirAll(filepath.Join(n.dir, "pki-kubernetes"), 0o700),
				link(filepath.Join(root, "api-ca.crt"), filepath.Join(n.dir, "pki-kubernetes", "api.crt")), link(filepath.Join(root, "api.key"), filepath.Join(n.dir, "pki-kubernetes", "api.key")))
		}
		err = errors.Join(err, os.WriteFile(filepath.Join(n.dir, "relevo.yaml"), []byte(n.config(root, nodes)), 0o600))
		if err != nil {
			return nil, err
		}
	}
	// The first host has the data of a cluster that ran there before.
	db, err := standin.Open(context.Background(), filepath.Join(first.dir, "state.db"))
	if err != nil {
		return nil, err
	}
	return nodes, db.Close()
}

func link(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

func (n *node) config(root string, nodes []*node) string {
	var b strings.Builder
	fmt.Fprintf(&b, `cluster: demo
node: %s
data_dir: %s
advertise: 127.0.0.1
lease_ttl: 6s
gossip: {port: %d, key_file: %s}
peer: {port: %d, pki_dir: %s}
join: [127.0.0.1:%d, 127.0.0.1:%d]
mdns: {backend: "off"}
http: {listen: ""}
socket: %s
`, n.name, filepath.Join(n.dir, "data"), n.gossip, filepath.Join(n.dir, "gossip.key"), n.peer, filepath.Join(n.dir, "pki"),
		nodes[0].gossip, nodes[3].gossip, filepath.Join(n.dir, "s"))
	if n.candidate {
		fmt.Fprintf(&b, `candidate:
  control_plane:
    kind: units
    units: [standin.service]
    datastore: {kind: kine, path: %s}
    api: {url: "%s", ca_file: %s, token_file: %s, start_timeout: 30s}
`, filepath.Join(n.dir, "state.db"), n.url(), filepath.Join(root, "api-ca.crt"), filepath.Join(root, "token"))
	}
	return b.String()
}

func freePort() (int, error) {
	// The port must be free for UDP, too; gossip uses both.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// certificate makes the API's own, for 127.0.0.1.
func certificate(certFile, keyFile string) error {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "demo"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, key)
	if err != nil {
		return err
	}
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk}), 0o600))
}
