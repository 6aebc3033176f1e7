package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"relevo.dev/relevo/agent"
	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/onboard"
)

// newcomer is a host on which nothing of relevo is yet.
type newcomer struct {
	found   onboard.Found
	taken   map[string]string
	answers string // typed; "" = nobody is at a terminal
	flags   initFlags
}

func (n newcomer) init(t *testing.T) (cfg *config.Config, out string, err error) {
	t.Helper()
	dir := t.TempDir()
	f := n.flags
	f.config, f.pki, f.gossip, f.data = filepath.Join(dir, "relevo.yaml"), filepath.Join(dir, "pki"), filepath.Join(dir, "gossip.key"), filepath.Join(dir, "lib")
	f.node = "n1"
	f.look = func(string) onboard.Found { return n.found }
	f.survey = func(string) (onboard.Network, error) {
		return onboard.Network{Interface: "eth0", Own: netip.MustParsePrefix("192.168.1.20/24"), Gateway: netip.MustParseAddr("192.168.1.1")}, nil
	}
	f.whoHas = func(_ context.Context, _ string, ip netip.Addr) (string, error) { return n.taken[ip.String()], nil }
	f.systemd = func() bool { return false }
	if n.answers != "" {
		f.ask = bufio.NewReader(strings.NewReader(n.answers))
	}
	var b bytes.Buffer
	f.out = &b
	err = f.run(t.Context(), &app{env: func(string) string { return "" }})
	if err == nil {
		cfg, err = config.Load(f.config)
	} else if _, serr := os.Stat(f.config); serr == nil {
		t.Errorf("a configuration was written though it failed: %v", err)
	}
	return cfg, b.String(), err
}

func TestInitLooks(t *testing.T) {
	k3s := onboard.Found{Kind: onboard.K3sServer, What: "a k3s server on SQLite"}
	for name, c := range map[string]struct {
		n         newcomer
		fails     string
		says      string
		cluster   string
		candidate bool
		vip       string
	}{
		"all proposed": {newcomer{found: k3s, answers: "\n\n"}, "", "tls-san: [192.168.1.250]", "home", true, "192.168.1.250/24"},
		"all typed":    {newcomer{found: k3s, answers: "shed\n192.168.1.77\n"}, "", "It can be the master", "shed", true, "192.168.1.77/24"},
		"corrected": {newcomer{found: k3s, taken: map[string]string{"192.168.1.9": "b8:27:eb:1:2:3"}, answers: "My Shed\nshed\n192.168.1.9\n10.0.0.1\nx\n192.168.1.8/24\n"},
			"", "192.168.1.9 is taken: b8:27:eb:1:2:3 answers for it", "shed", true, "192.168.1.8/24"},
		"none":                {newcomer{found: k3s, answers: "\nnone\n"}, "", "", "home", true, ""},
		"gone in the middle":  {newcomer{found: k3s, answers: "shed\n"}, "no answer", "", "", false, ""},
		"yes":                 {newcomer{found: k3s, flags: initFlags{yes: true}}, "", "", "home", true, "192.168.1.250/24"},
		"yes, .250 taken":     {newcomer{found: k3s, taken: map[string]string{"192.168.1.250": "x"}, flags: initFlags{yes: true}}, "", "", "home", true, "192.168.1.249/24"},
		"told already":        {newcomer{found: onboard.Found{Kind: onboard.K3sServer, VIP: netip.MustParseAddr("192.168.1.100")}, flags: initFlags{yes: true}}, "", "told 192.168.1.100 already", "home", true, "192.168.1.100/24"},
		"a flag":              {newcomer{found: k3s, flags: initFlags{cluster: "x", vip: "192.168.1.5"}}, "", "", "x", true, "192.168.1.5/24"},
		"a flag that is bad":  {newcomer{found: k3s, flags: initFlags{cluster: "x", vip: "192.168.1.1"}}, "router's address", "", "", false, ""},
		"a flag with none":    {newcomer{found: k3s, flags: initFlags{cluster: "x", vip: "none"}}, "", "", "x", true, ""},
		"votes only, as told": {newcomer{found: k3s, flags: initFlags{cluster: "x", voteOnly: true}}, "", "votes only", "x", false, ""},
		"a Zero":              {newcomer{found: onboard.Found{Kind: onboard.Nothing, What: "no Kubernetes", VoteOnly: "its processor is an ARMv6"}, flags: initFlags{yes: true}}, "", "can vote and never be the master", "home", false, ""},
		"kubeadm":             {newcomer{found: onboard.Found{Kind: onboard.Kubeadm, Problem: "kubeadm with etcd is not supported yet", Do: "it can vote"}, flags: initFlags{yes: true}}, "", "not supported yet", "home", false, ""},
		"a script":            {newcomer{found: onboard.Found{Kind: onboard.Nothing}}, "needs a name", "", "", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, out, err := c.n.init(t)
			vip, founded := outcome(t, c.fails, cfg, out, err)
			if !founded {
				return
			}
			if cfg.Cluster != c.cluster || (cfg.Candidate != nil) != c.candidate || vip != c.vip || !strings.Contains(out, c.says) {
				t.Errorf("cluster %s, candidate %+v\n%s", cfg.Cluster, cfg.Candidate, out)
			}
		})
	}
}

