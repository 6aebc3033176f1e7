package kube

import (
	"encoding/json"
	"fmt"
)

// resourceVersion of a list, without decoding the objects in it.
func resourceVersion(raw []byte) (string, error) {
	var l struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(raw, &l); err != nil {
		return "", fmt.Errorf("the API's answer: %w", err)
	}
	if l.Metadata.ResourceVersion == "" {
		return "", fmt.Errorf("the API's answer has no resourceVersion")
	}
	return l.Metadata.ResourceVersion, nil
}
