package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/durable"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/replica/kine"
)

// A standby checks now and then, and when a person asks, that its copy is what it says.
// One check at a time; it ends at once when this host is to become the master.

// checkKind is what is checked.
type checkKind string

const (
	checkVerify   checkKind = "verify"   // the copy against the master's datastore
	checkRehearse checkKind = "rehearse" // a promotion, beside what the host does
)

// checkRequest asks a standby to begin a check (ID 0), or how it goes.
type checkRequest struct {
	Kind checkKind `json:"kind"`
	Keep bool      `json:"keep,omitempty"`
	By   string    `json:"by,omitempty"`
	ID   uint64    `json:"id,omitempty"`
}

// checkReply is the number of the check, and what came of it once it is over.
type checkReply struct {
	ID   uint64 `json:"id"`
	Over bool   `json:"over,omitempty"`
	results
}

// results are the last of each kind; they are kept in <data_dir>/checks.json.
type results struct {
	Verified  *api.Verification `json:"verified,omitempty"`
	Rehearsed *api.Rehearsal    `json:"rehearsed,omitempty"`
}

// of has results be those of a node, which tells them.
func (r *results) of(node string) {
	bound(r, maxSaids)
	if r.Verified != nil {
		r.Verified.Node = node
	}
	if r.Rehearsed != nil {
		r.Rehearsed.Node = node
	}
}

// checks are those of this host.
type checks struct {
	mu   sync.Mutex
	last results
	id   uint64        // of the newest check
	busy bool          // it is under way
	jobs chan checkJob // nil: no candidate
}

type checkJob struct {
	checkRequest
	id uint64
}

var errNoCopy = errors.New("this host keeps no copy: ask a standby (`relevo status` lists them)")

// asked begins a check for another member, or tells how it goes.
func (c *checks) asked(_ context.Context, _ string, in checkRequest) (checkReply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.jobs == nil:
		return checkReply{}, errNoCopy
	case in.ID == 0 && c.busy:
		return checkReply{}, errors.New("a check is under way already")
	case in.ID == 0 && in.Kind != checkVerify && in.Kind != checkRehearse:
		return checkReply{}, fmt.Errorf("this agent does not know how to check %q: is it older than the one that asks?", in.Kind)
	case in.ID == 0:
		c.id++
		c.busy = true
		c.jobs <- checkJob{in, c.id} // it has room for the one that may be under way
		return checkReply{ID: c.id}, nil
	case in.ID != c.id:
		return checkReply{}, errors.New("the check was cut off: the agent was restarted")
	}
	r := checkReply{ID: c.id, Over: !c.busy}
	if r.Over {
		r.results = c.last
	}
	return r, nil
}

func (c *checks) over() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = false
}

// tell adds what is known to what this standby says of itself.
func (c *checks) tell(s *api.Standby) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Verified, s.Rehearsed = c.last.Verified, c.last.Rehearsed
}

func (a *agent) checksPath() string { return filepath.Join(a.cfg.DataDir, "checks.json") }

// note keeps a result, also over a restart.
func (a *agent) noteCheck(set func(*results)) {
	c := &a.checks
	c.mu.Lock()
	set(&c.last)
	b, err := json.Marshal(c.last)
	c.mu.Unlock()
	if err == nil {
		err = durable.Replace(a.checksPath(), b, 0o600)
	}
	if err != nil {
		a.log.Warn("the result of the check is not kept over a restart", "err", err)
	}
}

// runChecks carries out checks until ctx ends.
func (a *agent) runChecks(ctx context.Context) error {
	if a.host.Copy == nil {
		return nil
	}
	c := &a.checks
	c.mu.Lock()
	c.jobs = make(chan checkJob, 1)
	c.last = a.readChecks()
	c.mu.Unlock()
	if r := a.host.Rehearse; r != nil {
		if err := r.Clean(ctx); err != nil {
			a.log.Warn("what a rehearsal left behind is still there", "err", err)
		}
	}
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case j := <-c.jobs:
			a.check(ctx, j.checkRequest)
			c.over()
		case <-t.C:
			if kind := a.dueCheck(time.Now()); kind != "" {
				if _, err := c.asked(ctx, a.cfg.Node, checkRequest{Kind: kind, By: "the agent, as it does now and then"}); err != nil {
					a.log.Debug("check not begun", "kind", string(kind), "err", err)
				}
			}
		}
	}
}

func (a *agent) readChecks() (r results) {
	b, err := os.ReadFile(a.checksPath())
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Warn("the results of earlier checks are not known any more", "err", err)
		return results{}
	}
	return r
}

// jitter spreads what every host does now and then: always the same for one host.
func (a *agent) jitter(most time.Duration) time.Duration {
	h := fnv.New64a()
	h.Write([]byte(a.cfg.Node))
	return time.Duration(h.Sum64() % uint64(most))
}

