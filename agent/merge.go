package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/quorum"
	"relevo.dev/relevo/avahi"
	"relevo.dev/relevo/health"
)

// heard is everything that a status is made of: what the others answered, and what this host
// knows by itself.
type heard struct {
	api.Status // what this host alone knows: who it is, and what is near
	candidate  *config.Candidate
	view       view
	unknown    error // why there is no view
	lost       bool  // this host held the term, and has lost its lease
	missedCA   bool  // the others showed certificates that it does not know
	answers    map[string]summary
	failed     map[string]error
	members    []member.Member
	own        []api.Problem // of this host's own parts
}

// Status is the cluster as this host sees it, and what its members say.
func (a *agent) Status(ctx context.Context) (api.Status, error) {
	answers, failed := a.askAll(ctx)
	st, err := a.viewFrom(answers)
	near := a.nearby()
	return merge(heard{
		Status:    api.Status{Cluster: a.id.Cluster(), ClusterID: a.id.ClusterID(), Node: a.cfg.Node, Version: a.opts.Version, Role: a.role(), Term: max(a.term.Load(), st.Term), Neighbours: near},
		candidate: a.cfg.Candidate, view: st, unknown: err,
		// A holder that has lost its lease knows best that it is no master.
		lost:     st.Holder == a.cfg.Node && a.host != nil && a.phase() != lease.Master && st.Arbiter == "",
		missedCA: a.port.MissedCA(time.Minute), answers: answers, failed: failed, members: a.shown(), own: a.ownProblems(near),
	}), nil
}

