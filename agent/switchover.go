package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/controlplane"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/quorum"
	"relevo.dev/relevo/agent/replica"
	"relevo.dev/relevo/health"
)

// What a host may be able to say beyond [Host]; who cannot is not asked.
type (
	unitChecker interface {
		Check(ctx context.Context) error
	} // its units are known to systemd
	roomChecker interface {
		Room(ctx context.Context) error
	} // the copy has room at the datastore's path
	certChecker  interface{ Certificates(now time.Time) error } // the certificates of the copy are valid
	digester     interface{ IdentityDigest() (string, error) }  // of the identity that the master gives away
	addressOwner interface {
		Hardware() (net.HardwareAddr, error)                 // of this host's interface
		Owner(ctx context.Context) (net.HardwareAddr, error) // who answers for the address; nil = nobody
	}
)

// Bounds of the checks: an order has to be answered within 30 s.
const (
	compareLimit = 15 * time.Second // of the whole copy with the datastore
	targetLimit  = 5 * time.Second
)

// orderSwitchover is asked of the holder. With Force, which only a step-down has, the
// master stops whatever the checks say, and nothing is promised.
func (a *agent) orderSwitchover(ctx context.Context, o api.Order, d api.Done) (api.Done, error) {
	if a.host == nil || a.phase() != lease.Master {
		return d, fmt.Errorf("%s is not the master", a.cfg.Node)
	}
	if o.To == a.cfg.Node {
		return d, fmt.Errorf("%s is the master already", o.To)
	}
	if p := a.quorum.State().Pause.Phase; p != quorum.Running && !o.DryRun {
		return d, fmt.Errorf("the cluster is %s: nobody would follow; `relevo resume` first", p)
	}
	why := string(o.Verb) + " asked for by " + o.By + because(o.Why)
	if o.Force && o.Verb == api.VerbStepDown {
		d.Text = fmt.Sprintf("%s gives term %d back, as soon as a standby has everything, or after %v", a.cfg.Node, d.Term, drainLimit)
		a.loop.post(ctx, lease.StepDown{Term: d.Term, Why: why, To: o.To})
		return d, nil
	}
	p := a.plan(ctx, o.To)
	d.Plan = &p
	if o.DryRun {
		return d, nil
	}
	if !p.Possible {
		return d, fmt.Errorf("not switched over: %s; `relevo switchover --dry-run` lists every check", strings.Join(p.Wrong(), "; "))
	}
	d.Text = fmt.Sprintf("%s stops and gives term %d to %s, as soon as that has everything", a.cfg.Node, d.Term, p.To)
	a.handover.begin(d.Term, &switchover{p.To, p.Checked})
	a.loop.post(ctx, lease.StepDown{Term: d.Term, Why: why, To: p.To})
	return d, nil
}

// plan looks whether a switchover would work; this host is the master.
func (a *agent) plan(ctx context.Context, to string) api.Plan {
	s := a.quorum.State()
	p := api.Plan{From: a.cfg.Node, To: to, Term: s.Term}
	j, err := a.askArbiterHeard(ctx, to)
	if err == nil && p.To == "" {
		p.To = j.To
	}
	p.Add(api.Checked("quorum", err, "a majority of the voters is there, the arbiter is "+a.quorum.Leader(), "bring the missing voters back: `relevo members` shows which"))
	if s.Pause.Phase != quorum.Running {
		err := fmt.Errorf("the cluster is %s, by %s: nobody would follow", s.Pause.Phase, cmp.Or(s.Pause.By, "nobody"))
		p.Add(api.Checked("pause", err, "", "relevo resume"))
	} else {
		p.Add(api.Checked("pause", nil, "automatic promotion is on", ""))
	}
	p.Add(a.masterCheck())
	if p.To == "" {
		p.Add(api.Check{Check: "standby", Result: api.CheckWrong, What: "nobody is ready to take over: " + strings.Join(j.Why, "; "), Do: "`relevo status` tells what each standby lacks"})
		return p
	}
	if err == nil {
		p.Add(standbyCheck(p.To, j))
	}
	m, ok := a.member(p.To)
	if !ok || m.Status != member.Alive {
		p.Add(api.Check{Check: "standby", Result: api.CheckWrong, What: p.To + " is not there", Do: "`relevo members` shows who is"})
		return p
	}
	var wg sync.WaitGroup
	var there []api.Check
	wg.Go(func() { there = a.askTarget(ctx, p.To, s.Term) })
	data := a.dataCheck(ctx, &p)
	wg.Wait()
	p.Add(data)
	p.Add(there...)
	p.Possible = len(p.Wrong()) == 0
	return p
}

