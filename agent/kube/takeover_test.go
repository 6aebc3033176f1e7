//go:build e2e

package kube

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// send does one request as the API's owner does.
func send(t *testing.T, c *Client, verb, path, body string) map[string]any {
	t.Helper()
	kind := "application/json"
	if verb == "PATCH" {
		kind = "application/merge-patch+json"
	}
	raw, err := c.rest.Verb(verb).AbsPath(path).SetHeader("Content-Type", kind).Body([]byte(body)).DoRaw(t.Context())
	if err != nil {
		t.Fatalf("%s %s: %v", verb, path, err)
	}
	var out map[string]any
	ok(t, json.Unmarshal(raw, &out))
	return out
}

// realTakeover: leases and nodes of a real API server.
func realTakeover(t *testing.T, r *realAPI) {
	c := r.admin("pi-two")
	ctx := t.Context()
	_, err := c.Canary(ctx, "n2", 2) // and kube-system is there
	ok(t, err)
	_, err = r.admin("").Canary(ctx, "n9", 3) // knows no name, and forgets none
	ok(t, err)
	if names, err := c.NodeNames(ctx); err != nil || names["n2"] != "pi-two" || len(names) != 1 {
		t.Errorf("the names of nodes: %v, %v", names, err)
	}

	renewed := time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")
	for _, name := range []string{"kube-scheduler", "other"} {
		send(t, c, "POST", leasesPath, fmt.Sprintf(`{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":%q,"namespace":"kube-system"},
			"spec":{"holderIdentity":"n1_%s","leaseDurationSeconds":15,"renewTime":%q}}`, name, name, renewed))
	}
	leases, err := c.Leases(ctx)
	ok(t, err)
	if len(leases) != 2 || leases[0].Name != "kube-scheduler" || leases[0].Host() != "n1" || leases[0].Lasts != 15*time.Second || leases[0].Expired(time.Now()) {
		t.Fatalf("the leases are %+v", leases)
	}
	// Who renews meanwhile keeps it.
	send(t, c, "PATCH", leasesPath+"/other", `{"spec":{"leaseTransitions":1}}`)
	if err := c.ClearLease(ctx, leases[1]); err == nil || !strings.Contains(err.Error(), "other") {
		t.Errorf("a lease that was renewed meanwhile was cleared: %v", err)
	}
	ok(t, c.ClearLease(ctx, leases[0]))
	if leases, err = c.Leases(ctx); err != nil || len(leases) != 1 || leases[0].Name != "other" {
		t.Errorf("left is %+v, %v", leases, err)
	}

	if there, err := c.MarkLost(ctx, "nobody", "n1", "why", true); err != nil || there {
		t.Errorf("a node that is not there: %v, %v", there, err)
	}
	ok(t, c.Unmark(ctx, "nobody"))
	const own = `{"key":"dedicated","value":"master","effect":"NoSchedule"}`
	send(t, c, "POST", nodesPath, `{"apiVersion":"v1","kind":"Node","metadata":{"name":"pi-one","annotations":{"keep":"this"}},"spec":{"taints":[`+own+`]}}`)
	look := func() (n node) {
		raw, err := c.rest.Get().AbsPath(nodesPath, "pi-one").DoRaw(ctx)
		ok(t, err)
		ok(t, json.Unmarshal(raw, &n))
		return n
	}
	taints := func() string { b, _ := json.Marshal(look().Spec.Taints); return string(b) }
	before := taints()
	for range 2 { // and again after a restart
		if there, err := c.MarkLost(ctx, "pi-one", "n1", "term 2: it did not renew", false); err != nil || !there {
			t.Fatalf("%v, %v", there, err)
		}
		if n := look(); n.Metadata.Labels[LostMaster] != "n1" || !strings.Contains(n.Metadata.Annotations[LostMaster], "did not renew") || taints() != before {
			t.Errorf("marked without proof: %+v %s", n.Metadata, taints())
		}
	}
	for range 2 {
		_, err = c.MarkLost(ctx, "pi-one", "n1", "the fence confirmed it", true)
		ok(t, err)
		if s := taints(); strings.Count(s, outOfService) != 1 || !strings.Contains(s, "dedicated") || !strings.Contains(s, `"nodeshutdown","effect":"NoExecute"`) {
			t.Errorf("marked with proof: %s", s)
		}
	}
	if lost, err := c.Lost(ctx); err != nil || len(lost) != 1 || lost["n1"] != "pi-one" {
		t.Errorf("lost: %v, %v", lost, err)
	}
	ok(t, c.Unmark(ctx, "pi-one"))
	if n := look(); n.Metadata.Labels[LostMaster] != "" || n.Metadata.Annotations[LostMaster] != "" || n.Metadata.Annotations["keep"] != "this" || taints() != before {
		t.Errorf("unmarked: %+v %s", n.Metadata, taints())
	}
	// A taint that somebody else set stays.
	send(t, c, "PATCH", nodesPath+"/pi-one", `{"metadata":{"labels":{"`+LostMaster+`":"n1"}},"spec":{"taints":[{"key":"`+outOfService+`","value":"nodeshutdown","effect":"NoExecute"}]}}`)
	ok(t, c.Unmark(ctx, "pi-one"))
	if s := taints(); !strings.Contains(s, outOfService) {
		t.Errorf("a person's taint was taken away: %s", s)
	}
}
