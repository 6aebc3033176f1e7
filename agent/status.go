package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/quorum"
	"relevo.dev/relevo/avahi"
	"relevo.dev/relevo/health"
)

// The agent answers the command line and the metrics page (api.Source).

// Status is the cluster as this host sees it, and what its members say.
func (a *agent) Status(ctx context.Context) (api.Status, error) {
	answers, failed := a.askAll(ctx)
	st, err := a.viewFrom(answers)
	s := api.Status{Cluster: a.id.Cluster(), ClusterID: a.id.ClusterID(), Node: a.cfg.Node, Version: a.opts.Version, Role: a.role(), Term: max(a.term.Load(), st.Term), Neighbours: a.nearby()}
	members := a.pool.Members()
	alive := map[string]bool{}
	for _, m := range members {
		alive[m.Node] = m.Status == member.Alive
	}
	if err != nil {
		s.Problems = append(s.Problems, api.Problem{Severity: api.Critical, What: "the voters are not known", Why: err.Error()})
	}
	for _, sv := range st.Servers {
		if sv.Voter {
			s.Quorum.Voters++
			if alive[sv.Node] {
				s.Quorum.Online++
			}
		}
	}
	s.Quorum.Leader = st.Arbiter
	s.Quorum.HaveQuorum = s.Quorum.Leader != ""
	// A holder that has lost its lease knows best that it is no master.
	lost := st.Holder == a.cfg.Node && a.host != nil && a.phase() != lease.Master && st.Arbiter == ""
	if st.Holder != "" && !st.Released && !lost {
		m := &api.Master{Node: st.Holder, Term: st.Term, Since: st.Since}
		if h, ok := answers[st.Holder]; ok {
			if h.Lease >= 0 {
				m.LeaseRemaining = &h.Lease
			}
			if h.APIError != nil {
				m.API = cmp.Or(*h.APIError, "ok")
			}
		}
		if c := a.cfg.Candidate; c != nil {
			m.APIURL = c.ControlPlane.API.URL
			if c.VIP != nil {
				m.APIURL = "https://" + net.JoinHostPort(c.VIP.Address.Addr().String(), strconv.Itoa(c.VIP.Port))
			}
		}
		s.Master = m
	}
	for _, h := range answers {
		if h.Standby != nil {
			s.Standbys = append(s.Standbys, *h.Standby)
		}
		if h.Judge != nil {
			s.Failover = api.Failover{Possible: h.Judge.Possible, To: h.Judge.To, Why: h.Judge.Why}
		}
	}
	sortFew(s.Standbys, func(x, y api.Standby) int {
		ready := func(s api.Standby) int {
			if s.Ready {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(ready(x), ready(y)), cmp.Compare(x.Node, y.Node))
	})
	if c := a.cfg.Candidate; c != nil && c.VIP != nil {
		s.VIP = &api.VIP{Address: c.VIP.Address.String(), Interface: c.VIP.Interface, Held: a.role() == api.RoleMaster}
		if s.Master != nil {
			s.VIP.Holder = s.Master.Node
		}
	}
	if st.Pause.Phase != "" {
		s.Pause = &api.Pause{Phase: string(st.Pause.Phase), By: st.Pause.By, Why: st.Pause.Why, Since: st.Pause.At.UTC()}
	}
	s.Problems = append(s.Problems, a.problems(s, st.Holder, answers, failed, members)...)
	return s, nil
}

// problems, the worst first.
func (a *agent) problems(s api.Status, holder string, answers map[string]summary, failed map[string]error, members []member.Member) []api.Problem {
	var out []api.Problem
	critical := func(what, why, do string) {
		out = append(out, api.Problem{Severity: api.Critical, What: what, Why: why, Do: do})
	}
	warn := func(what, why, do string) {
		out = append(out, api.Problem{Severity: api.Warning, What: what, Why: why, Do: do})
	}
	switch {
	case !s.Quorum.HaveQuorum && a.port.MissedCA(time.Minute):
		critical("the others have certificates by a CA that this host does not know",
			"the CA was changed while it was away, and it was given up or removed meanwhile; or somebody pretends to be them",
			"`relevo token create --replace "+a.cfg.Node+"` on a member, and `sudo relevo join TOKEN` here")
	case !s.Quorum.HaveQuorum:
		critical("no quorum: nobody can be promoted, and a master without it stops itself",
			fmt.Sprintf("%d of %d voters are seen from here", s.Quorum.Online, s.Quorum.Voters), "bring the missing voters back: `relevo members` shows which")
	case s.Master == nil && s.Term == 0:
		critical("there is no master yet", "", "start the control plane on the host that has the data; its agent adopts it")
	case s.Master == nil:
		critical("there is no master", "the last one gave the term back", "`relevo history` and the journal of the candidates tell why none follows")
	case answers[s.Master.Node].Phase == "":
		critical("the master "+s.Master.Node+" does not answer", errText(failed[s.Master.Node]), "if it is lost, a standby takes over when its lease has run out")
	case answers[s.Master.Node].Phase != lease.Master.String():
		warn("the master "+s.Master.Node+" is "+answers[s.Master.Node].Phase, "", "this passes; `journalctl -u relevo` on it tells how far it is")
	case s.Master.API != "ok" && s.Master.API != "":
		critical("the API of the master "+s.Master.Node+" does not work", s.Master.API, "`systemctl status` of the control plane's units on "+s.Master.Node)
	}
	if s.Master != nil && answers[s.Master.Node].Unfit != "" {
		critical(s.Master.Node+" should not stay the master", answers[s.Master.Node].Unfit, "mend that, or see that a standby is ready: the term goes to the first that is")
	}
	if p := s.Pause; p != nil {
		out = append(out, pauseProblem(p, holder))
	}
	if s.Quorum.Voters < 3 {
		critical("no automatic failover: fewer than 3 voters", fmt.Sprintf("%d vote", s.Quorum.Voters), "add hosts; one that only votes (a Pi Zero) is enough")
	} else if s.Quorum.HaveQuorum && s.Quorum.Online < s.Quorum.Voters {
		warn("a voter is missing", fmt.Sprintf("%d of %d are seen", s.Quorum.Online, s.Quorum.Voters), "`relevo members` shows which")
	}
	if s.Master != nil && s.Quorum.HaveQuorum && s.Quorum.Voters >= 3 && !s.Failover.Possible {
		why := ""
		for _, w := range s.Failover.Why {
			if why != "" {
				why += "; "
			}
			why += w
		}
		critical("a failover would not work now", why, "")
	}
	for _, st := range s.Standbys {
		if !st.Ready && s.Master != nil && st.Node != s.Master.Node {
			warn("the standby "+st.Node+" is not ready", st.Why, "")
		}
		if st.Ready && st.Why != "" && s.Master != nil && st.Node != s.Master.Node && answers[s.Master.Node].Phase != "" {
			warn("the standby "+st.Node+" does not follow the master", st.Why, "")
		}
		out = append(out, checkProblems(st)...)
	}
	for _, node := range slices.Sorted(maps.Keys(answers)) {
		for _, f := range answers[node].Findings {
			// What keeps a standby from being ready has been told as its reason.
			if !slices.ContainsFunc(s.Standbys, func(st api.Standby) bool { return st.Node == node && st.Why == sentence(f) }) {
				warn(node+": "+f.What, "", f.Do)
			}
		}
	}
	for _, m := range members {
		if m.Status == member.Failed {
			warn("the member "+m.Node+" is lost", "last seen at "+m.Addr, "look whether it has power and network")
		}
		if err := failed[m.Node]; err != nil && m.Status == member.Alive && (s.Master == nil || m.Node != s.Master.Node) {
			warn("the member "+m.Node+" does not answer", err.Error(), "is port "+m.Tags[tagPeerPort]+" open on it?")
		}
	}
	for node, h := range answers {
		for _, c := range h.Conditions {
			if c.Status == health.Yes {
				warn(node+": "+c.Message, string(c.Type), c.Advice)
			}
		}
	}
	for _, m := range members {
		if _, ok := answers[m.Node]; ok || m.Status == member.Left {
			continue
		}
		// It does not answer, but it has gossiped what it found wrong with itself.
		for _, c := range gossiped(m) {
			warn(m.Node+": "+health.Words(c), string(c)+", as it gossiped last", health.Advice(c))
		}
	}
	for node, h := range answers {
		for _, f := range h.Board[:min(len(h.Board), 8)] {
			warn(node+": "+f.What, f.Check, f.Do)
		}
	}
	out = append(out, tellNeighbours(s.Neighbours, a.id.Cluster(), a.vip())...)
	out = append(out, a.caProblems()...)
	if err := a.pool.Err(); err != nil {
		critical("the pool of members is not in order", err.Error(), "two hosts of one name: rename one of them")
	}
	for _, p := range a.hooks.Problems() {
		warn("the hook "+p.Path+" does not do its work", p.Why, p.Do)
	}
	if err := a.api.TCPErr(); err != nil {
		warn("the metrics page is not served", err.Error(), "")
	}
	for _, p := range a.board.Published() {
		if p.State != avahi.Announced && time.Since(a.started) > time.Minute && a.cfg.MDNS.Backend != "off" {
			warn("the service "+p.Name+" is not announced", p.Reason, "")
		}
	}
	if e := a.condErr.Load(); e != nil && *e != "" {
		warn("this host's conditions are not written to Kubernetes", *e, "")
	}
	for _, p := range a.catalog.Problems() {
		warn("a service of "+p.Node+" is not in order", p.Text, "")
	}
	sortFew(out, func(x, y api.Problem) int {
		return cmp.Or(cmp.Compare(x.Severity, y.Severity), 0)
	})
	return out
}

// pauseProblem: nobody is promoted while the cluster is paused, and also not while it waits
// for the holder's word that it knows of the end of the pause.
func pauseProblem(p *api.Pause, holder string) api.Problem {
	if p.Phase == string(quorum.Resuming) {
		return api.Problem{Severity: api.Warning, What: "nobody is promoted: the pause ends when " + holder + " has answered",
			Do: "if that lasts and " + holder + " is surely off, or another board has its name now: `relevo resume --force`"}
	}
	return api.Problem{Severity: api.Warning, What: "automatic promotion is paused", Why: p.Why, Do: "`relevo resume` when the work is done"}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Members is the pool.
func (a *agent) Members(ctx context.Context) (api.Members, error) {
	voters := map[string]bool{}
	v, err := a.see(ctx)
	if err != nil {
		a.complain("the voters are not known", err)
	}
	for _, s := range v.Servers {
		voters[s.Node] = s.Voter
	}
	out := api.Members{Members: []api.Member{}}
	for _, m := range a.pool.Members() {
		out.Members = append(out.Members, api.Member{
			Node: m.Node, Address: net.JoinHostPort(m.Addr, strconv.Itoa(m.Port)), Status: string(m.Status), Role: api.Role(cmp.Or(m.Tags[tagRole], "member")),
			Voter: voters[m.Node], Arbiter: m.Node == v.Arbiter, Candidate: m.Tags[tagCandidate] != "", Version: m.Tags[tagVersion], Since: a.seen.since(m.Node).UTC(),
			Conditions: gossiped(m), Copy: gossipedCopy(m),
		})
	}
	return out, nil
}

// gossipedCopy reads a tag that anybody may have made.
func gossipedCopy(m member.Member) api.CopyAge {
	switch age := api.CopyAge(m.Tags[tagCopy]); age {
	case api.CopyFresh, api.CopyLate, api.CopyStale:
		return age
	}
	return ""
}

// History is the story of the mastership. A host that raft tells nothing asks those who know.
func (a *agent) History(ctx context.Context) (api.History, error) {
	if a.isServer() {
		return a.tellHistory(ctx, a.cfg.Node, empty{})
	}
	var failed []string
	for _, node := range putFirst(a.seekArbiter(ctx), a.voters(false)) {
		var h api.History
		err := a.ask(ctx, node, pathHistory, empty{}, &h)
		if err == nil {
			return h, nil
		}
		failed = append(failed, err.Error())
	}
	return api.History{}, fmt.Errorf("this host keeps no history: it neither votes nor is a candidate, or is not let in yet; and of those who keep it %s. Ask on one of them: `relevo members` shows who votes",
		cmp.Or(strings.Join(failed, "; "), "none is heard of"))
}

// tellHistory is what this host was told by raft.
func (a *agent) tellHistory(context.Context, string, empty) (api.History, error) {
	out := api.History{Changes: []api.Change{}}
	st := a.quorum.State()
	if st.Term == 0 && !a.isServer() {
		return out, errors.New("it was told nothing yet")
	}
	for _, h := range slices.Backward(st.History) {
		c := api.Change{Term: h.Term, Holder: h.Holder, Previous: h.Previous, At: h.At.UTC(), Automatic: h.Automatic, By: h.By, Reason: h.Reason, Notes: h.Notes}
		if steps := a.steps.Load(); steps != nil && h.Term == st.Term && h.Holder == a.cfg.Node {
			for _, r := range *steps {
				c.Steps = append(c.Steps, api.Step{Name: r.Name, Seconds: r.Took.Seconds(), Error: r.Err})
			}
		}
		out.Changes = append(out.Changes, c)
	}
	return out, nil
}

// Alive says whether the loop turns.
func (a *agent) Alive(context.Context) error {
	if d := a.clock() - lease.Time(a.turned.Load()); d > a.cfg.LeaseTTL {
		return fmt.Errorf("the agent's loop has not turned for %v", d.Round(time.Second))
	}
	return nil
}

// Ready says whether this host is really a member.
func (a *agent) Ready(ctx context.Context) error {
	// mDNS may not have answered when the first round of joining was over. A founder
	// that is the only one so far is a cluster of one.
	if !a.pool.Ready() || len(a.pool.Members()) < 2 && !a.quorum.IsLeader() {
		return errors.New("still looking for the other members")
	}
	return a.Alive(ctx)
}

// oneLine is the status in a line, for `systemctl status`.
func (a *agent) oneLine() string {
	s := a.quorum.State()
	who := "nobody is the master"
	if s.Holder != "" && !s.Released {
		who = fmt.Sprintf("%s is the master in term %d", s.Holder, s.Term)
	}
	if s.Holder == a.cfg.Node && !s.Released {
		who = fmt.Sprintf("this host is the master in term %d", s.Term)
	}
	n, told := 0, a.isServer()
	for _, m := range a.pool.Members() {
		if m.Status != member.Alive {
			continue
		}
		n++
		if !told && api.Role(m.Tags[tagRole]) == api.RoleMaster { // raft tells this host nothing
			who = m.Node + " is the master, says gossip"
		}
	}
	if told && a.quorum.Leader() == "" {
		who += "; no quorum"
	}
	return fmt.Sprintf("%s: %s; %d members", a.id.Cluster(), who, n)
}
