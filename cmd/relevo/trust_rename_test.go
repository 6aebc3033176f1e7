package main

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/peer"
)

// leaver is the agent of a host that is renamed.
type leaver struct {
	fake
	token  *peer.Token
	orders []string
	no     map[string]error // what it refuses

	members []string
}

func (l *leaver) Members(context.Context) (v api.Members, err error) {
	for _, n := range l.members {
		v.Members = append(v.Members, api.Member{Node: n, Status: "alive"})
	}
	return v, nil
}

func (l *leaver) Do(_ context.Context, o api.Order) (api.Done, error) {
	name := string(o.Verb)
	if o.DryRun {
		name += " --dry-run"
	}
	if o.To != "" {
		name += " " + o.To
	}
	if o.Token != nil {
		name += " " + o.Token.Node
	}
	l.orders = append(l.orders, name)
	return api.Done{Token: l.token.String()}, l.no[name]
}

func TestRename(t *testing.T) {
	a, b := newBox(t), newBox(t)
	a.must("", "init", "--cluster", "home", "--node", "n1")
	var tok peer.Token
	at := a.member(t, &tok)
	b.must("", "join", "--no-start", "--node", "n2", "--address", at, tok.String())
	os.MkdirAll(b.path("lib/replica"), 0o700)
	os.WriteFile(b.path("lib/replica/state.db"), []byte("rows"), 0o600)
	os.MkdirAll(b.path("lib/raft"), 0o700)
	os.WriteFile(b.path("lib/raft/ballot"), []byte("n2"), 0o600)
	l := &leaver{token: &tok, no: map[string]error{}}
	socket := serve(t, l)
	var steps []string
	step := func(s string) func(context.Context) error {
		return func(context.Context) error { steps = append(steps, s); return nil }
	}
	free := leaving{lease: filepath.Join(t.TempDir(), "lease"), clock: func() time.Duration { return time.Hour },
		runs: func(context.Context, []string) ([]string, error) { return nil, nil }, stop: step("stop"), start: step("start")}
	try := func(name string) (string, error) {
		l.orders, steps = nil, nil
		p, err := trustFlags{config: b.path("etc/relevo.yaml"), pki: b.path("etc/pki"), gossip: b.path("etc/gossip.key"), data: b.path("lib")}.settle()
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		r := renaming{app: &app{socket: socket, env: func(string) string { return "" }}, old: free, address: []string{at}}
		err = r.run(t.Context(), &out, p, name)
		return out.String(), err
	}
	before := tree(t, b.dir)
	refused := func(name, want string, orders ...string) {
		t.Helper()
		if _, err := try(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("rename %s: %v, want %q", name, err, want)
		}
		if !slices.Equal(l.orders, orders) || len(steps) > 0 || !same(before, tree(t, b.dir)) {
			t.Errorf("rename %s ordered %q, and did %q", name, l.orders, steps)
		}
	}
	refused("N 2", "name")
	refused("n2", "is called n2 already")
	text := before["etc/relevo.yaml"]
	os.WriteFile(b.path("etc/relevo.yaml"), []byte(strings.Replace(text, "node: n2", `node: "n\u0032"`, 1)), 0o644)
	before = tree(t, b.dir)
	refused("kitchen", "line 6 has the name in another form")
	os.WriteFile(b.path("etc/relevo.yaml"), []byte(text), 0o644)
	before = tree(t, b.dir)
	l.no["leave --dry-run"] = errors.New("without n2 there are 2 voters, and of these v3 is away")
	refused("kitchen", "nothing was changed: without n2", "leave --dry-run")
	// Cut off after the goodbye.
	was, _ := peer.Earlier(b.path("etc/pki"), b.path("etc/gossip.key"))
	note := b.path("lib/departed")
	os.WriteFile(note, []byte(hex.EncodeToString(was.Key)+"\n"), 0o600)
	before = tree(t, b.dir)
	refused("kitchen", "has left the cluster as n2: write `node: kitchen`", "leave --dry-run")
	os.Remove(note)
	before = tree(t, b.dir)
	delete(l.no, "leave --dry-run")
	l.no["token-create kitchen"] = errors.New("no quorum")
	refused("kitchen", "no quorum", "leave --dry-run", "token-create kitchen")
	delete(l.no, "token-create kitchen")
	l.no["leave"] = errors.New("none of the others heard")
	refused("kitchen", "this host is n2 as before", "leave --dry-run", "token-create kitchen", "leave")
	delete(l.no, "leave")

	out, err := try("kitchen")
	if err != nil || !strings.Contains(out, "This host is kitchen now; n2 is no member any more") {
		t.Fatalf("%v: %s", err, out)
	}
	if want := []string{"leave --dry-run", "token-create kitchen", "leave", "remove n2"}; !slices.Equal(l.orders, want) || !slices.Equal(steps, []string{"stop", "start"}) {
		t.Errorf("it ordered %q, and did %q", l.orders, steps)
	}
	id, err := peer.Load(b.path("etc/pki"))
	c, err2 := config.Load(b.path("etc/relevo.yaml"))
	if err != nil || err2 != nil || id.Node() != "kitchen" || c.Node != "kitchen" {
		t.Errorf("%v, %v", err, err2)
	}
	after := tree(t, b.dir)
	if after["lib/replica/state.db"] != "rows" || after["etc/relevo.yaml"] != strings.Replace(text, "node: n2", "node: kitchen", 1) || len(b.left()) != 2 || b.has("lib/raft") {
		t.Errorf("%v", after)
	}
	// Cut off after the new keys were there.
	os.WriteFile(b.path("etc/relevo.yaml"), []byte(text), 0o644)
	if out, err := try("kitchen"); err != nil || !slices.Equal(l.orders, []string{"remove n2"}) || !slices.Equal(steps, []string{"start"}) {
		t.Errorf("%v, it ordered %q, and did %q: %s", err, l.orders, steps, out)
	}
	if got := tree(t, b.dir)["etc/relevo.yaml"]; got != after["etc/relevo.yaml"] {
		t.Errorf("%s", got)
	}
	// And when that was done, too.
	os.WriteFile(b.path("etc/relevo.yaml"), []byte(text), 0o644)
	os.Chmod(b.path("etc/relevo.yaml"), 0o640)
	l.no["remove n2"], l.members = errors.New("n2 was removed already"), []string{"n1", "kitchen"}
	if out, err := try("kitchen"); err != nil || !slices.Equal(l.orders, []string{"remove n2"}) {
		t.Errorf("%v, it ordered %q: %s", err, l.orders, out)
	}
	if st, err := os.Stat(b.path("etc/relevo.yaml")); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

func TestRenamed(t *testing.T) {
	for _, c := range []struct {
		in        string
		candidate bool
		want      string // "!" and what is said
	}{
		{"cluster: home\nnode: n2 # this one\n", false, "cluster: home\nnode: kitchen # this one\n"},
		{"{cluster: home, node: 'n2'}\n", false, "{cluster: home, node: kitchen}\n"},
		{"cluster: home\nnode: \"n2\"", false, "cluster: home\nnode: kitchen"},
		{"cluster: home\n", false, "cluster: home\n\nnode: kitchen\n"}, // the host name was its name
		{"node: n2\nkubernetes:\n    services: {}\n", true, "node: kitchen\nkubernetes:\n    node: n2\n    services: {}\n"},
		{"node: n2\nkubernetes:\n  node: pi2\n", true, "node: kitchen\nkubernetes:\n  node: pi2\n"},
		{"node: n2\n", true, "node: kitchen\n\n# What Kubernetes calls this host, if another name than the one above.\nkubernetes:\n  node: n2\n"},
		{"node: n2\nkubernetes: {}\n", true, "!`node: n2`"},
		{"node: &x n2\n", false, "!in another form"},
		{"node: >\n  n2\n", false, "!in another form"},
		{"- a\n", false, "!no list of settings"},
		{"node: [", false, "!yaml"},
	} {
		got, err := renamed([]byte(c.in), "n2", "kitchen", c.candidate)
		if why, fails := strings.CutPrefix(c.want, "!"); fails != (err != nil) || fails && !strings.Contains(err.Error(), why) || !fails && string(got) != c.want {
			t.Errorf("%q became %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}
