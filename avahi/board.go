package avahi

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// Config of a [Board].
type Config struct {
	// Backend: auto (Avahi where it runs, else zeroconf; switched while running),
	// avahi, zeroconf, off.
	Backend string
	// Browse is what to look for all the time.
	Browse []string
	// Host is this host's name in what zeroconf announces; "" = the system's host name.
	Host string
	// Interfaces that zeroconf uses; nil = all real ones.
	Interfaces func() []net.Interface
	// BusAddress of D-Bus; "" = the system's.
	BusAddress string
	Log        *slog.Logger

	// Tests have their own D-Bus, library and addresses.
	dial  func(ctx context.Context, in *inbox) (*dbus.Conn, error)
	mdns  mdns
	links func() links
}

// State of a service that is to be announced.
type State string

// States of a service.
const (
	Waiting   State = "waiting"   // not announced yet
	Announced State = "announced" // others see it
	Refused   State = "refused"   // it cannot be announced
)

// Published is what became of a service that is to be announced.
type Published struct {
	Key        string
	Service           // as it was wanted
	ActualName string // as others see it: cut, or numbered where the name was taken
	State      State
	// Reason why it is not announced, or what is other than it was wanted.
	Reason string
}

// standing is how an offer stands with the backend.
type standing struct {
	state        State
	name, reason string
}

// namedFor is a name that a service was given in place of its own.
type namedFor struct{ typ, own, given string }

func (n namedFor) of(o offer) string {
	if n.typ != o.Type || n.own != o.Name {
		return ""
	}
	return n.given
}

// Board is what is announced by us and what is seen of others.
type Board struct {
	cfg   Config
	found *found

	mu       sync.Mutex
	want     map[string]Service // as it was given
	offers   map[string]offer   // what of it can be announced
	refused  map[string]string  // why the rest cannot
	standing map[string]standing
	named    map[string]namedFor // what is announced
	before   map[string]namedFor // what another backend announced until
	beforeAt time.Time
	backend  string
	why      string // why nothing is announced yet
	looking  map[string]int
	wanted   chan struct{} // buffered by one: offers changed
	looked   chan struct{} // buffered by one: looking changed
}

// New makes a board; [Board.Run] sets it up.
func New(cfg Config) *Board {
	b := &Board{cfg: cfg, found: newFound(), standing: map[string]standing{}, named: map[string]namedFor{}, looking: map[string]int{},
		wanted: make(chan struct{}, 1), looked: make(chan struct{}, 1), why: "announcing has not begun yet"}
	b.Browse(cfg.Browse...)
	return b
}

// Publish declares everything that is to be announced, by keys of the caller's
// choice: what was announced before and is not in it is withdrawn, what changed is
// changed in place where that can be done. It returns at once and costs next to
// nothing where nothing changed.
func (b *Board) Publish(want map[string]Service) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.want != nil && maps.EqualFunc(want, b.want, equalServices) {
		return
	}
	b.want = make(map[string]Service, len(want))
	for key, s := range want {
		s.TXT, s.Subtypes = slices.Clone(s.TXT), slices.Clone(s.Subtypes)
		b.want[key] = s
	}
	was := b.refused
	b.offers, b.refused = offersOf(b.want)
	for key, why := range b.refused {
		if was[key] != why {
			b.cfg.Log.Warn("service not announced", "key", key, "err", why)
		}
	}
	maps.DeleteFunc(b.standing, func(key string, _ standing) bool { _, ok := b.offers[key]; return !ok })
	maps.DeleteFunc(b.named, func(key string, _ namedFor) bool { _, ok := b.offers[key]; return !ok })
	poke(b.wanted)
	poke(b.found.changes)
}

func equalServices(a, b Service) bool {
	return a.Name == b.Name && a.Type == b.Type && a.Port == b.Port && a.Host == b.Host && a.Addr == b.Addr &&
		slices.Equal(a.TXT, b.TXT) && slices.Equal(a.Subtypes, b.Subtypes)
}

// Published is what became of everything that is to be announced, sorted by key.
func (b *Board) Published() []Published {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Published, 0, len(b.want))
	for _, key := range slices.Sorted(maps.Keys(b.want)) {
		p := Published{Key: key, Service: b.want[key], ActualName: b.want[key].Name, State: Refused, Reason: b.refused[key]}
		if o, ok := b.offers[key]; ok {
			st, ok := b.standing[key]
			if !ok {
				st = standing{Waiting, o.Name, b.why}
			}
			p.ActualName, p.State, p.Reason = st.name, st.state, join(o.note, st.reason)
		}
		out = append(out, p)
	}
	return out
}

