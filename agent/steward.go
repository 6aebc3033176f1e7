package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/audit"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/quorum"
	"relevo.dev/relevo/agent/replica"
	"relevo.dev/relevo/agent/takeover"
	"relevo.dev/relevo/health"
)

// replicaGetter is how a follower asks the present master.
type replicaGetter = func(ctx context.Context, uri string) (*http.Response, error)

// Service types that we announce.
const (
	relevoType     = "_relevo._tcp"
	kubernetesType = "_kubernetes._tcp"
)

// Tags that every member gossips; 512 bytes is all there is.
const (
	tagVersion   = "v"
	tagPeerPort  = "p"
	tagCandidate = "c"
	tagVoter     = "w"
	tagRole      = "r"
	tagTerm      = "t"
	tagMachine   = "m"
	tagAPI       = "a" // address:port of the API, while this host serves it
	tagHealth    = "h" // health.Digest: which conditions hold
	tagCatalog   = "s" // names the list of this host's services
	tagCloudy    = "y" // address:port of this host in Cloudy's ring
	tagCopy      = "l" // api.CopyAge of a standby
)

func (a *agent) tags() map[string]string {
	t := map[string]string{tagVersion: a.opts.Version, tagPeerPort: strconv.Itoa(a.cfg.Peer.Port), tagRole: string(a.role()), tagMachine: a.machineTag(),
		tagHealth: health.Digest(a.monitor.Conditions()), tagCatalog: a.catalog.Tag()}
	if at := a.bridge.Load(); at != nil {
		t[tagCloudy] = *at
	}
	if a.cfg.Candidate != nil {
		t[tagCandidate] = "1"
	}
	if a.host != nil && a.role() == api.RoleStandby {
		t[tagCopy] = string(copyAge(a.host.Follower.Position(), a.clock(), a.live.Load().MaxLag))
	}
	if a.cfg.Voter {
		t[tagVoter] = "1"
	}
	if e := a.endpoint(); e != "" && a.phase() == lease.Master {
		t[tagAPI] = e
	}
	if n := a.term.Load(); n > 0 {
		t[tagTerm] = strconv.FormatUint(n, 10)
	}
	if n := a.roll().Version; n > 0 {
		t[tagTrust] = strconv.FormatUint(n, 10)
	}
	return t
}

// copyAge is coarse, since tags are gossip: nobody wants to hear of each second. A stream
// that is idle says every second or two that the copy has everything.
func copyAge(pos replica.Position, now lease.Time, maxLag time.Duration) api.CopyAge {
	switch lag := now - pos.FreshAt; {
	case !pos.Complete || pos.FreshAt == 0 || lag > maxLag:
		return api.CopyStale
	case lag > max(5*time.Second, maxLag/2):
		return api.CopyLate
	}
	return api.CopyFresh
}

// joinAddrs are the addresses at which members may be: configured, and found by
// mDNS as members of this very cluster.
func (a *agent) joinAddrs(context.Context) []string {
	out := append([]string(nil), a.live.Load().Join...)
	for _, e := range a.board.Found() {
		if e.Type != relevoType || e.Value("cluster") != a.id.ClusterID() || e.Name == a.cfg.Node || e.Local {
			continue
		}
		if p, err := strconv.Atoi(e.Value("gossip")); err == nil && p > 0 && p < 65536 {
			out = append(out, net.JoinHostPort(e.Addr.String(), strconv.Itoa(p)))
		}
	}
	return out
}

// resolve tells where a node's peer port is now: a new DHCP address is known as
// soon as it is gossiped.
func (a *agent) resolve(node string) (string, error) {
	if node == a.cfg.Node {
		return net.JoinHostPort(a.addr.Load().String(), strconv.Itoa(a.cfg.Peer.Port)), nil
	}
	m, ok := a.member(node)
	if !ok {
		// Not heard of since we started; but where it was, it may be.
		if addr, ok := a.pool.Lookup(node); ok {
			return net.JoinHostPort(addr, strconv.Itoa(a.cfg.Peer.Port)), nil
		}
		for _, e := range a.board.Found() {
			if e.Type == relevoType && e.Name == node && e.Value("cluster") == a.id.ClusterID() {
				return net.JoinHostPort(e.Addr.String(), strconv.Itoa(e.Port)), nil
			}
		}
		return "", fmt.Errorf("%s is not in the pool", node)
	}
	port := m.Tags[tagPeerPort]
	if port == "" {
		port = strconv.Itoa(a.cfg.Peer.Port)
	}
	return net.JoinHostPort(m.Addr, port), nil
}

