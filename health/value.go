package health

import (
	"encoding/json"
	"errors"
	"math"
)

// Value is a number that may be unknown. The zero Value is unknown.
type Value struct {
	v     float64
	known bool
}

// Of makes a known Value. What is no finite number stays unknown.
func Of(v float64) Value {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return Value{}
	}
	return Value{v, true}
}

// Get returns the number, and whether it is known.
func (v Value) Get() (float64, bool) { return v.v, v.known }

// MarshalJSON writes null for an unknown value.
func (v Value) MarshalJSON() ([]byte, error) {
	if !v.known {
		return []byte("null"), nil
	}
	return json.Marshal(v.v)
}

// UnmarshalJSON reads null as unknown.
func (v *Value) UnmarshalJSON(b []byte) error {
	*v = Value{}
	if string(b) == "null" {
		return nil
	}
	var f float64
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	*v = Of(f)
	return nil
}

// Truth is yes, no, or unknown, which it is at first.
type Truth uint8

// The truths.
const (
	Maybe Truth = iota // unknown
	No
	Yes
)

// TruthOf a known fact.
func TruthOf(b bool) Truth {
	if b {
		return Yes
	}
	return No
}

// String is yes, no or unknown.
func (t Truth) String() string {
	switch t {
	case Yes:
		return "yes"
	case No:
		return "no"
	}
	return "unknown"
}

// MarshalJSON writes true, false or null.
func (t Truth) MarshalJSON() ([]byte, error) {
	switch t {
	case Yes:
		return []byte("true"), nil
	case No:
		return []byte("false"), nil
	}
	return []byte("null"), nil
}

// UnmarshalJSON reads true, false or null.
func (t *Truth) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "true":
		*t = Yes
	case "false":
		*t = No
	case "null":
		*t = Maybe
	default:
		return errors.New("true, false or null is needed")
	}
	return nil
}
