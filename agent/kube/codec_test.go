package kube

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestDecode(t *testing.T) {
	v1 := &schema.GroupVersionKind{Version: "v1"}
	for _, tt := range []struct {
		text string
		def  *schema.GroupVersionKind
		into runtime.Object
		want runtime.Object // its type
		err  string
	}{
		{`{"kind": "ConfigMap", "apiVersion": "v1", "data": {"a": "b"}}`, nil, nil, &ConfigMap{}, ""},
		{`{"kind": "ConfigMap", "apiVersion": "v1"}`, nil, &ConfigMap{}, &ConfigMap{}, ""},
		{`{"metadata": {}}`, nil, &ConfigMap{}, &ConfigMap{}, ""},
		{`{"kind": "ServiceList", "apiVersion": "v1", "items": [{}]}`, nil, &apiServiceList{}, &apiServiceList{}, ""},
		{`{"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1"}`, nil, nil, &apiSlice{}, ""},
		{`{"type": "ADDED", "object": {"kind": "Node"}}`, nil, &metav1.WatchEvent{}, &metav1.WatchEvent{}, ""},
		// What went wrong is a Status, whatever was asked for; old servers do not say its version.
		{`{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410}`, nil, &apiNodeList{}, &metav1.Status{}, ""},
		{`{"kind": "Status", "status": "Failure"}`, v1, nil, &metav1.Status{}, ""},
		{`{"kind": "Pod", "apiVersion": "v1"}`, nil, nil, nil, `no kind "Pod"`},
		{`{"kind": "Service", "apiVersion": "v2"}`, nil, nil, nil, `no kind "Service"`},
		{`{"kind": "EndpointSlice", "apiVersion": "v1"}`, nil, nil, nil, `no kind "EndpointSlice"`},
		{`{"kind": "Node", "apiVersion": "v1"}`, nil, &apiService{}, nil, "a Node came in where a *kube.apiService was asked for"},
		{`{"apiVersion": "v1"}`, nil, nil, nil, "Kind' is missing"},
		{`{"kind": 1}`, nil, nil, nil, "read the kind of an object"},
		{`{"kind": "Node", "apiVersion": "v1", "status": {"addresses": 1}}`, nil, nil, nil, "read a Node"},
		{`<html>`, nil, &ConfigMap{}, nil, "read the kind of an object"},
	} {
		got, _, err := codec{}.Decode([]byte(tt.text), tt.def, tt.into)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v; expected %q", tt.text, err, tt.err)
			}
			continue
		}
		if err != nil || reflect.TypeOf(got) != reflect.TypeOf(tt.want) {
			t.Errorf("%s: %T, %v; expected %T", tt.text, got, err, tt.want)
		}
	}
}

// What is written is read back the same, and other languages than JSON are refused.
func TestCodec(t *testing.T) {
	was := &ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"written": "<b>"}}
	var out bytes.Buffer
	if err := (codec{}).Encode(was, &out); err != nil {
		t.Fatal(err)
	}
	is, kind, err := codec{}.Decode(out.Bytes(), nil, nil)
	if err != nil || !reflect.DeepEqual(was, is) || *kind != coreV1.WithKind("ConfigMap") {
		t.Fatalf("%+v (%v), %v", is, kind, err)
	}
	var no runtime.NegotiateError
	if _, err := (codec{}).Decoder("text/plain", nil); !errors.As(err, &no) || no.Stream {
		t.Fatalf("text/plain: %v", err)
	}
	if _, _, _, err := (codec{}).StreamDecoder("application/cbor-seq", nil); !errors.As(err, &no) || !no.Stream {
		t.Fatalf("application/cbor-seq: %v", err)
	}
}

// Nothing that an API server sends makes it panic, and what it takes for an error is one.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"kind": "Node", "apiVersion": "v1"}`, `{"kind": "Status", "apiVersion": "v1", "details": {"causes": [{}]}}`, `{"kind": "ServiceList", "apiVersion": "v1", "items": [null]}`, `[]`, `null`, `{"metadata": {"creationTimestamp": "x"}}`} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, into bool) {
		var obj runtime.Object
		if into {
			obj = &apiServiceList{}
		}
		got, kind, err := codec{}.Decode(data, nil, obj)
		switch {
		case err == nil && got == nil:
			t.Fatalf("%q: neither an object nor an error", data)
		case err == nil && into && got != obj:
			if apierrors.FromObject(got) == nil || kind.Kind != "Status" {
				t.Fatalf("%q: a %T where a list was asked for", data, got)
			}
		}
	})
}