func (a *agent) masterCheck() api.Check {
	if e := a.apiErr.Load(); e != nil && *e != "" {
		// It shall go, then.
		return api.Check{Check: "master", Result: api.CheckWarning, What: "the API of " + a.cfg.Node + " does not work: " + *e}
	}
	return api.Check{Check: "master", Result: api.CheckOK, What: a.cfg.Node + " serves"}
}

// standbyCheck is what the arbiter, who will choose, thinks of a standby.
func standbyCheck(to string, j judgement) api.Check {
	note := noteOf(j.Notes, to)
	if strings.HasPrefix(note, to+": ready") {
		return api.Check{Check: "standby", Result: api.CheckOK, What: note}
	}
	return api.Check{Check: "standby", Result: api.CheckWrong, What: cmp.Or(note, to+": the arbiter does not hear of it as a candidate"),
		Do: "`relevo status` tells what it lacks; name another with --to"}
}

// dataCheck has the standby compare its whole copy with the datastore. Of one that is too
// large for that at once, the newest part must do.
func (a *agent) dataCheck(ctx context.Context, p *api.Plan) api.Check {
	c := api.Check{Check: "data", Do: "`relevo replica verify " + p.To + "` finds the rows and copies anew"}
	prove := func(after int64) (proof replica.Proof, err error) {
		ctx, cancel := context.WithTimeout(ctx, compareLimit)
		defer cancel()
		return proof, a.port.PostJSON(ctx, p.To, pathProve, proveRequest{p.Term, after, 0}, &proof)
	}
	begin := time.Now()
	proof, err := prove(0)
	if errors.Is(err, context.DeadlineExceeded) {
		own := int64(a.ownRev.Load())
		if rev, rerr := a.host.Data.OwnRevision(ctx); rerr == nil {
			own = int64(rev)
		}
		if proof, err = prove(max(0, own-tailRows)); err == nil {
			c.Result, c.What = api.CheckWarning, fmt.Sprintf("the whole was not compared within %v; the newest part is equal: %v", compareLimit, proof)
			p.Checked = proof.UpTo
			return c
		}
	}
	if err != nil {
		c.Result, c.What = api.CheckWrong, err.Error()
		return c
	}
	p.Checked = proof.UpTo
	return api.Check{Check: "data", Result: api.CheckOK, What: fmt.Sprintf("the copy on %s is equal: %v, compared in %v", p.To, proof, time.Since(begin).Round(time.Millisecond))}
}

// targetRequest is what the master tells the standby that shall follow.
type targetRequest struct {
	Term     uint64 `json:"term"`
	Version  string `json:"version"`            // of its relevo
	Identity string `json:"identity,omitempty"` // digest of what makes it this master
	Hardware string `json:"hardware,omitempty"` // of the interface with the virtual IP
}

// askTarget has the standby look at itself.
func (a *agent) askTarget(ctx context.Context, to string, term uint64) []api.Check {
	ctx, cancel := context.WithTimeout(ctx, targetLimit)
	defer cancel()
	in := targetRequest{Term: term, Version: a.opts.Version}
	var out []api.Check
	if d, ok := a.host.Source.(digester); ok {
		digest, err := d.IdentityDigest()
		if err != nil {
			out = append(out, api.Check{Check: "identity", Result: api.CheckWrong, What: "this master cannot read its own: " + err.Error()})
		}
		in.Identity = digest
	}
	if v, ok := a.host.Address.(addressOwner); ok {
		if hw, err := v.Hardware(); err == nil {
			in.Hardware = hw.String()
		}
	}
	var there []api.Check
	if err := a.port.PostJSON(ctx, to, pathTarget, in, &there); err != nil {
		return append(out, api.Check{Check: "standby", Result: api.CheckWrong, What: to + " does not say how it is: " + err.Error(), Do: "is its relevo of another version?"})
	}
	return append(out, there...)
}

