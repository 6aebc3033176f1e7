//go:build mutants

package agent

import (
	"testing"
	"time"

	"relevo.dev/relevo/agent/lease"
)

// TestWholeNegativeControls: with a protection switched off, whole agents with a real
// raft and a network that is cut make two masters, and the world notices.
func TestWholeNegativeControls(t *testing.T) {
	for _, off := range []string{"S3 wait", "deadline", ""} {
		t.Run(map[bool]string{true: "nothing is off", false: off}[off == ""], func(t *testing.T) {
			lease.SwitchOff(off)
			defer lease.SwitchOff("")
			bubble(t, "n1 n2 n3", func(t *testing.T, w *world) {
				w.bad = off != ""
				w.hosts[0].adopt(100)
				w.start()
				w.steady("n1", 1)
				w.host("n1").deaf() // or it has stopped before the other has started
				w.isolate(w.host("n1"), true)
				w.until(time.Minute, "another takes over", func() bool { return w.master() == "n2" || w.master() == "n3" })
				w.mu.Lock()
				defer w.mu.Unlock()
				if (w.two > 0) != w.bad {
					t.Errorf("two masters were seen %d times", w.two)
				}
			})
		})
	}
}
