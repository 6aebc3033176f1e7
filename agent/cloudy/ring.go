package cloudy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// The pace of the bridge.
const (
	settle      = 5 * time.Second // between two writings of the tag: each goes to every node of the community
	firstWait   = time.Second     // between tries while alone, doubled up to
	longestWait = time.Minute     // and each is stretched or shortened by up to a half
	settledWait = time.Minute     // between looks for missing ones of Join
)

// Run takes part until ctx ends, leaves the ring, and returns when everything of it
// has ended, which takes some seconds at most. It goes on trying where the port is
// taken or nobody answers; [Bridge.Status] says so.
func (b *Bridge) Run(ctx context.Context) {
	for pause := firstWait; ; pause = min(2*pause, longestWait) {
		begun := time.Now()
		err := b.session(ctx)
		b.forget()
		if ctx.Err() != nil {
			return
		}
		if time.Since(begun) > longestWait {
			pause = firstWait
		}
		if b.trouble(err) {
			b.log.Error("not in Cloudy's ring; trying again", "err", err)
		}
		wait(ctx.Done(), pause)
	}
}

// trouble keeps why the bridge is not in the ring, and says whether that is news.
func (b *Bridge) trouble(err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	news := err != nil && (b.err == nil || b.err.Error() != err.Error())
	b.err = err
	kick(b.changes)
	return news
}

// settings are Cloudy's: protocol 4 and the timing of the WAN profile, without
// which the ring would take this member for a dead one, or the other way round.
func (b *Bridge) settings(events chan<- serf.Event) (*serf.Config, error) {
	ml := memberlist.DefaultWANConfig()
	ml.BindAddr, ml.BindPort = b.cfg.BindAddr, b.cfg.Port
	ml.AdvertiseAddr, ml.AdvertisePort = cmp.Or(b.cfg.AdvertiseAddr, b.cfg.BindAddr), b.cfg.Port
	if a, err := netip.ParseAddr(ml.AdvertiseAddr); err == nil && a.IsUnspecified() {
		ml.AdvertiseAddr = "" // memberlist chooses a private address
	}
	ml.TCPTimeout = 5 * time.Second // it bounds how long an end can take; the profile has 30 s
	ml.Logger = log.New(chatter{b.log}, "", 0)
	if b.cfg.Transport != nil {
		t, err := b.cfg.Transport(b.cfg.BindAddr, b.cfg.Port)
		if err != nil {
			return nil, err
		}
		ml.Transport = t
	}
	c := serf.DefaultConfig()
	c.Init()
	c.NodeName = b.cfg.Node
	c.ProtocolVersion = 4
	c.MemberlistConfig = ml
	c.EventCh = events
	c.Logger, c.LogOutput = ml.Logger, nil
	c.DisableCoordinates = true
	c.EnableNameConflictResolution = false // it would let a stranger with our name end us
	c.BroadcastTimeout = time.Second       // bounds the end, too; gossip goes on meanwhile
	c.LeavePropagateDelay = time.Second
	return c, nil
}

// session is one life of Serf.
func (b *Bridge) session(ctx context.Context) error {
	at := net.JoinHostPort(b.cfg.BindAddr, strconv.Itoa(b.cfg.Port))
	events := make(chan serf.Event, 256)
	conf, err := b.settings(events)
	if err != nil {
		return fmt.Errorf("enter Cloudy's ring at %s: %w", at, err)
	}
	tag := b.wanted()
	conf.Tags = tags(tag)
	s, err := serf.Create(conf)
	if err != nil {
		if t := conf.MemberlistConfig.Transport; t != nil {
			t.Shutdown()
		}
		return fmt.Errorf("enter Cloudy's ring at %s: %w; does Cloudy's own serf use the port? Stop it, or choose another one", at, err)
	}
	b.trouble(nil)
	sctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	var workers, ears sync.WaitGroup
	ears.Go(func() { b.listen(events, ended) })
	workers.Go(func() { b.join(sctx, s) })
	workers.Go(func() { b.write(sctx, s, tag) })
	workers.Go(func() { b.read(sctx) })
	defer func() {
		cancel()
		workers.Wait()
		// So that our services are gone at once, and not when the ring has noticed.
		if err := s.Leave(); err != nil {
			b.log.Debug("leave Cloudy's ring", "err", err)
		}
		if err := s.Shutdown(); err != nil {
			b.log.Debug("end of Cloudy's ring", "err", err)
		}
		close(ended)
		ears.Wait()
	}()
	select {
	case <-ctx.Done():
		return nil
	case <-s.ShutdownCh():
		return errors.New("in Cloudy's ring: Serf ended by itself")
	}
}

func tags(list string) map[string]string {
	if list == "" {
		return map[string]string{}
	}
	return map[string]string{tagName: list}
}

func (b *Bridge) wanted() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tag
}

// write gossips the list when it is another one than the last written.
func (b *Bridge) write(ctx context.Context, s *serf.Serf, written string) {
	for {
		if tag := b.wanted(); tag != written {
			// Its error is that nobody took the tag in time; it stands, and goes out with
			// the next exchange.
			if err := s.SetTags(tags(tag)); err != nil {
				b.log.Debug("list of services not gossiped at once", "err", err)
			}
			written = tag
			b.log.Info("list of services for Cloudy written", "bytes", len(tag))
			wait(ctx.Done(), settle)
		}
		select {
		case <-ctx.Done():
			return
		case <-b.newTag:
		}
	}
}

// join enters the ring by those that are configured, and comes back to them.
func (b *Bridge) join(ctx context.Context, s *serf.Serf) {
	for pause, in := firstWait, false; ; {
		present, alone := b.present()
		for _, a := range b.cfg.Join {
			if ctx.Err() != nil {
				return
			}
			if present[a] || a == b.self() {
				continue
			}
			n, err := s.Join([]string{a}, true)
			b.log.Debug("joining Cloudy's ring", "addr", a, "reached", n, "err", err)
			if err == nil {
				present, alone = b.present()
			}
		}
		next := settledWait
		if alone && len(b.cfg.Join) > 0 {
			next, pause = pause, min(2*pause, longestWait)
		} else {
			pause = firstWait
		}
		if alone == in {
			in = !alone
			b.log.Info(map[bool]string{true: "in Cloudy's ring", false: "alone in Cloudy's ring"}[in])
		}
		wait(ctx.Done(), next/2+rand.N(next))
		if ctx.Err() != nil {
			return
		}
	}
}

func (b *Bridge) self() string {
	return net.JoinHostPort(cmp.Or(b.cfg.AdvertiseAddr, b.cfg.BindAddr), strconv.Itoa(b.cfg.Port))
}

// present are the addresses of the other members that are alive.
func (b *Bridge) present() (at map[string]bool, alone bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at = make(map[string]bool, len(b.peers))
	for _, p := range b.peers {
		at[p.addr.String()] = true
	}
	return at, len(b.peers) == 0
}

// listen takes Serf's events. Serf holds locks while it hands them over, so nothing
// here may call it, and nothing here takes long.
func (b *Bridge) listen(events <-chan serf.Event, end <-chan struct{}) {
	for {
		select {
		case ev := <-events:
			if me, ok := ev.(serf.MemberEvent); ok {
				b.heard(me.Type, me.Members)
			}
		case <-end:
			return
		}
	}
}

// chatter is what Serf says about strangers' boards that come and go.
type chatter struct{ to *slog.Logger }

var _ io.Writer = chatter{}

func (c chatter) Write(p []byte) (int, error) {
	c.to.Debug(strings.TrimSpace(string(p)), "from", "Cloudy's ring")
	return len(p), nil
}
