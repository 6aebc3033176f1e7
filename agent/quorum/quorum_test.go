package quorum

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func grant(term uint64, holder string) Command {
	return Command{Op: OpGrant, Term: term, Holder: holder, Reason: "test"}
}

func TestThreeVotersAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		first := c.form(3, 1)
		defer c.stopAll()
		c.apply(first, grant(1, "n1"))
		// Followers and non-voters learn it at once, not after CommitTimeout.
		if took := c.agreed(1); took > c.times.commit/2 {
			t.Errorf("the others learned of term 1 after %v", took)
		}
		for name, n := range c.nodes {
			if s := n.State(); s.Holder != "n1" || s.Cluster != "home" || len(s.History) != 1 {
				t.Errorf("%s: %+v", name, s)
			}
			if name == "n1" {
				continue
			}
			err := n.Apply(t.Context(), grant(2, "n2"))
			var not *NotLeader
			if !errors.Is(err, ErrNotLeader) || !errors.As(err, &not) || not.Leader != "n1" {
				t.Errorf("Apply on %s: %v, want ErrNotLeader with n1", name, err)
			}
		}
		var refused *Refused
		if err := first.Apply(t.Context(), grant(7, "n2")); !errors.As(err, &refused) {
			t.Errorf("grant of term 7: %v, want it refused", err)
		}
	})
}

func TestArbiterLost(t *testing.T) {
	for _, voters := range []int{3, 5} {
		t.Run(fmt.Sprint(voters), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				first := c.form(voters, 0)
				defer c.stopAll()
				c.apply(first, grant(1, "n1"))
				c.agreed(1)
				term := first.RaftTerm()
				time.Sleep(10 * time.Second)
				c.kill("n1")
				var next *node
				took := c.await("a new arbiter", func() bool {
					for _, n := range c.nodes {
						if n.IsLeader() {
							next = n
						}
					}
					return next != nil
				})
				// In the bubble's time this is exact, not a matter of load.
				if limit := DefaultTTL / 3; took > limit {
					t.Errorf("a new arbiter after %v, want at most %v", took, limit)
				}
				if next.RaftTerm() <= term || next.State().Holder != "n1" {
					t.Errorf("new arbiter: raft term %d after %d, state %+v", next.RaftTerm(), term, next.State())
				}
				c.apply(next, grant(2, "n2"))
				c.start("n1", false)
				c.agreed(2)
			})
		})
	}
}

func TestPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		old := c.form(5, 0)
		defer c.stopAll()
		c.apply(old, grant(1, "n1"))
		c.agreed(1)
		few, many := []string{"n1", "n2"}, []string{"n3", "n4", "n5"}
		c.net.cut(true, few, many)

		// What the minority is told is never agreed on.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if err := old.Apply(ctx, grant(2, "n2")); err == nil {
			t.Error("the minority agreed on a term")
		}
		cancel()
		next := c.arbiter(many...)
		c.apply(next, grant(2, "n3"))
		c.await("the old arbiter to step down", func() bool { return old.Leader() == "" && !old.IsLeader() })
		if err := old.Confirm(t.Context(), c.ask("n1")); !errors.Is(err, ErrNotLeader) {
			t.Errorf("Confirm of a lost arbiter: %v", err)
		}
		if h := c.nodes["n2"].State().Holder; h != "n1" {
			t.Errorf("the minority sees holder %s", h)
		}
		c.net.cut(false, few, many)
		c.agreed(2)
		for name, n := range c.nodes {
			if h := n.State().Holder; h != "n3" {
				t.Errorf("%s sees holder %s in term 2", name, h)
			}
		}
	})
}

// One board that is away and comes back must not unseat the arbiter.
func TestRejoinDoesNotDisturb(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		first := c.form(3, 0)
		defer c.stopAll()
		term := first.RaftTerm()
		for range 3 {
			c.net.cut(true, []string{"n3"}, []string{"n1", "n2"})
			time.Sleep(30 * time.Second)
			c.net.cut(false, []string{"n3"}, []string{"n1", "n2"})
			c.await("n3 to follow", func() bool { return c.nodes["n3"].Leader() == "n1" })
		}
		if !first.IsLeader() || first.RaftTerm() != term {
			t.Errorf("arbiter %s in raft term %d, before n1 in %d", c.arbiter().cfg.Node, c.arbiter().RaftTerm(), term)
		}
	})
}

