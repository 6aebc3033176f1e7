package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// lostHost is a host whose control plane was lost in term 2, and again in 5; its
// copy follows the present master.
func lostHost(t *testing.T) (config, dir string) {
	t.Helper()
	dir = t.TempDir()
	store, copied := filepath.Join(dir, "kine", "state.db"), filepath.Join(dir, "relevo", "replica", "state.db")
	config = filepath.Join(dir, "relevo.yaml")
	text := fmt.Sprintf(`cluster: home
node: n1
data_dir: %s
candidate:
  control_plane:
    units: [kine.service]
    datastore: {path: %s}
    api: {url: "http://127.0.0.1:8080"}
`, filepath.Join(dir, "relevo"), store)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{store, copied} {
		if err := os.MkdirAll(filepath.Dir(f), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	old := kinetest.New(t, store, false)
	old.Put("/registry/configmaps/default/settings", "1")
	bump := func(term uint64) *kinetest.Writer {
		if _, err := kine.Bump(t.Context(), copied, term, kine.Gap); err != nil {
			t.Fatal(err)
		}
		return kinetest.New(t, copied, false)
	}
	follow := func(from *kinetest.Writer) {
		if err := os.RemoveAll(copied); err != nil {
			t.Fatal(err)
		}
		from.Exec(`VACUUM INTO ?`, copied)
		kinetest.New(t, copied, false).DB.Close()
	}
	follow(old)
	old.Put("/registry/configmaps/default/settings", `{"apiVersion":"v1","kind":"ConfigMap"}`)
	old.Put("/registry/example.org/things/default/\x1b[2Jclear", `{"apiVersion":"example.org/v1","kind":"Thing"}`)
	old.Put("/registry/leases/kube-node-lease/n1", "x")
	old.DB.Close()
	next := bump(2)
	next.DB.Close()
	if _, err := kine.Aside(t.Context(), store, 4); err != nil {
		t.Fatal(err)
	}
	if err := kine.Install(t.Context(), copied, store, 4); err != nil {
		t.Fatal(err)
	}
	if _, err := kine.Bump(t.Context(), store, 4, 2*kine.Gap); err != nil {
		t.Fatal(err)
	}
	again := kinetest.New(t, store, false)
	follow(again)
	again.Put("/registry/leases/kube-node-lease/n1", "y")
	bump(5).DB.Close()
	return config, dir
}

func TestDiffLost(t *testing.T) {
	config, dir := lostHost(t)
	plain := func(s string) string { return strings.ReplaceAll(s, dir, "DIR") }
	ask := func(code int, args ...string) (stdout, stderr string) {
		t.Helper()
		got, out, errs := relevo(t, nil, append([]string{"diff-lost", "--config", config}, args...)...)
		if got != code || strings.ContainsAny(out+errs, "\x1b") {
			t.Errorf("%q: code %d, want %d\n%q\n%q", args, got, code, out, errs)
		}
		return plain(out), plain(errs)
	}
	out, _ := ask(exitOK)
	golden(t, "diff-lost", out)
	out, _ = ask(exitDegraded, "2")
	golden(t, "diff-lost-2", out)
	out, _ = ask(exitOK, "5") // a lease is no loss
	golden(t, "diff-lost-5", out)
	out, _ = ask(exitDegraded, "5", "--all")
	if !strings.Contains(out, "kube-node-lease") {
		t.Error(out)
	}
	out, errs := ask(exitDegraded, "2", "-o", "json", "--write", filepath.Join(dir, "out"))
	var answer struct {
		Term    uint64
		Reports []struct {
			Objects []struct{ Resource, Namespace, Name, Op, File string }
		}
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Term != 2 || len(answer.Reports) != 1 || len(answer.Reports[0].Objects) != 2 {
		t.Fatalf("%v\n%s", err, out)
	}
	if errs != "written to DIR/out\n" {
		t.Error(errs)
	}
	for _, o := range answer.Reports[0].Objects {
		if _, err := os.Stat(filepath.Join(dir, "out", o.File)); err != nil || o.File == "" {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"2", "--write", filepath.Join(dir, "out")}, exitError, "not empty"},
		{[]string{"4"}, exitError, "no datastore from before term 4 is kept on this host"},
		{[]string{"9"}, exitError, "term 9 is not in the history"},
		{[]string{"--write", "x"}, exitError, "go with a TERM"},
		{[]string{"seven"}, exitUsage, `not "seven"`},
		{[]string{"0"}, exitUsage, `not "0"`},
		{[]string{"2", "5"}, exitUsage, ""},
	} {
		if _, errs := ask(c.code, c.args...); !strings.Contains(errs, c.want) || errs == "" {
			t.Errorf("%q: %s", c.args, errs)
		}
	}

	// One that is damaged is told beside the other, and fails the command.
	aside := filepath.Join(dir, "kine", "state.db.relevo-aside-4-1")
	if err := os.Truncate(aside, 3000); err != nil {
		t.Fatal(err)
	}
	out, _ = ask(exitOK)
	if !strings.Contains(out, "damaged") {
		t.Error(out)
	}
	if _, errs := ask(exitError, "2"); !strings.Contains(errs, "damaged") {
		t.Error(errs)
	}
	if out, errs := ask(exitError, "5"); !strings.Contains(errs, "damaged") || !strings.Contains(out, "leases") {
		t.Error(out, errs)
	}
}

func TestDiffLostNowhere(t *testing.T) {
	config := filepath.Join(t.TempDir(), "relevo.yaml")
	if err := os.WriteFile(config, []byte("cluster: home\nnode: n1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := relevo(t, nil, "diff-lost", "--config", config); code != exitError || !strings.Contains(errs, "ask on a candidate") {
		t.Errorf("%d %s", code, errs)
	}
}
