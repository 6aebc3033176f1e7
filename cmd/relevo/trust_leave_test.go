package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/leasefile"
	"relevo.dev/relevo/agent/peer"
)

// tree is every file below a folder, with what is in it.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		out[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// same compares two trees, but for the key of a host that tries to join.
func same(a, b map[string]string) bool {
	delete(a, "etc/pki/join.key")
	delete(b, "etc/pki/join.key")
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// left are the folders with what a host had before.
func (b box) left() (out []string) {
	for _, parent := range []string{"etc", "lib"} {
		all, _ := filepath.Glob(b.path(parent + "/left*"))
		for _, dir := range all {
			if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
				b.t.Errorf("%s: %v, %v", dir, st.Mode(), err)
			}
		}
		out = append(out, all...)
	}
	return out
}

// TestJoinLeavesOld: a host of another cluster goes over by one command, and what it had
// is whole in a folder beside; it does not if it is not let in.
func TestJoinLeavesOld(t *testing.T) {
	a, b, shed := newBox(t), newBox(t), newBox(t)
	a.must("", "init", "--cluster", "home", "--node", "n1")
	shed.must("", "init", "--cluster", "shed", "--node", "s1")
	b.must(shed.must("", "invite", "s2"), "join", "-")
	for name, text := range map[string]string{"lib/term.json": "7", "lib/raft/log": "entries", "lib/replica/state.db": "rows"} {
		os.MkdirAll(filepath.Dir(b.path(name)), 0o700)
		if err := os.WriteFile(b.path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := tree(t, b.dir)
	var tok, foreign peer.Token
	at, other := a.member(t, &tok), shed.member(t, &foreign)

	b.mustFail("--leave-old", "", "join", "--no-start", "--address", at, tok.String())
	// Who is not let in has what it had.
	b.mustFail("pretends to be yours", "", "join", "--no-start", "--leave-old", "--address", other, tok.String())
	b.mustFail("127.0.0.1:1", "", "join", "--no-start", "--leave-old", "--address", "127.0.0.1:1", tok.String())
	wrong := peer.NewToken(must(peer.Load(a.path("etc/pki"))))
	b.mustFail("no", "", "join", "--no-start", "--leave-old", "--address", at, wrong.String())
	if !same(before, tree(t, b.dir)) || len(b.left()) > 0 {
		t.Errorf("a refused join changed something: %v", tree(t, b.dir))
	}
	// The name of its own cluster is no other: nothing moves.
	b.must("", "join", "--no-start", "--leave-old", "--address", other, foreign.String())
	if len(b.left()) > 0 || !b.has("lib/term.json") {
		t.Error("a host that joins its own cluster again loses what it had")
	}
	before = tree(t, b.dir)

	out := b.must("", "join", "--no-start", "--leave-old", "--node", "n2", "--address", at, tok.String())
	for _, want := range []string{"n2 in the cluster home", "relevo remove s2", "written now", b.path("etc/left-shed-"), b.path("lib/left-shed-")} {
		if !strings.Contains(out, want) {
			t.Errorf("it says nothing of %q: %s", want, out)
		}
	}
	c, err := config.Load(b.path("etc/relevo.yaml"))
	if err != nil || c.Cluster != "home" || c.Node != "n2" {
		t.Errorf("%+v, %v", c, err)
	}
	if id, err := peer.Load(b.path("etc/pki")); err != nil || id.Node() != "n2" || id.Cluster() != "home" {
		t.Errorf("%v", err)
	}
	left := b.left()
	if len(left) != 2 || b.has("lib/term.json") || b.has("lib/raft") {
		t.Fatalf("left: %v", left)
	}
	kept := map[string]string{}
	for k, v := range tree(t, left[0]) {
		kept[filepath.Join("etc", k)] = v
	}
	for k, v := range tree(t, left[1]) {
		kept[filepath.Join("lib", k)] = v
	}
	if !same(before, kept) {
		t.Errorf("kept is %v, and there was %v", kept, before)
	}
	// And back.
	b.must("", "join", "--no-start", "--leave-old", "--node", "s2", "--address", other, foreign.String())
	if got := b.left(); len(got) != 3 { // there was no state of home
		t.Errorf("left: %v", got)
	}
}

// TestJoinLeavesOldCut: power goes at any moment of it, and the same line is typed again.
func TestJoinLeavesOldCut(t *testing.T) {
	a, shed := newBox(t), newBox(t)
	a.must("", "init", "--cluster", "home", "--node", "n1")
	shed.must("", "init", "--cluster", "shed", "--node", "s1")
	var tok peer.Token
	at := a.member(t, &tok)
	steps := []string{"", "etc/pki/node.key", "etc/pki/node.crt", "etc/pki/ca.crt", "etc/relevo.yaml", "lib/term.json", "etc/gossip.key"}
	for n := range steps {
		b := newBox(t)
		b.must(shed.must("", "invite", "s2"), "join", "-")
		os.MkdirAll(b.path("lib"), 0o700)
		os.WriteFile(b.path("lib/term.json"), []byte("7"), 0o600)
		os.WriteFile(b.path("lib/peers"), []byte("x"), 0o600)
		for _, path := range steps[1 : n+1] {
			if err := os.Remove(b.path(path)); err != nil {
				t.Fatal(err)
			}
		}
		b.must("", "join", "--no-start", "--leave-old", "--node", "n2", "--address", at, tok.String())
		c, err := config.Load(b.path("etc/relevo.yaml"))
		if err != nil || c.Cluster != "home" || b.has("lib/term.json") || b.has("lib/peers") {
			t.Errorf("cut after %d steps: %+v, %v, %v", n, c, err, tree(t, b.dir))
		}
	}
}

// TestInvitationByANewerCA: the CA was changed while a host was away, and somebody invites it
// again.
func TestInvitationByANewerCA(t *testing.T) {
	a, b := newBox(t), newBox(t)
	a.must("", "init", "--cluster", "home", "--node", "n1")
	b.must(a.must("", "invite", "n2"), "join", "-")
	os.MkdirAll(b.path("lib"), 0o700)
	os.WriteFile(b.path("lib/term.json"), []byte("7"), 0o600)
	was, _ := os.ReadFile(b.path("etc/pki/node.key"))
	conf, _ := os.ReadFile(b.path("etc/relevo.yaml"))
	a.changeCA()
	inv := a.must("", "invite", "n2")
	b.mustFail("--leave-old", inv, "join", "-")
	out := b.must(inv, "join", "--leave-old", "-")
	left := b.left()
	if len(left) != 1 || !strings.Contains(out, left[0]) || strings.Contains(out, "relevo remove") {
		t.Fatalf("left: %v: %s", left, out)
	}
	if key, err := os.ReadFile(filepath.Join(left[0], "pki/node.key")); err != nil || string(key) != string(was) {
		t.Errorf("the former key: %v", err)
	}
	if now, err := os.ReadFile(b.path("etc/relevo.yaml")); err != nil || string(now) != string(conf) || !b.has("lib/term.json") {
		t.Errorf("what it has of its own cluster is not left alone: %v", err)
	}
	c, d := must(peer.Load(a.path("etc/pki"))), must(peer.Load(b.path("etc/pki")))
	if c.IssuingCA() != d.IssuingCA() || d.Node() != "n2" {
		t.Error("it has another CA than the one that invited it")
	}
	// The next one is by the CA that it knows.
	b.must(a.must("", "invite", "n2"), "join", "--leave-old", "-")
	if got := b.left(); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
}

// TestMasterLeavesNothing: no host goes over while it is the master, or runs a control plane.
func TestMasterLeavesNothing(t *testing.T) {
	a, shed := newBox(t), newBox(t)
	a.must("", "init", "--cluster", "home", "--node", "n1")
	shed.must("", "init", "--cluster", "shed", "--node", "s1")
	text, err := os.ReadFile(shed.path("etc/relevo.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	head, tail, _ := strings.Cut(string(text), "#candidate:")
	os.WriteFile(shed.path("etc/relevo.yaml"), []byte(head+"candidate:"+strings.ReplaceAll(tail, "\n#", "\n")), 0o644)
	var tok peer.Token
	at := a.member(t, &tok)
	before := tree(t, shed.dir)
	note := filepath.Join(t.TempDir(), "lease")
	var running []string
	var trouble error
	stops, starts, goodbyes := 0, 0, 0
	var untold error
	stopped := func() {}
	try := func() (string, error) {
		var out strings.Builder
		cmd := &cobra.Command{}
		cmd.SetContext(t.Context())
		cmd.SetOut(&out)
		j := joinFlags{node: "n2", address: []string{at}, noStart: true, leave: true, old: leaving{lease: note,
			clock: func() time.Duration { return time.Hour },
			runs: func(_ context.Context, units []string) ([]string, error) {
				if strings.Join(units, " ") != "kine.service kube-apiserver.service" {
					t.Errorf("it looks at %v", units)
				}
				return running, trouble
			},
			config: shed.path("etc/relevo.yaml"),
			stop:   func(context.Context) error { stops++; stopped(); return nil },
			start:  func(context.Context) error { starts++; return nil },
			goodbye: func(context.Context) error {
				if goodbyes++; stops == goodbyes {
					t.Error("the agent that says goodbye was stopped before")
				}
				return untold
			}}}
		err := j.run(cmd, trustFlags{config: shed.path("etc/relevo.yaml"), pki: shed.path("etc/pki"), gossip: shed.path("etc/gossip.key"), data: shed.path("lib")}, []string{tok.String()})
		return out.String(), err
	}
	refused := func(want string) {
		t.Helper()
		if _, err := try(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if !same(before, tree(t, shed.dir)) {
			t.Errorf("it changed something: %v", tree(t, shed.dir))
		}
	}
	lease := leasefile.Lease{Node: "s1", Term: 3, TTL: 6 * time.Second, Deadline: time.Hour + time.Second, Units: []string{"kine.service"}}
	for want, deadline := range map[string]time.Duration{"is the master, in term 3": time.Hour + time.Second, "is paused": leasefile.Forever} {
		lease.Deadline = deadline
		if err := leasefile.Write(note, lease); err != nil {
			t.Fatal(err)
		}
		refused(want)
	}
	os.WriteFile(note, []byte("garbage"), 0o600)
	refused("may be the master")
	lease.Deadline = time.Hour - time.Second // it was, and is no more
	if err := leasefile.Write(note, lease); err != nil {
		t.Fatal(err)
	}
	running = []string{"kube-apiserver.service"}
	refused("sudo systemctl stop kube-apiserver.service")
	running, trouble = nil, errors.New("no bus")
	refused("no bus")
	trouble = nil
	if stops != 0 || goodbyes != 0 {
		t.Error("the agent was stopped for nothing, or has left")
	}
	stopped = func() { running = []string{"kine.service"} } // it became the master meanwhile
	refused("sudo systemctl stop kine.service")
	if stops != 1 || starts != 1 {
		t.Errorf("stopped %d times, started %d times", stops, starts)
	}
	stopped, running = func() {}, nil
	if out, err := try(); err != nil || !strings.Contains(out, "n2 in the cluster home") || !strings.Contains(out, "It has left that cluster, shed") {
		t.Errorf("%v: %s", err, out)
	}
	// And on, with nobody there any more who could be told.
	barn := newBox(t)
	barn.must("", "init", "--cluster", "barn", "--node", "b1")
	at, untold = barn.member(t, &tok), errors.New("no quorum")
	if out, err := try(); err != nil || !strings.Contains(out, "home, could not be told, and counts this host until somebody says `relevo remove n2` there: no quorum") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestLeftBefore: who was cut off after the goodbye and types the line again, or was removed, is
// not told that the cluster it left still counts it.
func TestLeftBefore(t *testing.T) {
	a, shed := newBox(t), newBox(t)
	a.must("", "init", "--cluster", "home", "--node", "n1")
	shed.must("", "init", "--cluster", "shed", "--node", "s1")
	var tok peer.Token
	at := a.member(t, &tok)
	const left, counts = "It has left that cluster, shed, which lets it in with those keys", "counts this host until somebody says `relevo remove s2`"
	hexa := func(key []byte) string { return hex.EncodeToString(key) + "\n" }
	removal := func(key []byte) string {
		return `{"node":"s2","key":"` + base64.StdEncoding.EncodeToString(key) + `","by":"ann@s1","at":"2026-01-02T03:04:05Z"}`
	}
	other := make([]byte, 32)
	for _, test := range []struct {
		file string
		text func(key []byte) string
		want string
	}{
		{"departed", hexa, left},
		{"departed", func([]byte) string { return hexa(other) }, counts}, // it joined again since
		{"departed", func(key []byte) string { return hexa(key) + "x" }, counts},
		{"departed", func([]byte) string { return "" }, counts},
		{"removed.json", removal, "That cluster does not count it any more: this host was removed from the cluster shed by ann@s1 on 2026-01-02 03:04 UTC."},
		{"removed.json", func([]byte) string { return removal(other) }, counts},
	} {
		b := newBox(t)
		b.must(shed.must("", "invite", "s2"), "join", "-")
		os.MkdirAll(b.path("lib"), 0o700)
		was, _ := peer.Earlier(b.path("etc/pki"), b.path("etc/gossip.key"))
		text := test.text(was.Key)
		if err := os.WriteFile(b.path("lib/"+test.file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out := b.must("", "join", "--no-start", "--leave-old", "--node", "n2", "--address", at, tok.String())
		if !strings.Contains(out, test.want) || test.want != counts && strings.Contains(out, counts) || b.has("lib/"+test.file) {
			t.Errorf("%s with %q: it says %s", test.file, text, out)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// changeCA does at once what `relevo rotate ca` does in steps.
func (b box) changeCA() {
	b.t.Helper()
	dir := b.path("etc/pki")
	next, _, err := peer.NextAuthority(dir)
	if err == nil {
		err = peer.WriteCAs(dir, []*x509.Certificate{next})
	}
	if err == nil {
		err = peer.PruneAuthority(dir)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	ca := must(peer.LoadAuthority(dir))
	path := filepath.Join(dir, "node.crt")
	block, _ := pem.Decode(must(os.ReadFile(path)))
	old := must(x509.ParseCertificate(block.Bytes))
	cert := must(ca.Certify("n1", old.PublicKey.(ed25519.PublicKey)))
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600); err != nil {
		b.t.Fatal(err)
	}
}
