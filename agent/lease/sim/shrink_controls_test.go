//go:build mutants

package sim

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"relevo.dev/relevo/agent/lease"
)

// A failure that is known for sure, with many faults around it, must come out small,
// the same each time, and fail again when its one line is read back.
func TestNegativeControlsAreShrunk(t *testing.T) {
	for _, c := range []struct {
		off    string
		set    func(*Config)
		faults int // more than these are not needed
	}{
		{"S3 wait", func(*Config) {}, 2},
		{"", func(c *Config) { c.NoStopPost = true }, 3},
	} {
		t.Run(cmp.Or(c.off, "ExecStopPost"), func(t *testing.T) {
			lease.SwitchOff(c.off)
			defer lease.SwitchOff("")
			cfg, r := Config{}, Result{}
			for seed := uint64(1); !r.Unsafe; seed++ {
				cfg = config(seed)
				cfg.Faults = 12
				c.set(&cfg)
				r = Run(cfg)
			}
			small := Shrink(cfg, SameFailure(r))
			if c.off == "S3 wait" {
				if again := Shrink(cfg, SameFailure(r)); again.String() != small.String() {
					t.Errorf("one schedule shrank to two:\n%v\n%v", small, again)
				}
			}
			back, err := Parse(small.String())
			if err != nil {
				t.Fatal(err)
			}
			s, story := told(back)
			if !s.Unsafe || len(s.Faults) > c.faults {
				t.Errorf("%d faults of %d are left: %q", len(s.Faults), len(r.Faults), s.Violation)
			}
			// Nothing can be left out any more.
			for i := range small.Keep {
				less := small
				less.Keep = slices.Delete(slices.Clone(small.Keep), i, i+1)
				if SameFailure(r)(less) {
					t.Errorf("fault %d is not needed", small.Keep[i])
				}
			}
			t.Logf("%d lines\n%s", strings.Count(story, "\n"), story)
		})
	}
}
