package main

import (
	"os"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// The manifests in docs/kubernetes are what the command prints.
func TestKubernetesManifests(t *testing.T) {
	for file, args := range map[string][]string{
		"reader.yaml":     nil,
		"conditions.yaml": {"--conditions", "--nodes", "n1,n2,n3"},
	} {
		code, out, errs := relevo(t, nil, append([]string{"kubernetes", "rbac"}, args...)...)
		if code != exitOK || errs != "" {
			t.Fatalf("%v: exit %d: %s", args, code, errs)
		}
		path := "../../docs/kubernetes/" + file
		if *update {
			if err := os.WriteFile(path, []byte(out), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if out != string(want) {
			t.Errorf("%s is not what the command prints; `go test ./cmd/relevo -update` writes it anew", path)
		}
		dec := yaml.NewDecoder(strings.NewReader(out))
		n := 0
		for {
			var o struct {
				Kind  string `yaml:"kind"`
				Rules []struct {
					Resources []string `yaml:"resources"`
					Verbs     []string `yaml:"verbs"`
				} `yaml:"rules"`
			}
			if dec.Decode(&o) != nil {
				break
			}
			n++
			for _, r := range o.Rules {
				for _, v := range r.Verbs {
					reads := v == "get" || v == "list" || v == "watch"
					if !reads && (len(args) == 0 || r.Resources[0] != "nodes/status" && r.Resources[0] != "events") {
						t.Errorf("%s: %v may be %s", file, r.Resources, v)
					}
				}
			}
		}
		if want := 4 + len(args)*2/3; n != want {
			t.Errorf("%s has %d documents, want %d", file, n, want)
		}
	}
}

func TestKubernetesArguments(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"rbac", "-n", "Kube_System"}, `"Kube_System" is no namespace`},
		{[]string{"rbac", "--nodes", "n1"}, "--nodes is for --conditions"},
		{[]string{"rbac", "--conditions", "--nodes", "a]: {"}, "can be no Node's name"},
		{[]string{"token", "--duration", "1m"}, "too short"},
		{[]string{"token", "-n", "a/b"}, "is no namespace"},
		{[]string{"token", "--config", "/nowhere"}, "read the configuration"},
	} {
		if code, _, errs := relevo(t, nil, append([]string{"kubernetes"}, c.args...)...); code != exitError || !strings.Contains(errs, c.want) {
			t.Errorf("%v: exit %d, %s", c.args, code, errs)
		}
	}
}
