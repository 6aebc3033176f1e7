package avahi

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// linksEvery is how often interfaces and addresses are looked at.
	linksEvery = 5 * time.Second
	// lookUpFor is how long others have to say that they have a name: a probe of
	// multicast DNS takes 750 ms.
	lookUpFor = time.Second
	// maxServers is how many services the library announces: each costs two sockets
	// and 128 KiB of buffers.
	maxServers = 64
	// atOnce is how many questions are asked at once, with a socket each.
	atOnce = 8
)

// zeroconfBackend is multicast DNS of our own, for hosts without avahi-daemon.
type zeroconfBackend struct {
	b    *Board
	cfg  Config
	mdns mdns
	// handover says that another backend goes on where this one stops.
	handover func() bool

	label   string
	links   links
	have    map[string]*registered // by key
	names   map[string]namedFor    // the newest name of each key, so that it keeps it
	refused map[string]retryAt
	hosts   hostAnswers
	labels  atomic.Pointer[map[string][]netip.Addr] // host labels that are ours, folded
}

type registered struct {
	offer offer
	name  string
	stop  func()
}

// as it is announced.
func (r *registered) as() offer {
	o := r.offer
	o.Name = r.name
	return o
}

type retryAt struct {
	offer offer
	at    time.Time
}

func (z *zeroconfBackend) run(ctx context.Context, why string) {
	z.mdns = z.cfg.mdns
	if z.mdns == nil {
		z.mdns = grandcat{}
	}
	z.label = ownLabel(z.cfg.Host)
	z.links, z.have, z.names, z.refused = links{}, map[string]*registered{}, map[string]namedFor{}, map[string]retryAt{}
	z.labels.Store(&map[string][]netip.Addr{})
	z.b.begin("zeroconf", why)
	r := rounds{b: z.b, mdns: z.mdns, log: z.cfg.Log, interfaces: func() []net.Interface { return z.look().ifs }, local: z.isOwn}
	var finder worker
	finder.start(ctx, r.run)
	defer finder.stop()
	defer z.end()
	t := time.NewTicker(linksEvery)
	defer t.Stop()
	for {
		z.publish(ctx)
		select {
		case <-ctx.Done():
			return
		case <-z.b.wanted:
		case <-t.C:
		}
	}
}

func (z *zeroconfBackend) isOwn(host string) bool {
	_, ok := (*z.labels.Load())[foldName(host)]
	return ok
}

// look finds the interfaces and addresses of now.
func (z *zeroconfBackend) look() links {
	if z.cfg.links != nil {
		return z.cfg.links()
	}
	ifaces := z.cfg.Interfaces
	if ifaces == nil {
		ifaces = realInterfaces
	}
	return linksOf(ifaces(), systemAddrs)
}

func (z *zeroconfBackend) withdraw() {
	for _, r := range z.have {
		r.stop()
	}
	clear(z.have)
	z.stopHosts()
}

// end withdraws everything; the library cannot stop without.
func (z *zeroconfBackend) end() {
	var kept []offer
	for key, r := range z.have {
		kept = append(kept, r.as())
		r.stop()
		delete(z.have, key)
	}
	if z.hosts != nil && z.handover != nil && z.handover() {
		z.hosts.keep(kept)
	}
	z.stopHosts()
}

func (z *zeroconfBackend) stopHosts() {
	if z.hosts != nil {
		z.hosts.stop()
		z.hosts = nil
	}
}

// publish makes what is announced what is wanted, on the addresses of now.
func (z *zeroconfBackend) publish(ctx context.Context) {
	want := z.b.wants()
	vips := map[netip.Addr]bool{}
	for _, o := range want {
		vips[o.Addr] = true
	}
	now := z.look().without(vips)
	if !now.equal(z.links) {
		z.withdraw()
		z.links = now
	}
	if len(now.addrs) == 0 {
		for key, o := range want {
			z.b.note(key, o, standing{Waiting, o.Name, "there is no interface with an IPv4 address to announce it on"})
		}
		return
	}
	have := make(map[string]offer, len(z.have))
	for key, r := range z.have {
		have[key] = r.offer
	}
	p := planFor(have, want)
	again := slices.Concat(p.change, p.text) // the library has no safe way to change texts
	for _, key := range slices.Concat(p.drop, again) {
		z.have[key].stop()
		delete(z.have, key)
	}
	gone := func(key string) bool { _, ok := want[key]; return !ok }
	maps.DeleteFunc(z.names, func(key string, _ namedFor) bool { return gone(key) })
	maps.DeleteFunc(z.refused, func(key string, _ retryAt) bool { return gone(key) })
	z.answerFor(want, len(p.drop)+len(again) > 0)
	z.add(ctx, slices.Concat(again, p.add), want)
}

