package lease

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the answers into testdata/*.txt; read the difference before you commit it")

// TestCases replays the conversations in testdata: an event a line, what the
// machine answered indented below it. The first line names the machine:
//
//	holder n2 6s
//	holder n2 6s active 1 8s   (units run, and a lease of term 1 until 8 s is noted)
//	arbiter n3 6s
//	arbiter n3 6s fence
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := replay(string(want))
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("%s: the machine answers differently:\n%s", file, got)
			}
		})
	}
}

func replay(text string) (string, error) {
	var out strings.Builder
	var step func(Time, Event) []Action
	var state func() string
	for sc := bufio.NewScanner(strings.NewReader(text)); sc.Scan(); {
		line := sc.Text()
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || f[0][0] == '#':
			out.WriteString(line + "\n")
			continue
		case strings.HasPrefix(line, " "):
			continue // an old answer
		case f[0] == "holder":
			var was Lease
			if len(f) > 5 { // what was noted: its term and its end
				if _, err := fmt.Sscan(f[4], &was.Term); err != nil {
					return "", fmt.Errorf("%q: %w", line, err)
				}
				was.Deadline = dur(f[5])
			}
			h := NewHolder(f[1], Timings{dur(f[2])}, was, len(f) > 3 && f[3] == "active")
			step, state = h.Step, func() string { return h.Phase().String() }
		case f[0] == "arbiter":
			pol := Policy{MaxLag: 10 * time.Second, MaxFailovers: 2, Fence: slices.Contains(f, "fence")}
			a := NewArbiter(f[1], Timings{dur(f[2])}, pol)
			step = a.Step
			state = func() string { return "" }
		default:
			now, ev, err := parse(f)
			if err != nil {
				return "", fmt.Errorf("%q: %w", line, err)
			}
			out.WriteString(line + "\n")
			for _, a := range step(now, ev) {
				fmt.Fprintf(&out, "    %s\n", show(a))
			}
			if s := state(); s != "" {
				fmt.Fprintf(&out, "    (%s)\n", s)
			}
			continue
		}
		out.WriteString(line + "\n")
	}
	return out.String(), nil
}

func dur(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}

var events = map[string]Event{
	"fact": Fact{}, "tick": Tick{}, "acked": Acked{}, "promoted": Promoted{}, "units": Units{}, "stepdown": StepDown{},
	"led": Led{}, "lost": Lost{}, "renewal": Renewal{}, "failedover": FailedOver{}, "arbiterknown": ArbiterKnown{}, "confirmed": Confirmed{}, "releaseasked": ReleaseAsked{},
	"reported": Reported{}, "proposed": Proposed{}, "fenceconfirmed": FenceConfirmed{}, "fencefailed": FenceFailed{}, "probed": Probed{}, "gossiped": Gossiped{}, "failover": Failover{},
}

// parse reads "12.5s event Field=value …".
func parse(f []string) (Time, Event, error) {
	proto, ok := events[f[1]]
	if !ok {
		return 0, nil, fmt.Errorf("no event %q", f[1])
	}
	v := reflect.New(reflect.TypeOf(proto)).Elem()
	for _, kv := range f[2:] {
		k, val, _ := strings.Cut(kv, "=")
		fv := v.FieldByName(k)
		if !fv.IsValid() {
			return 0, nil, fmt.Errorf("no field %q", k)
		}
		switch {
		case fv.Type() == reflect.TypeFor[time.Duration]():
			fv.SetInt(int64(dur(val)))
		case k == "Err":
			fv.Set(reflect.ValueOf(errors.New(val)))
		case fv.Kind() == reflect.Bool:
			fv.SetBool(val != "false")
		case fv.Kind() == reflect.String:
			fv.SetString(val)
		case fv.Kind() == reflect.Slice:
			fv.Set(reflect.ValueOf(strings.Split(val, ",")))
		default:
			n, err := strconv.ParseUint(val, 10, 63)
			if err != nil {
				return 0, nil, err
			}
			if fv.CanInt() {
				fv.SetInt(int64(n))
			} else {
				fv.SetUint(n)
			}
		}
	}
	return dur(f[0]), v.Interface().(Event), nil
}

// show prints an action and the fields that say something.
func show(a Action) string {
	v := reflect.ValueOf(a)
	s := v.Type().Name()
	for i := range v.NumField() {
		if f := v.Field(i); !f.IsZero() {
			s += fmt.Sprintf(" %s=%v", v.Type().Field(i).Name, f.Interface())
		}
	}
	return s
}