func (a *agent) member(node string) (member.Member, bool) {
	for _, m := range a.pool.Members() {
		if m.Node == node {
			return m, true
		}
	}
	return member.Member{}, false
}

// follow asks the present master for its datastore. While no other host is the
// master it waits.
func (a *agent) follow(ctx context.Context, uri string) (*http.Response, error) {
	master, err := a.otherMaster(ctx)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, err
	}
	return a.port.Do(master, req)
}

// otherMaster waits until another host is the master, and says which.
func (a *agent) otherMaster(ctx context.Context) (node string, err error) {
	for {
		changed := a.factChanged()
		if s := a.quorum.State(); s.Holder != "" && s.Holder != a.cfg.Node && !s.Released {
			return s.Holder, nil
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-changed:
		}
	}
}

// factChanged is closed at the next change of the replicated state.
func (a *agent) factChanged() <-chan struct{} {
	a.factMu.Lock()
	defer a.factMu.Unlock()
	if a.fact == nil {
		a.fact = make(chan struct{})
	}
	return a.fact
}

// onFact is called by the loop for every new state, before the machines see it.
func (a *agent) onFact(f lease.Fact) {
	was := a.term.Swap(max(f.Term, a.term.Load()))
	if a.quorum != nil {
		a.changes.see(a.quorum.State())
	}
	a.factMu.Lock()
	if a.fact != nil {
		close(a.fact)
		a.fact = nil
	}
	a.factMu.Unlock()
	k, err := readKnown(a.knownPath())
	if err == nil && k.Term == f.Term && k.Holder == f.Holder && k.Released == f.Released || f.Term == 0 {
		return
	}
	a.auditTerm(f, was)
	if a.founder { // the cluster is founded: this host must never found it again
		if err := os.Remove(filepath.Join(a.cfg.DataDir, "bootstrap")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.log.Error("founder's mark not removed", "err", err)
		}
	}
	if err := writeKnown(a.knownPath(), f); err != nil {
		a.log.Error("newest term not noted", "err", err)
	}
}

// onPhase is called by the loop after the holder machine moved.
func (a *agent) onPhase(p lease.Phase, term uint64) {
	serving := uint64(0)
	switch p {
	case lease.Promoting, lease.Master, lease.Stopping, lease.Releasing:
		if a.journal.Own() == term {
			serving = term
		}
	}
	a.serving.Store(serving)
	if took, ended := a.handing.saw(p); ended {
		a.noteHandOver(took)
	}
	kick(a.phased)
	kick(a.onDuty)
}

// finished is called by the worker after a promotion.
func (a *agent) finished(ctx context.Context, term uint64, steps []takeover.StepRecord) {
	a.failures.clear()
	a.steps.Store(&steps)
	text := a.cfg.Node + " " + takeover.Summary(steps)
	a.log.Info("this host is the master", "term", term, "steps", text)
	works := ""
	a.apiErr.Store(&works) // the canary has shown it
	ctx, cancel := context.WithTimeout(ctx, a.cfg.LeaseTTL)
	defer cancel()
	if err := a.tellNote(ctx, noteRequest{term, text}); err != nil {
		a.log.Warn("the history lacks this promotion's times", "err", err)
	}
}

// candidate is what this host says of itself to the arbiter.
func (a *agent) candidate(now lease.Time) lease.Candidate {
	s := a.quorum.State()
	pos := a.host.Follower.Position()
	own := a.journal.Own()
	h := a.loop.holder
	c := lease.Candidate{
		Node: a.cfg.Node, Machine: a.machine, Running: h.Active(), Priority: a.live.Load().Candidate.Priority, Never: a.live.Load().Candidate.Never,
		Revision: uint64(max(0, pos.Revision)), FreshAge: -1, OwnRevision: a.ownRev.Load(), Founder: a.founder,
	}
	if pos.FreshAt > 0 {
		c.FreshAge = max(0, now-pos.FreshAt)
	}
	switch {
	case own > 0 && own >= s.Served && c.OwnRevision > 0:
		// This host served last, or was promoted since: nothing is newer than its own.
		c.Ready, c.Revision, c.FreshAge = true, c.OwnRevision, 0
	case !pos.Complete:
		c.Why = "its copy is not complete"
		if pos.Err != "" {
			c.Why += ": " + pos.Err
		}
	case pos.Term < s.Served:
		c.Why = fmt.Sprintf("its copy is of term %d, the newest is of term %d", pos.Term, s.Served)
	case pos.Stalled != "":
		c.Why = pos.Stalled
	default:
		c.Ready = true
	}
	if why := cmp.Or(a.blocked(own > 0 && own >= s.Served), a.failures.notReady(now)); why != "" {
		c.Ready, c.Why = false, why
	}
	if p := h.Phase(); p != lease.Standby || h.Active() {
		c.Ready, c.Why = false, "it is "+p.String()
	}
	if bad := health.Weigh(a.monitor.Conditions()).NotReady; len(bad) > 0 {
		c.Ready, c.Why = false, bad[0].Message
	}
	return c
}

