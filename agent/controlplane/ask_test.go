package controlplane

import (
	"context"
	"testing"
)

// What each program answers to --version, as seen; and what others may answer.
func TestAsk(t *testing.T) {
	for _, tt := range []struct{ name, says, want string }{
		{"k3s", "k3s version v1.34.1+k3s1 (24fc436e)\ngo version go1.24.6\n", "v1.34.1+k3s1"},
		{"kube-apiserver", "Kubernetes v1.37.2\n", "v1.37.2"},
		{"kine", "kine version v0.17.5 (1a2b3c4)\n", "v0.17.5"},
		{"kine", "kine version v0.0.0 (unmarked)\n", ""},
		{"kine", "my kine version v0.17.5\n", ""},
		{"kine", "Kubernetes v1.37.2\n", ""},
		{"k3s", "k3s version of v1.34.1\n", ""},
		{"k3s", "", ""},
	} {
		v := versions{run: func(context.Context, string) ([]byte, error) { return []byte(tt.says), nil }}
		if got, err := v.ask(t.Context(), "/usr/local/bin/"+tt.name, asked[tt.name]); err != nil || got != tt.want {
			t.Errorf("%s that says %q has version %q, %v; expected %q", tt.name, tt.says, got, err, tt.want)
		}
	}
}
