package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func script(t *testing.T, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "fence")
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFenceCommand(t *testing.T) {
	o := fenceOrder{Node: "n1", Address: "10.0.0.1", Cluster: "home", Arbiter: "n2", Term: 7}
	t.Run("is told whom it is about", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "out")
		p := script(t, `echo "$RELEVO_NODE $RELEVO_ADDRESS $RELEVO_TERM $RELEVO_CLUSTER $RELEVO_ARBITER $1" >"$2"`)
		if err := runFence(t.Context(), []string{p, "a b;c", out}, o); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(out); err != nil || string(b) != "n1 10.0.0.1 7 home n2 a b;c\n" {
			t.Errorf("it was told %q, %v", b, err)
		}
	})
	t.Run("its failure is told with its last line", func(t *testing.T) {
		err := runFence(t.Context(), []string{script(t, "echo much; echo 'plug 3 does not answer' >&2; exit 4")}, o)
		if err == nil || !strings.Contains(err.Error(), "exit status 4") || !strings.Contains(err.Error(), "plug 3 does not answer") {
			t.Error(err)
		}
	})
	t.Run("floods are cut", func(t *testing.T) {
		err := runFence(t.Context(), []string{script(t, "head -c 3000000 /dev/zero | tr '\\0' x; exit 1")}, o)
		if err == nil || len(err.Error()) > 2*maxFenceOutput {
			t.Errorf("%d bytes", len(err.Error()))
		}
	})
	t.Run("hangs with a child", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		err := runFence(ctx, []string{script(t, "sleep 1000 & echo waiting; wait")}, o)
		if err == nil || !strings.Contains(err.Error(), "no answer in time") {
			t.Error(err)
		}
	})
	for _, c := range [][]string{nil, {"/no/such/program"}, {"/"}} {
		if err := runFence(t.Context(), c, o); err == nil {
			t.Errorf("%q confirmed", c)
		}
	}
}
