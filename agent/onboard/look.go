// Package onboard looks at a host that is new to relevo: what control plane there is, what
// the network is like, which address is free; and proposes a configuration. It changes
// nothing.
package onboard

import (
	"bufio"
	"bytes"
	"io"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
)

// Kind of what is there.
type Kind string

// The kinds.
const (
	Nothing   Kind = "nothing"
	K3sServer Kind = "k3s server"
	K3sAgent  Kind = "k3s agent"
	Units     Kind = "units"   // kine and an API server as services of their own
	Kubeadm   Kind = "kubeadm" // static pods: not supported yet
	Kubelet   Kind = "kubelet" // a node of some other cluster
)

// Found is what was found.
type Found struct {
	Kind Kind
	What string // one sentence
	// Problem says why relevo cannot take the control plane over as it is; "" = it can.
	Problem, Do string
	// VoteOnly says why this board can run no control plane; "" = it can.
	VoteOnly string

	Unit      string   // the one that shows whether it runs
	Units     []string // of kind Units, in the order of their start
	Datastore string
	Identity  []string
	API       API
	// VIP is an address that agents or clients are told already; invalid = none is known.
	VIP netip.Addr
}

// API of kind Units, as far as it can be seen.
type API struct{ URL, CA, Token, Cert, Key string }

// Candidate says whether this host can run a control plane that relevo looks after.
func (f Found) Candidate() bool {
	return f.VoteOnly == "" && f.Problem == "" && (f.Kind == K3sServer || f.Kind == K3sAgent || f.Kind == Units)
}

const maxFile = 64 << 10

// host reads below a root: the tests have one of their own.
type host string

func (h host) read(path string) []byte {
	f, err := os.Open(filepath.Join(string(h), path))
	if err != nil {
		return nil
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, maxFile))
	return b
}

func (h host) there(paths ...string) bool {
	for _, p := range paths {
		if _, err := os.Stat(filepath.Join(string(h), p)); err != nil {
			return false
		}
	}
	return true
}

// unit is the text of a unit file, its drop-ins left out; nil = there is none.
func (h host) unit(name string) []byte {
	for _, dir := range []string{"etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"} {
		if b := h.read(filepath.Join(dir, name)); b != nil {
			return b
		}
	}
	return nil
}

// Look looks below root, which is / but for tests.
func Look(root string) Found {
	h := host(root)
	f := h.controlPlane()
	f.VoteOnly = h.tooSmall(runtime.GOARCH)
	return f
}

// k3sDir is where k3s keeps its state, unless it was told otherwise.
const k3sDir = "var/lib/rancher/k3s"

func (h host) controlPlane() Found {
	switch {
	case h.unit("k3s.service") != nil && h.there(k3sDir+"/server/db"):
		return h.k3sServer()
	case h.unit("k3s-agent.service") != nil:
		return h.k3sAgent()
	case h.there("etc/kubernetes/manifests/kube-apiserver.yaml"):
		return Found{Kind: Kubeadm, What: "a control plane made by kubeadm, with static pods and etcd", Unit: "kubelet.service",
			Problem: "kubeadm with etcd is not supported yet", Do: "this host can vote meanwhile; its control plane stays as it is"}
	case h.unit("kine.service") != nil && h.unit("kube-apiserver.service") != nil:
		return h.units()
	case h.there("etc/kubernetes/kubelet.conf"):
		return Found{Kind: Kubelet, What: "a node of a Kubernetes cluster, without a control plane", Unit: "kubelet.service"}
	}
	return Found{Kind: Nothing, What: "no Kubernetes"}
}

func (h host) k3sServer() Found {
	f := Found{Kind: K3sServer, What: "a k3s server on SQLite", Unit: "k3s.service", Datastore: "/" + k3sDir + "/server/db/state.db"}
	settings := h.k3sSettings("k3s.service")
	switch {
	case h.there(k3sDir + "/server/db/etcd"):
		f.What, f.Problem = "a k3s server on its own etcd", "embedded etcd is not supported: it wants three servers and looks after itself"
		f.Do = "this host can vote meanwhile"
	case settings["datastore-endpoint"] != "" && !strings.HasPrefix(settings["datastore-endpoint"], "sqlite"):
		f.What, f.Problem = "a k3s server on a database elsewhere", "a database that is not on this host is not copied"
		f.Do = "this host can vote meanwhile"
	case !h.there(k3sDir + "/server/db/state.db"):
		f.Problem, f.Do = "its datastore, /"+k3sDir+"/server/db/state.db, is not there", "start k3s once, then run this again"
	}
	f.VIP = address(settings["advertise-address"])
	if !f.VIP.IsValid() {
		f.VIP = address(settings["tls-san"])
	}
	return f
}

