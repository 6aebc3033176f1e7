package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"relevo.dev/relevo/agent/cloudy"
)

func TestAvahiPS(t *testing.T) {
	root := t.TempDir()
	conf := filepath.Join(root, "etc/cloudy/cloudy.conf")
	if err := os.MkdirAll(filepath.Dir(conf), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte("PUBLIC_IP=10.139.40.21\nCLOUD_NAME=$(reboot)\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	call := func(only string, args ...string) (string, string, int) {
		var out, errs bytes.Buffer
		code := runAvahiPS(t.Context(), args, &app{stdout: &out, stderr: &errs, env: func(k string) string {
			if k == "SEARCH_ONLY" {
				return only
			}
			return ""
		}}, root)
		return out.String(), errs.String(), code
	}
	if out, _, code := call("", "publish", "hello-node", "kubernetes", "30080", "NodePort"); code != 0 {
		t.Errorf("%d, %s", code, out)
	}
	if _, err := os.Stat(filepath.Join(root, "etc/relevo/services.d/avahi-ps-kubernetes-30080.yaml")); err != nil {
		t.Error(err)
	}
	out, errs, code := call("serf", "search")
	if code != 0 || !strings.HasPrefix(out, `[{"node_id":"`) || !strings.Contains(out, `"s":"kubernetes","d":"hello-node"`) || !strings.Contains(out, `"i":"10.139.40.21","p":"30080","e":"demo","t":"NodePort"}]`) {
		t.Errorf("%d, %s", code, out)
	}
	if !strings.Contains(errs, "cloudy.conf:2: variables and commands are not read") {
		t.Errorf("%s", errs)
	}
	if out, _, _ := call("", "unpublish", "kubernetes", "30080"); out != "unpublished 1\n" {
		t.Error(out)
	}
	if _, errs, code := call("", "frobnicate"); code != exitUsage || !strings.Contains(errs, "avahi-ps publish") {
		t.Errorf("%d, %s", code, errs)
	}
}

// asProgram makes the test binary the program itself.
const asProgram = "RELEVO_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestCalledAsAvahiPS starts the program through a link of that name, and under its
// own.
func TestCalledAsAvahiPS(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	start := func(name string) (string, error) {
		link := filepath.Join(t.TempDir(), name)
		if err := os.Symlink(self, link); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), link, "info", "cloud")
		cmd.Env = append(os.Environ(), asProgram+"=1")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := start(avahiPS); err != nil || strings.TrimSpace(out) == "" || strings.Contains(out, "unknown") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := start("relevo"); err == nil || !strings.Contains(out, "unknown command") {
		t.Errorf("under its own name: %q, %v", out, err)
	}
}

// avahi-ps search lists what the agent knows, and what files say while it is away.
func TestAvahiPSAsksTheAgent(t *testing.T) {
	files := cloudy.FileStore{Dir: t.TempDir()}
	if err := files.Publish(t.Context(), cloudy.Entry{Name: "Own", Type: "_http._tcp", Port: 80}); err != nil {
		t.Fatal(err)
	}
	search := func(only, socket string) string {
		var out, errs bytes.Buffer
		s := cloudy.Standin{Settings: cloudy.ReadSettings(t.TempDir(), func(k string) string { return map[string]string{"SEARCH_ONLY": only, "PUBLIC_IP": "10.1.1.1"}[k] }),
			Node: "n1", Lister: agentLister{socket, files}, Stdout: &out, Stderr: &errs}
		if code := s.Run(t.Context(), []string{"search"}); code != 0 {
			t.Errorf("%d %s", code, &errs)
		}
		return out.String()
	}
	agent := serve(t, &fake{})
	if got := search("serf", agent); !strings.Contains(got, `"d":"Radio"`) || strings.Contains(got, "home") || strings.Contains(got, "Shop") {
		t.Errorf("the ring: %s", got)
	}
	if got := search("avahi", agent); !strings.Contains(got, "_kubernetes._tcp;home;n1.guifi.local;10.77.0.100;6443;") || strings.Contains(got, "Shop") || strings.Contains(got, "Radio") {
		t.Errorf("Avahi: %s", got)
	}
	if got := search("serf", filepath.Join(t.TempDir(), "none")); !strings.Contains(got, `"d":"Own"`) {
		t.Errorf("without the agent: %s", got)
	}
}
