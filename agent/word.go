package agent

import (
	"context"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/audit"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/quorum"
)

// Gossip is protected by one key that all members share: whoever has it can say anything
// in anybody's name. So what changes the voters is asked of the member itself, over its
// certificate: that it wants to vote, or that it left. A stolen gossip key moves no vote.

// word is what a member says of itself.
type word struct {
	Voter     bool `json:"voter"`
	Candidate bool `json:"candidate"`
	Leaving   bool `json:"leaving,omitempty"`
	at        time.Time
}

func (a *agent) giveWord(context.Context, string, empty) (word, error) {
	return word{Voter: a.cfg.Voter, Candidate: a.cfg.Candidate != nil, Leaving: a.trust.leaving.Load()}, nil
}

// word is what node said of itself lately.
func (a *agent) word(node string) (word, bool) {
	if node == a.cfg.Node {
		w, _ := a.giveWord(context.Background(), node, empty{})
		return w, true
	}
	a.trust.mu.Lock()
	defer a.trust.mu.Unlock()
	w, ok := a.trust.words[node]
	return w, ok && time.Since(w.at) < wordLasts
}

// askForWords asks the members of which gossip says something that would change the
// voters. It is the arbiter's.
func (a *agent) askForWords(ctx context.Context) {
	if !a.quorum.IsLeader() {
		return
	}
	servers, err := a.quorum.Servers()
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	asked := 0
	for _, m := range a.pool.Members() {
		if m.Status != member.Alive || m.Node == a.cfg.Node || asked >= maxWords || !news(servers, m) {
			continue
		}
		if w, ok := a.word(m.Node); ok && time.Since(w.at) < trustTurn/2 {
			continue
		}
		asked++
		wg.Go(func() {
			var w word
			if a.ask(ctx, m.Node, pathWord, empty{}, &w) != nil {
				return
			}
			w.at = time.Now()
			a.trust.mu.Lock()
			defer a.trust.mu.Unlock()
			if a.trust.words == nil || len(a.trust.words) >= 2*maxWords {
				a.trust.words = map[string]word{}
			}
			a.trust.words[m.Node] = w
		})
	}
	wg.Wait()
}

// news says whether what gossip says of a member is not yet so among the servers.
func news(servers []quorum.Server, m member.Member) bool {
	server, voter := false, false
	for _, s := range servers {
		if s.Node == m.Node {
			server, voter = true, s.Voter
		}
	}
	return (m.Tags[tagVoter] != "") != voter || m.Tags[tagCandidate] != "" && !server
}

// standing is what is known of the members, for the plan of who votes: what gossip says
// where it changes nothing, else only what the member itself said. left are those who said
// goodbye, or were removed.
func (a *agent) standing(servers []quorum.Server, members []member.Member, at func(node string) time.Time) (alive []quorum.Peer, left []string) {
	r := a.roll()
	for _, s := range servers {
		if r.gone(s.Node) {
			left = append(left, s.Node)
		}
	}
	for _, m := range members {
		since := time.Since(at(m.Node))
		switch {
		case r.gone(m.Node):
		case m.Status == member.Left && since > leftForGood && (offGoodbye || a.saidGoodbye(m.Node)):
			// For a while: who gets another address leaves for a moment, too.
			left = append(left, m.Node)
		case m.Status == member.Alive:
			if since > leftForGood {
				a.forgetGoodbye(m.Node)
			}
			p := quorum.Peer{Node: m.Node, WantsVoter: m.Tags[tagVoter] != "", Candidate: m.Tags[tagCandidate] != "", StableFor: since}
			if !offWord && news(servers, m) {
				w, ok := a.word(m.Node)
				switch {
				case ok && w.Leaving:
					continue
				case ok:
					p.WantsVoter, p.Candidate = w.Voter, w.Candidate
				default:
					// Not heard from itself: it stays what it is.
					voter := false
					for _, s := range servers {
						voter = voter || s.Node == m.Node && s.Voter
					}
					if p.WantsVoter = voter; !voter {
						continue
					}
				}
			}
			alive = append(alive, p)
		}
	}
	return alive, left
}

// sayGoodbye tells every member that this host leaves: gossip alone they do not believe. It
// returns how many heard it, of how many others that have not left themselves.
func (a *agent) sayGoodbye(ctx context.Context) (heard, others int) {
	a.trust.leaving.Store(true)
	var wg sync.WaitGroup
	var n atomic.Int32
	for _, m := range a.pool.Members() {
		if m.Node == a.cfg.Node || m.Status == member.Left {
			continue
		}
		others++
		if m.Status == member.Alive {
			wg.Go(func() {
				if err := a.ask(ctx, m.Node, pathGoodbye, empty{}, nil); err != nil {
					a.log.Debug("goodbye not heard", "node", m.Node, "err", err)
					return
				}
				n.Add(1)
			})
		}
	}
	wg.Wait()
	return int(n.Load()), others
}

func (a *agent) heardGoodbye(_ context.Context, from string, _ empty) (empty, error) {
	a.trust.mu.Lock()
	if a.trust.goodbyes == nil || len(a.trust.goodbyes) >= 2*maxWords {
		a.trust.goodbyes = map[string]time.Time{}
	}
	_, again := a.trust.goodbyes[from]
	a.trust.goodbyes[from] = time.Now()
	a.trust.mu.Unlock()
	if !again && a.quorum.IsLeader() {
		a.audited(audit.Record{By: "the host itself", From: fromMember + from, Action: "leave", Target: from, Outcome: api.Carried})
	}
	return empty{}, nil
}

func (a *agent) saidGoodbye(node string) bool {
	a.trust.mu.Lock()
	defer a.trust.mu.Unlock()
	_, ok := a.trust.goodbyes[node]
	return ok
}

// forgetGoodbye is for who came back.
func (a *agent) forgetGoodbye(node string) {
	a.trust.mu.Lock()
	defer a.trust.mu.Unlock()
	if t, ok := a.trust.goodbyes[node]; ok && time.Since(t) > time.Minute {
		delete(a.trust.goodbyes, node)
	}
}

// twinAt says whether the host at an IP address has the name and the key of this one: who
// only has the gossip key can claim the name, and not show the certificate.
func (a *agent) twinAt(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err = a.port.Meet(ctx, net.JoinHostPort(host, strconv.Itoa(a.cfg.Peer.Port)), a.cfg.Node)
	if err != nil {
		a.complain("somebody at "+addr+" claims the name of this host in the gossip, and does not show its certificate", err)
	}
	return err == nil
}

// number reads a tag; 0 = it is none.
func number(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}

// announced are members of this cluster that mDNS shows.
func (a *agent) announced() (out []string) {
	for _, e := range a.board.Found() {
		if e.Type == relevoType && e.Value("cluster") == a.id.ClusterID() && !e.Local {
			out = append(out, e.Name)
		}
	}
	return out
}
