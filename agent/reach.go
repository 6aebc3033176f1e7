package agent

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/onboard"
)

// How the other members reach this host, tried by them: a port is open only if somebody
// from outside gets in.

type (
	reachRequest struct {
		// Pad makes the request larger than a frame: where packets of full size get lost,
		// it does not arrive.
		Pad string `json:"pad"`
	}
	reachReply struct {
		Peer    string    `json:"peer"` // why the peer port is not reached; "" = it is
		Gossip  string    `json:"gossip"`
		Packets string    `json:"packets"` // the gossip port, UDP
		MDNS    bool      `json:"mdns"`    // it sees this host's announcement
		NoMDNS  bool      `json:"no_mdns"` // it does not look
		Now     time.Time `json:"now"`     // its wall clock
		MTU     int       `json:"mtu"`
		Version string    `json:"version"`
		System  string    `json:"system"` // of its machine-id
		Pad     string    `json:"pad"`
	}
)

const (
	reachPad  = 24 << 10
	reachWait = 4 * time.Second // less than the API waits for an answer
	reachDial = 2 * time.Second
	// tooSkewed is how far two clocks may be apart before people are misled by times.
	tooSkewed = 10 * time.Second
)

// reach is asked by another member: can I reach you?
func (a *agent) reach(ctx context.Context, from string, in reachRequest) (reachReply, error) {
	out := reachReply{Now: time.Now().UTC(), Version: a.opts.Version, MTU: a.mtu(), NoMDNS: a.cfg.MDNS.Backend == "off", System: a.system(),
		Pad: strings.Repeat("x", min(len(in.Pad), reachPad))}
	for _, e := range a.board.Found() {
		if e.Type == relevoType && e.Name == from {
			out.MDNS = true
		}
	}
	m, ok := a.member(from)
	if !ok {
		return out, fmt.Errorf("%s is not in the pool of %s", from, a.cfg.Node)
	}
	peerAddr, err := a.resolve(from)
	if err != nil {
		return out, err
	}
	var wg sync.WaitGroup
	wg.Go(func() { out.Peer = a.knock(ctx, peerAddr) })
	wg.Go(func() { out.Gossip = a.knock(ctx, net.JoinHostPort(m.Addr, strconv.Itoa(m.Port))) })
	wg.Go(func() {
		if _, err := a.pool.Ping(from); err != nil {
			out.Packets = err.Error()
		}
	})
	wg.Wait()
	return out, nil
}

// knock opens a connection and says nothing.
func (a *agent) knock(ctx context.Context, addr string) string {
	ctx, cancel := context.WithTimeout(ctx, reachDial)
	defer cancel()
	dial := (&net.Dialer{}).DialContext
	if a.opts.Net != nil {
		dial = a.opts.Net.Dial
	}
	c, err := dial(ctx, "tcp", addr)
	if err != nil {
		return err.Error()
	}
	c.Close()
	return ""
}

// mtu of the interface that carries this host's address; 0 = not known.
func (a *agent) mtu() int {
	ifs, err := net.Interfaces()
	if err != nil {
		return 0
	}
	own := a.addr.Load().String()
	for _, i := range ifs {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, x := range addrs {
			if ip, _, _ := strings.Cut(x.String(), "/"); ip == own {
				return i.MTU
			}
		}
	}
	return 0
}

