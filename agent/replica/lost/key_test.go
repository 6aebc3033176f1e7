package lost

import (
	"strings"
	"testing"
)

func TestParseKey(t *testing.T) {
	for _, tt := range []struct {
		key   string
		want  Key
		noise bool
	}{
		{"/registry/pods/default/web-1", Key{"pods", "default", "web-1"}, false},
		{"/registry/namespaces/default", Key{"namespaces", "", "default"}, false},
		{"/registry/minions/pi-1", Key{"nodes", "", "pi-1"}, false},
		{"/registry/services/specs/default/kubernetes", Key{"services", "default", "kubernetes"}, false},
		{"/registry/services/endpoints/default/kubernetes", Key{"endpoints", "default", "kubernetes"}, false},
		{"/registry/services/other/default/x", Key{"services/other", "default", "x"}, false},
		{"/registry/ranges/serviceips", Key{"ranges", "", "serviceips"}, false},
		{"/registry/clusterroles/system:controller:job-controller", Key{"clusterroles", "", "system:controller:job-controller"}, false},
		{"/registry/apiregistration.k8s.io/apiservices/v1.apps", Key{"apiservices.apiregistration.k8s.io", "", "v1.apps"}, false},
		{"/registry/apiextensions.k8s.io/customresourcedefinitions/a.example.org", Key{"customresourcedefinitions.apiextensions.k8s.io", "", "a.example.org"}, false},
		{"/registry/helm.cattle.io/helmcharts/kube-system/traefik", Key{"helmcharts.helm.cattle.io", "kube-system", "traefik"}, false},
		{"/registry/leases/kube-node-lease/pi-1", Key{"leases", "kube-node-lease", "pi-1"}, true},
		{"/registry/events/default/web-1.17a", Key{"events", "default", "web-1.17a"}, true},
		{"/registry/events.example.org/leases/default/x", Key{"leases.events.example.org", "default", "x"}, false},
		{"/registry/masterleases/10.0.0.1", Key{"masterleases", "", "10.0.0.1"}, true},
		{"/registry/configmaps/kube-system/relevo-canary", Key{"configmaps", "kube-system", "relevo-canary"}, true},
		{"/registry/configmaps/default/relevo-canary", Key{"configmaps", "default", "relevo-canary"}, false},
		{"/registry/health", Key{"", "", "/registry/health"}, true},
		{"/bootstrap/0123", Key{"", "", "/bootstrap/0123"}, false},
		{"/registry/pods/a/b/c", Key{"pods", "a", "b/c"}, false},
		{"/registry/pods/../../etc/passwd", Key{"pods", "..", "../etc/passwd"}, false},
		{"/registry/pods//x", Key{"pods", "", "/x"}, false},
		{"/registry/pods/x/", Key{"pods", "", "x/"}, false},
		{"/registry/pods/", Key{"", "", "/registry/pods/"}, false},
		{"/registry//x", Key{"", "", "/registry//x"}, false},
		{"/registry/a.b/c", Key{"", "", "/registry/a.b/c"}, false},
		{"/registry/", Key{"", "", "/registry/"}, false},
		{"", Key{}, false},
	} {
		if got := ParseKey(tt.key); got != tt.want || got.Noise() != tt.noise {
			t.Errorf("%q: %+v, noise %v; want %+v, %v", tt.key, got, got.Noise(), tt.want, tt.noise)
		}
	}
}

// FuzzParseKey: no part of a key vanishes, so that no two keys look alike where
// it matters, and none is empty.
func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"/registry/pods/default/web", "/registry/a.b/c/d/e", "/registry/services/specs/a/b", "/registry/../..", "x\x1b[2J", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		k := ParseKey(key)
		if k.Name == "" && key != "" {
			t.Fatalf("%q has no name: %+v", key, k)
		}
		if !strings.HasSuffix(key, k.Name) || !strings.Contains(key, k.Namespace) {
			t.Fatalf("%q became %+v", key, k)
		}
		if k.Resource == "" && k.Name != key {
			t.Fatalf("%q lost something: %+v", key, k)
		}
		if k.Namespace != "" && !strings.HasSuffix(key, "/"+k.Namespace+"/"+k.Name) {
			t.Fatalf("%q lost something: %+v", key, k)
		}
	})
}
