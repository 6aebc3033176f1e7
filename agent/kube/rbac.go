package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// RBAC says what the manifests are for.
type RBAC struct {
	Namespace  string   // of the ServiceAccount
	Conditions bool     // its token may also write conditions of Nodes, and events
	Nodes      []string // of these alone; empty = of all
}

// account is the name of everything that the manifests make.
const account = "relevo"

// Manifests is YAML for kubectl apply: an account that may only read Services,
// EndpointSlices and Nodes, with a token that lasts, and if it is wanted a second role
// that may write conditions.
func Manifests(r RBAC) string {
	var b strings.Builder
	doc := func(kind, api, metadata, rest string) {
		if b.Len() > 0 {
			b.WriteString("---\n")
		}
		fmt.Fprintf(&b, "apiVersion: %s\nkind: %s\nmetadata:\n%s  labels: {app.kubernetes.io/name: relevo}\n%s", api, kind, metadata, rest)
	}
	named := func(name string) string { return "  name: " + name + "\n" }
	spaced := named(account) + "  namespace: " + r.Namespace + "\n"
	const rbac = "rbac.authorization.k8s.io/v1"
	bind := func(role string) string {
		return fmt.Sprintf("roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: ClusterRole\n  name: %s\nsubjects:\n- kind: ServiceAccount\n  name: %s\n  namespace: %s\n", role, account, r.Namespace)
	}
	doc("ServiceAccount", "v1", spaced, "")
	doc("Secret", "v1", spaced+"  annotations: {kubernetes.io/service-account.name: "+account+"}\n", "type: kubernetes.io/service-account-token\n")
	const reader = "relevo-reader"
	doc("ClusterRole", rbac, named(reader), `rules:
- apiGroups: [""]
  resources: [services, nodes]
  verbs: [get, list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
`)
	doc("ClusterRoleBinding", rbac, named(reader), bind(reader))
	if !r.Conditions {
		return b.String()
	}
	const conditions = "relevo-conditions"
	only := ""
	if len(r.Nodes) > 0 {
		only = "  resourceNames: [" + strings.Join(r.Nodes, ", ") + "]\n"
	}
	doc("ClusterRole", rbac, named(conditions), `rules:
- apiGroups: [""]
  resources: [nodes/status]
`+only+`  verbs: [patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
`)
	doc("ClusterRoleBinding", rbac, named(conditions), bind(conditions))
	return b.String()
}

// ReadToken reads the lasting token of the account that the manifests make.
func (c *Client) ReadToken(ctx context.Context, namespace string) (string, error) {
	raw, err := c.rest.Get().AbsPath("/api/v1/namespaces", url.PathEscape(namespace), "secrets", account).Timeout(c.cfg.Timeout).DoRaw(ctx)
	if err != nil {
		return "", fmt.Errorf("read the Secret %s/%s: %w; make it with `relevo kubernetes rbac | kubectl apply -f -`", namespace, account, err)
	}
	var secret struct {
		Data struct {
			Token []byte `json:"token"`
		} `json:"data"`
	}
	if err := json.Unmarshal(raw, &secret); err != nil {
		return "", fmt.Errorf("read the Secret %s/%s: %w", namespace, account, err)
	}
	if len(secret.Data.Token) == 0 {
		return "", fmt.Errorf("the Secret %s/%s has no token yet: the controller manager fills it in a moment after it is made; --duration asks for a token that expires instead", namespace, account)
	}
	return string(secret.Data.Token), nil
}

// MakeToken asks for a token of the account that expires. The API server may give one
// for a shorter time.
func (c *Client) MakeToken(ctx context.Context, namespace string, lasts time.Duration) (string, error) {
	body := fmt.Sprintf(`{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": %d}}`, int64(lasts.Seconds()))
	raw, err := c.rest.Post().AbsPath("/api/v1/namespaces", url.PathEscape(namespace), "serviceaccounts", account, "token").
		SetHeader("Content-Type", "application/json").Body([]byte(body)).Timeout(c.cfg.Timeout).DoRaw(ctx)
	if err != nil {
		return "", fmt.Errorf("ask for a token of the ServiceAccount %s/%s: %w; make it with `relevo kubernetes rbac | kubectl apply -f -`", namespace, account, err)
	}
	var answer struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return "", fmt.Errorf("ask for a token: %w", err)
	}
	if answer.Status.Token == "" {
		return "", fmt.Errorf("the API answered without a token")
	}
	return answer.Status.Token, nil
}
