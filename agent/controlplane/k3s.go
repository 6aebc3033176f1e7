package controlplane

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"gopkg.in/yaml.v3"

	"relevo.dev/relevo/systemd"
)

// KindK3s is the kind whose configuration is looked at.
const KindK3s = "k3s"

const (
	k3sConfigFile = "/etc/rancher/k3s/config.yaml"
	maxK3sFile    = 64 << 10 // bytes of a file of configuration or environment
	maxK3sFiles   = 64       // of config.yaml.d
)

// settings of k3s that all servers of a cluster must have alike, and what k3s takes if
// nothing is said. With other ones of the first kind a server would make another network
// or not read what the master stored; with the rest something would be missing. From the
// list of critical values in k3s's documentation of several servers.
var (
	vital = map[string]string{
		"cluster-cidr": "10.42.0.0/16", "service-cidr": "10.43.0.0/16", "cluster-dns": "10.43.0.10", "cluster-domain": "cluster.local",
		"secrets-encryption": "false",
	}
	alike = map[string]string{
		"flannel-backend": "vxlan", "egress-selector-mode": "agent", "disable": "", "disable-network-policy": "false",
		"disable-cloud-controller": "false", "disable-helm-controller": "false", "disable-kube-proxy": "false", "embedded-registry": "false",
	}
)

// environment are the variables that stand for a flag of the server or agent.
var environment = map[string]string{
	"K3S_URL": "server", "K3S_DATA_DIR": "data-dir", "K3S_DATASTORE_ENDPOINT": "datastore-endpoint", "K3S_CLUSTER_INIT": "cluster-init",
}

// k3sOptions are what a k3s unit is told, by the name of the flag, the strongest last.
type k3sOptions map[string][]string

func (o k3sOptions) last(name, otherwise string) string {
	if v := o[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return otherwise
}

// all splits values at commas, as k3s does.
func (o k3sOptions) all(name string) []string {
	var out []string
	for _, v := range o[name] {
		for s := range strings.SplitSeq(v, ",") {
			if s = strings.TrimSpace(s); s != "" {
				out = append(out, s)
			}
		}
	}
	return out
}

// short names of flags.
var shortFlags = map[string]string{"d": "data-dir", "s": "server", "i": "node-ip", "c": "config", "t": "token"}

// readK3s reads what a unit is told: environment, then files, then arguments. In a file
// a value replaces those of the files before it, unless its key ends in +.
func readK3s(file string, e systemd.Exec) (k3sOptions, error) {
	o := k3sOptions{}
	env := slices.Clone(e.Environment)
	var errs []error
	for _, f := range e.EnvironmentFiles {
		text, err := readSome(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		errs = append(errs, err)
		for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
			env = append(env, strings.TrimSpace(sc.Text()))
		}
	}
	for _, l := range env {
		k, v, _ := strings.Cut(l, "=")
		if flag := environment[k]; flag != "" {
			o[flag] = []string{strings.Trim(v, `"'`)}
		}
		if k == "K3S_CONFIG_FILE" {
			file = strings.Trim(v, `"'`)
		}
	}
	args := k3sOptions{}
	for i := 0; i < len(e.Args); i++ {
		name, value, joined := strings.Cut(strings.TrimLeft(e.Args[i], "-"), "=")
		if !strings.HasPrefix(e.Args[i], "-") {
			continue
		}
		if long := shortFlags[name]; long != "" {
			name = long
		}
		if !joined {
			value = "true"
			if i+1 < len(e.Args) && !strings.HasPrefix(e.Args[i+1], "-") {
				value = e.Args[i+1]
				i++
			}
		}
		args[name] = append(args[name], value)
	}
	if f := args.last("config", ""); f != "" {
		file = f
	}
	more, _ := filepath.Glob(filepath.Join(file+".d", "*.y*ml"))
	slices.Sort(more)
	for _, f := range append([]string{file}, more[:min(len(more), maxK3sFiles)]...) {
		text, err := readSome(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = o.merge(text)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f, err))
		}
	}
	maps.Copy(o, args) // k3s takes all that are given of some; what is asked here is alike
	return o, errors.Join(errs...)
}

func readSome(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not hold us
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(errors.New("is no file"), err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxK3sFile+1))
	if err == nil && len(text) > maxK3sFile {
		err = fmt.Errorf("larger than %d KiB", maxK3sFile>>10)
	}
	return text, err
}

func (o k3sOptions) merge(text []byte) error {
	var m map[string]yaml.Node
	if err := yaml.Unmarshal(text, &m); err != nil {
		return errors.New("is not YAML: " + strings.TrimPrefix(err.Error(), "yaml: "))
	}
	for k, n := range m {
		var v []string
		switch n.Kind {
		case yaml.ScalarNode:
			v = []string{n.Value}
		case yaml.SequenceNode:
			for _, c := range n.Content {
				v = append(v, c.Value)
			}
		}
		if name, add := strings.CutSuffix(k, "+"); add {
			o[name] = append(o[name], v...)
		} else {
			o[k] = v
		}
	}
	return nil
}