// outcome checks how init ended: with an error in which fails is, or, if that is empty, with
// a configuration, whose virtual IP it returns.
func outcome(t *testing.T, fails string, cfg *config.Config, out string, err error) (vip string, founded bool) {
	t.Helper()
	if fails != "" {
		if err == nil || !strings.Contains(err.Error(), fails) {
			t.Errorf("%v\n%s", err, out)
		}
		return "", false
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if cfg.Candidate != nil && cfg.Candidate.VIP != nil {
		vip = cfg.Candidate.VIP.Address.String()
	}
	return vip, true
}

// TestInitBeside: a cluster that is there already is told, and not founded beside by accident.
func TestInitBeside(t *testing.T) {
	k3s := onboard.Found{Kind: onboard.K3sServer, What: "a k3s server on SQLite"}
	home := []api.Neighbour{{Cluster: "home", ClusterID: "5f2a9c0b1d3e4f60", Nodes: []string{"n1", "n2"}, VIP: "192.168.1.250"}}
	for name, c := range map[string]struct {
		n       newcomer
		fails   string
		cluster string
		vip     string
	}{
		"a person, who did not know":   {newcomer{answers: "\n"}, "nothing was founded: to enter home, run `sudo relevo token create` on n1", "", ""},
		"a person, who knows":          {newcomer{answers: "maybe\nyes\n\n\n"}, "", "home2", "192.168.1.249/24"},
		"the same name, typed":         {newcomer{answers: "yes\nhome\nshed\n192.168.1.250\n192.168.1.9\n"}, "", "shed", "192.168.1.9/24"},
		"--yes":                        {newcomer{flags: initFlags{yes: true}}, "--another", "", ""},
		"a script":                     {newcomer{flags: initFlags{cluster: "shed"}}, "--another", "", ""},
		"--another":                    {newcomer{flags: initFlags{yes: true, another: true}}, "", "home2", "192.168.1.249/24"},
		"--another, the same name":     {newcomer{flags: initFlags{yes: true, another: true, cluster: "home"}}, "is on this network already", "", ""},
		"--another, its virtual IP":    {newcomer{flags: initFlags{another: true, cluster: "shed", vip: "192.168.1.250"}}, "the virtual IP of the cluster home", "", ""},
		"--another, no virtual IP":     {newcomer{flags: initFlags{another: true, cluster: "shed", vip: "none"}}, "", "shed", ""},
		"a virtual IP that it is told": {newcomer{found: onboard.Found{VIP: netip.MustParseAddr("192.168.1.250")}, flags: initFlags{another: true, yes: true}}, "the virtual IP of the cluster home", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			vip := c.n.found.VIP
			c.n.found = k3s
			c.n.found.VIP = vip
			c.n.flags.neighbours = func(context.Context, string) []api.Neighbour { return home }
			cfg, out, err := c.n.init(t)
			if !strings.Contains(out, "home (5f2a9c0b…) is on this network already, with n1, n2") {
				t.Errorf("the neighbour is not told: %s", out)
			}
			got, founded := outcome(t, c.fails, cfg, out, err)
			if !founded {
				return
			}
			if cfg.Cluster != c.cluster || got != c.vip {
				t.Errorf("cluster %s with %s\n%s", cfg.Cluster, got, out)
			}
		})
	}
}

