package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestReload changes every field of the reference, one at a time: each is either
// taken over or named.
func TestReload(t *testing.T) {
	load := func() *Config {
		c, err := Load("reference.yaml")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	live := []string{"Log.Level", "MaxLag", "MaxFailovers", "Fence.Command", "Fence.Timeout", "Join", "Candidate.Priority", "Candidate.Never", "Candidate.Replica.VerifyInterval", "Candidate.Rehearsal.Every", "Candidate.Rehearsal.At"}
	var walk func(path string, v reflect.Value, f func(path string, v reflect.Value))
	walk = func(path string, v reflect.Value, f func(string, reflect.Value)) {
		switch {
		case v.Kind() == reflect.Pointer:
			walk(path, v.Elem(), f)
		case v.Kind() == reflect.Struct && !strings.HasPrefix(v.Type().PkgPath(), "net"):
			for i := range v.NumField() {
				walk(strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."), v.Field(i), f)
			}
		default:
			f(path, v)
		}
	}
	var paths []string
	walk("", reflect.ValueOf(load()), func(p string, _ reflect.Value) { paths = append(paths, p) })
	for _, p := range paths {
		next := load()
		walk("", reflect.ValueOf(next), func(at string, v reflect.Value) {
			if at != p {
				return
			}
			switch v.Kind() {
			case reflect.String:
				v.SetString(v.String() + "x")
			case reflect.Int, reflect.Int64:
				v.SetInt(v.Int() + 1)
			case reflect.Bool:
				v.SetBool(!v.Bool())
			case reflect.Slice:
				v.Set(reflect.Append(v, reflect.ValueOf("x")))
			default:
				v.SetZero()
			}
		})
		if reflect.DeepEqual(next, load()) {
			continue // an address that was not set
		}
		now, waiting := load().Reload(next)
		if took := reflect.DeepEqual(now, next); took != (slices.Contains(live, p) || strings.HasPrefix(p, "Kubernetes.") || strings.HasPrefix(p, "Health.") && p != "Health.Probe") || took != (len(waiting) == 0) {
			t.Errorf("%s: taken over: %v, waits for a restart: %v", p, took, waiting)
		}
	}
}
