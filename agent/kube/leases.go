package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Lease is a coordination.k8s.io Lease, as far as relevo reads it.
type Lease struct {
	Name    string
	Holder  string        // holderIdentity; client-go writes HOST_UUID; "" = nobody
	Renewed time.Time     // by the holder's wall clock
	Lasts   time.Duration // leaseDurationSeconds
	version string
}

// Host is the part of the holder's identity that names its host, in lower case and
// without a domain.
func (l Lease) Host() string {
	host, _, _ := strings.Cut(l.Holder, "_")
	host, _, _ = strings.Cut(host, ".")
	return strings.ToLower(host)
}

// Expired says whether the holder has not renewed for as long as the lease lasts.
func (l Lease) Expired(now time.Time) bool { return now.Sub(l.Renewed) > l.Lasts }

// leaseList is the API's answer.
type leaseList struct {
	Items []struct {
		Metadata struct {
			Name            string            `json:"name"`
			ResourceVersion string            `json:"resourceVersion"`
			Labels          map[string]string `json:"labels"`
		} `json:"metadata"`
		Spec struct {
			Holder  string    `json:"holderIdentity"`
			Renewed time.Time `json:"renewTime"`
			Seconds int       `json:"leaseDurationSeconds"`
		} `json:"spec"`
	} `json:"items"`
}

const leasesPath = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"

// maxLeases bounds a list of leases; a cluster has a dozen in kube-system.
const maxLeases = "200"

// Leases lists those of kube-system that somebody holds; those by which API servers tell
// that they live are no controllers', and left out.
func (c *Client) Leases(ctx context.Context) ([]Lease, error) {
	raw, err := c.rest.Get().AbsPath(leasesPath).Param("limit", maxLeases).Timeout(c.cfg.Timeout).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the leases of kube-system: %w", err)
	}
	return parseLeases(raw)
}

func parseLeases(raw []byte) ([]Lease, error) {
	var list leaseList
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("list the leases of kube-system: the API's answer: %w", err)
	}
	var out []Lease
	for _, i := range list.Items {
		if i.Spec.Holder == "" || i.Metadata.Labels["apiserver.kubernetes.io/identity"] != "" {
			continue
		}
		out = append(out, Lease{i.Metadata.Name, i.Spec.Holder, i.Spec.Renewed, time.Duration(i.Spec.Seconds) * time.Second, i.Metadata.ResourceVersion})
	}
	return out, nil
}

// ClearLease makes a lease nobody's. A holder that renewed it since it was read is not
// disturbed: that is a conflict, and an error.
func (c *Client) ClearLease(ctx context.Context, l Lease) error {
	patch := fmt.Sprintf(`{"metadata":{"resourceVersion":%q},"spec":{"holderIdentity":null,"leaseDurationSeconds":1}}`, l.version)
	err := c.rest.Patch(types.MergePatchType).AbsPath(leasesPath, l.Name).Timeout(c.cfg.Timeout).Body([]byte(patch)).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("clear the lease %s of %s: %w", l.Name, l.Holder, err)
	}
	return nil
}
