package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"relevo.dev/relevo/health"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

// docs/metrics.md is made from the families; what stands before its table is written by
// people.
func TestMetricsPage(t *testing.T) {
	const path, mark = "../../docs/metrics.md", "<!-- made by: go test ./agent/api -update -->\n"
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, _, found := strings.Cut(string(was), mark)
	if !found {
		t.Fatalf("%s has no line %q", path, mark)
	}
	var b strings.Builder
	b.WriteString(head + mark + "\n| name | type | labels | what it is |\n|---|---|---|---|\n")
	for _, f := range Families() {
		labels := "-"
		if len(f.Labels) > 0 {
			labels = "`" + strings.Join(f.Labels, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Name, f.Type, labels, f.Help)
	}
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if b.String() != string(was) {
		t.Errorf("%s is not what the families say: go test ./agent/api -update", path)
	}
}

// Every family follows the conventions, so that it may stand beside other exporters.
func TestFamilies(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Families() {
		if err := checkFamily(Metric{Name: f.Name, Help: f.Help, Type: f.Type}); err != nil {
			t.Error(err)
		}
		if seen[f.Name] {
			t.Errorf("%s is there twice", f.Name)
		}
		seen[f.Name] = true
		if own := strings.HasPrefix(f.Name, "relevo_"); !own && !strings.HasPrefix(f.Name, "process_") && !strings.HasPrefix(f.Name, "go_") {
			t.Errorf("%s could be another exporter's", f.Name)
		}
		if (f.Type == Counter) != strings.HasSuffix(f.Name, "_total") {
			t.Errorf("%s: _total is for counters", f.Name)
		}
		if len(f.Help) < 15 || !strings.HasSuffix(f.Help, ".") {
			t.Errorf("%s: the help %q is no sentence", f.Name, f.Help)
		}
	}
}

// A report in which nothing is unknown shows every family of the host, and one in which
// everything is unknown none but the conditions.
func TestHealthMetrics(t *testing.T) {
	r, cs := full()
	shown := map[string]Metric{}
	for _, m := range append(HealthMetrics(r, cs), ProcessMetrics()...) {
		shown[m.Name] = m
	}
	for _, f := range Families() {
		m, ok := shown[f.Name]
		if !strings.HasPrefix(f.Name, "relevo_host_") && !strings.HasPrefix(f.Name, "process_") {
			continue
		}
		if !ok {
			t.Errorf("%s is not shown", f.Name)
			continue
		}
		for _, s := range m.Samples {
			var names []string
			for _, l := range s.Labels {
				names = append(names, l.Name)
			}
			if !slices.Equal(names, f.Labels) {
				t.Errorf("%s has the labels %v, not %v", f.Name, names, f.Labels)
			}
		}
	}
	var b bytes.Buffer
	if errs := appendMetrics(&b, HealthMetrics(r, cs)); len(errs) > 0 {
		t.Error(errs)
	}
	if _, err := parseStrict(b.String()); err != nil {
		t.Error(err)
	}
	if got := HealthMetrics(health.Report{}, nil); len(got) != 0 {
		t.Errorf("without a report: %+v", got)
	}
	for _, m := range HealthMetrics(health.Report{At: r.At}, nil) {
		if m.Name != "relevo_host_measured_timestamp_seconds" {
			t.Errorf("%s is shown, and nothing was measured", m.Name)
		}
	}
}

// A name that is in no family is told of and not shown.
func TestUnknownFamily(t *testing.T) {
	var s Set
	s.Add("relevo_term", 1)
	s.Add("relevo_tern", 1, "x")
	var b bytes.Buffer
	if errs := appendMetrics(&b, s.Metrics()); len(errs) != 1 || !strings.Contains(errs[0].Error(), "relevo_tern") || strings.Contains(b.String(), "tern") {
		t.Errorf("%v\n%s", errs, b.String())
	}
}

var metricWord = regexp.MustCompile(`\b(relevo|process|go)_[a-z0-9_]+`)

// Every metric that the alert rules and the dashboard ask for is one that there is.
func TestDocsNameRealMetrics(t *testing.T) {
	known := map[string]bool{}
	for _, f := range Families() {
		known[f.Name] = true
	}
	names := func(what, expr string) {
		for _, w := range metricWord.FindAllString(expr, -1) {
			if !known[w] {
				t.Errorf("%s: there is no metric %s", what, w)
			}
		}
		if !metricWord.MatchString(expr) {
			t.Errorf("%s asks for nothing of ours: %s", what, expr)
		}
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	b, err := os.ReadFile("../../docs/alerts/relevo.rules.yml")
	if err == nil {
		err = yaml.Unmarshal(b, &rules)
	}
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile("../../docs/alerts/relevo.test.yml")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			n++
			names(r.Alert, r.Expr)
			if s := r.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s has the severity %q", r.Alert, s)
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s: summary and description are needed", r.Alert)
			}
			if !strings.Contains(string(tests), "alertname: "+r.Alert+"\n") {
				t.Errorf("%s has no test in relevo.test.yml", r.Alert)
			}
		}
	}
	if n < 10 {
		t.Errorf("%d rules", n)
	}
	var board struct {
		UID    string
		Panels []struct {
			Title   string
			Type    string
			GridPos struct{ H, W, X, Y int } `json:"gridPos"`
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Name, Query string }
		}
	}
	b, err = os.ReadFile("../../docs/grafana/relevo.json")
	if err == nil {
		err = json.Unmarshal(b, &board)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range board.Panels {
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 {
			t.Errorf("the panel %s asks for nothing", p.Title)
		}
		for _, q := range p.Targets {
			names(p.Title, q.Expr)
		}
		for _, o := range board.Panels[:i] {
			a, b := p.GridPos, o.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("the panels %s and %s overlap", p.Title, o.Title)
			}
		}
	}
	if len(board.Panels) < 8 || board.UID == "" {
		t.Errorf("%d panels", len(board.Panels))
	}
}

// The rules are valid and fire when they should, as promtool sees it.
func TestRulesWithPromtool(t *testing.T) {
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed")
	}
	for _, args := range [][]string{{"check", "rules", "relevo.rules.yml"}, {"test", "rules", "relevo.test.yml"}} {
		cmd := exec.CommandContext(t.Context(), tool, args...)
		cmd.Dir = "../../docs/alerts"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