// TestInitTogether: a cluster that was founded on the network at the same moment is told at the
// end, to both in the same way; one that was told before is not told again.
func TestInitTogether(t *testing.T) {
	status := okStatus()
	status.ClusterID, status.Quorum.HaveQuorum, status.Role = "5f2a9c0b1d3e4f60", true, api.RoleVoter
	shed := api.Neighbour{Cluster: "shed", ClusterID: "77777777", Nodes: []string{"p1"}}
	for id, keep := range map[string]string{"0a0a0a0a0a0a": "keep the other", "aaaaaaaaaaaa": "keep this one"} {
		home := api.Neighbour{Cluster: "home", ClusterID: id, Nodes: []string{"n2", "n3\x1b"}}
		var out bytes.Buffer
		f := initFlags{out: &out, backend: "auto", near: []api.Neighbour{shed}, neighbours: func(_ context.Context, backend string) []api.Neighbour {
			if backend != "auto" {
				t.Errorf("looked with %q", backend)
			}
			return []api.Neighbour{{Cluster: "home", ClusterID: status.ClusterID, Nodes: []string{"n1"}}, home, shed}
		}}
		if err := f.welcome(t.Context(), &app{socket: serve(t, &fake{status: status}), now: func() time.Time { return now }, env: func(string) string { return "" }}); err != nil {
			t.Fatal(err)
		}
		got := out.String()
		if want := "At the same moment the cluster home (" + id[:8] + "…) was founded on this network, with n2, n3?."; !strings.Contains(got, want) || !strings.Contains(got, keep) || strings.Count(got, "same moment") != 1 {
			t.Errorf("%s\nlacks %q, %q", got, want, keep)
		}
		if !strings.Contains(got, "sudo relevo join ") {
			t.Error("there is no token")
		}
	}
}

// TestInitBlind: without root nobody can ask the network, and that is said.
func TestInitBlind(t *testing.T) {
	f := initFlags{survey: func(string) (onboard.Network, error) { return onboard.Network{}, errors.New("no interface") }, out: &bytes.Buffer{}}
	if _, err := f.chooseVIP(t.Context(), onboard.Found{}); err != nil || !strings.Contains(f.out.(*bytes.Buffer).String(), "No virtual IP") {
		t.Errorf("%v %s", err, f.out)
	}
	f.vip = "192.168.1.9"
	if _, err := f.chooseVIP(t.Context(), onboard.Found{}); err == nil || !strings.Contains(err.Error(), "no interface") {
		t.Errorf("%v", err)
	}
}

// TestJoinLooks: a host that joins is a candidate if everything it takes is known.
func TestJoinLooks(t *testing.T) {
	survey := func(string) (onboard.Network, error) {
		return onboard.Network{Own: netip.MustParsePrefix("192.168.1.20/24")}, nil
	}
	for _, c := range []struct {
		found     onboard.Found
		candidate bool
		says      string
	}{
		{onboard.Found{Kind: onboard.K3sAgent, VIP: netip.MustParseAddr("192.168.1.100")}, true, "can be the master"},
		{onboard.Found{Kind: onboard.K3sAgent, VIP: netip.MustParseAddr("10.0.0.1")}, false, ""},
		{onboard.Found{Kind: onboard.K3sServer}, false, "another cluster's"},
		{onboard.Found{Kind: onboard.Units, What: "units"}, false, "write `candidate:`"},
		{onboard.Found{Kind: onboard.K3sAgent, VoteOnly: "it is small"}, false, "it is small"},
		{onboard.Found{Kind: onboard.Nothing}, false, ""},
	} {
		var p place
		var out bytes.Buffer
		p.candidateOf(&out, c.found, survey)
		if (p.candidate != "") != c.candidate || !strings.Contains(out.String(), c.says) || (c.says == "") != (out.Len() == 0) {
			t.Errorf("%+v: %q, %s", c.found, p.candidate, &out)
		}
	}
}

