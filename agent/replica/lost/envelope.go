package lost

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"unicode/utf8"
)

// Encoding is how a value is written.
type Encoding string

// The API server writes built-in kinds as protobuf, custom resources as JSON.
// Other is everything else, such as what is encrypted at rest.
const (
	JSON     Encoding = "json"
	Protobuf Encoding = "protobuf"
	Other    Encoding = "other"
)

// Envelope is what the beginning of a value says about the object in it.
type Envelope struct {
	Encoding   Encoding
	APIVersion string // "" if the beginning does not tell
	Kind       string
}

// magic is in front of Kubernetes' protobuf; a runtime.Unknown message follows.
var magic = []byte("k8s\x00")

// maxType bounds apiVersion and kind: a group has 253 bytes, a version or kind 63.
const maxType = 320

// ReadEnvelope reads it, also from a value that was cut off: the API server puts
// apiVersion and kind first. Of a malformed value it tells what it can.
func ReadEnvelope(value []byte) Envelope {
	switch {
	case bytes.HasPrefix(value, magic):
		return readProtobuf(value[len(magic):])
	case bytes.HasPrefix(bytes.TrimLeft(value, " \t\r\n"), []byte("{")):
		return readJSON(value)
	}
	return Envelope{Encoding: Other}
}

// readProtobuf reads the first field of runtime.Unknown, its TypeMeta: field 1
// of it is apiVersion, 2 is kind, all of wire type 2 (a length, and so many
// bytes). Written by hand because the beginning of a value is not a message
// that a generated decoder takes.
func readProtobuf(b []byte) Envelope {
	e := Envelope{Encoding: Protobuf}
	field, meta, _ := nextField(b)
	if field != 1 {
		return e
	}
	for len(meta) > 0 {
		field, text, rest := nextField(meta)
		switch field {
		case 1:
			e.APIVersion = typeName(text)
		case 2:
			e.Kind = typeName(text)
		case 0:
			return e
		}
		meta = rest
	}
	return e
}

// nextField cuts one length-delimited field off; field is 0 if there is none.
func nextField(b []byte) (field uint64, data, rest []byte) {
	tag, n := binary.Uvarint(b)
	if n <= 0 || tag&7 != 2 {
		return 0, nil, nil
	}
	b = b[n:]
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return 0, nil, nil
	}
	b = b[n:]
	return tag >> 3, b[:size], b[size:]
}

// typeName lets only through what can be the name of a type.
func typeName(b []byte) string {
	if len(b) > maxType || !utf8.Valid(b) {
		return ""
	}
	return string(b)
}

// readJSON reads apiVersion and kind of the outermost object.
func readJSON(b []byte) Envelope {
	e := Envelope{Encoding: JSON}
	d := json.NewDecoder(bytes.NewReader(b))
	if _, err := d.Token(); err != nil {
		return e
	}
	for d.More() && (e.APIVersion == "" || e.Kind == "") {
		key, err := d.Token()
		if err != nil {
			return e
		}
		if key != "apiVersion" && key != "kind" {
			if !skip(d) {
				return e
			}
			continue
		}
		v, err := d.Token()
		text, ok := v.(string)
		switch {
		case err != nil || !ok:
			return e
		case key == "kind":
			e.Kind = typeName([]byte(text))
		default:
			e.APIVersion = typeName([]byte(text))
		}
	}
	return e
}

// skip passes over one value.
func skip(d *json.Decoder) bool {
	for depth := 0; ; {
		t, err := d.Token()
		if err != nil {
			return false
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return true
		}
	}
}
