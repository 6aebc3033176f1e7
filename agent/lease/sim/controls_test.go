//go:build mutants

package sim

import (
	"testing"
	"time"

	"relevo.dev/relevo/agent/lease"
)

// Each protection, switched off, must be noticed. A control that stays green
// means that the simulator does not look where it should.
func TestNegativeControls(t *testing.T) {
	for _, c := range []struct {
		name string
		off  string
		set  func(*Config)
	}{
		{"S3 wait", "S3 wait", nil},
		{"the holder's own deadline", "deadline", func(c *Config) { c.NoStopPost = true }},
		{"term check", "term", nil},
		{"first ack", "first ack", nil},
		{"the machine of the holder", "machine", func(c *Config) { c.Only = append(c.Only, "copied card", "switchover", "power cut") }},
		{"ExecStopPost", "", func(c *Config) { c.NoStopPost = true }},
		{"ExecCondition", "", func(c *Config) { c.NoExecCondition = true }},
		{"the end of ExecCondition", "", func(c *Config) {
			// Rare: an agent that is killed twice, and a start between the last blow of the
			// fence and the end of the lease.
			c.NoStartMargin, c.Faults, c.Length = true, 150, 5*time.Minute
			c.Only = []string{"agent stopped", "started by hand"}
		}},
		{"the fence device's honesty", "", func(c *Config) { c.LyingFence = true }},
		{"quorum confirmation", "", func(c *Config) {
			// Rare: an arbiter that slept through the election of the next one, and a
			// holder that hears only the old.
			c.NoConfirm, c.Faults, c.Length = true, 120, 5*time.Minute
			c.Only = []string{"host frozen", "agent stopped", "halves", "bridge", "isolated", "one way", "slow network"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			lease.SwitchOff(c.off)
			defer lease.SwitchOff("")
			mk := func(seed uint64) Config {
				cfg := config(seed)
				if c.set != nil {
					c.set(&cfg)
				}
				return cfg
			}
			failed, _, done := play(1, func(done int64) bool { return done < int64(6**schedules) }, mk, true)
			if failed == 0 {
				t.Fatalf("switched off, and %d schedules saw nothing", done)
			}
			t.Logf("seen after %d schedules: %s", done, Run(mk(failed)).Violation)
		})
	}
}
