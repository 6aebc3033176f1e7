package lost

import "strings"

// Key is what a key of the datastore says about the object under it. Fields
// that it does not tell are empty.
type Key struct {
	// Resource is the plural, with its group where the key has one: pods,
	// apiservices.apiregistration.k8s.io.
	Resource  string `json:"resource,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"` // the whole key if it is none of Kubernetes'
}

// registry is where the API server keeps its objects, in k3s and kubeadm alike.
const registry = "/registry/"

// renamed are resources that lie under another name than the API gives them.
var renamed = map[string]string{
	"minions":            "nodes",
	"services/specs":     "services",
	"services/endpoints": "endpoints",
	"controllers":        "replicationcontrollers",
	"ingress":            "ingresses",
}

// ParseKey takes a key apart. It accepts everything: keys are user input, and a
// datastore may hold others' as well.
//
//	/registry/RESOURCE/NAME                      of the API server itself, without namespace
//	/registry/RESOURCE/NAMESPACE/NAME            with one
//	/registry/GROUP/RESOURCE/[NAMESPACE/]NAME    custom resources, CRDs, API services; a group has a dot
func ParseKey(key string) Key {
	rest, ok := strings.CutPrefix(key, registry)
	if !ok {
		return Key{Name: key}
	}
	resource, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return Key{Name: key} // /registry/health
	}
	if strings.Contains(resource, ".") {
		plural, after, ok := strings.Cut(rest, "/")
		if !ok {
			return Key{Name: key}
		}
		resource, rest = plural+"."+resource, after
	} else if kind, after, ok := strings.Cut(rest, "/"); ok && resource == "services" {
		resource, rest = resource+"/"+kind, after
	}
	if name, ok := renamed[resource]; ok {
		resource = name
	}
	k := Key{Resource: resource, Name: rest}
	// No name of an object has a slash; where there are more, nothing is lost.
	if ns, name, ok := strings.Cut(rest, "/"); ok && ns != "" && name != "" {
		k.Namespace, k.Name = ns, name
	}
	if resource == "" || k.Name == "" {
		return Key{Name: key}
	}
	return k
}

// noise are resources that Kubernetes writes all the time for itself, and would
// write anew: heartbeats, locks, and what it tells about its doings. Endpoints
// are not among them: some are written by people.
var noise = map[string]bool{"leases": true, "events": true, "masterleases": true, "peerserverleases": true}

// Noise says whether nobody would miss the object: Kubernetes' own traffic, and
// that of kine and relevo.
func (k Key) Noise() bool {
	switch {
	case noise[k.Resource]:
		return true
	case k.Resource == "configmaps":
		return k.Namespace == "kube-system" && k.Name == "relevo-canary"
	}
	return k.Resource == "" && k.Name == "/registry/health"
}
