package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
)

// The agent answers the command line and the metrics page (api.Source).

// shown are those of the pool but who was removed, which gossip remembers for a day.
func (a *agent) shown() (out []member.Member) {
	r := a.roll()
	for _, m := range a.pool.Members() {
		if !r.gone(m.Node) {
			out = append(out, m)
		}
	}
	return out
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
	for _, m := range a.shown() {
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
			bound(&h, maxSaids)
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
	if !a.isServer() { // what it knows may be old
		return out, fmt.Errorf("%s neither votes nor is a candidate, or is not let in yet", a.cfg.Node)
	}
	for _, h := range slices.Backward(st.History) {
		c := api.Change{Term: h.Term, Holder: h.Holder, Previous: h.Previous, At: wallTime(h.At), Automatic: h.Automatic, By: h.By, Reason: h.Reason, Notes: h.Notes}
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
