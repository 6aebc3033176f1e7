package quorum

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// noRest switches [transferRest] off in a test binary.
const noRest = "QUORUM_NO_TRANSFER_REST"

// TestTransferToTheUnreachable: who cannot be reached is not asked, and the next time in
// office everything can be agreed on.
func TestTransferToTheUnreachable(t *testing.T) {
	for tries := range 20 {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t)
			if os.Getenv(noRest) != "" {
				c.times.rest = 0
			}
			n1 := c.form(3, 0)
			defer c.stopAll()
			c.net.deafen(true, "n1", "n2")
			c.apply(n1, grant(1, "n1")) // n2 lacks it
			c.await("n1 to try for a while", func() bool { return c.net.tried("n1", "n2") > tries })
			for range 2 {
				if err := n1.TransferTo(t.Context(), "n2"); err == nil {
					t.Fatal("n2 cannot be reached, and took over")
				}
				time.Sleep(c.times.rest) // after which it is asked again, were it not away
			}
			c.net.cut(true, []string{"n1"}, []string{"n2", "n3"})
			next := c.arbiter("n2", "n3")
			c.await("n1 to know that it leads no longer", func() bool { return n1.raft.State() != raft.Leader })
			c.net.deafen(false, "n1", "n2")
			c.net.cut(false, []string{"n1"}, []string{"n2", "n3"})
			c.await("n1 to follow", func() bool { return n1.Leader() == next.cfg.Node })
			c.await("n1 to have everything", func() bool { return n1.State().Term == 1 && n1.raft.AppliedIndex() == next.raft.AppliedIndex() })
			if err := next.TransferTo(t.Context(), "n1"); err != nil {
				t.Fatal(err)
			}
			c.await("n1 to be ready", n1.IsLeader)
			c.apply(n1, grant(2, "n1"))
		})
	}
}

// TestApplyWhileMoving: who orders something while the office moves is told to try again.
func TestApplyWhileMoving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n1 := c.form(3, 0)
		defer c.stopAll()
		c.net.deafen(true, "n1", "n2")
		c.apply(n1, grant(1, "n1"))
		moved := make(chan error, 1)
		go func() { moved <- n1.TransferTo(t.Context(), "n2") }()
		synctest.Wait()
		err := n1.Apply(t.Context(), grant(2, "n1"))
		if !errors.Is(err, raft.ErrLeadershipTransferInProgress) || !strings.Contains(err.Error(), "try again in some seconds") {
			t.Errorf("ordered while the office moves: %v", err)
		}
		if err := <-moved; err == nil {
			t.Error("n2 cannot be reached, and took over")
		}
		c.await("the office to rest", func() bool { return n1.Apply(t.Context(), grant(2, "n1")) == nil })
	})
}

// TestTransferRestIsNeeded is the negative control: without the rest raft is stuck, as
// the test above must notice. If this fails, raft has been mended, and transferRest and
// errStuck may go. A process of its own, since what hangs in raft hangs for ever.
func TestTransferRestIsNeeded(t *testing.T) {
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTransferToTheUnreachable$")
	c.Env = append(os.Environ(), noRest+"=1")
	out, err := c.CombinedOutput()
	if err == nil {
		t.Errorf("raft was asked twice for somebody unreachable, and all went well:\n%s", out)
	}
	t.Logf("%.300s", out)
}
