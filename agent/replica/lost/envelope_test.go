package lost

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/runtime"
)

// stored is a value as the API server stores it.
func stored(t testing.TB, apiVersion, kind string, raw []byte) []byte {
	t.Helper()
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}, Raw: raw}
	b, err := u.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte("k8s\x00"), b...)
}

func TestReadEnvelope(t *testing.T) {
	pod := stored(t, "v1", "Pod", []byte(strings.Repeat("x", 2000)))
	for _, tt := range []struct {
		name, value string
		want        Envelope
	}{
		{"protobuf", string(pod), Envelope{Protobuf, "v1", "Pod"}},
		{"cut off", string(pod[:40]), Envelope{Protobuf, "v1", "Pod"}},
		{"cut off in the type", string(pod[:8]), Envelope{Protobuf, "", ""}},
		{"nothing after the magic", "k8s\x00", Envelope{Protobuf, "", ""}},
		{"a length beyond the end", "k8s\x00\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Envelope{Protobuf, "", ""}},
		{"json", `{"apiVersion":"example.org/v1","kind":"Thing","metadata":{}}`, Envelope{JSON, "example.org/v1", "Thing"}},
		{"cut off json", `{"apiVersion":"example.org/v1","kind":"Thing","metadata":{"na`, Envelope{JSON, "example.org/v1", "Thing"}},
		{"json in another order", "\n{ \"spec\":{\"kind\":\"No\",\"l\":[{}]}, \"a\":\"kind\", \"kind\":\"Thing\",\"apiVersion\":\"v1\"}", Envelope{JSON, "v1", "Thing"}},
		{"json of another type", `{"kind":7,"apiVersion":"v1"}`, Envelope{JSON, "", ""}},
		{"not json after all", `{nonsense`, Envelope{JSON, "", ""}},
		{"encrypted at rest", "k8s:enc:aescbc:v1:key1:\x00\x01", Envelope{Other, "", ""}},
		{"empty", "", Envelope{Other, "", ""}},
	} {
		if got := ReadEnvelope([]byte(tt.value)); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// FuzzReadEnvelope: nothing breaks it, and where Kubernetes' own decoder takes
// the value, it says the same.
func FuzzReadEnvelope(f *testing.F) {
	f.Add(stored(f, "apps/v1", "Deployment", []byte("raw")))
	f.Add([]byte(`{"kind":"A","apiVersion":"b"}`))
	f.Add([]byte("k8s\x00\x0a\x04\x0a\x02v1\x12\x00"))
	f.Add([]byte("k8s:enc:"))
	f.Fuzz(func(t *testing.T, value []byte) {
		e := ReadEnvelope(value)
		if len(e.APIVersion) > maxType || len(e.Kind) > maxType || !utf8.ValidString(e.APIVersion) || !utf8.ValidString(e.Kind) {
			t.Fatalf("%+v", e)
		}
		switch e.Encoding {
		case Protobuf:
			var u runtime.Unknown
			// A message may say things twice, or in another order, which the API
			// server does not do; then the two may differ, but not invent.
			if u.Unmarshal(value[4:]) == nil && e.Kind != "" && !strings.Contains(string(value), e.Kind) {
				t.Fatalf("%+v, but %+v", e, u.TypeMeta)
			}
			again := stored(t, u.APIVersion, u.Kind, u.Raw)
			if got := ReadEnvelope(again); len(u.APIVersion) <= maxType && len(u.Kind) <= maxType &&
				utf8.ValidString(u.APIVersion) && utf8.ValidString(u.Kind) && (got.APIVersion != u.APIVersion || got.Kind != u.Kind) {
				t.Fatalf("%+v, written again, is %+v", u.TypeMeta, got)
			}
		case JSON:
			var o map[string]any
			if json.Unmarshal(value, &o) == nil && e.Kind != "" && o["kind"] == nil {
				t.Fatalf("%+v, but no kind in %v", e, o)
			}
		}
	})
}
