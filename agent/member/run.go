package member

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// The pace of joining.
const (
	firstWait   = time.Second      // while alone, doubled up to
	longestWait = 10 * time.Second // and each is stretched or shortened by up to a half
	settledWait = time.Minute      // between looks for the missing while not alone
	joinTimeout = 10 * time.Second // for Config.Join
	// perRound bounds how many addresses are tried in a row: each may take
	// memberlist's TCPTimeout, and the newest discoveries should not wait behind
	// boards that are long gone. The next round goes on with the rest.
	perRound = 8
)

// Run takes part until ctx ends, and returns when everything of it has ended. It
// fails only if it cannot begin; what happens later is overcome.
func (p *Pool) Run(ctx context.Context) error {
	advertise := cmp.Or(p.cfg.AdvertiseAddr, p.cfg.BindAddr)
	for wait := time.Duration(0); ; {
		p.mu.Lock()
		left := p.left
		p.mu.Unlock()
		if left && wait > 0 { // between two sessions
			<-ctx.Done()
			return nil
		}
		begun := time.Now()
		next, err := p.runSession(ctx, advertise)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && wait == 0 && errors.Is(err, errBegin):
			return err
		case err == nil && next != "":
			p.log.Info("gossip from another address", "addr", next, "before", advertise)
			advertise, wait = next, firstWait
			continue
		}
		if time.Since(begun) > longestWait {
			wait = 0
		}
		wait = min(max(2*wait, firstWait), longestWait)
		p.log.Error("gossip interrupted; beginning again", "addr", advertise, "in", wait, "err", err)
		select {
		case <-ctx.Done():
			return nil
		case next := <-p.restart:
			advertise = next
		case <-time.After(wait):
		}
	}
}

var errBegin = errors.New("enter the gossip pool")

// open opens the network for a session, whose events all go to events.
//
// Serf puts a helper of its own before the channel in its configuration. It answers what
// other members ask of Serf itself, and among that is which gossip keys there are, and orders
// to change them: a thief of the key would be told the new one while it is brought in. So
// the channel is put back, before there is anybody who reads it there.
func (p *Pool) open(conf *serf.Config, events chan<- serf.Event) error {
	c := conf.MemberlistConfig
	open := p.cfg.Transport
	if open == nil {
		open = func(bind string, port int) (memberlist.NodeAwareTransport, error) {
			return memberlist.NewNetTransport(&memberlist.NetTransportConfig{BindAddrs: []string{bind}, BindPort: port, Logger: c.Logger})
		}
	}
	t, err := open(c.BindAddr, c.BindPort)
	if err != nil {
		return err
	}
	b := bound(t)
	b.first = func() { conf.EventCh = events }
	c.Transport = b
	return nil
}

// runSession is one life of Serf, until ctx ends or a restart at the address next
// is wanted.
func (p *Pool) runSession(ctx context.Context, advertise string) (next string, err error) {
	events := make(chan serf.Event, 1024)
	conf, err := p.settings(advertise, events)
	if err != nil {
		return "", fmt.Errorf("%w at %s: %w", errBegin, advertise, err)
	}
	if err := p.open(conf, events); err != nil {
		return "", fmt.Errorf("%w at %s: %w; is another agent using the port?", errBegin, advertise, err)
	}
	p.mu.Lock()
	conf.Tags = maps.Clone(p.tags)
	applied := maps.Clone(p.tags)
	p.mu.Unlock()
	s, err := serf.Create(conf)
	if err != nil {
		conf.MemberlistConfig.Transport.Shutdown()
		return "", fmt.Errorf("%w at %s: %w; is another agent using the port?", errBegin, net.JoinHostPort(advertise, strconv.Itoa(p.cfg.Port)), err)
	}
	self := s.LocalMember()
	p.names.place(p.cfg.Node, addrPort(&self))
	p.mu.Lock()
	p.serf, p.running = s, true
	p.mu.Unlock()
	p.changed()

	sctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() { p.rejoin(sctx, s) })
	wg.Go(func() { p.sendTags(sctx, s, applied) })
	wg.Go(func() { p.observe(events, ended) })
	defer func() {
		cancel()
		p.mu.Lock()
		p.running = false
		p.mu.Unlock()
		p.leaving.Wait() // Serf does not bear both at a time
		if err := s.Shutdown(); err != nil {
			p.log.Debug("end of the gossip", "err", err)
		}
		close(ended)
		wg.Wait()
	}()
	for {
		select {
		case <-ctx.Done():
			return "", nil
		case <-s.ShutdownCh():
			return "", errors.New("it ended by itself")
		case next = <-p.restart:
			p.mu.Lock()
			left := p.left
			p.mu.Unlock()
			if left || next == advertise {
				continue
			}
			// So that the others take the new address at once instead of waiting for
			// the old one to die.
			cancel()
			if err := s.Leave(); err != nil {
				p.log.Debug("leave before a new address", "err", err)
			}
			return next, nil
		}
	}
}