// dueCheck says which check it is time for, "" if for none. Right after its start an
// agent has better things to do; and a wall clock that jumps must not make it check at
// every turn.
func (a *agent) dueCheck(now time.Time) checkKind {
	if a.phase() != lease.Standby || time.Since(a.started) < 10*time.Minute || !a.host.Follower.Position().Complete {
		return ""
	}
	c := &a.checks
	c.mu.Lock()
	defer c.mu.Unlock()
	if every := a.live.Load().Candidate.Replica.VerifyInterval; every > 0 && (c.last.Verified == nil || away(now, c.last.Verified.At) > every+a.jitter(every/8)) {
		return checkVerify
	}
	if a.rehearsalDue(now, c.last.Rehearsed) {
		return checkRehearse
	}
	return ""
}

// rehearsalDue: at the quiet hour, within which every host has a minute of its own.
func (a *agent) rehearsalDue(now time.Time, last *api.Rehearsal) bool {
	c := a.live.Load().Candidate.Rehearsal
	if a.host.Rehearse == nil || c.Every == 0 || last != nil && away(now, last.At) < c.Every-12*time.Hour {
		return false
	}
	if c.Every < 24*time.Hour {
		return last == nil || away(now, last.At) >= c.Every
	}
	day := now.Local()
	at := time.Date(day.Year(), day.Month(), day.Day(), 0, 0, 0, 0, day.Location()).Add(c.At + a.jitter(time.Hour))
	return !now.Before(at) && now.Before(at.Add(time.Hour))
}

// away is how far a moment is from now, either way.
func away(now, at time.Time) time.Duration { return now.Sub(at).Abs() }

// check carries out one check, and ends it when this host stops being a standby.
func (a *agent) check(ctx context.Context, in checkRequest) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		t := time.NewTicker(200 * time.Millisecond)
		defer t.Stop()
		for a.phase() == lease.Standby {
			select {
			case <-stop:
				return
			case <-t.C:
			}
		}
		cancel(fmt.Errorf("this host is %s", a.phase()))
	})
	switch {
	case in.Kind == checkVerify:
		a.verify(ctx, in)
	case a.host.Rehearse == nil:
		a.noteCheck(func(r *results) {
			r.Rehearsed = &api.Rehearsal{Node: a.cfg.Node, At: time.Now().UTC(), Error: "this host cannot rehearse"}
		})
	default:
		a.rehearse(ctx, in)
	}
}

// verifyLimit bounds one comparison, maxDifferences what is told of it.
const (
	verifyLimit    = 4 * time.Minute
	maxDifferences = 20
)

// verify compares the copy with the master's datastore, and has it copied again if they
// differ: a range could be mended alone, but a copy in which one row is wrong is not to
// be trusted with the others, and what was wrong is kept aside for whoever looks for the
// reason.
func (a *agent) verify(ctx context.Context, in checkRequest) {
	ctx, cancel := context.WithTimeoutCause(ctx, verifyLimit, fmt.Errorf("it took longer than %v", verifyLimit))
	defer cancel()
	begin := time.Now()
	cmp, err := a.host.Copy.Compare(ctx, maxDifferences)
	v := &api.Verification{Node: a.cfg.Node, At: begin.UTC(), Equal: err == nil && cmp.Equal(), Rows: cmp.Rows, Revision: cmp.UpTo, More: cmp.More, Seconds: time.Since(begin).Seconds()}
	for _, d := range cmp.Differences {
		v.Differences = append(v.Differences, api.RowDifference{Revision: d.Revision, Key: d.Name, Where: where[d.Where]})
	}
	switch {
	case err != nil && kine.IsCorrupt(err) && ctx.Err() == nil:
		v.Error = "the copy is damaged: " + err.Error()
		a.log.Error("the copy is damaged", "by", in.By, "err", err)
		if !in.Keep {
			err := a.host.Copy.Anew(ctx, v.Error)
			if v.Healing = err == nil; err != nil {
				v.Error += "; and it could not be copied again: " + err.Error()
			}
		}
	case err != nil:
		v.Error = errors.Join(err, context.Cause(ctx)).Error()
		a.log.Warn("the copy could not be compared with the master's datastore", "by", in.By, "err", err)
	case v.Equal:
		a.log.Info("the copy is equal to the master's datastore", "by", in.By, "rows", v.Rows, "revision", v.Revision, "took", time.Since(begin).Round(time.Millisecond))
	default:
		d := v.Differences[0]
		a.log.Error("the copy differs from the master's datastore", "by", in.By, "revision", d.Revision, "key", d.Key, "where", d.Where, "differences", len(v.Differences), "more", v.More)
		if !in.Keep {
			err := a.host.Copy.Anew(ctx, fmt.Sprintf("it differs from the master's datastore at revision %d (%s)", d.Revision, d.Key))
			if v.Healing = err == nil; err != nil {
				v.Error = "it could not be copied again: " + err.Error()
			}
		}
	}
	a.noteCheck(func(r *results) { r.Verified = v })
}

var where = map[kine.Where]string{kine.OnlyHere: "in the copy only", kine.OnlyThere: "on the master only", kine.Both: "not the same"}