// Doctor is what the others see of this host (api.Config).
func (a *agent) Doctor(ctx context.Context) (api.Doctor, error) {
	ctx, cancel := context.WithTimeout(ctx, reachWait)
	defer cancel()
	type answer struct {
		node  string
		reply reachReply
		err   error
		took  time.Duration
		at    time.Time
	}
	var mu sync.Mutex
	var answers []answer
	var wg sync.WaitGroup
	req := reachRequest{Pad: strings.Repeat("x", reachPad)}
	for _, m := range a.pool.Members() {
		if m.Node == a.cfg.Node || m.Status != member.Alive {
			continue
		}
		wg.Go(func() {
			x := answer{node: m.Node}
			begin := time.Now()
			x.err = a.port.PostJSON(ctx, m.Node, pathReach, req, &x.reply)
			x.took, x.at = time.Since(begin), begin
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, x)
		})
	}
	wg.Wait()
	sortFew(answers, func(x, y answer) int { return cmp.Compare(x.node, y.node) })
	var d api.Doctor
	if err := a.pool.Err(); err != nil {
		d.Findings = append(d.Findings, api.Finding{Check: "names", Result: api.FindingWrong, What: err.Error(), Do: "two hosts of one name: rename one of them"})
	}
	if a.cfg.MDNS.Backend != "off" {
		d.Findings = append(d.Findings, doctorNeighbours(a.nearby(), a.id.Cluster(), a.vip()))
	}
	if len(answers) == 0 {
		d.Findings = append(d.Findings, api.Finding{Check: "ports", Result: api.FindingUnknown, What: "no other member is alive: nobody can try"})
		return d, nil
	}
	var ports, dns, clocks, mtus, versions, copied problems
	own, mtu := a.system(), a.mtu()
	seen := 0
	for _, x := range answers {
		if x.err != nil {
			ports.add("%s does not answer: %v", x.node, x.err)
			continue
		}
		for _, p := range []struct{ what, why string }{{fmt.Sprintf("tcp %d", a.cfg.Peer.Port), x.reply.Peer}, {fmt.Sprintf("tcp %d", a.cfg.Gossip.Port), x.reply.Gossip}, {fmt.Sprintf("udp %d", a.cfg.Gossip.Port), x.reply.Packets}} {
			if p.why != "" {
				ports.add("%s does not get in at %s: %.200s", x.node, p.what, p.why)
			}
		}
		if len(x.reply.Pad) != reachPad {
			mtus.add("%s: large messages do not come back whole", x.node)
		}
		if mtu > 0 && x.reply.MTU > 0 && mtu != x.reply.MTU {
			mtus.add("%d here, %d on %s", mtu, x.reply.MTU, x.node)
		}
		if own != "" && own == x.reply.System {
			copied.add("%s has that of this host, too", x.node)
		}
		if x.reply.MDNS || x.reply.NoMDNS {
			seen++
		} else {
			dns.add("%s", x.node)
		}
		if skew := x.reply.Now.Sub(x.at.Add(x.took / 2)).Abs(); skew > tooSkewed {
			clocks.add("%s is %v off", x.node, skew.Round(time.Second))
		}
		if x.reply.Version != a.opts.Version {
			versions.add("%s has %.40s", x.node, x.reply.Version)
		}
	}
	others := fmt.Sprintf("%d others", len(answers))
	if len(answers) == 1 {
		others = answers[0].node
	}
	d.Findings = append(d.Findings,
		ports.finding("ports", api.FindingWrong, fmt.Sprintf("%s came in at tcp %d, tcp %d and udp %d", others, a.cfg.Peer.Port, a.cfg.Gossip.Port, a.cfg.Gossip.Port), "",
			fmt.Sprintf("let them through the firewall of this host (ufw allow %d/tcp; ufw allow %d) and of what lies between", a.cfg.Peer.Port, a.cfg.Gossip.Port)),
		mtus.finding("MTU", api.FindingWarning, "messages larger than a frame come through, and the MTU is the same", "", "give all of them the same: a frame that is too large for one of them is lost without a word"),
		clocks.finding("clocks", api.FindingWarning, "within "+tooSkewed.String()+" of "+others, "", "give the boards a time server: journals and histories cannot be compared; the lease does not depend on it"),
		copied.finding("machine-id", api.FindingWarning, "no other member has that of this host", "a card was copied after its first start: ", newMachineID+"; DHCP may give both one address"),
		versions.finding("versions", api.FindingWarning, "all have "+a.opts.Version, "this host has "+a.opts.Version+", ", "upgrade the others soon: versions are mixed for the time of an upgrade only"))
	if a.cfg.MDNS.Backend != "off" {
		d.Findings = append(d.Findings, dns.finding("mDNS", api.FindingWarning, fmt.Sprintf("%d of %d see the announcement of this host", seen, len(answers)), "the announcement of this host is not seen by ",
			"does a switch or an access point filter multicast (IGMP snooping, client isolation)? Members that are known find each other all the same; new ones need --address"))
	}
	return d, nil
}

// problems of one check, joined to one finding.
type problems []string

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

func (p problems) finding(check, bad, ok, lead, do string) api.Finding {
	if len(p) == 0 {
		return api.Finding{Check: check, Result: api.FindingOK, What: ok}
	}
	return api.Finding{Check: check, Result: bad, What: lead + strings.Join(p, "; "), Do: do}
}

// examineEvery is how often the board is looked at: what is found wanting changes at a
// reboot, or when somebody changes it.
const examineEvery = time.Hour

// examines looks now and then at what of `relevo doctor` costs nothing, for the status.
func (a *agent) examines(ctx context.Context) error {
	if a.opts.Host != nil {
		return nil // a board that is made up is not looked at
	}
	t := time.NewTicker(examineEvery)
	defer t.Stop()
	for {
		var wrong []api.Finding
		for _, f := range onboard.Board("/", a.cfg.Candidate != nil) {
			if f.Wrong {
				wrong = append(wrong, api.Finding{Check: f.Check, Result: api.FindingWrong, What: f.What, Do: f.Do})
			}
		}
		a.wanting.Store(&wrong)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}
