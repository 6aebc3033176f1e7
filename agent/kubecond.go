package agent

import (
	"context"
	"time"

	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/kube"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/health"
)

// Conditions of this host's health are written to its Node, where that is configured.

// condEvery is how often it is looked whether there is something to write, and
// condAgain after an error.
const (
	condEvery = 5 * time.Second
	condAgain = time.Minute
)

// nodeConditions writes until ctx ends. An API that does not answer is no problem of
// this host: whatever is still so is written when it does.
func (a *agent) nodeConditions(ctx context.Context) error {
	t := time.NewTicker(condEvery)
	defer t.Stop()
	var w *kube.NodeWriter
	var client *kube.Client
	var of struct {
		api  config.KubernetesAPI
		node string
	}
	var after time.Time // not before
	closeAll := func() {
		if client != nil {
			client.Close()
		}
		client, w = nil, nil
	}
	defer closeAll()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		api, local, ok := a.live.Load().KubernetesAPI()
		if !a.live.Load().Kubernetes.Conditions || !ok || local && a.phase() != lease.Master || a.opts.Host != nil {
			closeAll()
			a.noteConditions(nil)
			continue
		}
		if time.Now().Before(after) || a.monitor.Latest().At.IsZero() {
			continue
		}
		if w == nil || of.api != api || of.node != a.kubernetesNode() {
			closeAll()
			of.api, of.node = api, a.kubernetesNode()
			var err error
			if client, err = newKubeClient(api); err != nil {
				a.noteConditions(err)
				after = time.Now().Add(condAgain)
				continue
			}
			w = client.NewNodeWriter(of.node)
		}
		err := w.Write(ctx, nodeConditions(a.monitor.Conditions()), time.Now())
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			after = time.Now().Add(condAgain)
		}
		a.noteConditions(err)
	}
}

// noteConditions remembers why conditions are not written; only changes are logged.
func (a *agent) noteConditions(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	was := a.condErr.Swap(&text)
	switch {
	case text != "" && (was == nil || *was == ""):
		a.log.Warn("conditions are not written to Kubernetes", "err", err)
	case text == "" && was != nil && *was != "":
		a.log.Info("conditions are written to Kubernetes again")
	}
}

// nodeConditions puts ours in Kubernetes' words.
func nodeConditions(cs []health.Condition) []kube.Condition {
	out := make([]kube.Condition, 0, len(cs))
	for _, c := range cs {
		status := "Unknown"
		switch c.Status {
		case health.Yes:
			status = "True"
		case health.No:
			status = "False"
		}
		k := kube.Condition{Type: string(c.Type), Status: status, Reason: c.Reason, Message: c.Message, Since: c.Since}
		if c.Status == health.Yes && c.Advice != "" {
			k.Message += "; " + c.Advice
		}
		out = append(out, k)
	}
	return out
}
