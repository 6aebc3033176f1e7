package avahi

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// Config of a [Board].
type Config struct {
	// Backend: auto (Avahi where it runs, else zeroconf; switched while running),
	// avahi, zeroconf, off.
	Backend string
	// Types to look for.
	Browse []string
	// Interfaces that zeroconf uses; nil = all real ones.
	Interfaces func() []net.Interface
	// BusAddress of D-Bus; "" = the system's.
	BusAddress string
	Log        *slog.Logger
}

// Published is a service as it is announced: a name that somebody else has is
// changed.
type Published struct {
	Service
	ActualName string
	Err        string // why it is not announced
}

// Board is what is announced by us and what is seen of others.
type Board struct {
	cfg Config

	mu        sync.Mutex
	want      []Service
	published map[string]Published
	found     map[string]map[string]Entry // by type, then by name and address
	backend   string
	wanted    chan struct{} // buffered by one
	changes   chan struct{} // buffered by one
}

// New makes a board; [Board.Run] sets it up.
func New(cfg Config) *Board {
	return &Board{cfg: cfg, published: map[string]Published{}, found: map[string]map[string]Entry{},
		wanted: make(chan struct{}, 1), changes: make(chan struct{}, 1)}
}

// Publish declares everything that is to be announced; what was announced before
// and is not in it is withdrawn. Services that cannot be announced are left out
// and named in the error.
func (b *Board) Publish(services []Service) error {
	var bad error
	var good []Service
	for _, s := range services {
		if err := s.Check(); err != nil {
			bad = err
			continue
		}
		good = append(good, s)
	}
	b.mu.Lock()
	same := slices.EqualFunc(good, b.want, func(x, y Service) bool { return x.sameRecords(y) && slices.Equal(x.TXT, y.TXT) })
	b.want = good
	b.mu.Unlock()
	if !same {
		poke(b.wanted)
	}
	return bad
}

// Published is what is announced now.
func (b *Board) Published() []Published {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Published
	for _, s := range b.want {
		p, ok := b.published[s.key()]
		if !ok {
			p = Published{Service: s, ActualName: s.Name, Err: "not announced yet"}
		}
		out = append(out, p)
	}
	return out
}

// Found is what others announce.
func (b *Board) Found() []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Entry
	for _, es := range b.found {
		for _, e := range es {
			out = append(out, e)
		}
	}
	return sortEntries(out)
}

// Changes signals that something was found or lost.
func (b *Board) Changes() <-chan struct{} { return b.changes }

// Backend that is in use: avahi, zeroconf, or off.
func (b *Board) Backend() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.backend
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (b *Board) wants() []Service {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.want)
}

func (b *Board) note(s Service, actual string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := Published{Service: s, ActualName: actual}
	if err != nil {
		p.Err = err.Error()
	}
	b.published[s.key()] = p
}

func (b *Board) unnote(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.published, key)
}

// see keeps what was found under id.
func (b *Board) see(typ, id string, e Entry) {
	e, ok := e.clean()
	if !ok {
		return
	}
	b.mu.Lock()
	es := b.found[typ]
	if es == nil {
		es = map[string]Entry{}
		b.found[typ] = es
	}
	was, had := es[id]
	if !had && len(es) >= maxEntries {
		b.mu.Unlock()
		return
	}
	es[id] = e
	b.mu.Unlock()
	if !had || !sameEntry(was, e) {
		poke(b.changes)
	}
}

func sameEntry(x, y Entry) bool {
	return x.Host == y.Host && x.Addr == y.Addr && x.Port == y.Port && slices.Equal(x.TXT, y.TXT)
}

func (b *Board) lose(typ, id string) {
	b.mu.Lock()
	_, had := b.found[typ][id]
	delete(b.found[typ], id)
	b.mu.Unlock()
	if had {
		poke(b.changes)
	}
}

// reset forgets what the backend before had announced and seen.
func (b *Board) reset(backend string) {
	b.mu.Lock()
	b.backend = backend
	clear(b.published)
	had := len(b.found) > 0
	clear(b.found)
	b.mu.Unlock()
	if had {
		poke(b.changes)
	}
}

// Run announces and looks until ctx ends. A backend that fails is tried again for
// ever; mDNS being broken is no reason for an agent to stop.
func (b *Board) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		name, be := b.choose(ctx)
		if be == nil {
			b.reset("off")
			<-ctx.Done()
			return nil
		}
		b.cfg.Log.Info("announcing services", "backend", name)
		b.reset(name)
		err := be.run(ctx, b)
		b.reset("")
		if ctx.Err() != nil {
			return nil
		}
		b.cfg.Log.Warn("announcing services broke off", "backend", name, "err", err)
		t := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
	}
	return nil
}

func (b *Board) choose(ctx context.Context) (string, backend) {
	switch b.cfg.Backend {
	case "off":
		return "off", nil
	case "zeroconf":
		return "zeroconf", &zeroBackend{cfg: b.cfg}
	case "avahi":
		return "avahi", &busBackend{cfg: b.cfg, must: true}
	}
	if avahiRuns(b.cfg.BusAddress) {
		return "avahi", &busBackend{cfg: b.cfg}
	}
	return "zeroconf", &zeroBackend{cfg: b.cfg, until: func() error {
		if avahiRuns(b.cfg.BusAddress) {
			return fmt.Errorf("avahi-daemon is there now")
		}
		return nil
	}}
}
