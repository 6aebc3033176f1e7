package kube

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The few types that relevo reads and writes, with the fields that it needs. The
// full clientset would add 17 MB to the ARMv6 binary.

var coreV1 = schema.GroupVersion{Version: "v1"}

// ConfigMap carries the canary.
type ConfigMap struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Data              map[string]string `json:"data,omitempty"`
}

// DeepCopyObject is what a runtime.Object has.
func (c *ConfigMap) DeepCopyObject() runtime.Object {
	out := *c
	out.ObjectMeta = *c.ObjectMeta.DeepCopy()
	if c.Data != nil {
		out.Data = make(map[string]string, len(c.Data))
		for k, v := range c.Data {
			out.Data[k] = v
		}
	}
	return &out
}
