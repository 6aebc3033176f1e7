//go:build mutants

package kine

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// TestNegativeControlsCompactMark: a client watches at a revision of writes that a failover
// lost. With the mark it is told that this revision is gone, and lists again; without it
// the watch goes on with what comes next, and the client believes in what was lost for ever.
func TestNegativeControlsCompactMark(t *testing.T) {
	program := kinetest.Program(t)
	dir := t.TempDir()
	old, now := filepath.Join(dir, "old.db"), filepath.Join(dir, "new.db")
	never := []string{"--compact-interval", "24h"} // or kine's own compaction tells the client
	s := kinetest.Start(t, program, old, never...)
	for i := range 20 {
		s.Put(fmt.Sprintf("/registry/configmaps/default/c%d", i), "kept")
	}
	known := s.Known()
	s.Kill()
	for _, part := range []string{"", "-wal"} { // what a standby has
		b, err := os.ReadFile(old + part)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(now+part, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = kinetest.Start(t, program, old, never...)
	s.Adopt(known)
	var seen int64 // by the client, of the old master
	for i := range 5 {
		seen = s.Put(fmt.Sprintf("/registry/configmaps/default/lost%d", i), "lost")
	}
	s.Kill()
	for _, off := range []bool{false, true} {
		t.Run(map[bool]string{false: "nothing is off", true: "compaction mark"}[off], func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			for _, part := range []string{"", "-wal"} {
				b, err := os.ReadFile(now + part)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path+part, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			SwitchOff(off)
			defer SwitchOff(false)
			b, err := Bump(t.Context(), path, 2, Gap)
			if err != nil {
				t.Fatal(err)
			}
			s := kinetest.Start(t, program, path, never...)
			s.Adopt(known)
			told := s.Watch(seen+1, func() { s.Put("/registry/configmaps/default/new", "1") })
			t.Logf("a watch from revision %d, of which the new master has %d, is told %+v", seen+1, b.From, told)
			if silent := told.Compacted == 0; silent != off {
				t.Errorf("the watch was told %+v", told)
			}
		})
	}
}
