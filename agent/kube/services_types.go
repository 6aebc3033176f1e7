package kube

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var discoveryV1 = schema.GroupVersion{Group: "discovery.k8s.io", Version: "v1"}

// What is read of Services, EndpointSlices and Nodes as they come from the API. None
// of it is kept: the stores turn it into [Service], [Endpoints] and [Node] at once.

type apiService struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              struct {
		Type        string   `json:"type"`
		ClusterIP   string   `json:"clusterIP"`
		ExternalIPs []string `json:"externalIPs"`
		IPFamilies  []string `json:"ipFamilies"`
		Policy      string   `json:"externalTrafficPolicy"`
		Ports       []struct {
			Name        string `json:"name"`
			Protocol    string `json:"protocol"`
			AppProtocol string `json:"appProtocol"`
			Port        int    `json:"port"`
			NodePort    int    `json:"nodePort"`
		} `json:"ports"`
	} `json:"spec"`
	Status struct {
		LoadBalancer struct {
			Ingress []struct {
				IP string `json:"ip"`
			} `json:"ingress"`
		} `json:"loadBalancer"`
	} `json:"status"`
}

type apiServiceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []apiService `json:"items"`
}

type apiSlice struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Endpoints         []struct {
		NodeName   string `json:"nodeName"`
		Conditions struct {
			Ready *bool `json:"ready"` // nil = unknown, to be taken as true
		} `json:"conditions"`
	} `json:"endpoints"`
	Ports []struct {
		Name *string `json:"name"`
		Port *int    `json:"port"`
	} `json:"ports"`
}

type apiSliceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []apiSlice `json:"items"`
}

type apiNode struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Status            struct {
		Addresses []struct {
			Type    string `json:"type"`
			Address string `json:"address"`
		} `json:"addresses"`
		Conditions []NodeCondition `json:"conditions"`
	} `json:"status"`
}

type apiNodeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []apiNode `json:"items"`
}

// runtime.Object wants copies to be possible; nothing of these is changed once decoded,
// so that a copy may share what it points to.

func (o *apiService) DeepCopyObject() runtime.Object     { c := *o; return &c }
func (o *apiServiceList) DeepCopyObject() runtime.Object { c := *o; return &c }
func (o *apiSlice) DeepCopyObject() runtime.Object       { c := *o; return &c }
func (o *apiSliceList) DeepCopyObject() runtime.Object   { c := *o; return &c }
func (o *apiNode) DeepCopyObject() runtime.Object        { c := *o; return &c }
func (o *apiNodeList) DeepCopyObject() runtime.Object    { c := *o; return &c }
