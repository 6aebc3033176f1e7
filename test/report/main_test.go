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

// TestDied: where a process dies in the middle of a test, what it said is shown.
func TestDied(t *testing.T) {
	var out bytes.Buffer
	r := &run{out: &out}
	r.read(strings.NewReader(`{"Action":"run","Package":"relevo.dev/relevo/p","Test":"TestA"}
{"Action":"output","Package":"relevo.dev/relevo/p","Test":"TestA","Output":"fatal error: all is lost\n"}
{"Action":"output","Package":"relevo.dev/relevo/p","Output":"FAIL\trelevo.dev/relevo/p\t5.3s\n"}
{"Action":"fail","Package":"relevo.dev/relevo/p","Elapsed":5.3}
`), false)
	if r.failed != 1 || !strings.Contains(out.String(), "TestA, which has no end\nfatal error: all is lost\n") {
		t.Errorf("%d failed, and it says:\n%s", r.failed, out.String())
	}
}