// TestInitOvertaken: a cluster that is founded while init looks for a free address, or asks, is
// not founded beside by accident.
func TestInitOvertaken(t *testing.T) {
	home := []api.Neighbour{{Cluster: "home", ClusterID: "5f2a9c0b1d3e4f60", Nodes: []string{"n2"}}}
	for another, fails := range map[bool]string{false: "somebody founded the cluster home a moment ago, with n2: to enter home, run `sudo relevo token create` on n2", true: ""} {
		looked := 0
		n := newcomer{found: onboard.Found{Kind: onboard.Nothing}, flags: initFlags{yes: true, another: another, neighbours: func(context.Context, string) []api.Neighbour {
			if looked++; looked == 1 {
				return nil
			}
			return home
		}}}
		cfg, out, err := n.init(t)
		outcome(t, fails, cfg, out, err)
		if looked != 2 {
			t.Errorf("it looked %d times", looked)
		}
	}
}

// field is the network as two hosts see it that run init: who announces that it does.
type field struct {
	mu   sync.Mutex
	runs map[string]agent.Rival
}

// player is one of them.
type player struct {
	*field
	init string
}

func (p player) Rivals() (out []agent.Rival) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for init, r := range p.runs {
		if init != p.init {
			out = append(out, r)
		}
	}
	return out
}

func (p player) Decided() {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.runs[p.init]
	r.Founds = true
	p.runs[p.init] = r
}

func (p player) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.runs[p.init].Founds { // else its cluster is announced now
		delete(p.runs, p.init)
	}
}

// TestInitRace: of several hosts that found a cluster at once one does, whoever is asked
// longer; the others found nothing, and say what to do. Who wants another has it.
func TestInitRace(t *testing.T) {
	for range 20 {
		net := &field{runs: map[string]agent.Rival{}}
		var all, done sync.WaitGroup
		all.Add(3)
		fails := make([]error, 3)
		for i := range fails {
			n := newcomer{found: onboard.Found{Kind: onboard.Nothing}, flags: initFlags{yes: true,
				begin: func(_ context.Context, _, node, init string) founding {
					net.mu.Lock()
					net.runs[init] = agent.Rival{Name: node, Init: init}
					net.mu.Unlock()
					return player{net, init}
				},
				neighbours: func(context.Context, string) []api.Neighbour { return nil }}}
			var once sync.Once
			look := n.flags.neighbours
			n.flags.neighbours = func(ctx context.Context, backend string) []api.Neighbour {
				once.Do(func() { all.Done(); all.Wait() }) // they look at the same time
				return look(ctx, backend)
			}
			done.Go(func() { _, _, fails[i] = n.init(t) })
		}
		done.Wait()
		founded := 0
		for _, err := range fails {
			if err == nil {
				founded++
			} else if !strings.Contains(err.Error(), "nothing was founded: `relevo init` runs on n1 at the same moment") || !strings.Contains(err.Error(), "relevo join TOKEN") {
				t.Error(err)
			}
		}
		if founded != 1 || len(net.runs) != 1 {
			t.Errorf("%d founded a cluster, %d are announced still: %v", founded, len(net.runs), fails)
		}
	}
	f := initFlags{}
	for what, c := range map[string]struct {
		own     string
		rival   agent.Rival
		another bool
		founds  bool
	}{
		"smaller":                 {"01", agent.Rival{Name: "n2", Init: "02"}, false, true},
		"larger":                  {"03", agent.Rival{Name: "n2", Init: "02"}, false, false},
		"smaller, but later":      {"01", agent.Rival{Name: "n2", Init: "02", Founds: true}, false, false},
		"another, though it lost": {"03", agent.Rival{Name: "n2", Init: "02", Founds: true}, true, true},
	} {
		f.another = c.another
		net := &field{runs: map[string]agent.Rival{c.rival.Init: c.rival, c.own: {Init: c.own}}}
		if err := f.decide(race{player{net, c.own}, c.own}); (err == nil) != c.founds || net.runs[c.own].Founds != c.founds {
			t.Errorf("%s: %v", what, err)
		}
	}
}
