// Command k3s stands in for k3s in the tests, where k3s itself cannot be had: its command
// line, configuration file, units, and layout of /var/lib/rancher/k3s and /etc/rancher,
// around upstream kine (SQLite) and kube-apiserver, which lie in DATA_DIR/data/current/bin
// and run as its children. They die with it, as what k3s runs in one process does.
//
// It is made from k3s's documentation and sources, to see whether relevo fits k3s's
// shape. It is no k3s: there is no containerd, no kubelet, no controller, no supervisor
// in front of the API; the bootstrap data in the datastore is missing; and an agent
// authenticates with the token alone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"gopkg.in/yaml.v3"
)

// version is set by the linker.
var version = "v1.37.2+k3s1"

func main() {
	if filepath.Base(os.Args[0]) == shimName {
		shim()
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "k3s:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	cmd := ""
	if len(args) > 0 {
		cmd = args[0]
	}
	switch cmd {
	case "--version", "-v":
		fmt.Printf("k3s version %s (standin)\ngo version %s\n", version, runtime.Version())
		return nil
	case "server", "agent":
		o, err := parse(cmd, args[1:])
		if err != nil {
			return err
		}
		if cmd == "server" {
			return o.server(ctx)
		}
		return o.agent(ctx, o.url)
	}
	return errors.New("usage: k3s server|agent|--version")
}

// options of both commands, from flags, environment, and the configuration file.
type options struct {
	dataDir, token, agentToken, url string
	advertise, nodeIP, nodeName     string
	port                            string
	serviceCIDR, clusterCIDR        string
	tlsSAN                          []string
}

type many []string

func (m *many) String() string     { return strings.Join(*m, ",") }
func (m *many) Set(s string) error { *m = append(*m, strings.Split(s, ",")...); return nil }

// parse reads the configuration file, as flags in front of the command line's, and what
// only the other command knows is skipped with a warning, as k3s does it.
func parse(cmd string, args []string) (*options, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	o := &options{}
	fs := flag.NewFlagSet("k3s "+cmd, flag.ContinueOnError)
	env := func(name, otherwise string) string {
		if v := os.Getenv(name); v != "" {
			return v
		}
		return otherwise
	}
	var config, unused string
	str := func(p *string, value string, names ...string) {
		for _, n := range names {
			fs.StringVar(p, n, value, "")
		}
	}
	str(&config, env("K3S_CONFIG_FILE", "/etc/rancher/k3s/config.yaml"), "config", "c")
	str(&o.dataDir, env("K3S_DATA_DIR", "/var/lib/rancher/k3s"), "data-dir", "d")
	str(&o.token, os.Getenv("K3S_TOKEN"), "token", "t")
	str(&o.nodeIP, "", "node-ip", "i")
	str(&o.nodeName, env("K3S_NODE_NAME", host), "node-name")
	str(&o.url, os.Getenv("K3S_URL"), "server", "s")
	if cmd == "server" {
		str(&o.agentToken, os.Getenv("K3S_AGENT_TOKEN"), "agent-token")
		str(&o.advertise, "", "advertise-address")
		str(&o.port, "6443", "https-listen-port")
		str(&o.serviceCIDR, "10.43.0.0/16", "service-cidr")
		str(&o.clusterCIDR, "10.42.0.0/16", "cluster-cidr")
		str(&unused, "", "write-kubeconfig-mode", "datastore-endpoint")
		fs.Var((*many)(&o.tlsSAN), "tls-san", "")
		fs.Var(&many{}, "disable", "")
	}
	args = append(fromFile(configOf(args, config), func(k string) bool { return fs.Lookup(k) != nil }), args...)
	return o, fs.Parse(args)
}

// configOf is the file that --config names.
func configOf(args []string, otherwise string) string {
	for i, a := range args {
		if v, ok := strings.CutPrefix(a, "--config="); ok {
			return v
		}
		if (a == "--config" || a == "-c") && i+1 < len(args) {
			return args[i+1]
		}
	}
	return otherwise
}

// fromFile turns the file, and those in FILE.d, into flags.
func fromFile(path string, known func(string) bool) (args []string) {
	more, _ := filepath.Glob(filepath.Join(path+".d", "*.yaml"))
	slices.Sort(more)
	for _, p := range append([]string{path}, more...) {
		text, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		var m map[string]any
		if err := yaml.Unmarshal(text, &m); err != nil {
			fmt.Fprintf(os.Stderr, "k3s: %s: %v\n", p, err)
			continue
		}
		for k, v := range m {
			if !known(k) {
				fmt.Fprintf(os.Stderr, "k3s: unknown flag --%s found in %s, skipping\n", k, p)
				continue
			}
			list, ok := v.([]any)
			if !ok {
				list = []any{v}
			}
			for _, x := range list {
				args = append(args, fmt.Sprintf("--%s=%v", k, x))
			}
		}
	}
	return args
}
