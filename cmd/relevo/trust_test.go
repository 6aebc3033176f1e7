package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"relevo.dev/relevo/agent"
	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/onboard"
	"relevo.dev/relevo/agent/peer"
)

// box is a host's file system.
type box struct {
	t      *testing.T
	dir    string
	socket string // of an agent
}

func newBox(t *testing.T) box { return box{t: t, dir: t.TempDir()} }

func (b box) path(p string) string { return filepath.Join(b.dir, p) }

// relevo runs one of the three commands with all paths in the box. Nobody is looked for on
// this machine's network, and nothing announced there.
func (b box) relevo(stdin string, args ...string) (string, error) {
	b.t.Helper()
	cmd := initCommand(&app{env: func(string) string { return "" }}, initFlags{look: onboard.Look, survey: agent.Survey, whoHas: agent.WhoHas, systemd: systemdRuns})
	switch args[0] {
	case "invite":
		cmd = newInviteCommand(&app{socket: b.socket, env: func(string) string { return "" }})
	case "join":
		cmd = newJoinCommand()
	}
	args = append(args[1:], "--config", b.path("etc/relevo.yaml"), "--pki-dir", b.path("etc/pki"), "--gossip-key-file", b.path("etc/gossip.key"))
	if cmd.Flags().Lookup("data-dir") != nil {
		args = append(args, "--data-dir", b.path("lib"))
	}
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetArgs(args)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.Execute()
	return out.String(), err
}

func (b box) must(stdin string, args ...string) string {
	b.t.Helper()
	out, err := b.relevo(stdin, args...)
	if err != nil {
		b.t.Fatalf("%v: %v", args, err)
	}
	return out
}

func (b box) mustFail(want, stdin string, args ...string) {
	b.t.Helper()
	if _, err := b.relevo(stdin, args...); err == nil || !strings.Contains(err.Error(), want) {
		b.t.Errorf("%v: %v; want %q", args, err, want)
	}
}

func (b box) has(p string) bool {
	_, err := os.Lstat(b.path(p))
	return err == nil
}