// answerFor makes host labels known; again where a withdrawn service took the
// addresses of its host with it.
func (z *zeroconfBackend) answerFor(want map[string]offer, again bool) {
	labels := map[string][]netip.Addr{foldName(z.label): z.links.addrs}
	for _, o := range want {
		if o.Addr.IsValid() {
			labels[foldName(o.Host)] = []netip.Addr{o.Addr}
		}
	}
	if len(want) == 0 {
		clear(labels)
	}
	z.labels.Store(&labels)
	if z.hosts == nil && len(labels) > 0 {
		h, err := z.mdns.answer(z.links.ifs)
		if err != nil {
			z.cfg.Log.Debug("host names are not answered for", "err", err)
			return
		}
		z.hosts = h
	}
	if z.hosts != nil {
		z.hosts.set(labels)
		if again {
			z.hosts.announce()
		}
	}
}

// add announces what is not announced: at once what had its name until just now, the
// rest under names that are free.
func (z *zeroconfBackend) add(ctx context.Context, keys []string, want map[string]offer) {
	var kept []offer // others may just have heard that they are gone
	var fresh []string
	ask := map[string]bool{}
	for _, key := range keys {
		o := want[key]
		if r, ok := z.refused[key]; ok && r.offer.same(o) && time.Now().Before(r.at) {
			continue
		}
		name := z.known(key, o)
		if name == "" {
			fresh = append(fresh, key)
			ask[o.Type] = true
			continue
		}
		z.register(key, o, name)
		kept = append(kept, offer{Service: Service{Name: name, Type: o.Type}})
	}
	if z.hosts != nil {
		z.hosts.keep(kept)
	}
	if len(fresh) == 0 {
		return
	}
	taken, err := z.taken(ctx, ask)
	for _, key := range fresh {
		if ctx.Err() != nil {
			return
		}
		o := want[key]
		name, none := z.free(o, taken)
		if err := cmp.Or(err, none); err != nil {
			z.refuse(key, o, err)
			continue
		}
		z.register(key, o, name)
	}
}

func (z *zeroconfBackend) refuse(key string, o offer, err error) {
	z.refused[key] = retryAt{o, time.Now().Add(offerRetry)}
	z.b.note(key, o, standing{Refused, o.Name, err.Error()})
}

// known is the name that a service had until just now.
func (z *zeroconfBackend) known(key string, o offer) string {
	return cmp.Or(z.names[key].of(o), z.b.ownName(key, o))
}

func (z *zeroconfBackend) register(key string, o offer, name string) {
	if len(z.have) >= maxServers {
		z.refuse(key, o, fmt.Errorf("without avahi-daemon %d services can be announced: install avahi-daemon", maxServers))
		return
	}
	label, addrs := z.label, z.links.addrs
	if o.Host != "" {
		label = o.Host
		if addrs = nil; o.Addr.IsValid() {
			addrs = []netip.Addr{o.Addr}
		}
	}
	r := &registered{offer: o, name: name}
	var err error
	if r.stop, err = z.mdns.register(r.as(), label, addrs, z.links.ifs); err != nil {
		z.refuse(key, o, fmt.Errorf("announce %s: %w", o.Name, err))
		return
	}
	delete(z.refused, key)
	z.have[key], z.names[key] = r, namedFor{o.Type, o.Name, name}
	var notes []string
	switch plain := withoutDots(o.Name); {
	case name != plain:
		notes = append(notes, "another host has the name "+plain)
	case plain != o.Name:
		notes = append(notes, "without avahi-daemon, a name has no dots at its end")
	}
	if len(o.Subtypes) > 0 {
		notes = append(notes, "without avahi-daemon, subtypes are not announced")
	}
	z.b.note(key, o, standing{Announced, name, join(notes...)})
}

// withoutDots is a name as the library takes it: it cuts dots off the end, and
// would leave half an escape there.
func withoutDots(name string) string {
	if s := strings.TrimRight(name, "."); s != "" {
		return s
	}
	return "·"
}

// taken asks which names others have.
func (z *zeroconfBackend) taken(ctx context.Context, types map[string]bool) (map[[2]string]Entry, error) {
	var mu sync.Mutex
	out := map[[2]string]Entry{}
	var g errgroup.Group
	g.SetLimit(atOnce)
	for t := range types {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, lookUpFor)
			defer cancel()
			err := z.mdns.browse(ctx, t, z.links.ifs, func(e Entry) {
				mu.Lock()
				defer mu.Unlock()
				out[[2]string{t, foldName(e.Name)}] = e
			})
			if err != nil {
				return fmt.Errorf("ask whether names are free: %w", err)
			}
			return nil
		})
	}
	return out, g.Wait()
}

// free is the service's name, or the next that neither another host nor another
// service of this host has.
func (z *zeroconfBackend) free(o offer, taken map[[2]string]Entry) (string, error) {
	own := map[string]bool{}
	for _, r := range z.have {
		if r.offer.Type == o.Type {
			own[foldName(r.name)] = true
		}
	}
	label := cmp.Or(o.Host, z.label)
	name := withoutDots(o.Name)
	for range maxTries {
		e, ok := taken[[2]string{o.Type, foldName(name)}]
		// Who announces the same host and port is no other: an earlier process of ours.
		if (!ok || foldName(e.Host) == foldName(label) && e.Port == o.Port) && !own[foldName(name)] {
			return name, nil
		}
		name = alternative(name)
	}
	return "", fmt.Errorf("service %s: others have this name and the next %d", o.Name, maxTries-1)
}