func (h host) k3sAgent() Found {
	f := Found{Kind: K3sAgent, What: "a k3s agent", Unit: "k3s-agent.service"}
	if h.unit("k3s.service") == nil {
		f.Problem = "there is no k3s.service here, so this host cannot be the server"
		f.Do = "to make it a candidate install k3s's server unit as well (docs/k3s.md); it can vote meanwhile"
	}
	if u, err := url.Parse(h.k3sSettings("k3s-agent.service")["server"]); err == nil {
		f.VIP = address(u.Hostname())
	}
	return f
}

// k3sSettings are from config.yaml, the environment file of a unit and its command line,
// the later ones winning, as far as they matter here.
func (h host) k3sSettings(unit string) map[string]string {
	out := map[string]string{}
	set := func(key, value string) {
		key, value = strings.Trim(strings.TrimSpace(key), `"'`), strings.Trim(strings.TrimSpace(value), `"'`)
		if first, _, ok := strings.Cut(strings.Trim(value, "[]"), ","); ok || strings.HasPrefix(value, "[") {
			value = strings.Trim(strings.TrimSpace(first), `"'`)
		}
		if value != "" {
			out[key] = value
		}
	}
	last := ""
	for line := range lines(h.read("etc/rancher/k3s/config.yaml")) {
		if item, ok := strings.CutPrefix(strings.TrimSpace(line), "- "); ok && last != "" {
			if out[last] == "" {
				set(last, item)
			}
			continue
		}
		if key, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, "#") {
			last = strings.TrimSpace(key)
			set(key, value)
		}
	}
	for line := range lines(h.read("etc/systemd/system/" + unit + ".env")) {
		if key, value, ok := strings.Cut(line, "="); ok {
			switch strings.TrimSpace(key) {
			case "K3S_URL":
				set("server", value)
			case "K3S_DATASTORE_ENDPOINT":
				set("datastore-endpoint", value)
			}
		}
	}
	for _, m := range flags().FindAllStringSubmatch(string(h.unit(unit)), -1) {
		set(m[1], m[2])
	}
	return out
}

var flags = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`--(advertise-address|tls-san|datastore-endpoint|server)'?[ =\\\n\t]+'?([^\s'"\\]+)`)
})

var sqlitePath = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`sqlite://(/[^\s?"']+)`) })

func (h host) units() Found {
	f := Found{Kind: Units, What: "kine and kube-apiserver as services", Unit: "kube-apiserver.service", Units: []string{"kine.service", "kube-apiserver.service"}}
	for _, u := range []string{"kube-controller-manager.service", "kube-scheduler.service"} {
		if h.unit(u) != nil {
			f.Units = append(f.Units, u)
		}
	}
	if m := sqlitePath().FindSubmatch(h.unit("kine.service")); m != nil {
		f.Datastore = string(m[1])
	} else {
		f.Problem, f.Do = "kine.service names no SQLite file (--endpoint sqlite:///…)", "only kine on SQLite is supported"
	}
	port := "6443"
	if m := regexp.MustCompile(`--secure-port[ =]+(\d+)`).FindSubmatch(h.unit("kube-apiserver.service")); m != nil {
		port = string(m[1])
	}
	f.API.URL = "https://127.0.0.1:" + port
	const pki = "/etc/kubernetes/pki"
	if h.there(pki) {
		f.Identity = append(f.Identity, pki)
	}
	for _, p := range []string{"/etc/kubernetes/tokens.csv", "/etc/kubernetes/relevo.token"} {
		if h.there(p) {
			f.Identity = append(f.Identity, p)
		}
	}
	if h.there(pki + "/ca.crt") {
		f.API.CA = pki + "/ca.crt"
	}
	switch {
	case h.there("/etc/kubernetes/relevo.token"):
		f.API.Token = "/etc/kubernetes/relevo.token"
	case h.there(pki+"/apiserver-kubelet-client.crt", pki+"/apiserver-kubelet-client.key"):
		f.API.Cert, f.API.Key = pki+"/apiserver-kubelet-client.crt", pki+"/apiserver-kubelet-client.key"
	}
	return f
}

// smallest is what k3s and kubeadm ask for, less what a Pi's GPU takes of 1 GB.
const smallest = 700 << 20

// tooSmall says why a board can only vote.
func (h host) tooSmall(arch string) string {
	if m := regexp.MustCompile(`MemTotal:\s+(\d+) kB`).FindSubmatch(h.read("proc/meminfo")); m != nil {
		if kb, err := strconv.ParseInt(string(m[1]), 10, 64); err == nil && kb<<10 < smallest {
			return "it has " + strconv.FormatInt(kb>>10, 10) + " MB of memory, and a control plane needs 1 GB"
		}
	}
	if arch == "arm" && bytes.Contains(h.read("proc/cpuinfo"), []byte("ARMv6")) {
		return "its processor is an ARMv6, for which there is no Kubernetes any more"
	}
	return ""
}

func address(s string) netip.Addr {
	a, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil || !a.Is4() || a.IsLoopback() || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

func lines(b []byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		sc := bufio.NewScanner(bytes.NewReader(b))
		sc.Buffer(nil, maxFile)
		for sc.Scan() {
			if !yield(sc.Text()) {
				return
			}
		}
	}
}