// observe takes Serf's events. Serf holds locks while it hands them over, so
// nothing here may call it.
func (p *Pool) observe(events <-chan serf.Event, end <-chan struct{}) {
	for {
		select {
		case ev := <-events:
			if me, ok := ev.(serf.MemberEvent); ok {
				p.memberEvent(me)
			}
		case <-end:
			return
		}
	}
}

func (p *Pool) memberEvent(me serf.MemberEvent) {
	p.mu.Lock()
	for _, m := range me.Members {
		at := addrPort(&m)
		if me.Type != serf.EventMemberUpdate {
			p.log.Info(me.Type.String(), "node", m.Name, "addr", at.String())
		}
		if m.Name == p.cfg.Node {
			continue
		}
		switch me.Type {
		case serf.EventMemberJoin, serf.EventMemberUpdate:
			p.ready = true
			p.names.place(m.Name, at)
			p.peers.add(at, m.Name)
			delete(p.seen, m.Name)
		case serf.EventMemberFailed, serf.EventMemberLeave:
			p.names.place(m.Name, netip.AddrPort{})
			p.seen[m.Name] = time.Now()
		case serf.EventMemberReap:
			p.names.place(m.Name, netip.AddrPort{})
			delete(p.seen, m.Name)
		}
	}
	err := p.peers.save()
	p.mu.Unlock()
	if err != nil {
		p.log.Error("after a blackout this host may not find the others", "err", err)
	}
	p.changed()
}

// sendTags gossips new tags; applied are those that Serf began with.
func (p *Pool) sendTags(ctx context.Context, s *serf.Serf, applied map[string]string) {
	for {
		p.mu.Lock()
		tags := maps.Clone(p.tags)
		p.mu.Unlock()
		if !maps.Equal(tags, applied) {
			// Its error is that nobody took them in time; they stand, and go out with
			// the next exchange.
			if err := s.SetTags(maps.Clone(tags)); err != nil {
				p.log.Debug("tags not gossiped at once", "err", err)
			}
			applied = tags
		}
		select {
		case <-ctx.Done():
			return
		case <-p.newTags:
		}
	}
}

// rejoin looks for the others for ever: quickly while alone, every minute for
// addresses that should be members and are not.
func (p *Pool) rejoin(ctx context.Context, s *serf.Serf) {
	for wait := firstWait; ; {
		alone := p.round(ctx, s)
		pause := settledWait
		switch {
		case alone:
			pause, wait = wait, min(2*wait, longestWait)
		case p.names.fresh():
			pause, wait = 2*firstWait, firstWait // our old address is about to die
		default:
			wait = firstWait
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

// round tries addresses at which members should be and are not, and says whether
// this host is still alone.
func (p *Pool) round(ctx context.Context, s *serf.Serf) (alone bool) {
	var found []string
	if p.cfg.Join != nil {
		jctx, cancel := context.WithTimeout(ctx, joinTimeout)
		found = p.cfg.Join(jctx)
		cancel()
	}
	p.mu.Lock()
	left := p.left
	p.mu.Unlock()
	if left {
		return false
	}
	addrs, all := p.candidates(s, found)
	for _, a := range addrs {
		if ctx.Err() != nil {
			return false
		}
		if slices.Contains(p.present(s), a) {
			continue // met through one before
		}
		n, err := s.Join([]string{a}, true)
		p.log.Debug("joining", "addr", a, "reached", n, "err", err)
	}
	alone = true
	for _, m := range s.Members() {
		alone = alone && (m.Name == p.cfg.Node || m.Status != serf.StatusAlive)
	}
	p.mu.Lock()
	if all == 0 || !alone {
		p.ready = true
	}
	p.mu.Unlock()
	p.changed() // also for what Serf has no event for
	return alone
}

// present are the addresses at which nobody needs to be looked for: of this host,
// and of members that are alive or have left. While this host's own name is
// claimed from elsewhere there are no others: members that it sees may not see it.
func (p *Pool) present(s *serf.Serf) []string {
	fresh := p.names.fresh()
	var at []string
	for _, m := range s.Members() {
		if self := m.Name == p.cfg.Node; self || !fresh && status(m.Status) != Failed {
			at = append(at, addrPort(&m).String())
		}
	}
	return at
}

// candidates are the addresses to try in this round, found ones first, and how
// many there are in all.
func (p *Pool) candidates(s *serf.Serf, found []string) (now []string, all int) {
	have := p.present(s)
	wanted := func(a string, in []string) bool { return !slices.Contains(have, a) && !slices.Contains(in, a) }
	if a, ok := p.names.rival(); ok {
		found = append([]string{a}, found...) // it should hear of it, too
	}
	for _, a := range found {
		if len(a) <= 300 && wanted(a, now) {
			now = append(now, a)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var old []string
	for _, k := range slices.Backward(p.peers.peers) { // newest first
		if a := k.addr.String(); wanted(a, now) {
			old = append(old, a)
		}
	}
	all = len(now) + len(old)
	now = now[:min(len(now), perRound)]
	if room := min(perRound-len(now)/2, len(old)); room > 0 {
		// Some of the old ones in every round, in turn.
		p.cursor %= len(old)
		old = append(old[p.cursor:], old[:p.cursor]...)
		now = append(now, old[:room]...)
		p.cursor += room
	}
	return now, all
}