// k3s looks whether the server's and the agent's configuration fit a server that moves.
func (i *Inspector) k3s(execs map[string]systemd.Exec) (map[string]string, []Finding) {
	var out []Finding
	add := func(blocks bool, do, format string, args ...any) {
		out = append(out, Finding{Blocks: blocks, What: fmt.Sprintf(format, args...), Do: do})
	}
	unit := i.cfg.Units[0]
	e, ok := execs[unit]
	if !ok {
		return nil, nil // said already
	}
	o, err := readK3s(i.cfg.ConfigFile, e)
	if err != nil {
		add(true, "correct the file: k3s would not start", "the configuration of %s cannot be read: %v", unit, err)
	}
	if d := o.last("data-dir", "/var/lib/rancher/k3s"); filepath.Clean(d) != i.cfg.DataDir {
		add(true, "make data_dir and k3s's --data-dir alike", "%s keeps its data in %s, and relevo looks in %s", unit, d, i.cfg.DataDir)
	}
	if s := o.last("server", ""); s != "" {
		add(true, "K3S_URL belongs into the environment of the agent's unit alone, not into config.yaml", "%s would join the server at %s instead of being one", unit, s)
	}
	if s := o.last("datastore-endpoint", ""); s != "" && !strings.HasPrefix(s, "sqlite") {
		add(true, "kind k3s is for the datastore that k3s has by itself", "%s keeps its objects elsewhere (datastore-endpoint) and not in SQLite", unit)
	}
	if o.last("cluster-init", "false") != "false" {
		add(true, "kind k3s is for a server on SQLite; one on etcd is kept by three servers", "%s would start etcd (cluster-init)", unit)
	} else if _, err := os.Stat(filepath.Join(i.cfg.DataDir, "server/db/etcd")); err == nil {
		add(true, "move it away if it is left over", "%s would start etcd: there is %s/server/db/etcd", unit, i.cfg.DataDir)
	}
	if p := o.last("https-listen-port", "6443"); p != strconv.Itoa(i.cfg.Port) {
		add(true, "make vip.port and k3s's https-listen-port alike", "%s would listen on port %s, and relevo looks on %d", unit, p, i.cfg.Port)
	}
	if i.cfg.VIP.IsValid() {
		out = append(out, i.address(o, execs)...)
	} else {
		add(false, "give vip: in the configuration, and let k3s advertise it", "without a virtual IP the k3s agents do not find a server that moved")
	}
	settings := map[string]string{}
	for _, set := range []map[string]string{vital, alike} {
		for k, otherwise := range set {
			if v := o.all(k); len(v) > 0 {
				slices.Sort(v)
				settings[k] = strings.Join(slices.Compact(v), ",")
			} else {
				settings[k] = otherwise
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].What < out[j].What })
	return settings, out
}

// address: everybody must be told the virtual IP, for k3s agents go where the server says
// it is (k3s #2907, #3364).
func (i *Inspector) address(o k3sOptions, execs map[string]systemd.Exec) (out []Finding) {
	vip := i.cfg.VIP.String()
	const file = "in " + k3sConfigFile
	advertised := o.last("advertise-address", o.last("node-external-ip", o.last("node-ip", "")))
	if advertised != vip {
		if advertised == "" {
			advertised = "an address of this host"
		}
		out = append(out, Finding{What: "k3s would advertise " + advertised + " and not the virtual IP: agents would not find the server that comes after it",
			Do: "advertise-address: " + vip + " " + file})
		if !slices.Contains(o.all("tls-san"), vip) {
			out = append(out, Finding{Blocks: true, What: "k3s here would not name the virtual IP in its certificate: clients would not believe it", Do: "tls-san: [" + vip + "] " + file})
		}
	}
	for _, u := range i.cfg.StandbyUnits {
		e, ok := execs[u]
		if !ok {
			continue
		}
		a, err := readK3s(i.cfg.ConfigFile, e)
		if err != nil {
			continue // the server reads the same file
		}
		s, err := url.Parse(a.last("server", ""))
		switch {
		case err != nil || s.Host == "":
			out = append(out, Finding{What: u + " is not told which server to join", Do: "K3S_URL=https://" + vip + ":" + strconv.Itoa(i.cfg.Port) + " in /etc/systemd/system/" + u + ".env"})
		case s.Hostname() != vip && isAddr(s.Hostname()): // a name may lead to it
			out = append(out, Finding{What: u + " joins the server at " + s.Host + ", not at the virtual IP: when it is started again after a failover, it may not find it",
				Do: "K3S_URL=https://" + vip + ":" + strconv.Itoa(i.cfg.Port) + " in /etc/systemd/system/" + u + ".env"})
		}
	}
	return out
}

// differences are the settings that another server has otherwise.
func differences(own, master Facts) []Finding {
	if len(own.Settings) == 0 || len(master.Settings) == 0 {
		return nil
	}
	var out []Finding
	for _, set := range []struct {
		of     map[string]string
		blocks bool
	}{{vital, true}, {alike, false}} {
		for _, k := range slices.Sorted(maps.Keys(set.of)) {
			a, known := own.Settings[k]
			b, theirs := master.Settings[k]
			if known && theirs && a != b {
				out = append(out, Finding{Blocks: set.blocks, What: fmt.Sprintf("k3s has %s %q here and %q on the master", k, short(a), short(b)), Do: "make them alike in " + k3sConfigFile})
			}
		}
	}
	return out
}

func isAddr(s string) bool { _, err := netip.ParseAddr(s); return err == nil }

func short(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}