func TestInitInviteJoin(t *testing.T) {
	a, b := newBox(t), newBox(t)
	out := a.must("", "init", "--cluster", "home", "--node", "n1")
	for _, want := range []string{"home", "n1", "relevo token create", "written now", a.path("etc/pki")} {
		if !strings.Contains(out, want) {
			t.Errorf("init says nothing of %q:\n%s", want, out)
		}
	}
	if !a.has("lib/bootstrap") {
		t.Error("no marker for the first host")
	}
	inv := a.must("", "invite", "n2")
	out = b.must(inv, "join", "-")
	if !strings.Contains(out, "n2 in the cluster home") || b.has("lib/bootstrap") {
		t.Errorf("joined, marker %v:\n%s", b.has("lib/bootstrap"), out)
	}
	// The configurations are right, and complete with what is proposed.
	for name, x := range map[string]box{"n1": a, "n2": b} {
		c, err := config.Load(x.path("etc/relevo.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if c.Cluster != "home" || c.Node != name || c.DataDir != x.path("lib") || c.Peer.PKIDir != x.path("etc/pki") || c.Gossip.KeyFile != x.path("etc/gossip.key") || c.Candidate != nil {
			t.Errorf("%+v", c)
		}
		text, _ := os.ReadFile(x.path("etc/relevo.yaml"))
		head, tail, _ := strings.Cut(string(text), "#candidate:")
		c, err = config.Parse(strings.NewReader(head+"candidate:"+strings.ReplaceAll(tail, "\n#", "\n")), "proposed")
		if err != nil || c.Candidate == nil || c.Candidate.VIP == nil {
			t.Errorf("the proposed candidate section: %v", err)
		}
		if id, err := peer.Load(x.path("etc/pki")); err != nil || id.Node() != name {
			t.Errorf("%v", err)
		}
	}
	// By file.
	file := a.path("n3.invitation")
	a.must("", "invite", "n3", "-o", file)
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	a.mustFail("exists", "", "invite", "n3", "-o", file)
	c := newBox(t)
	if out := c.must("", "join", file); !strings.Contains(out, "Remove "+file) {
		t.Errorf("%s", out)
	}
}

func TestTrustRefuses(t *testing.T) {
	a, b := newBox(t), newBox(t)
	a.mustFail("needs a name", "", "init")
	a.mustFail("a-z", "", "init", "--cluster", "My Home", "--node", "n1")
	a.mustFail("--node", "", "init", "--cluster", "home", "--node", "N 1")
	if a.has("etc/relevo.yaml") || a.has("lib/bootstrap") || a.has("etc/pki") {
		t.Error("a refused init left something")
	}
	a.must("", "init", "--cluster", "home", "--node", "n1")
	os.Remove(a.path("lib/bootstrap"))
	a.mustFail("already belongs", "", "init", "--cluster", "home", "--node", "n1")
	a.mustFail("`cluster: home`", "", "init", "--cluster", "other")
	if a.has("lib/bootstrap") || !a.has("etc/relevo.yaml") {
		t.Error("a refused init left a marker, or took the configuration")
	}
	b.mustFail("relevo init", "", "invite", "n2")
	b.mustFail("no invitation", "hello", "join", "-")
	b.mustFail("there is none", "", "join", "-")
	b.mustFail("no such file", "", "join", b.path("nothing"))
	b.mustFail("too long", strings.Repeat("a", 1<<20), "join", "-")

	// An earlier init that did not come to its end leaves no second founder.
	os.MkdirAll(b.path("lib"), 0o700)
	os.WriteFile(b.path("lib/bootstrap"), nil, 0o600)
	b.must(a.must("", "invite", "n2"), "join", "-")
	if b.has("lib/bootstrap") {
		t.Error("the marker survived")
	}
	other := newBox(t)
	other.must("", "init", "--cluster", "home", "--node", "m1")
	b.mustFail("already belongs", other.must("", "invite", "n2"), "join", "-")
	b.mustFail("write `node: n3`", a.must("", "invite", "n3"), "join", "-")
	// A second one for the founder itself does not unmake it.
	other.must(other.must("", "invite", "m1"), "join", "-")
	if !other.has("lib/bootstrap") {
		t.Error("the founder lost its marker")
	}
	// A broken configuration is not walked over.
	c := newBox(t)
	os.MkdirAll(c.path("etc"), 0o755)
	os.WriteFile(c.path("etc/relevo.yaml"), []byte("clutser: home\n"), 0o644)
	c.mustFail("relevo.yaml:1:1", "", "init", "--cluster", "home", "--node", "n1")
	os.WriteFile(c.path("etc/relevo.yaml"), []byte("cluster: home\nnode: n1\n"), 0o644)
	c.mustFail("would not find it", "", "init")
}

// asked is an agent that remembers the last order.
type asked struct {
	fake
	order api.Order
}

func (f *asked) Do(_ context.Context, o api.Order) (api.Done, error) {
	f.order = o
	return api.Done{}, f.err
}

// TestInviteTakenName: a member's name is bound to its key; --replace says so to the members
// before there is an invitation.
func TestInviteTakenName(t *testing.T) {
	a := newBox(t)
	a.must("", "init", "--cluster", "home", "--node", "n1")
	roll := `{"roll":{"version":3,"members":[{"node":"n2","key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","at":"2026-01-01T00:00:00Z"}],"removed":[{"node":"n3","at":"2026-01-01T00:00:00Z"}]}}`
	if err := os.WriteFile(a.path("lib/trust.json"), []byte(roll), 0o600); err != nil {
		t.Fatal(err)
	}
	a.mustFail("relevo token create --replace n2", "", "invite", "n2")
	a.mustFail("n3 was removed", "", "invite", "n3")
	a.must("", "invite", "n4")
	if out, err := a.relevo("", "invite", "--replace", "n2"); err == nil || strings.Contains(out, "BEGIN") {
		t.Errorf("an invitation that the members do not know of: %v", err)
	}
	src := &asked{}
	a.socket = serve(t, src)
	inv := a.must("", "invite", "--replace", "n2")
	invited, err := peer.ReadInvitation([]byte(inv))
	if err != nil || src.order.Verb != api.VerbReplace || src.order.To != "n2" || !bytes.Equal(src.order.Key, invited.Key) {
		t.Errorf("%+v, %v", src.order, err)
	}
	src.err = errors.New("n2 is alive")
	if out, err := a.relevo("", "invite", "--replace", "n2"); err == nil || strings.Contains(out, "BEGIN") {
		t.Errorf("an invitation that was refused: %v", err)
	}
}