func join(notes ...string) string {
	return strings.Join(slices.DeleteFunc(notes, func(n string) bool { return n == "" }), "; ")
}

// Browse looks for services of the types, until stop is called. [AllTypes] is
// everything that anybody announces: much to hear on a busy LAN, so for as long as
// somebody wants to see it.
func (b *Board) Browse(types ...string) (stop func()) {
	types = sortedTypes(types)
	b.look(types, 1)
	return sync.OnceFunc(func() { b.look(types, -1) })
}

func (b *Board) look(types []string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range types {
		if b.looking[t] += n; b.looking[t] == 0 {
			delete(b.looking, t)
		}
	}
	poke(b.looked)
}

// Found is what is announced in the LAN, of the types that are looked for.
func (b *Board) Found() []Entry { return b.found.all() }

// Changes signals that something was found or lost, or that what is announced
// stands otherwise.
func (b *Board) Changes() <-chan struct{} { return b.found.changes }

// Backend that is in use: avahi, zeroconf, off, or "" where there is none now.
func (b *Board) Backend() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.backend
}

// The rest is what backends use.

func (b *Board) wants() map[string]offer {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.offers // made anew at each change, never changed
}

// lookingFor tells which types are looked for, and whether all of them are.
func (b *Board) lookingFor() (types []string, all bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all = b.looking[AllTypes] > 0
	for t := range b.looking {
		if t != AllTypes {
			types = append(types, t)
		}
	}
	slices.Sort(types)
	return types, all
}

// note says how an offer stands now. Only changes are logged.
func (b *Board) note(key string, o offer, st standing) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.standing[key]
	if _, ok := b.offers[key]; !ok || was == st {
		return
	}
	b.standing[key] = st
	delete(b.named, key)
	if st.state == Announced {
		b.named[key] = namedFor{o.Type, o.Name, st.name}
	}
	poke(b.found.changes)
	switch {
	case st.state == Refused && was.reason != st.reason:
		b.cfg.Log.Warn("service not announced", "name", o.Name, "type", o.Type, "err", st.reason)
	case st.state == Announced && st.name != o.Name && was.name != st.name:
		b.cfg.Log.Warn("service announced under another name", "name", o.Name, "type", o.Type, "now", st.name)
	}
}

// begin gives the work to another backend, or to none, with the reason.
func (b *Board) begin(backend, why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if backend == "" && b.backend == "" && b.why == why {
		return
	}
	if b.backend != backend {
		b.cfg.Log.Info("announcing services", "backend", backend, "services", len(b.offers), "reason", why)
	}
	b.backend, b.why = backend, why
	if len(b.named) > 0 {
		b.before, b.beforeAt, b.named = b.named, time.Now(), map[string]namedFor{}
	}
	clear(b.standing)
	poke(b.wanted)
	poke(b.looked)
	poke(b.found.changes)
}

// ownName is the name under which we announced a service until just now: nobody
// can have taken it meanwhile.
func (b *Board) ownName(key string, o offer) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.beforeAt) > settling {
		return ""
	}
	return b.before[key].of(o)
}

// Run announces and looks until ctx ends. A backend that fails is tried again for
// ever; mDNS being broken is no reason for an agent to stop.
func (b *Board) Run(ctx context.Context) error {
	z := &zeroconfBackend{b: b, cfg: b.cfg, handover: func() bool { return ctx.Err() == nil }}
	switch b.cfg.Backend {
	case "off":
		b.begin("off", "announcing is switched off in the configuration")
		<-ctx.Done()
	case "zeroconf":
		z.run(ctx, "the configuration says so")
	case "avahi":
		(&daemon{b: b, cfg: b.cfg}).run(ctx)
	default:
		(&daemon{b: b, cfg: b.cfg, substitute: z.run}).run(ctx)
	}
	return nil
}

// worker is a goroutine that can be started, stopped and waited for.
type worker struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func (w *worker) start(ctx context.Context, f func(context.Context)) {
	if w.cancel != nil {
		return
	}
	ctx, w.cancel = context.WithCancel(ctx)
	done := make(chan struct{})
	w.done = done
	go func() {
		defer close(done)
		f(ctx)
	}()
}

func (w *worker) stop() {
	if w.cancel == nil {
		return
	}
	w.cancel()
	<-w.done
	w.cancel = nil
}
