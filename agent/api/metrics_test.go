package api

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os/exec"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/health"
)

// full is a report in which nothing is unknown, and a condition of each kind.
func full() (health.Report, []health.Condition) {
	var r health.Report
	fill(reflect.ValueOf(&r).Elem())
	r.At = time.Unix(1795175000, 0)
	var cs []health.Condition
	for i, c := range health.Types() {
		cs = append(cs, health.Condition{Type: c, Status: health.TruthOf(i%2 == 0)})
	}
	return r, cs
}

// fill gives every value one, and every list an entry.
func fill(v reflect.Value) {
	switch v.Interface().(type) {
	case health.Value:
		v.Set(reflect.ValueOf(health.Of(1)))
		return
	case health.Truth:
		v.Set(reflect.ValueOf(health.Yes))
		return
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(1795170000, 0)))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	}
}

func sample() []Metric {
	m := health.New(health.Config{DataDir: "/"})
	r, _ := m.Collect(context.Background())
	return append([]Metric{
		One("relevo_term", "Newest term.", Gauge, 7),
		{Name: "relevo_failovers_total", Help: `Failovers, "automatic" or not; back\slash` + "\nand a second line.", Type: Counter, Samples: []Sample{
			{Labels: []Label{{"kind", "automatic"}, {"a", "x"}}, Value: 2},
			{Labels: []Label{{"kind", "quote\" back\\ line\n\xff é"}}, Value: 1.5e-9}}},
		{Name: "relevo_empty", Help: "Has no samples.", Type: Gauge},
		One("relevo_nan", "Not a number.", Gauge, math.NaN()),
		One("relevo_inf", "Infinite.", Gauge, math.Inf(-1)),
		One("relevo_large", "Large.", Gauge, 1e20),
	}, append(HealthMetrics(r, m.Conditions()), ProcessMetrics()...)...)
}

func TestMetricsText(t *testing.T) {
	var b bytes.Buffer
	if errs := appendMetrics(&b, sample()); len(errs) > 0 {
		t.Fatal(errs)
	}
	got, err := parseStrict(b.String())
	if err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	for series, want := range map[string]string{
		`relevo_term`: "7",
		`relevo_failovers_total{a="x",kind="automatic"}`:                         "2",
		`relevo_failovers_total{kind="quote\" back\\ line\n` + "\uFFFD é" + `"}`: "1.5e-09",
		`relevo_nan`:   "NaN",
		`relevo_inf`:   "-Inf",
		`relevo_large`: "1e+20",
	} {
		if got[series] != want {
			t.Errorf("%s is %q, want %q", series, got[series], want)
		}
	}
	if strings.Contains(b.String(), "relevo_empty") {
		t.Error("a family without samples is shown")
	}
	if !strings.Contains(b.String(), `# HELP relevo_failovers_total Failovers, "automatic" or not; back\\slash\nand a second line.`+"\n") {
		t.Error("the help is not escaped as it should be")
	}
}

func TestMetricsRefused(t *testing.T) {
	for _, m := range []Metric{
		One("", "x", Gauge, 1), One("9lives", "x", Gauge, 1), One("a-b", "x", Gauge, 1), One("ok", "", Gauge, 1), One("ok", "x", "summary", 1),
		{Name: "ok", Help: "x", Type: Gauge, Samples: []Sample{{}, {}}},
		{Name: "ok", Help: "x", Type: Gauge, Samples: []Sample{{Labels: []Label{{"a:b", ""}}}}},
		{Name: "ok", Help: "x", Type: Gauge, Samples: []Sample{{Labels: []Label{{"__a", ""}}}}},
		{Name: "ok", Help: "x", Type: Gauge, Samples: []Sample{{Labels: []Label{{"a", ""}, {"a", "b"}}}}},
	} {
		var b bytes.Buffer
		if errs := appendMetrics(&b, []Metric{m}); len(errs) != 1 {
			t.Errorf("%+v: %v\n%s", m, errs, b.String())
		}
	}
	var b bytes.Buffer
	if errs := appendMetrics(&b, []Metric{One("a", "x", Gauge, 1), One("b", "x", Gauge, 1), One("a", "x", Gauge, 2)}); len(errs) != 1 || strings.Count(b.String(), "\na ") != 1 {
		t.Errorf("%v\n%s", errs, b.String())
	}
}

// promtool is in Debian's package prometheus; without it the strict parser above
// has to do.
func TestPromtool(t *testing.T) {
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed")
	}
	var fine []Metric
	for _, m := range sample() {
		if m.Name != "relevo_nan" && m.Name != "relevo_inf" {
			fine = append(fine, m)
		}
	}
	var b bytes.Buffer
	appendMetrics(&b, fine)
	cmd := exec.CommandContext(t.Context(), tool, "check", "metrics")
	cmd.Stdin = &b
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

var (
	helpLine   = regexp.MustCompile(`^# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) ((?:[^\\\n]|\\\\|\\n)+)$`)
	typeLine   = regexp.MustCompile(`^# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (gauge|counter)$`)
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"(?:,[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*")*\})? (\S+)$`)
)

// parseStrict reads the text format and accepts only what we mean to write: HELP,
// TYPE and samples of one family together, families in order, no sample twice.
func parseStrict(text string) (map[string]string, error) {
	out := map[string]string{}
	family, typed := "", false
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		bad := func(what string) error { return fmt.Errorf("line %d: %s: %s", i+1, what, line) }
		if m := helpLine.FindStringSubmatch(line); m != nil {
			if m[1] <= family {
				return nil, bad("family out of order or twice")
			}
			family, typed = m[1], false
			continue
		}
		if m := typeLine.FindStringSubmatch(line); m != nil {
			if m[1] != family || typed {
				return nil, bad("TYPE away from its HELP")
			}
			if (m[2] == "counter") != strings.HasSuffix(m[1], "_total") {
				return nil, bad("_total is for counters")
			}
			typed = true
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			return nil, bad("neither HELP, TYPE nor sample")
		}
		if m[1] != family || !typed {
			return nil, bad("sample outside of its family")
		}
		if _, err := strconv.ParseFloat(m[3], 64); err != nil {
			return nil, bad("no number")
		}
		if _, twice := out[m[1]+m[2]]; twice {
			return nil, bad("sample twice")
		}
		out[m[1]+m[2]] = m[3]
	}
	return out, nil
}

func FuzzMetrics(f *testing.F) {
	f.Add("relevo_x", "help", "label", "value", 1.5)
	f.Add("a:b", "h\\\n", "l", "\"\\\n", math.Inf(1))
	f.Fuzz(func(t *testing.T, name, help, label, value string, v float64) {
		var b bytes.Buffer
		errs := appendMetrics(&b, []Metric{{Name: name, Help: help, Type: Gauge, Samples: []Sample{{Labels: []Label{{label, value}}, Value: v}}}})
		if len(errs) > 0 || strings.HasSuffix(name, "_total") {
			return
		}
		if _, err := parseStrict(b.String()); err != nil {
			t.Errorf("%v in\n%q", err, b.String())
		}
	})
}