// TestReturn: a voter that was away has what was agreed on when the next heartbeats have
// arrived, however long it was away.
func TestReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		first := c.form(3, 0)
		defer c.stopAll()
		term := uint64(0)
		for _, away := range []time.Duration{time.Second, 5 * time.Second, 20 * time.Second, time.Minute, 10 * time.Minute} {
			c.net.cut(true, []string{"n3"}, []string{"n1", "n2"})
			term++
			c.apply(first, grant(term, "n1"))
			time.Sleep(away)
			c.net.cut(false, []string{"n3"}, []string{"n1", "n2"})
			if took := c.await("n3 to have everything", func() bool { return c.nodes["n3"].State().Term == term }); took > 2*time.Second {
				t.Errorf("away for %v, and up to date %v after its return", away, took)
			}
		}
		// Nobody waits for one that is no server any more.
		c.net.cut(true, []string{"n3"}, []string{"n1", "n2"})
		term++
		c.apply(first, grant(term, "n1"))
		if err := first.Remove(t.Context(), "n3"); err != nil {
			t.Fatal(err)
		}
		tries := func() int { time.Sleep(10 * time.Second); return c.net.tried("n1", "n3") }
		c.net.deafen(true, "n1", "n3")
		if before := tries(); tries() != before {
			t.Error("n3 is called although it was removed")
		}
	})
}

func TestTransferAndFarewell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		first := c.form(3, 0)
		defer c.stopAll()
		if err := first.TransferTo(t.Context(), "n3"); err != nil {
			t.Fatal(err)
		}
		c.await("n3 to lead", func() bool { return c.nodes["n3"].IsLeader() })
		// A stop in good order hands on without waiting for a timeout.
		c.stop("n3")
		if took := c.await("a successor", func() bool { return c.nodes["n1"].IsLeader() || c.nodes["n2"].IsLeader() }); took > c.times.detect/2 {
			t.Errorf("the successor took %v", took)
		}
	})
}

// Who did not take the office over is left alone for a while: asked again too early, raft
// may lose its way.
func TestTransferFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		first := c.form(3, 0)
		defer c.stopAll()
		c.net.cut(true, []string{"n3"}, []string{"n1", "n2"})
		if err := first.TransferTo(t.Context(), "n3"); err == nil {
			t.Fatal("n3, which nobody reaches, took the office over")
		}
		if err := first.TransferTo(t.Context(), "n3"); err == nil || !strings.Contains(err.Error(), "did not take") || first.MayTransferTo("n3") {
			t.Errorf("asked again at once: %v", err)
		}
		c.net.cut(false, []string{"n3"}, []string{"n1", "n2"})
		if err := first.TransferTo(t.Context(), "n2"); err != nil {
			t.Errorf("another one: %v", err)
		}
		time.Sleep(transferRest)
		if !first.MayTransferTo("n3") {
			t.Error("after a while it still may not be asked")
		}
	})
}

func TestServersChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		first := c.form(3, 1)
		defer c.stopAll()
		if err := first.Demote(t.Context(), "n3"); err != nil {
			t.Fatal(err)
		}
		if err := first.Remove(t.Context(), "n4"); err != nil {
			t.Fatal(err)
		}
		want := []Server{{"n1", true}, {"n2", true}, {"n3", false}}
		c.await("n3 to know", func() bool {
			got, err := c.nodes["n3"].Servers()
			return err == nil && fmt.Sprint(got) == fmt.Sprint(want)
		})
		if err := c.nodes["n2"].AddVoter(t.Context(), "n3"); !errors.Is(err, ErrNotLeader) {
			t.Errorf("AddVoter on a follower: %v", err)
		}
		if err := first.AddVoter(t.Context(), "n 3"); err == nil {
			t.Error("a name with a space was taken")
		}
	})
}

func TestChangesAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		first := c.form(1, 0)
		defer c.stopAll()
		drain := func() (n int) {
			for {
				synctest.Wait()
				select {
				case <-first.Changes():
					n++
				default:
					return n
				}
			}
		}
		drain()
		for term := uint64(1); term <= 10; term++ {
			c.apply(first, grant(term, "n1"))
		}
		if n := drain(); n != 1 {
			t.Errorf("ten changes nobody waited for: told %d times, want 1", n)
		}
		time.Sleep(time.Hour)
		if n := drain(); n != 0 {
			t.Errorf("nothing changed: told %d times", n)
		}
	})
}

// contents reads everything below dir.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		body := ""
		if info.Mode().IsRegular() {
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			body = string(raw)
		}
		out[path] = fmt.Sprint(info.ModTime().UnixNano(), info.Size(), body)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestIdleWritesNothing(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.dir = dir
		first := c.form(3, 1)
		defer c.stopAll()
		c.apply(first, grant(1, "n1"))
		c.agreed(1)
		time.Sleep(time.Second)
		before := contents(t, dir)
		time.Sleep(2 * time.Hour) // some 20 000 heartbeats
		if after := contents(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Error("files changed although nothing happened")
		}
		if !first.IsLeader() {
			t.Error("the arbiter changed")
		}
	})
}

func TestRestartFromDisk(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.dir = dir
		first := c.form(3, 0)
		// Enough for a snapshot, and for a log that does not reach back to 1.
		const terms = snapshotEvery + keepEntries
		for term := uint64(1); term <= terms; term++ {
			c.apply(first, grant(term, "n1"))
		}
		c.agreed(terms)
		for _, n := range c.nodes {
			if err := n.raft.Snapshot().Error(); err != nil {
				t.Fatal(err)
			}
		}
		if i, _ := first.store.logs.FirstIndex(); i <= 1 {
			t.Error("the log was not compacted")
		}
		c.apply(first, grant(terms+1, "n2"))
		c.agreed(terms + 1)
		term := first.RaftTerm()
		for range 2 {
			c.stopAll() // everybody loses power
			for _, name := range []string{"n1", "n2", "n3"} {
				c.start(name, name == "n1") // Bootstrap again has no effect
			}
			if n := c.arbiter(); n.RaftTerm() <= term {
				t.Errorf("raft term %d, before %d", n.RaftTerm(), term)
			}
			c.agreed(terms + 1)
		}
		if s := c.nodes["n3"].State(); s.Holder != "n2" || len(s.History) != maxHistory {
			t.Errorf("after the restart: holder %s, %d changes", s.Holder, len(s.History))
		}
		// A newcomer gets the snapshot.
		c.start("n4", false)
		if err := c.arbiter().AddNonvoter(t.Context(), "n4"); err != nil {
			t.Fatal(err)
		}
		c.agreed(terms + 1)
		if i, _ := c.nodes["n4"].store.logs.FirstIndex(); i == 1 {
			t.Error("n4 got the whole log, not the snapshot")
		}
		c.stop("n4")
		c.start("n4", false)
		c.agreed(terms + 1)
		c.stopAll()
	})
}

// An arbiter that was cut off has an entry that the others overrule. It must
// start again after that (raft-wal 0.4.0 does not).
func TestOverruledEntryAndRestart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.dir = dir
		old := c.form(3, 0)
		c.apply(old, grant(1, "n1"))
		c.agreed(1)
		c.net.cut(true, []string{"n1"}, []string{"n2", "n3"})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := old.Apply(ctx, grant(2, "n1")); err == nil {
			t.Fatal("agreed alone")
		}
		cancel()
		next := c.arbiter("n2", "n3")
		c.apply(next, grant(2, "n2"))
		c.net.cut(false, []string{"n1"}, []string{"n2", "n3"})
		c.agreed(2)
		c.stop("n1")
		if h := c.start("n1", false).State().Holder; h == "n1" && c.nodes["n1"].State().Term == 2 {
			t.Error("n1 holds on to its own term 2")
		}
		c.agreed(2)
		if h := c.nodes["n1"].State().Holder; h != "n2" {
			t.Errorf("n1 sees holder %s", h)
		}
		c.stopAll()
	})
}

