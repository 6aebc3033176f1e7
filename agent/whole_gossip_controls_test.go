//go:build mutants

package agent

import "testing"

// TestGossipNegativeControls: with the protection off, a lie of the gossip moves votes.
func TestGossipNegativeControls(t *testing.T) {
	for name, lie := range liesAboutVoters {
		for _, off := range []string{name, ""} {
			t.Run(name+map[bool]string{true: " with nothing off", false: ""}[off == ""], func(t *testing.T) {
				switchOff(off)
				defer switchOff("")
				bubble(t, "n1 n2 v3", func(t *testing.T, w *world) {
					w.hosts[0].adopt(100)
					w.start()
					w.steady("n1", 1)
					w.enrolled(3)
					before, after := w.liesOfGossip(lie)
					if (before != after) != (off != "") {
						t.Errorf("the servers were %s, and are %s", before, after)
					}
				})
			})
		}
	}
}
