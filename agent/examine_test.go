package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/controlplane"
	"relevo.dev/relevo/systemd"
)

// oneUnit is a systemd with one service.
type oneUnit struct{ program string }

func (u oneUnit) State(context.Context, string) (systemd.State, error) {
	return systemd.State{Load: "loaded"}, nil
}
func (u oneUnit) Exec(context.Context, string) (systemd.Exec, error) {
	return systemd.Exec{Path: u.program}, nil
}

func TestExamine(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	put("pki/ca.key", "x")
	cfg := &config.Config{DataDir: dir, Candidate: &config.Candidate{ControlPlane: config.ControlPlane{
		Kind: config.KindUnits, Units: []string{"kube-apiserver.service"}, Identity: []string{filepath.Join(dir, "pki")}, API: config.API{URL: "https://127.0.0.1:6443"}}}}
	m := oneUnit{put("kube-apiserver", "#!/bin/sh\necho Kubernetes v1.34.2\n")}
	version, found := Examine(t.Context(), cfg, m, false)
	if version != "v1.34.2" || len(found) > 0 {
		t.Fatalf("%q, %+v", version, found)
	}
	facts := masterFacts{Node: "n1", Term: 1, Facts: controlplane.Facts{Kind: "units", Programs: []controlplane.Program{{Name: "kube-apiserver", Version: "v1.35.0"}}}}
	if err := writeMasterFacts(filepath.Join(dir, "master.json"), facts); err != nil {
		t.Fatal(err)
	}
	if got, err := readMasterFacts(filepath.Join(dir, "master.json")); err != nil || got.Facts.Version() != "v1.35.0" {
		t.Fatalf("%+v, %v", got, err)
	}
	one := func(active bool, want string) {
		t.Helper()
		_, found := Examine(t.Context(), cfg, m, active)
		if len(found) != 1 || !strings.Contains(found[0].What, want) {
			t.Errorf("%+v, want %q", found, want)
		}
	}
	one(false, "kube-apiserver v1.34.2 here, v1.35.0 on the master")
	put("pki/ca.key", "")
	one(true, "the identity is not whole: "+filepath.Join(dir, "pki/ca.key")+" is empty")
	put("kube-apiserver", "#!/bin/sh\nexit 8\n")
	put("pki/ca.key", "x")
	one(true, "cannot start: `"+filepath.Join(dir, "kube-apiserver")+" --version` fails: exit status 8")
	put("kube-apiserver", "#!/bin/sh\necho Kubernetes v1.35.0\n")
	put("replica/identity/manifest.json", "{")
	one(false, "read the mirrored identity")
	put("master.json", strings.Repeat("x", maxFacts+1))
	if _, err := readMasterFacts(filepath.Join(dir, "master.json")); err == nil || !strings.Contains(err.Error(), "is larger than 64 KiB") {
		t.Errorf("%v", err)
	}
}
