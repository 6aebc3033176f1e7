package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// NodeWriter writes conditions to one Node.
type NodeWriter struct {
	c    *Client
	node string
	ledger
}

// NewNodeWriter makes one for the Node of this host.
func (c *Client) NewNodeWriter(node string) *NodeWriter { return &NodeWriter{c: c, node: node} }

// Write writes what has changed, and everything now and then. It reads the Node first
// if it does not know what that says, as after an error. It costs nothing if there is
// nothing to write.
func (w *NodeWriter) Write(ctx context.Context, want []Condition, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 4*w.c.cfg.Timeout)
	defer cancel()
	if w.written == nil {
		var n apiNode
		if err := w.c.rest.Get().Resource("nodes").Name(w.node).Timeout(w.c.cfg.Timeout).Do(ctx).Into(&n); err != nil {
			return w.explain("read", err)
		}
		w.learn(n.Status.Conditions)
	}
	set, gone, events := w.next(want, now)
	if len(set)+len(gone) == 0 {
		return nil
	}
	if err := w.patch(ctx, set, gone); err != nil {
		w.written = nil
		return w.explain("write conditions to", err)
	}
	w.wrote(set, gone, now)
	for _, e := range events {
		if err := w.tell(ctx, e, now); err != nil {
			return w.explain("tell an event of", err)
		}
	}
	return nil
}

func (w *NodeWriter) patch(ctx context.Context, set []NodeCondition, gone []string) error {
	list := make([]any, 0, len(set)+len(gone))
	for _, c := range set {
		list = append(list, c)
	}
	for _, t := range gone {
		list = append(list, map[string]string{"type": t, "$patch": "delete"})
	}
	body, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": list}})
	if err != nil {
		return err
	}
	return w.c.rest.Patch(types.StrategicMergePatchType).Resource("nodes").Name(w.node).SubResource("status").Timeout(w.c.cfg.Timeout).Body(body).Do(ctx).Error()
}

// tell creates an event. The uid is the Node's name, as the kubelet has it, so that
// `kubectl describe node` shows them together.
func (w *NodeWriter) tell(ctx context.Context, e Event, now time.Time) error {
	kind := "Normal"
	if e.Warning {
		kind = "Warning"
	}
	at := metav1.Time{Time: now.UTC().Truncate(time.Second)}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Event", "type": kind, "reason": e.Reason, "message": e.Message, "count": 1,
		"metadata":       map[string]any{"generateName": clip(w.node, 40) + ".relevo-", "namespace": metav1.NamespaceDefault},
		"involvedObject": map[string]any{"apiVersion": "v1", "kind": "Node", "name": w.node, "uid": w.node},
		"source":         map[string]any{"component": "relevo", "host": w.node},
		"firstTimestamp": at, "lastTimestamp": at,
	})
	if err != nil {
		return err
	}
	return w.c.rest.Post().AbsPath("/api/v1/namespaces", url.PathEscape(metav1.NamespaceDefault), "events").SetHeader("Content-Type", "application/json").
		Timeout(w.c.cfg.Timeout).Body(body).Do(ctx).Error()
}

func (w *NodeWriter) explain(what string, err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s the Node %s: there is none: set kubernetes.node to the name that `kubectl get nodes` shows, or this host runs no kubelet: %w", what, w.node, err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%s the Node %s: not allowed: apply `relevo kubernetes rbac --conditions`: %w", what, w.node, err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s the Node %s: the API does not accept the credentials: is the token expired? (`relevo kubernetes token` makes one): %w", what, w.node, err)
	}
	return fmt.Errorf("%s the Node %s: %w", what, w.node, err)
}
