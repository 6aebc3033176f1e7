package kube

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// ReadCanary returns what the canary says, "" if no promotion wrote one yet.
func (c *Client) ReadCanary(ctx context.Context) (string, error) {
	m, err := c.get(ctx)
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("canary: read: %w", err)
	}
	return m.Data["written"], nil
}
