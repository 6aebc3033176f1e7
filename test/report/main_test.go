package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestBeside: what goes on beside a section is told after it, and counts.
func TestBeside(t *testing.T) {
	var out bytes.Buffer
	r := &run{out: &out, totals: totals{passed: 1}}
	show := r.beside(func(r *run) {
		r.section("beside")
		r.check("well", nil, false, "true")
		r.check("ill", nil, false, "false")
		r.skip("something")
	})
	r.section("meanwhile")
	show()
	if r.totals != (totals{2, 1, 1}) || len(r.skips) != 1 {
		t.Errorf("counted %+v, %q", r.totals, r.skips)
	}
	if parts := strings.Split(out.String(), "== "); len(parts) != 3 || parts[1] != "meanwhile\n\n" || !strings.Contains(parts[2], "ok    well") || !strings.Contains(parts[2], "FAIL  ill") {
		t.Errorf("said:\n%s", out.String())
	}
}
