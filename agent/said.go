package agent

import (
	"reflect"
	"strings"
	"time"

	"relevo.dev/relevo/agent/api"
)

// What a member says of itself is shown to people, and a member may be in somebody else's hands.
// So it speaks for itself only, and what it says is cut: its answer may have a megabyte, and
// one that is passed on must not keep the others' from being read.

// Bounds of what is passed on.
const (
	maxSaid  = 1 << 10 // bytes of a text
	maxSaids = 256     // entries of a list
)

// said bounds an answer of node, and has it speak for itself.
func said(node string, s summary) summary {
	bound(&s, maxSaids)
	if st := s.Standby; st != nil {
		st.Node = node
		(&results{st.Verified, st.Rehearsed}).of(node)
	}
	// Only whom raft tells knows what was agreed on.
	if s.View != nil && !s.View.tells(node) {
		s.View = nil
	}
	return s
}

// bound cuts all texts that p points at to maxSaid bytes and all lists to most entries, and
// has times in UTC; one that JSON has no words for is zero.
func bound(p any, most int) { boundValue(reflect.ValueOf(p), most) }

var timeType = reflect.TypeFor[time.Time]()

func boundValue(v reflect.Value, most int) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			boundValue(v.Elem(), most)
		}
	case reflect.String:
		v.SetString(cut(v.String(), maxSaid))
	case reflect.Slice:
		if v.Len() > most {
			v.Set(v.Slice3(0, most, most))
		}
		for i := range v.Len() {
			boundValue(v.Index(i), most)
		}
	case reflect.Struct:
		if v.Type() == timeType {
			v.Set(reflect.ValueOf(wallTime(v.Interface().(time.Time))))
			return
		}
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				boundValue(v.Field(i), most)
			}
		}
	}
}

// cut shortens a text to so many bytes.
func cut(s string, most int) string {
	const more = "…"
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len(more)], "") + more
}

// wallTime is t in UTC, zero where that is in no year that RFC 3339 has.
func wallTime(t time.Time) time.Time {
	t = t.UTC()
	if y := t.Year(); y < 0 || y > 9999 {
		return time.Time{}
	}
	return t
}

// asToldBy is a standby as the voters know it: who is no candidate for them takes nothing over,
// whatever it says of itself.
func asToldBy(v view, st api.Standby) api.Standby {
	if v.Holder != "" && !v.tells(st.Node) && st.Ready {
		st.Ready, st.Why = false, "the voters do not know it as a candidate"
	}
	return st
}
