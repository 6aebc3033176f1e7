package config

import (
	"fmt"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Kubernetes is what the agent does with the cluster that runs on the hosts, beside
// keeping its master alive.
type Kubernetes struct {
	// Services says which Services are announced in the LAN, by the master's agent
	// alone.
	Services ServiceMode
	// Namespaces whose Services may be; empty = all.
	Namespaces []string
	// Selector is a label selector for Services; "" = all.
	Selector string
	// Conditions writes the conditions of this host's health to its Node.
	Conditions bool
	// Node is the name of this host's Node; "" = Config.Node.
	Node string
	// API is where both are done; without a URL at the API of the candidate, as long as
	// it is the master.
	API KubernetesAPI
}

// ServiceMode says which Services are announced.
type ServiceMode string

// The modes.
const (
	ServicesOff       ServiceMode = "off"
	ServicesAnnotated ServiceMode = "annotated" // those with an annotation that asks for it
	ServicesAll       ServiceMode = "all"       // all that can be reached from outside the cluster
)

// KubernetesAPI is how the agent reaches Kubernetes' API where it is not the one that
// runs on this host.
type KubernetesAPI struct {
	URL            string // "" = there is none
	CAFile         string
	TokenFile      string // bearer token; "" = none
	ClientCertFile string // client certificate and key, both or none
	ClientKeyFile  string
}

// KubernetesAPI is where Kubernetes' API is for this host; false: nowhere, or only
// while it is the master (local).
func (c *Config) KubernetesAPI() (api KubernetesAPI, local, ok bool) {
	switch {
	case c.Kubernetes.API.URL != "":
		return c.Kubernetes.API, false, true
	case c.Candidate != nil:
		a := c.Candidate.ControlPlane.API
		return KubernetesAPI{a.URL, a.CAFile, a.TokenFile, a.ClientCertFile, a.ClientKeyFile}, true, true
	}
	return KubernetesAPI{}, false, false
}

func kubernetesDefaults() Kubernetes {
	return Kubernetes{Services: ServicesAnnotated, Namespaces: []string{}}
}

func kubernetes(k *Kubernetes) []field {
	return []field{
		value("services", oneOf(&k.Services, ServicesOff, ServicesAnnotated, ServicesAll)),
		value("namespaces", list(&k.Namespaces, 64, namespace)),
		value("selector", orEmpty(&k.Selector, selector(&k.Selector))),
		value("conditions", boolean(&k.Conditions)),
		value("node", orEmpty(&k.Node, nodeObject(&k.Node))),
		section("api", func() []field {
			a := &k.API
			return []field{
				value("url", orEmpty(&a.URL, apiURL(&a.URL))),
				value("ca_file", orEmpty(&a.CAFile, absPath(&a.CAFile))),
				value("token_file", orEmpty(&a.TokenFile, absPath(&a.TokenFile))),
				value("client_cert_file", orEmpty(&a.ClientCertFile, absPath(&a.ClientCertFile))),
				value("client_key_file", orEmpty(&a.ClientKeyFile, absPath(&a.ClientKeyFile))),
			}
		}),
	}
}

func namespace(s string) (string, error) {
	if len(validation.IsDNS1123Label(s)) > 0 {
		return "", fmt.Errorf("%s is no namespace: a-z, 0-9 and hyphens within are allowed, at most 63", quote(s))
	}
	return s, nil
}

func selector(p *string) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		s, ok := d.text(n, path, "a label selector such as announce=lan")
		if !ok {
			return
		}
		if _, err := labels.Parse(s); err != nil || len(s) > 1024 {
			d.fail(n, path, "%s is no label selector, such as announce=lan,tier!=test: %v", quote(s), err)
			return
		}
		*p = s
	}
}

func nodeObject(p *string) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		s, ok := d.text(n, path, "the name of a Node")
		if !ok {
			return
		}
		if len(validation.IsDNS1123Subdomain(s)) > 0 {
			d.fail(n, path, "%s can be no Node's name: see `kubectl get nodes`", quote(s))
			return
		}
		*p = s
	}
}

// kubernetesAPI checks what belongs together.
func (d *decoder) kubernetesAPI(c *Config) {
	k := c.Kubernetes
	a := k.API
	if a.URL == "" {
		if a != (KubernetesAPI{}) && !d.failed("kubernetes.api.url") {
			d.fail(d.at["kubernetes.api"], "kubernetes.api.url", "is missing: the rest of the section is for it")
		}
		if k.Conditions && c.Candidate == nil && !d.failed("kubernetes.api.url") {
			d.fail(d.at["kubernetes.conditions"], "kubernetes.conditions", "needs kubernetes.api on a host that is no candidate: where is the API?")
		}
		return
	}
	d.credentialsOf("kubernetes.api", a, "is needed; `relevo kubernetes token` makes a token")
}

// credentialsOf checks how the agent shows who it is to an API.
func (d *decoder) credentialsOf(base string, a KubernetesAPI, needed string) {
	at := func(key string) string { return base + "." + key }
	if strings.HasPrefix(a.URL, "https:") {
		if a.CAFile == "" && !d.failed(at("ca_file")) {
			d.fail(d.at[base], at("ca_file"), "is missing: without the cluster's CA the agent cannot tell its API server from another")
		}
		if a.TokenFile == "" && a.ClientCertFile == "" && a.ClientKeyFile == "" && !d.failed(at("token_file")) && !d.failed(at("client_cert_file")) {
			d.fail(d.at[base], at("token_file"), "is missing: token_file, or client_cert_file with client_key_file, %s", needed)
		}
	}
	switch {
	case a.ClientCertFile != "" && a.ClientKeyFile == "":
		d.fail(d.at[at("client_cert_file")], at("client_cert_file"), "has no key: client_key_file is needed with it")
	case a.ClientKeyFile != "" && a.ClientCertFile == "":
		d.fail(d.at[at("client_key_file")], at("client_key_file"), "has no certificate: client_cert_file is needed with it")
	case a.ClientCertFile != "" && a.TokenFile != "":
		d.fail(d.at[at("token_file")], at("token_file"), "is given beside client_cert_file: one of the two is allowed")
	}
}

func (w *writer) kubernetes(k Kubernetes) {
	w.raw(0, "kubernetes", "")
	w.str(1, "services", string(k.Services))
	w.list(1, "namespaces", k.Namespaces)
	w.str(1, "selector", k.Selector)
	w.raw(1, "conditions", strconv.FormatBool(k.Conditions))
	w.str(1, "node", k.Node)
	w.raw(1, "api", "")
	w.str(2, "url", k.API.URL)
	w.str(2, "ca_file", k.API.CAFile)
	w.str(2, "token_file", k.API.TokenFile)
	w.str(2, "client_cert_file", k.API.ClientCertFile)
	w.str(2, "client_key_file", k.API.ClientKeyFile)
}