// merge makes a status. What a member says of itself changes what is told of it, and of the
// cluster only if it is the one to ask: the holder of its lease, the arbiter of a failover.
func merge(in heard) api.Status {
	s, st := in.Status, in.view
	alive := map[string]bool{}
	for _, m := range in.members {
		alive[m.Node] = m.Status == member.Alive
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
	if st.Holder != "" && !st.Released && !in.lost {
		m := &api.Master{Node: st.Holder, Term: st.Term, Since: st.Since}
		if h, ok := in.answers[st.Holder]; ok {
			if h.Lease >= 0 {
				m.LeaseRemaining = &h.Lease
			}
			if h.APIError != nil {
				m.API = cmp.Or(*h.APIError, "ok")
			}
		}
		if c := in.candidate; c != nil {
			m.APIURL = c.ControlPlane.API.URL
			if c.VIP != nil {
				m.APIURL = "https://" + net.JoinHostPort(c.VIP.Address.Addr().String(), strconv.Itoa(c.VIP.Port))
			}
		}
		s.Master = m
	}
	for _, h := range in.answers {
		if h.Standby != nil {
			s.Standbys = append(s.Standbys, asToldBy(st, *h.Standby))
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
	if j := in.answers[st.Arbiter].Judge; j != nil {
		s.Failover = api.Failover{Possible: j.Possible, To: j.To, Why: j.Why}
	} else if st.Arbiter != "" {
		s.Failover.Why = []string{"what the arbiter " + st.Arbiter + " would do is not known: " + cmp.Or(errText(in.failed[st.Arbiter]), "it is new in its office")}
	}
	if c := in.candidate; c != nil && c.VIP != nil {
		s.VIP = &api.VIP{Address: c.VIP.Address.String(), Interface: c.VIP.Interface, Held: s.Role == api.RoleMaster}
		if s.Master != nil {
			s.VIP.Holder = s.Master.Node
		}
	}
	if st.Pause.Phase != "" {
		s.Pause = &api.Pause{Phase: string(st.Pause.Phase), By: st.Pause.By, Why: st.Pause.Why, Since: wallTime(st.Pause.At)}
	}
	s.Problems = in.problems(s)
	return s
}

// fewOfOne bounds what one member brings among the problems, of each kind.
const fewOfOne = 32

func few[E any](of []E) []E { return of[:min(len(of), fewOfOne)] }

// problems, the worst first.
func (in heard) problems(s api.Status) []api.Problem {
	var out []api.Problem
	answers, failed, members := in.answers, in.failed, in.members
	nodes := slices.Sorted(maps.Keys(answers))
	critical := func(what, why, do string) {
		out = append(out, api.Problem{Severity: api.Critical, What: what, Why: why, Do: do})
	}
	warn := func(what, why, do string) {
		out = append(out, api.Problem{Severity: api.Warning, What: what, Why: why, Do: do})
	}
	if in.unknown != nil {
		critical("the voters are not known", in.unknown.Error(), "")
	}
	switch {
	case !s.Quorum.HaveQuorum && in.missedCA:
		critical("the others have certificates by a CA that this host does not know",
			"the CA was changed while it was away, and it was given up or removed meanwhile; or somebody pretends to be them",
			"`relevo token create --replace "+s.Node+"` on a member, and `sudo relevo join TOKEN` here")
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
		out = append(out, pauseProblem(p, in.view.Holder))
	}
	if s.Quorum.Voters < 3 {
		critical("no automatic failover: fewer than 3 voters", fmt.Sprintf("%d vote", s.Quorum.Voters), "add hosts; one that only votes (a Pi Zero) is enough")
	} else if s.Quorum.HaveQuorum && s.Quorum.Online < s.Quorum.Voters {
		warn("a voter is missing", fmt.Sprintf("%d of %d are seen", s.Quorum.Online, s.Quorum.Voters), "`relevo members` shows which")
	}
	if s.Master != nil && s.Quorum.HaveQuorum && s.Quorum.Voters >= 3 && !s.Failover.Possible {
		critical("a failover would not work now", strings.Join(s.Failover.Why, "; "), "")
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
	for _, node := range nodes {
		for _, f := range few(answers[node].Findings) {
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
	for _, node := range nodes {
		for _, c := range few(answers[node].Conditions) {
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
	for _, node := range nodes {
		for _, f := range few(answers[node].Board) {
			warn(node+": "+f.What, f.Check, f.Do)
		}
	}
	for i, node := range nodes {
		for _, other := range nodes[i+1:] {
			if id := answers[node].System; id != "" && id == answers[other].System {
				warn(node+" and "+other+" have one machine-id: a card was copied after its first start", "DHCP may give both one address, and their journals are not told apart", newMachineID)
			}
		}
	}
	out = append(out, in.own...)
	sortFew(out, func(x, y api.Problem) int { return cmp.Compare(x.Severity, y.Severity) })
	return out
}

// ownProblems are those of this host's own parts, and of what is near.
func (a *agent) ownProblems(near []api.Neighbour) (out []api.Problem) {
	add := func(severity api.Severity, what, why, do string) {
		out = append(out, api.Problem{Severity: severity, What: what, Why: why, Do: do})
	}
	if a.trust.leaving.Load() {
		add(api.Warning, "this host has left the cluster", "", "`systemctl disable --now relevo` ends its agent; with `systemctl restart relevo` it is back")
	}
	out = append(out, tellNeighbours(near, a.id.Cluster(), a.vip())...)
	out = append(out, a.caProblems()...)
	if err := a.pool.Err(); err != nil {
		add(api.Critical, "the pool of members is not in order", err.Error(), "two hosts of one name: rename one of them")
	}
	for _, p := range a.hooks.Problems() {
		add(api.Warning, "the hook "+p.Path+" does not do its work", p.Why, p.Do)
	}
	if err := a.api.TCPErr(); err != nil {
		add(api.Warning, "the metrics page is not served", err.Error(), "")
	}
	for _, p := range a.board.Published() {
		if p.State != avahi.Announced && time.Since(a.started) > time.Minute && a.cfg.MDNS.Backend != "off" {
			add(api.Warning, "the service "+p.Name+" is not announced", p.Reason, "")
		}
	}
	if e := a.condErr.Load(); e != nil && *e != "" {
		add(api.Warning, "this host's conditions are not written to Kubernetes", *e, "")
	}
	for _, p := range a.catalog.Problems() {
		add(api.Warning, "a service of "+p.Node+" is not in order", p.Text, "")
	}
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
