package kube

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/framer"
)

// codec turns the few types of this package into JSON and back for client-go. The
// codecs of apimachinery bring YAML, protobuf and CBOR with them: 1 MB of program on
// ARMv6. It is a [runtime.ClientNegotiator], and what that gives out.
type codec struct{}

func (codec) known(contentType string, stream bool) error {
	if contentType == "" || contentType == runtime.ContentTypeJSON {
		return nil
	}
	return runtime.NegotiateError{ContentType: contentType, Stream: stream}
}

func (c codec) Encoder(contentType string, _ map[string]string) (runtime.Encoder, error) {
	return c, c.known(contentType, false)
}

func (c codec) Decoder(contentType string, _ map[string]string) (runtime.Decoder, error) {
	return c, c.known(contentType, false)
}

func (c codec) StreamDecoder(contentType string, _ map[string]string) (runtime.Decoder, runtime.Serializer, runtime.Framer, error) {
	return c, c, c, c.known(contentType, true)
}

func (codec) Identifier() runtime.Identifier { return "relevo" }

func (codec) Encode(obj runtime.Object, w io.Writer) error { return json.NewEncoder(w).Encode(obj) }

// A watch is JSON values one after the other.

func (codec) NewFrameReader(r io.ReadCloser) io.ReadCloser { return framer.NewJSONFramedReader(r) }
func (codec) NewFrameWriter(w io.Writer) io.Writer         { return w }

// Decode reads one object: into the one given, or into a new one of its kind. A Status
// is always returned as one, for that is how the API says what went wrong. What the
// object does not say of its kind is taken from def.
func (codec) Decode(data []byte, def *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	var meta metav1.TypeMeta
	if err := json.Unmarshal(data, &meta); err != nil {
		return nil, nil, fmt.Errorf("read the kind of an object: %w", err)
	}
	is := meta.GroupVersionKind()
	if def != nil && is.Kind == "" {
		is.Kind = def.Kind
	}
	if def != nil && is.Group == "" && is.Version == "" {
		is.Group, is.Version = def.Group, def.Version
	}
	obj := newObject(is)
	switch {
	case into == nil && is.Kind == "":
		return nil, &is, runtime.NewMissingKindErr(string(data[:min(len(data), 200)]))
	case obj == nil && (into == nil || is.Kind != ""):
		return nil, &is, runtime.NewNotRegisteredErrForKind("relevo", is)
	case into == nil:
	case is.Kind == "" || reflect.TypeOf(obj) == reflect.TypeOf(into):
		obj = into
	case !isStatus(obj):
		return nil, &is, fmt.Errorf("a %s came in where a %T was asked for", is.Kind, into)
	}
	if err := json.Unmarshal(data, obj); err != nil {
		return nil, &is, fmt.Errorf("read a %s: %w", is.Kind, err)
	}
	return obj, &is, nil
}

func isStatus(o runtime.Object) bool {
	_, is := o.(*metav1.Status)
	return is
}

// newObject makes an empty one of what relevo reads, nil if it is of another kind.
func newObject(k schema.GroupVersionKind) runtime.Object {
	if k.GroupVersion() == discoveryV1 {
		switch k.Kind {
		case "EndpointSlice":
			return &apiSlice{}
		case "EndpointSliceList":
			return &apiSliceList{}
		}
		return nil
	}
	if k.GroupVersion() != coreV1 {
		return nil
	}
	switch k.Kind {
	case "Status":
		return &metav1.Status{}
	case "ConfigMap":
		return &ConfigMap{}
	case "Service":
		return &apiService{}
	case "ServiceList":
		return &apiServiceList{}
	case "Node":
		return &apiNode{}
	case "NodeList":
		return &apiNodeList{}
	}
	return nil
}
