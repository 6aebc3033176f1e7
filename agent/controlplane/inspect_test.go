package controlplane

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"relevo.dev/relevo/systemd"
)

// k3sHost is a host with k3s as its installer leaves it.
type k3sHost struct {
	t     *testing.T
	dir   string
	cfg   InspectorConfig
	units map[string]systemd.Exec
	state map[string]systemd.State
	asked int
	says  string
	err   error
}

func (h *k3sHost) State(_ context.Context, u string) (systemd.State, error) {
	if s, ok := h.state[u]; ok {
		return s, nil
	}
	if _, ok := h.units[u]; !ok {
		return systemd.State{Unit: u, Load: "not-found"}, nil
	}
	return systemd.State{Unit: u, Load: "loaded"}, nil
}

func (h *k3sHost) Exec(_ context.Context, u string) (systemd.Exec, error) { return h.units[u], nil }

func (h *k3sHost) write(name, text string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func newK3sHost(t *testing.T) *k3sHost {
	h := &k3sHost{t: t, dir: t.TempDir(), says: "k3s version v1.34.1+k3s1 (24fc436e)\ngo version go1.24.6\n", state: map[string]systemd.State{}}
	program := h.write("bin/k3s", "")
	data := filepath.Join(h.dir, "k3s")
	env := h.write("agent.env", "K3S_TOKEN='K10x::server:y'\nK3S_URL='https://10.0.0.100:6443'\n")
	h.units = map[string]systemd.Exec{
		"k3s.service":       {Path: program, Args: []string{"server", "--data-dir", data}, EnvironmentFiles: []string{filepath.Join(h.dir, "none")}},
		"k3s-agent.service": {Path: program, Args: []string{"agent", "--data-dir=" + data}, EnvironmentFiles: []string{env}},
	}
	h.cfg = InspectorConfig{Kind: KindK3s, Units: []string{"k3s.service"}, StandbyUnits: []string{"k3s-agent.service"}, StandbyIfThere: true,
		Systemd: h, VIP: netip.MustParseAddr("10.0.0.100"), Port: 6443, DataDir: data,
		ConfigFile: h.write("etc/config.yaml", "advertise-address: 10.0.0.100\ntls-san: [10.0.0.100, k3s.lan]\nnode-ip: 10.0.0.1\n"),
		Ask:        func(context.Context, string) ([]byte, error) { h.asked++; return []byte(h.says), h.err }}
	return h
}

func (h *k3sHost) arg(a ...string) {
	e := h.units["k3s.service"]
	e.Args = append(slices.Clone(e.Args), a...)
	h.units["k3s.service"] = e
}

func TestAllIsWell(t *testing.T) {
	h := newK3sHost(t)
	i := NewInspector(h.cfg)
	facts, found := i.Look(t.Context())
	if len(found) > 0 || facts.Version() != "v1.34.1+k3s1" {
		t.Fatalf("%+v, %+v", facts, found)
	}
	if facts.Settings["cluster-cidr"] != "10.42.0.0/16" || facts.Settings["disable"] != "" {
		t.Errorf("%v", facts.Settings)
	}
	// The program is asked once for each change of its file.
	i.Look(t.Context())
	if h.asked != 1 {
		t.Errorf("asked %d times", h.asked)
	}
	h.write("bin/k3s", "new")
	h.says = "k3s version v1.35.0+k3s1\n"
	if facts, _ := i.Look(t.Context()); h.asked != 2 || facts.Version() != "v1.35.0+k3s1" {
		t.Errorf("asked %d times, %+v", h.asked, facts)
	}
}

func TestWhatWouldHurt(t *testing.T) {
	for name, tc := range map[string]struct {
		do     func(h *k3sHost)
		blocks bool
		want   string
	}{
		"no unit":           {func(h *k3sHost) { delete(h.units, "k3s.service") }, true, "the unit k3s.service is not-found"},
		"masked":            {func(h *k3sHost) { h.state["k3s.service"] = systemd.State{Load: "masked"} }, true, "the unit k3s.service is masked"},
		"no program":        {func(h *k3sHost) { os.Remove(filepath.Join(h.dir, "bin/k3s")) }, true, "k3s.service cannot start: the program"},
		"no execute bit":    {func(h *k3sHost) { os.Chmod(filepath.Join(h.dir, "bin/k3s"), 0o644) }, true, "is no program"},
		"another processor": {func(h *k3sHost) { h.err = errors.New("exec format error") }, true, "--version` fails: exec format error"},
		"own address":       {func(h *k3sHost) { h.write("etc/config.yaml", "tls-san: 10.0.0.100\nnode-ip: 10.0.0.1\n") }, false, "would advertise 10.0.0.1 and not the virtual IP"},
		"any address":       {func(h *k3sHost) { h.write("etc/config.yaml", "tls-san: [a,10.0.0.100]") }, false, "would advertise an address of this host"},
		"no san":            {func(h *k3sHost) { h.write("etc/config.yaml", "advertise-address: 10.0.0.1\n") }, true, "would not name the virtual IP"},
		"overridden":        {func(h *k3sHost) { h.write("etc/config.yaml.d/10.yaml", "advertise-address: 10.0.0.2\n") }, false, "would advertise 10.0.0.2"},
		"argument wins":     {func(h *k3sHost) { h.arg("--advertise-address", "10.0.0.3") }, false, "would advertise 10.0.0.3"},
		"joins another":     {func(h *k3sHost) { h.write("etc/config.yaml.d/20.yml", "server: https://10.0.0.9:6443\n") }, true, "would join the server at https://10.0.0.9:6443"},
		"external":          {func(h *k3sHost) { h.arg("--datastore-endpoint=mysql://u:p@h/db") }, true, "keeps its objects elsewhere"},
		"etcd":              {func(h *k3sHost) { h.arg("--cluster-init") }, true, "would start etcd (cluster-init)"},
		"etcd files":        {func(h *k3sHost) { h.write("k3s/server/db/etcd/name", "") }, true, "there is"},
		"port":              {func(h *k3sHost) { h.arg("--https-listen-port=7443") }, true, "would listen on port 7443, and relevo looks on 6443"},
		"data dir":          {func(h *k3sHost) { h.arg("-d", "/mnt/k3s") }, true, "keeps its data in /mnt/k3s"},
		"no yaml":           {func(h *k3sHost) { h.write("etc/config.yaml", "a: [") }, true, "cannot be read"},
		"huge":              {func(h *k3sHost) { h.write("etc/config.yaml.d/1.yaml", strings.Repeat("#\n", maxK3sFile)) }, true, "larger than 64 KiB"},
		"agent joins a host": {func(h *k3sHost) { h.write("agent.env", "K3S_URL=https://10.0.0.1:6443\n") }, false,
			"k3s-agent.service joins the server at 10.0.0.1:6443, not at the virtual IP"},
		"agent joins nobody": {func(h *k3sHost) { h.write("agent.env", "") }, false, "k3s-agent.service is not told which server"},
		"no virtual IP":      {func(h *k3sHost) { h.cfg.VIP = netip.Addr{} }, false, "without a virtual IP"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newK3sHost(t)
			tc.do(h)
			_, found := NewInspector(h.cfg).Look(t.Context())
			for _, f := range found {
				if strings.Contains(f.What, tc.want) && f.Blocks == tc.blocks && f.Do != "" && !strings.Contains(f.What, "u:p@") {
					return
				}
			}
			t.Errorf("%+v", found)
		})
	}
	// None of these is one.
	for name, do := range map[string]func(h *k3sHost){
		"no agent here":        func(h *k3sHost) { delete(h.units, "k3s-agent.service") },
		"by name":              func(h *k3sHost) { h.write("agent.env", "K3S_URL=https://k3s.lan:6443\n") },
		"added":                func(h *k3sHost) { h.write("etc/config.yaml.d/10.yaml", "tls-san+: [more.lan]\n") },
		"sqlite elsewhere":     func(h *k3sHost) { h.arg("--datastore-endpoint=sqlite:///x/state.db") },
		"somebody's own build": func(h *k3sHost) { h.says = "k3s version dev (HEAD)\n" },
	} {
		h := newK3sHost(t)
		do(h)
		if _, found := NewInspector(h.cfg).Look(t.Context()); len(found) > 0 {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

func facts(programs ...string) Facts {
	f := Facts{Kind: "units"}
	for _, p := range programs {
		name, v, _ := strings.Cut(p, " ")
		f.Programs = append(f.Programs, Program{Name: name, Version: v})
	}
	return f
}

func TestSkew(t *testing.T) {
	running := facts("k3s v1.34.1+k3s1")
	running.Running = "v1.33.5+k3s1" // upgraded, and not restarted yet
	unmarked := facts("k3s v1.34.1+k3s1")
	unmarked.Running = "v0.0.0-master"
	for _, tc := range []struct {
		own, master Facts
		want        string // "" = none; a leading ! blocks
	}{
		{facts("k3s v1.34.1+k3s1"), facts("k3s v1.34.3+k3s2"), ""},
		{facts("k3s v1.33.9+k3s1"), facts("k3s v1.34.1+k3s1"), "!k3s v1.33.9+k3s1 here, v1.34.1+k3s1 on the master"},
		{facts("k3s v1.35.0+k3s1"), facts("k3s v1.34.1+k3s1"), "a failover to this host is an upgrade"},
		{facts("k3s v1.36.0+k3s1"), facts("k3s v1.34.1+k3s1"), "!must not skip a minor version"},
		{facts("k3s v1.33.9+k3s1"), running, ""},
		{facts("k3s v1.33.9+k3s1"), unmarked, "!on the master"},
		{facts("k3s v2.0.0+k3s1"), facts("k3s v1.34.1+k3s1"), "!v2.0.0"},
		{facts("kube-apiserver v1.33.0", "kine v0.13.0"), facts("kube-apiserver v1.33.0", "kine v0.14.1"), "!kine v0.13.0 here, v0.14.1 on the master"},
		{facts("kine v0.17.0"), facts("kine v0.14.1"), ""},
		{facts("kube-apiserver v0.0.0-master"), facts("kube-apiserver v1.34.0"), ""}, // not known
		{facts("kube-apiserver "), facts("kube-apiserver v1.34.0"), ""},
		{facts("kube-apiserver v1.34.0"), Facts{}, ""},
		{facts("k3s v1.34.0"), facts("kube-apiserver v1.33.0"), ""},
	} {
		got := Skew(tc.own, tc.master)
		want, blocks := strings.CutPrefix(tc.want, "!")
		if len(got) > 1 || (len(got) == 0) != (want == "") || len(got) == 1 && (got[0].Blocks != blocks || !strings.Contains(got[0].What, want)) {
			t.Errorf("%+v and %+v: %+v, want %q", tc.own.Programs, tc.master.Programs, got, tc.want)
		}
	}
}

func TestDifferences(t *testing.T) {
	h := newK3sHost(t)
	own, _ := NewInspector(h.cfg).Look(t.Context())
	h.arg("--service-cidr=10.96.0.0/16", "--disable", "traefik", "--disable=servicelb")
	other, _ := NewInspector(h.cfg).Look(t.Context())
	got := Compare(own, other)
	if len(got) != 2 || !got[0].Blocks || got[0].What != `k3s has service-cidr "10.43.0.0/16" here and "10.96.0.0/16" on the master` ||
		got[1].Blocks || !strings.Contains(got[1].What, `disable "" here and "servicelb,traefik"`) {
		t.Errorf("%+v", got)
	}
	if got := Compare(other, other); len(got) > 0 {
		t.Errorf("%+v", got)
	}
}

func FuzzK3sConfig(f *testing.F) {
	f.Add("tls-san: [a, b]\nserver: x\n", "K3S_URL=https://x\n", "--data-dir /x --tls-san=y -d")
	f.Add("a: &x [*x]\n", "=", "-- --= -")
	f.Fuzz(func(t *testing.T, config, env, args string) {
		dir := t.TempDir()
		for name, text := range map[string]string{"c.yaml": config, "env": env} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		o, _ := readK3s(filepath.Join(dir, "c.yaml"), systemd.Exec{Args: strings.Fields(args), EnvironmentFiles: []string{filepath.Join(dir, "env")}})
		if o == nil {
			t.Error("no options")
		}
	})
}

func TestProgramsAnd(t *testing.T) {
	programs := func(versions ...string) (f Facts) {
		for i, v := range versions {
			f.Programs = append(f.Programs, Program{Name: []string{"kine", "kube-apiserver"}[i], Version: v})
		}
		return f
	}
	for want, f := range map[string][2]Facts{
		"kine v0.17.5 on both, kube-apiserver v1.37.1 here and v1.37.2 on n1":                             {programs("v0.17.5", "v1.37.1"), programs("v0.17.5", "v1.37.2")},
		"kine of an unknown version on both, kube-apiserver v1.37.1 here and of an unknown version on n1": {programs("", "v1.37.1"), programs("", "v0.0.0-master+")},
		"kine v0.17.5 here and of an unknown version on n1, kube-apiserver of an unknown version on both": {programs("v0.17.5", ""), programs()},
	} {
		if got := f[0].ProgramsAnd("n1", f[1]); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
