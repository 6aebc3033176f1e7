package config

import (
	"regexp"

	"gopkg.in/yaml.v3"
)

var kubeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// nodeName is the name of a Kubernetes node: a host name, with or without a domain.
func nodeName(p *string) setter {
	return func(d *decoder, n *yaml.Node, path string) {
		s, ok := d.text(n, path, "the name of a node")
		if !ok {
			return
		}
		if len(s) > 253 || !kubeName.MatchString(s) {
			d.fail(n, path, "%s is no name of a Kubernetes node: a-z, 0-9, - and . as `kubectl get nodes` shows it", quote(s))
			return
		}
		*p = s
	}
}
