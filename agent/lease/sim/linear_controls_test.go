//go:build mutants

package sim

import (
	"testing"

	"relevo.dev/relevo/agent/lease"
)

// The histories alone must show what the simulator's own invariants would: they
// are blind here.
func TestNegativeControlsLinearizable(t *testing.T) {
	for _, c := range []struct {
		name string
		off  string
		set  func(*Config)
	}{
		{"S3 wait", "S3 wait", nil},
		{"the holder's own deadline", "deadline", func(c *Config) { c.NoStopPost = true }},
		{"term check", "term", nil},
		{"ExecStopPost", "", func(c *Config) { c.NoStopPost = true }},
		{"quorum confirmation", "", func(c *Config) {
			c.NoConfirm, c.Faults = true, 40
			c.Only = []string{"host frozen", "agent stopped", "halves", "bridge", "isolated", "one way", "slow network"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			lease.SwitchOff(c.off)
			defer lease.SwitchOff("")
			for seed := uint64(1); seed < 3000; seed++ {
				cfg := config(seed)
				cfg.Clients, cfg.Blind = true, true
				if c.set != nil {
					c.set(&cfg)
				}
				if err := linearizable(Run(cfg)); err != nil {
					t.Logf("seen after %d schedules: %v", seed, err)
					return
				}
			}
			t.Error("switched off, and no history shows it")
		})
	}
}
