package health

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what the boards report into testdata")

// Every board reports what testdata/NAME.want says: the values that are known, in
// order, then why the others are not, then what is wrong with it.
func TestBoards(t *testing.T) {
	for name, f := range boards(t) {
		t.Run(name, func(t *testing.T) {
			h := boot(t, f)
			r := h.two(f)
			r.Agent.Goroutines, r.Agent.FilesMax = Value{}, Value{} // this test's own
			got := describe(t, r, h.Conditions())
			path := "testdata/" + name + ".want"
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant (go test -update writes it)\n%s", got, want)
			}
		})
	}
}

func describe(t *testing.T, r Report, cs []Condition) string {
	t.Helper()
	why := r.Unknown
	r.Unknown = nil
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	known(&out, "", v)
	for _, u := range why {
		fmt.Fprintf(&out, "unknown %s: %s\n", u.What, u.Why)
	}
	for _, c := range cs {
		if c.Status != No {
			fmt.Fprintf(&out, "%s is %s: %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
		}
	}
	return out.String()
}

// known writes all that is not null as lines of path and value.
func known(out *strings.Builder, path string, v any) {
	switch v := v.(type) {
	case nil:
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			known(out, strings.TrimPrefix(path+"."+k, "."), v[k])
		}
	case []any:
		for i, e := range v {
			known(out, fmt.Sprintf("%s[%d]", path, i), e)
		}
	case float64:
		fmt.Fprintf(out, "%s %.12g\n", path, v)
	default:
		fmt.Fprintf(out, "%s %v\n", path, v)
	}
}
