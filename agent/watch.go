package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/health"
)

// trouble is what a master finds wrong with its own API.
type trouble struct {
	why   string
	since lease.Time
	now   bool // it need not last: this host should go
}

// troubles tells what goes with a renewal.
func (a *agent) troubles() (why string, lasts, grace time.Duration) {
	grace = a.cfg.Candidate.ControlPlane.API.Grace
	if t := a.trouble.Load(); t != nil {
		why, lasts = cut(t.why, maxWhy), a.clock()-t.since
		if t.now {
			grace = min(grace, 1) // 0 = for ever stays that
		}
	}
	return why, lasts, grace
}

// watchAPI looks after the API and the address of a master. systemd restarts what fails;
// whether the host steps down if that does not help is for the arbiter to say, who is
// told with every renewal.
func (a *agent) watchAPI(ctx context.Context) error {
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	often := time.NewTicker(roomEvery)
	defer often.Stop()
	var disk silence
	var space room
	var again reminder
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-often.C:
			a.watchRoom(ctx, &space)
			continue
		case <-t.C:
		}
		if a.phase() != lease.Master {
			disk, space, again = silence{}, room{}, reminder{}
			a.trouble.Store(nil)
			a.apiErr.Store(nil)
			continue
		}
		if a.host.Address != nil {
			if _, err := a.host.Address.Defend(ctx); err != nil && ctx.Err() == nil {
				a.log.Warn("virtual IP not defended", "err", err)
			}
			a.remind(ctx, &again)
		}
		a.welcome(ctx)
		asked := a.clock()
		cctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := a.host.API.Healthy(cctx)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		text, was := "", a.trouble.Load()
		dying := a.dying(ctx, &disk, space.why)
		switch {
		case dying != "":
			a.shouldLeave(dying, asked)
			if err != nil {
				text = err.Error()
			}
		case err == nil && was != nil:
			a.log.Info("the API works again", "after", (a.clock() - was.since).Round(time.Second))
			a.seenHere.note("finds its API working again")
			a.trouble.Store(nil)
		case err != nil:
			text = err.Error()
			now := &trouble{why: text, since: asked}
			if was != nil {
				now.since = was.since
			} else {
				a.log.Warn("the API does not work", "err", err)
				a.seenHere.note("finds its API not working: %v", err)
			}
			a.trouble.Store(now)
		}
		a.apiErr.Store(&text)
	}
}

// silence is since when the datastore of a master has had the same revision.
type silence struct {
	revision uint64
	since    lease.Time
	looked   lease.Time // when the revision was read last
	probed   lease.Time // when it was last tried whether the disk takes a write; 0 = not in this silence
	err      error      // what came of it
}

// The API server renews a lease of its own every 10 s, so a datastore that is silent for
// longer is not in order, or its control plane is an unusual one: then the disk is tried,
// and after that seldom, since each try wears the card.
const (
	silentFor  = 20 * time.Second
	probeAgain = 10 * time.Minute
)

// dying says why this host should not be the master much longer, "" if nothing is wrong:
// hardly any room for its datastore, a condition of its health that weighs enough, or a
// datastore that is silent while the disk refuses a write. The last is needed as well: a
// file system that went read-only on an error is not always shown as such.
func (a *agent) dying(ctx context.Context, d *silence, scarce string) string {
	if scarce != "" {
		return scarce
	}
	if bad := health.Weigh(a.monitor.Conditions()).Leave; len(bad) > 0 {
		return bad[0].Message
	}
	now := a.clock()
	if now-d.looked >= silentFor/2 {
		rev, err := a.host.Data.OwnRevision(ctx)
		if d.looked = now; err != nil || rev != d.revision {
			*d = silence{revision: rev, since: now, looked: now}
			return ""
		}
	}
	wait := probeAgain
	if d.err != nil {
		wait = silentFor
	}
	if now-d.since >= silentFor && (d.probed == 0 || now-d.probed >= wait) {
		done := a.monitor.Writing()
		d.err = tryDisk(filepath.Join(a.cfg.DataDir, "disk.probe"))
		done(d.err)
		d.probed = now
	}
	if d.err != nil {
		return fmt.Sprintf("its datastore has taken nothing for %v, and its disk refuses a write: %v", (now - d.since).Round(time.Second), d.err)
	}
	return ""
}

// tryDisk writes a block and waits until it is on the disk.
func tryDisk(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 64<<10)) // more than what a full file system finds in its last blocks
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), os.Remove(path))
}

// hungFor, in TTLs, is how long the loop may stand still before the agent ends itself.
const hungFor = 3

// endIfHung ends an agent whose loop stands still. systemd's watchdog is quicker, but it
// does not look at a unit that has not said yet that it is ready, as after a restart in
// the middle of a blackout. The fence looks after what runs.
func (a *agent) endIfHung(ctx context.Context) error {
	t := time.NewTicker(a.cfg.LeaseTTL)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if still := a.clock() - lease.Time(a.turned.Load()); still > hungFor*a.cfg.LeaseTTL {
			a.log.Error("the agent's loop stands still: the process ends, and systemd starts it again", "for", still.Round(time.Second))
			exit := a.opts.Exit
			if exit == nil {
				exit = os.Exit
			}
			exit(3)
			return nil
		}
	}
}
