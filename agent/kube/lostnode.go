package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// What a lost master's Node object is marked with.
const (
	// LostMaster is a label, whose value is relevo's name of the host, and an annotation,
	// whose value says why.
	LostMaster = "relevo.dev/lost-master"
	// taintedBy is an annotation: the taint is ours, and goes away with the mark.
	taintedBy = "relevo.dev/out-of-service"
	// outOfService is the taint by which Kubernetes deletes the pods of a node that is
	// surely off, and detaches their volumes, at once instead of after some minutes.
	outOfService = "node.kubernetes.io/out-of-service"
)

// taint as it stands in a Node; what else may be in one is kept as it is.
type taint struct {
	Key    string `json:"key"`
	Value  string `json:"value,omitempty"`
	Effect string `json:"effect"`
}

// node is a Node object, as far as relevo reads it.
type node struct {
	Metadata struct {
		Name            string            `json:"name"`
		ResourceVersion string            `json:"resourceVersion"`
		Labels          map[string]string `json:"labels"`
		Annotations     map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Taints []json.RawMessage `json:"taints"`
	} `json:"spec"`
}

// without the out-of-service taint.
func (n *node) without() []json.RawMessage {
	return slices.DeleteFunc(slices.Clone(n.Spec.Taints), func(raw json.RawMessage) bool {
		var t taint
		return json.Unmarshal(raw, &t) == nil && t.Key == outOfService
	})
}

const nodesPath = "/api/v1/nodes"

// changeTries bounds how often a Node that somebody else changes meanwhile is read again:
// its kubelet writes its status now and then.
const changeTries = 5

// change reads a Node and patches it with what f makes of it, nil = nothing. There may be
// no such Node: then it says false.
func (c *Client) change(ctx context.Context, name string, f func(*node) map[string]any) (bool, error) {
	for try := 1; ; try++ {
		raw, err := c.rest.Get().AbsPath(nodesPath, name).Timeout(c.cfg.Timeout).DoRaw(ctx)
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read the node %s: %w", name, err)
		}
		var n node
		if err := json.Unmarshal(raw, &n); err != nil {
			return false, fmt.Errorf("read the node %s: the API's answer: %w", name, err)
		}
		patch := f(&n)
		if patch == nil {
			return true, nil
		}
		meta, _ := patch["metadata"].(map[string]any)
		meta["resourceVersion"] = n.Metadata.ResourceVersion // the list of taints is replaced as a whole
		body, err := json.Marshal(patch)
		if err != nil {
			return false, err
		}
		err = c.rest.Patch(types.MergePatchType).AbsPath(nodesPath, name).Timeout(c.cfg.Timeout).Body(body).Do(ctx).Error()
		if apierrors.IsConflict(err) && try < changeTries {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("change the node %s: %w", name, err)
		}
		return true, nil
	}
}

// MarkLost marks the Node called name as that of the lost master host, and tells why.
// With off, which says that the host is surely off, Kubernetes is told so as well: it
// moves its pods at once. It says whether there is such a Node.
func (c *Client) MarkLost(ctx context.Context, name, host, why string, off bool) (bool, error) {
	return c.change(ctx, name, func(n *node) map[string]any {
		notes := map[string]any{LostMaster: why}
		patch := map[string]any{"metadata": map[string]any{"labels": map[string]any{LostMaster: host}, "annotations": notes}}
		if off {
			notes[taintedBy] = "true"
			raw, _ := json.Marshal(taint{outOfService, "nodeshutdown", "NoExecute"}) // of strings: it cannot fail
			patch["spec"] = map[string]any{"taints": append(n.without(), raw)}
		}
		return patch
	})
}

// Unmark takes back what MarkLost did; a taint that somebody else set is left.
func (c *Client) Unmark(ctx context.Context, name string) error {
	_, err := c.change(ctx, name, func(n *node) map[string]any {
		if n.Metadata.Labels[LostMaster] == "" && n.Metadata.Annotations[LostMaster] == "" {
			return nil
		}
		patch := map[string]any{"metadata": map[string]any{
			"labels": map[string]any{LostMaster: nil}, "annotations": map[string]any{LostMaster: nil, taintedBy: nil}}}
		if n.Metadata.Annotations[taintedBy] != "" {
			patch["spec"] = map[string]any{"taints": n.without()}
		}
		return patch
	})
	return err
}

// Lost lists the marked Nodes: their names, by relevo's name of the host.
func (c *Client) Lost(ctx context.Context) (map[string]string, error) {
	raw, err := c.rest.Get().AbsPath(nodesPath).Param("labelSelector", LostMaster).Param("limit", "50").Timeout(c.cfg.Timeout).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the nodes of lost masters: %w", err)
	}
	var list struct {
		Items []node `json:"items"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("list the nodes of lost masters: the API's answer: %w", err)
	}
	out := map[string]string{}
	for _, n := range list.Items {
		if n.Metadata.Name == "" || strings.ContainsRune(n.Metadata.Name, '/') {
			return nil, errors.New("list the nodes of lost masters: a node without a name")
		}
		out[n.Metadata.Labels[LostMaster]] = n.Metadata.Name
	}
	return out, nil
}

// nodeKey is the key in the canary under which a master notes what Kubernetes calls its
// host, so that the next master knows it.
const nodeKey = "node."

// NodeNames are what Kubernetes calls the hosts that were masters, by relevo's names.
func (c *Client) NodeNames(ctx context.Context) (map[string]string, error) {
	m, err := c.get(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the canary: %w", err)
	}
	out := map[string]string{}
	for k, v := range m.Data {
		if host, ok := strings.CutPrefix(k, nodeKey); ok {
			out[host] = v
		}
	}
	return out, nil
}

// maxNoted bounds the hosts that the canary remembers.
const maxNoted = 32

// noted is the canary's data: what was noted before, and what is new.
func (c *Client) noted(was map[string]string, host, mark string) map[string]string {
	data := map[string]string{"written": mark}
	for k, v := range was {
		if strings.HasPrefix(k, nodeKey) && len(data) < maxNoted {
			data[k] = v
		}
	}
	if c.cfg.Node != "" {
		data[nodeKey+host] = c.cfg.Node
	}
	return data
}