// steward does what is not urgent: tags, voters, the arbiter's place, what
// systemd shows.
func (a *agent) steward(ctx context.Context) error {
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	ready := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.pool.Changes():
		case <-a.news:
		case <-t.C:
		}
		a.gossipTags(ctx)
		if err := a.foundTwin(); err != nil {
			return err
		}
		a.noteFriends()
		members := a.pool.Members()
		a.tellMembers(members)
		for _, m := range a.seen.update(members) {
			a.seenHere.note("gossip: %s is %s", m.Node, m.Status)
			a.loop.post(ctx, lease.Gossiped{Node: m.Node, Alive: m.Status == member.Alive})
		}
		a.tend(ctx, members, a.seen.since)
		if !ready && a.Ready(ctx) == nil {
			ready = true
			a.log.Info("this host is a member")
			a.notify.Ready()
		}
		a.notify.Status(a.oneLine())
	}
}

// leftForGood is how long a member has to be gone on purpose before it is no server
// of the quorum any more.
const leftForGood = 5 * time.Second

// seenMembers remembers since when each member is what it is.
type seenMembers struct {
	mu sync.Mutex
	at map[string]seenMember
}

type seenMember struct {
	status member.Status
	since  time.Time
}

// update returns those that changed.
func (s *seenMembers) update(ms []member.Member) (changed []member.Member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = map[string]seenMember{}
	}
	for _, m := range ms {
		if s.at[m.Node].status != m.Status {
			s.at[m.Node] = seenMember{m.Status, time.Now()}
			changed = append(changed, m)
		}
	}
	return changed
}

func (s *seenMembers) since(node string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at[node].since
}

// tend is the arbiter's housekeeping: who votes, and where the arbiter sits.
// members is the pool, since when each is what it is.
func (a *agent) tend(ctx context.Context, members []member.Member, since func(node string) time.Time) {
	if !a.quorum.IsLeader() {
		return
	}
	servers, err := a.quorum.Servers()
	if err != nil {
		return
	}
	alive, left := a.standing(servers, members, since)
	ctx, cancel := context.WithTimeout(ctx, 2*a.cfg.LeaseTTL)
	defer cancel()
	s := a.quorum.State()
	for _, step := range quorum.Plan(servers, alive, left, s.Holder) {
		a.log.Info("changing the voters", "step", string(step.Do), "node", step.Node, "why", step.Why)
		if err := a.quorum.Do(ctx, step); err != nil {
			a.log.Warn("voters not changed", "step", string(step.Do), "node", step.Node, "err", err)
			return
		}
		a.audited(audit.Record{By: "the arbiter", Action: string(step.Do), Target: step.Node, Outcome: api.Carried, Why: step.Why})
	}
	// The arbiter should not sit on the master: if both are lost at once, a new
	// arbiter is elected first, and then it waits a whole lease.
	if s.Holder != a.cfg.Node || s.Released || a.phase() != lease.Master {
		return
	}
	best := ""
	for _, sv := range servers {
		m, ok := a.member(sv.Node)
		if sv.Voter && ok && m.Status == member.Alive && sv.Node != a.cfg.Node && time.Since(since(sv.Node)) > 2*a.cfg.LeaseTTL && a.quorum.MayTransferTo(sv.Node) {
			if best == "" || m.Tags[tagCandidate] == "" {
				best = sv.Node
			}
		}
	}
	if best == "" {
		return
	}
	a.log.Info("the arbiter moves away from the master", "to", best)
	if err := a.quorum.TransferTo(ctx, best); err != nil {
		a.log.Warn("the arbiter stays on the master", "err", err)
	}
}
