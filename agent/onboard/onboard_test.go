package onboard

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"relevo.dev/relevo/agent/config"
)

// board makes a root with files.
func board(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const k3sUnit = "[Service]\nEnvironmentFile=-/etc/systemd/system/k3s.service.env\nExecStart=/usr/local/bin/k3s \\\n    server \\\n\t'--advertise-address' \\\n\t'192.168.1.100' \\\n"

func TestLook(t *testing.T) {
	mem := "MemTotal:        3884372 kB\n"
	for name, c := range map[string]struct {
		files     map[string]string
		kind      Kind
		candidate bool
		problem   string
		vip       string
	}{
		"nothing": {map[string]string{"proc/meminfo": mem}, Nothing, false, "", ""},
		"k3s server": {map[string]string{"proc/meminfo": mem, "etc/systemd/system/k3s.service": k3sUnit,
			"var/lib/rancher/k3s/server/db/state.db": "x"}, K3sServer, true, "", "192.168.1.100"},
		"k3s server, told by its file": {map[string]string{"etc/systemd/system/k3s.service": "ExecStart=/usr/local/bin/k3s server",
			"etc/rancher/k3s/config.yaml":            "# x\ntls-san:\n  - 192.168.1.101\n  - pi.local\n",
			"var/lib/rancher/k3s/server/db/state.db": "x"}, K3sServer, true, "", "192.168.1.101"},
		"k3s server with a list in a line": {map[string]string{"etc/systemd/system/k3s.service": "ExecStart=/usr/local/bin/k3s server",
			"etc/rancher/k3s/config.yaml":            `tls-san: ["192.168.1.102", x]` + "\n",
			"var/lib/rancher/k3s/server/db/state.db": "x"}, K3sServer, true, "", "192.168.1.102"},
		"k3s server on etcd": {map[string]string{"etc/systemd/system/k3s.service": k3sUnit,
			"var/lib/rancher/k3s/server/db/etcd/config": "x"}, K3sServer, false, "embedded etcd", "192.168.1.100"},
		"k3s server on MariaDB": {map[string]string{"etc/systemd/system/k3s.service": k3sUnit, "etc/systemd/system/k3s.service.env": "K3S_DATASTORE_ENDPOINT='mysql://u@tcp(h)/k'\n",
			"var/lib/rancher/k3s/server/db/x": "x"}, K3sServer, false, "not on this host", "192.168.1.100"},
		"k3s agent that can be a server": {map[string]string{"etc/systemd/system/k3s.service": k3sUnit, "etc/systemd/system/k3s-agent.service": "x",
			"etc/systemd/system/k3s-agent.service.env": "K3S_URL=https://192.168.1.100:6443\n"}, K3sAgent, true, "", "192.168.1.100"},
		"k3s agent": {map[string]string{"etc/systemd/system/k3s-agent.service": "x"}, K3sAgent, false, "no k3s.service", ""},
		"kubeadm":   {map[string]string{"etc/kubernetes/manifests/kube-apiserver.yaml": "x", "etc/kubernetes/kubelet.conf": "x"}, Kubeadm, false, "not supported yet", ""},
		"a node":    {map[string]string{"etc/kubernetes/kubelet.conf": "x"}, Kubelet, false, "", ""},
		"units": {map[string]string{"etc/systemd/system/kine.service": `ExecStart=/usr/bin/kine --endpoint "sqlite:///var/lib/kine/state.db?_journal=WAL"`,
			"usr/lib/systemd/system/kube-apiserver.service": "ExecStart=/usr/bin/kube-apiserver --secure-port=7443", "etc/kubernetes/pki/ca.crt": "x", "etc/kubernetes/relevo.token": "x"}, Units, true, "", ""},
		"units on a network database": {map[string]string{"etc/systemd/system/kine.service": "ExecStart=/usr/bin/kine --endpoint postgres://x",
			"usr/lib/systemd/system/kube-apiserver.service": "x"}, Units, false, "no SQLite file", ""},
		"small": {map[string]string{"proc/meminfo": "MemTotal:         443080 kB\n", "etc/systemd/system/k3s.service": k3sUnit, "var/lib/rancher/k3s/server/db/state.db": "x"}, K3sServer, false, "", "192.168.1.100"},
	} {
		f := Look(board(t, c.files))
		got := ""
		if f.VIP.IsValid() {
			got = f.VIP.String()
		}
		if f.Kind != c.kind || f.Candidate() != c.candidate || got != c.vip || (f.Problem == "") != (c.problem == "") || !strings.Contains(f.Problem, c.problem) {
			t.Errorf("%s: %+v", name, f)
		}
		if f.Problem != "" && f.Do == "" {
			t.Errorf("%s: it says what is wrong, and not what to do", name)
		}
		if !f.Candidate() {
			continue
		}
		vip := netip.MustParsePrefix("192.168.1.250/24")
		text, complete := f.CandidateYAML(vip)
		if !complete {
			t.Errorf("%s: not complete:\n%s", name, text)
		}
		cfg, err := config.Parse(strings.NewReader("cluster: home\nnode: n1\n"+text), "")
		if err != nil || cfg.Candidate == nil || cfg.Candidate.VIP.Address != vip {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
	// What is not known is a comment that a person completes.
	f := Look(board(t, map[string]string{"etc/systemd/system/kine.service": `sqlite:///k.db"`, "etc/systemd/system/kube-apiserver.service": "x"}))
	text, complete := f.CandidateYAML(netip.Prefix{})
	if cfg, err := config.Parse(strings.NewReader("cluster: home\nnode: n1\n"+text), ""); complete || err != nil || cfg.Candidate != nil {
		t.Errorf("%v %v\n%s", complete, err, text)
	}
	if why := host(board(t, map[string]string{"proc/cpuinfo": "model name	: ARMv6-compatible processor rev 7 (v6l)\n"})).tooSmall("arm"); !strings.Contains(why, "ARMv6") {
		t.Errorf("a Zero: %q", why)
	}
}

func TestFree(t *testing.T) {
	own := netip.MustParsePrefix("192.168.1.20/24")
	n := Network{Interface: "eth0", Own: own, Gateway: netip.MustParseAddr("192.168.1.1")}
	asked := 0
	busy := map[string]bool{}
	taken := func(_ context.Context, a netip.Addr) (string, error) {
		asked++
		if busy[a.String()] {
			return "b8:27:eb:00:00:01", nil
		}
		return "", nil
	}
	free := func(n Network) string {
		t.Helper()
		a, err := n.Free(t.Context(), taken)
		if err != nil {
			return err.Error()
		}
		if why := n.Fits(a); why != "" {
			t.Errorf("%s was proposed: %s", a, why)
		}
		return a.String()
	}
	if got := free(n); got != "192.168.1.250" {
		t.Error(got)
	}
	busy["192.168.1.250"] = true
	if got := free(n); got != "192.168.1.249" {
		t.Error(got)
	}
	n.DHCP = []Range{{netip.MustParseAddr("192.168.1.100"), netip.MustParseAddr("192.168.1.249")}}
	if got := free(n); got != "192.168.1.99" {
		t.Error(got)
	}
	n.DHCP = nil
	n.Own = netip.MustParsePrefix("192.168.1.245/24")
	if got := free(n.Guess(true)); got != "192.168.1.228" {
		t.Errorf("beside a leased address: %s", got)
	}
	n.Own = netip.MustParsePrefix("10.77.3.9/16")
	if got := free(n); got != "10.77.3.250" {
		t.Error(got)
	}
	n.Own = netip.MustParsePrefix("10.77.3.9/28")
	if got := free(n); got != "10.77.3.14" {
		t.Error(got)
	}
	n.Own = netip.MustParsePrefix("10.77.3.9/30")
	if got := free(n); !strings.Contains(got, "too small") {
		t.Error(got)
	}
	n.Own, asked = own, 0
	taken = func(context.Context, netip.Addr) (string, error) { asked++; return "x", nil }
	if got := free(n); !strings.Contains(got, "no free address") || asked != maxProbes {
		t.Errorf("%s after %d", got, asked)
	}
	taken = func(context.Context, netip.Addr) (string, error) { return "", errors.New("no such device") }
	if got := free(n); !strings.Contains(got, "no such device") {
		t.Error(got)
	}
	for a, want := range map[string]string{"192.168.1.20": "own", "192.168.1.1": "router", "192.168.1.0": "network's own", "192.168.1.255": "broadcast", "192.168.2.9": "not in this", "fe80::1": "IPv4", "192.168.1.9": ""} {
		if why := n.Fits(netip.MustParseAddr(a)); (why == "") != (want == "") || !strings.Contains(why, want) {
			t.Errorf("%s: %q", a, why)
		}
	}
}

func TestDHCP(t *testing.T) {
	root := board(t, map[string]string{
		"etc/dnsmasq.conf":             "# dhcp-range=1.1.1.1,1.1.1.9\ndhcp-range=192.168.1.50,192.168.1.150,12h\n",
		"etc/dnsmasq.d/x.conf":         "dhcp-range=set:a,10.0.0.9,10.0.0.20\ndhcp-range=10.0.0.9,10.0.0.2\n",
		"run/systemd/netif/leases/2":   "ADDRESS=192.168.1.20\n",
		"var/lib/dhcpcd/wlan0.lease":   "\x02",
		"var/lib/dhcp/dhclient.leases": "lease {\n fixed-address 192.168.1.21;\n}\n",
	})
	got := DHCPRanges(root)
	if len(got) != 2 || !got[0].Contains(netip.MustParseAddr("192.168.1.150")) || got[0].Contains(netip.MustParseAddr("192.168.1.151")) || got[1].From.String() != "10.0.0.9" {
		t.Errorf("%v", got)
	}
	for _, c := range []struct {
		ifname string
		index  int
		own    string
		want   bool
	}{{"eth0", 2, "192.168.1.20", true}, {"eth0", 2, "192.168.1.9", false}, {"eth1", 3, "192.168.1.21", true}, {"wlan0", 4, "10.0.0.1", true}} {
		if got := Leased(root, c.ifname, c.index, netip.MustParseAddr(c.own)); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