// A newer agent's entry stops this one, loudly, and does so again at a restart.
func TestNewerEntryStops(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.dir = dir
		first := c.form(1, 0)
		c.apply(first, grant(1, "n1"))
		f := first.raft.Apply([]byte(`{"v":1,"op":"split","term":2}`), time.Second)
		_ = f.Error() // committed or cut short by the stop: both are fine
		if err := <-first.ended; !errors.Is(err, ErrNewer) {
			t.Fatalf("Run: %v, want ErrNewer", err)
		}
		again := c.start("n1", false)
		if err := <-again.ended; !errors.Is(err, ErrNewer) {
			t.Fatalf("Run after the restart: %v, want ErrNewer", err)
		}
		if again.State().Term != 1 {
			t.Errorf("state went on to %+v", again.State())
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	net := newNetwork()
	for name, cfg := range map[string]Config{
		"no name":           {Cluster: "home", Stream: net.stream("n1")},
		"bad name":          {Node: "n/1", Cluster: "home", Stream: net.stream("n1")},
		"no cluster":        {Node: "n1", Stream: net.stream("n1")},
		"no stream":         {Node: "n1", Cluster: "home"},
		"bootstrap no vote": {Node: "n1", Cluster: "home", Bootstrap: true, Stream: net.stream("n1")},
		"short ttl":         {Node: "n1", Cluster: "home", TTL: time.Second, Stream: net.stream("n1")},
	} {
		if q, err := Open(cfg); err == nil {
			t.Errorf("%s: was accepted", name)
			_ = q.Close()
		}
	}
}

// Heartbeats must take the main way; see transport.SetHeartbeatHandler.
func TestNoHeartbeatFastPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork()
		times, _ := timingsFor(0)
		a := newTransport("a", net.stream("a"), times, newLogger(quiet()))
		b := newTransport("b", net.stream("b"), times, newLogger(quiet()))
		defer a.Close()
		defer b.Close()
		b.SetHeartbeatHandler(func(r raft.RPC) { t.Error("fast path"); r.Respond(&raft.AppendEntriesResponse{}, nil) })
		go func() {
			r := <-b.Consumer()
			r.Respond(&raft.AppendEntriesResponse{Term: 9, Success: true}, nil)
		}()
		var resp raft.AppendEntriesResponse
		beat := &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{Addr: []byte("a")}, Term: 9}
		if err := a.AppendEntries("b", "b", beat, &resp); err != nil || resp.Term != 9 {
			t.Errorf("%+v, %v", resp, err)
		}
	})
}

// A leader that does not know yet what was agreed on before is not the arbiter.
func TestLeaderIsReadyAfterBarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		first := c.form(3, 0)
		defer c.stopAll()
		c.stalled.Store(true)
		c.apply(first, grant(1, "n1"))
		c.apply(first, grant(2, "n1")) // waits behind term 1 on the others
		c.kill("n1")
		var next *node
		c.await("a leader of raft", func() bool {
			for _, n := range c.nodes {
				if n.raft.State() == raft.Leader {
					next = n
				}
			}
			return next != nil
		})
		time.Sleep(100 * time.Millisecond)
		if next.IsLeader() {
			t.Error("it is ready without term 2")
		}
		if err := next.Confirm(t.Context(), c.ask(next.cfg.Node)); !errors.Is(err, ErrNotLeader) {
			t.Errorf("Confirm before that: %v", err)
		}
		close(c.resume)
		c.await("it to be ready", next.IsLeader)
		if next.State().Term != 2 {
			t.Errorf("ready in term %d", next.State().Term)
		}
	})
}