// targetChecks is asked of a standby by the master: whether a promotion would work here.
func (a *agent) targetChecks(ctx context.Context, from string, in targetRequest) ([]api.Check, error) {
	if a.host == nil {
		return nil, fmt.Errorf("%s is no candidate", a.cfg.Node)
	}
	if s := a.quorum.State(); s.Holder != from || s.Term != in.Term {
		return nil, fmt.Errorf("%s does not hold term %d", from, in.Term)
	}
	var out []api.Check
	add := func(c api.Check) { out = append(out, c) }
	pos := a.host.Follower.Position()
	if in.Identity != "" {
		var err error
		if pos.IdentityDigest != in.Identity {
			err = fmt.Errorf("certificates, keys or tokens here are not those of %s", from)
		}
		add(api.Checked("identity", err, "the same files as on "+from, "this passes within seconds of a change; else `relevo status` tells why they are not mirrored"))
	}
	if in.Version != a.opts.Version {
		add(api.Check{Check: "version", Result: api.CheckWarning, What: fmt.Sprintf("relevo %s here, %s on %s", a.opts.Version, in.Version, from), Do: "upgrade the older one"})
	} else {
		add(api.Checked("version", nil, "relevo "+in.Version+" on both", ""))
	}
	if a.host.Inspector != nil {
		add(a.programsCheck(from))
	}
	if c, ok := a.host.ControlPlane.(unitChecker); ok {
		add(api.Checked("units", c.Check(ctx), "systemd knows every unit of the control plane", "install them as on "+from))
	}
	if d, ok := a.host.Data.(roomChecker); ok {
		add(api.Checked("space", d.Room(ctx), "there is room for the copy beside the old datastore", "make room"))
	}
	if d, ok := a.host.Data.(certChecker); ok {
		add(api.Checked("certificates", d.Certificates(time.Now()), "those of the control plane are valid by this host's clock", "set the clock (timedatectl), or renew the certificates on "+from))
	}
	add(healthCheck(a.monitor.Conditions()))
	if v, ok := a.host.Address.(addressOwner); ok {
		add(addressCheck(ctx, v, from, in.Hardware))
	}
	if a.host.Blocked != nil {
		add(blockedCheck(ctx, a.host.Blocked))
	}
	return out, nil
}

// programsCheck tells what would run here, beside what runs on the master: k3s, or kine and
// the API server.
func (a *agent) programsCheck(from string) api.Check {
	a.inspected.mu.Lock()
	own, master := a.inspected.facts, a.inspected.master
	a.inspected.mu.Unlock()
	c := api.Check{Check: "programs", Result: api.CheckUnknown, What: "what " + from + " runs is not known here yet", Do: "this is asked within a minute"}
	if master.Node != from || len(own.Programs) == 0 {
		return c
	}
	c = api.Check{Check: "programs", Result: api.CheckOK, What: own.ProgramsAnd(from, master.Facts)}
	for _, f := range controlplane.Skew(own, master.Facts) {
		switch { // it names the versions, too
		case f.Blocks:
			return api.Check{Check: "programs", Result: api.CheckWrong, What: f.What, Do: f.Do}
		case c.Result == api.CheckOK:
			c.Result, c.What, c.Do = api.CheckWarning, f.What, f.Do
		}
	}
	return c
}

// healthCheck: a board that could not stay the master does not become it.
func healthCheck(conditions []health.Condition) api.Check {
	if bad := health.Weigh(conditions).NotReady; len(bad) > 0 {
		return api.Check{Check: "health", Result: api.CheckWrong, What: bad[0].Message, Do: bad[0].Advice}
	}
	for _, c := range conditions {
		if c.Status == health.Yes {
			return api.Check{Check: "health", Result: api.CheckWarning, What: c.Message, Do: c.Advice}
		}
	}
	return api.Check{Check: "health", Result: api.CheckOK, What: "nothing is wrong with the board"}
}

// addressCheck asks the network who has the virtual IP.
func addressCheck(ctx context.Context, v addressOwner, from, hardware string) api.Check {
	c := api.Check{Check: "virtual IP", Result: api.CheckWarning}
	want, _ := net.ParseMAC(hardware)
	switch owner, err := v.Owner(ctx); {
	case err != nil:
		c.Result, c.What = api.CheckWrong, err.Error()
	case owner == nil:
		c.What = "nobody answers for it, also not " + from
	case want != nil && !bytes.Equal(owner, want):
		c.What, c.Do = fmt.Sprintf("%v answers for it, which is not %s: a duplicate address", owner, from), "find that device; is the address inside the DHCP range?"
	default:
		c.Result, c.What = api.CheckOK, from+" answers for it, and nobody else"
	}
	return c
}

// blockedCheck: who upgrades packages, say, asks that the host is not restarted now. The
// mastership had better not come here meanwhile.
func blockedCheck(ctx context.Context, blocked func(ctx context.Context) ([]string, error)) api.Check {
	who, err := blocked(ctx)
	switch {
	case err != nil:
		return api.Check{Check: "inhibitors", Result: api.CheckUnknown, What: err.Error()}
	case len(who) > 0:
		return api.Check{Check: "inhibitors", Result: api.CheckWarning, What: strings.Join(who, "; "), Do: "wait until it is done; `systemd-inhibit --list` shows it"}
	}
	return api.Check{Check: "inhibitors", Result: api.CheckOK, What: "nothing is under way that must not be interrupted"}
}