// checkStandbys has standbys check themselves, one after the other, and waits.
func (a *agent) checkStandbys(ctx context.Context, o api.Order) (api.Done, error) {
	d := api.Done{Term: a.quorum.State().Term}
	s, err := a.see(ctx)
	if err != nil {
		return d, err
	}
	targets := []string{o.To}
	if o.To == "" {
		targets = a.standbys(s)
	}
	if len(targets) == 0 {
		return d, errors.New("there is no standby: `relevo members` shows who is a candidate")
	}
	var texts []string
	for _, node := range targets {
		if node == s.Holder && !s.Released {
			return d, fmt.Errorf("%s %s: %[2]s is the master, and keeps no copy", o.Verb, node)
		}
		r, err := a.checkOn(ctx, node, checkRequest{Kind: checkKind(o.Verb), Keep: o.Keep, By: o.By})
		if err != nil {
			return d, fmt.Errorf("%s %s: %w", o.Verb, node, err)
		}
		if v := r.Verified; v != nil && o.Verb == api.VerbVerify {
			d.Verified = append(d.Verified, *v)
			texts = append(texts, verifiedText(*v))
		}
		if v := r.Rehearsed; v != nil && o.Verb == api.VerbRehearse {
			d.Rehearsed = append(d.Rehearsed, *v)
			texts = append(texts, rehearsedText(*v))
		}
	}
	d.Text = strings.Join(texts, "\n")
	return d, nil
}

// standbys are the candidates that are there, but for the master.
func (a *agent) standbys(s view) (nodes []string) {
	for _, m := range a.pool.Members() {
		if m.Status == member.Alive && m.Tags[tagCandidate] != "" && (m.Node != s.Holder || s.Released) {
			nodes = append(nodes, m.Node)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// checkOn begins a check on a node, which may be this one, and waits for its end.
func (a *agent) checkOn(ctx context.Context, node string, in checkRequest) (r checkReply, err error) {
	if _, ok := a.member(node); !ok {
		return r, fmt.Errorf("%s is no member: `relevo members` shows who is", node)
	}
	t := time.NewTicker(250 * time.Millisecond)
	defer t.Stop()
	for {
		if node == a.cfg.Node {
			r, err = a.checks.asked(ctx, node, in)
		} else {
			err = a.port.PostJSON(ctx, node, pathCheck, in, &r)
			r.results.of(node)
		}
		if err != nil || r.Over {
			return r, err
		}
		in.ID = r.ID
		select {
		case <-ctx.Done():
			return r, fmt.Errorf("%w; it goes on, and `relevo status` will tell", ctx.Err())
		case <-t.C:
		}
	}
}

const healing = "it was set aside, and is being copied again; until then this standby is not ready"

func verifiedText(v api.Verification) string {
	switch {
	case v.Error != "" && v.Healing:
		return fmt.Sprintf("%s: %s\n  %s", v.Node, v.Error, healing)
	case v.Error != "" && len(v.Differences) == 0:
		return fmt.Sprintf("%s: could not be compared: %s", v.Node, v.Error)
	case v.Equal:
		return fmt.Sprintf("%s: equal to the master up to revision %d: %d rows, compared in %.1f s", v.Node, v.Revision, v.Rows, v.Seconds)
	}
	t := fmt.Sprintf("%s: differs from the master at %d revisions", v.Node, len(v.Differences))
	if v.More {
		t += " at least"
	}
	for _, d := range v.Differences {
		t += fmt.Sprintf("\n  revision %d, %s: %s", d.Revision, d.Key, d.Where)
	}
	switch {
	case v.Healing:
		t += "\n  " + healing
	case v.Error != "":
		t += "\n  " + v.Error
	}
	return t
}

// checkProblems are what the checks of a standby found.
func checkProblems(st api.Standby) (out []api.Problem) {
	if v := st.Verified; v != nil && !v.Equal && len(v.Differences) > 0 && !v.Healing {
		out = append(out, api.Problem{Severity: api.Critical, What: "the copy on " + st.Node + " is not what the master has",
			Why: fmt.Sprintf("revision %d, %s: %s", v.Differences[0].Revision, v.Differences[0].Key, v.Differences[0].Where),
			Do:  "`relevo replica verify " + st.Node + "` copies it again"})
	}
	if r := st.Rehearsed; r != nil && !r.OK {
		out = append(out, api.Problem{Severity: api.Critical, What: "the last rehearsal of a promotion on " + st.Node + " failed", Why: r.Error,
			Do: "`relevo rehearse " + st.Node + "` tries it again; what it says would have happened in the night of a failover"})
	}
	return out
}

// metrics of the checks; what was never done has none.
func (c *checks) metrics(s *api.Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.last.Verified; v != nil {
		s.Bool("relevo_replica_verified", v.Equal)
		s.Add("relevo_replica_verified_timestamp_seconds", float64(v.At.Unix()))
	}
	if r := c.last.Rehearsed; r != nil {
		s.Bool("relevo_rehearsal_ok", r.OK)
		s.Add("relevo_rehearsal_timestamp_seconds", float64(r.At.Unix()))
		if r.OK {
			s.Add("relevo_rehearsal_ready_seconds", r.ReadySeconds)
		}
	}
}
