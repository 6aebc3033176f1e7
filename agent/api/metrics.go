package api

import (
	"bytes"
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"
)

// MetricType is the type of a metric family.
type MetricType string

// The types that we use.
const (
	Gauge   MetricType = "gauge"
	Counter MetricType = "counter" // only grows; its name ends in _total
)

// Metric is a family of samples with one name. Names follow the Prometheus
// conventions: relevo_ in front, base units, _total for counters.
type Metric struct {
	Name    string
	Help    string
	Type    MetricType
	Samples []Sample
}

// Sample is one value. A value that is not known has no sample.
type Sample struct {
	Labels []Label
	Value  float64
}

// Label of a sample.
type Label struct{ Name, Value string }

// One makes a family with a single sample without labels.
func One(name, help string, t MetricType, v float64) Metric {
	return Metric{Name: name, Help: help, Type: t, Samples: []Sample{{Value: v}}}
}

// appendMetrics writes families in the Prometheus text format 0.0.4, sorted by
// name. What the format does not allow is left out, and the errors name it.
func appendMetrics(b *bytes.Buffer, families []Metric) []error {
	var errs []error
	sorted := append([]Metric(nil), families...)
	sort.SliceStable(sorted, func(i, j int) bool { return sorted[i].Name < sorted[j].Name })
	last := ""
	for _, f := range sorted {
		if err := checkFamily(f); err != nil {
			errs = append(errs, err)
			continue
		}
		if f.Name == last {
			errs = append(errs, fmt.Errorf("metric %s: is there twice", f.Name))
			continue
		}
		last = f.Name
		if len(f.Samples) == 0 {
			continue
		}
		fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", f.Name, helpEscapes.Replace(f.Help), f.Name, f.Type)
		seen := map[string]bool{}
		for _, s := range f.Samples {
			labels, err := labelText(s.Labels)
			if err == nil && seen[labels] {
				err = fmt.Errorf("the sample %s is there twice", labels)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("metric %s: %w", f.Name, err))
				continue
			}
			seen[labels] = true
			b.WriteString(f.Name)
			b.WriteString(labels)
			b.WriteByte(' ')
			b.WriteString(number(s.Value))
			b.WriteByte('\n')
		}
	}
	return errs
}

var (
	helpEscapes  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	valueEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func checkFamily(f Metric) error {
	switch {
	case !metricName(f.Name, true):
		return fmt.Errorf("metric %q: is not a name for a metric", f.Name)
	case f.Type != Gauge && f.Type != Counter:
		return fmt.Errorf("metric %s: has the type %q", f.Name, f.Type)
	case f.Help == "":
		return fmt.Errorf("metric %s: has no help", f.Name)
	}
	return nil
}

func metricName(s string, colons bool) bool {
	for i, c := range s {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || colons && c == ':' || i > 0 && c >= '0' && c <= '9'
		if !ok {
			return false
		}
	}
	return s != ""
}

func labelText(labels []Label) (string, error) {
	if len(labels) == 0 {
		return "", nil
	}
	sorted := append([]Label(nil), labels...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].Name < sorted[j].Name })
	var b strings.Builder
	for i, l := range sorted {
		if !metricName(l.Name, false) || strings.HasPrefix(l.Name, "__") {
			return "", fmt.Errorf("%q is not a name for a label", l.Name)
		}
		if i > 0 && sorted[i-1].Name == l.Name {
			return "", fmt.Errorf("the label %s is there twice", l.Name)
		}
		b.WriteByte("{,"[min(i, 1)])
		b.WriteString(l.Name)
		b.WriteString(`="`)
		b.WriteString(valueEscapes.Replace(strings.ToValidUTF8(l.Value, "\uFFFD")))
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String(), nil
}

func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "NaN"
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	case v == math.Trunc(v) && math.Abs(v) < 1e15:
		return strconv.FormatInt(int64(v), 10)
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}
