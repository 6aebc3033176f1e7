package avahi

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
)

const asking = "avahi-daemon asks whether the name is free"

// maxTries is how many names are tried where others have them, before it is called
// a refusal: a hostile host could claim every one.
const maxTries = 10

// groups announces through avahi-daemon, with an entry group for each service and
// for each host label of its own. It belongs to the goroutine of the bus.
type groups struct {
	bus     *bus
	b       *Board
	have    map[string]*group
	byPath  map[dbus.ObjectPath]*group
	refused map[string]offer // not tried again until it is forgiven, or another
}

type group struct {
	key   string
	path  dbus.ObjectPath
	offer offer  // zero = the group is empty
	name  string // the name that is tried or announced
	tries int
	since standing
}

// A host label is kept like a service without a type, under a key that no service
// has and that sorts before all of them: services point to it.
const hostKey = "\x00"

func newGroups(k *bus, b *Board) *groups {
	return &groups{bus: k, b: b, have: map[string]*group{}, byPath: map[dbus.ObjectPath]*group{}, refused: map[string]offer{}}
}

// withHosts is what is to be announced with host labels as offers of their own.
func withHosts(offers map[string]offer) map[string]offer {
	out := make(map[string]offer, len(offers))
	for key, o := range offers {
		if o.Addr.IsValid() {
			label := hostKey + foldName(o.Host)
			if was, ok := out[label]; !ok || o.Host < was.Name {
				out[label] = offer{Service: Service{Name: o.Host, Addr: o.Addr}}
			}
			o.Addr = netip.Addr{} // a service does not change because its host's address does
		}
		out["s"+key] = o
	}
	return out
}

// reconcile makes what is announced what is wanted. What avahi-daemon refuses is
// noted; an error means that it does not answer at all.
func (k *groups) reconcile(ctx context.Context) error {
	want := withHosts(k.b.wants())
	for key, o := range k.refused {
		if w, ok := want[key]; ok && w.same(o) {
			delete(want, key)
		} else {
			delete(k.refused, key)
		}
	}
	have := make(map[string]offer, len(k.have))
	for key, g := range k.have {
		have[key] = g.offer
	}
	p := planFor(have, want)
	for _, key := range p.drop {
		if err := k.drop(ctx, k.have[key]); err != nil {
			return err
		}
	}
	for _, key := range p.change { // all first: two may have changed names with each other
		if err := k.empty(ctx, k.have[key]); err != nil {
			return err
		}
	}
	for _, key := range p.change {
		if err := k.settle(ctx, k.have[key], want[key]); err != nil {
			return err
		}
	}
	for _, key := range p.add {
		if err := k.add(ctx, key, want[key]); err != nil {
			return err
		}
	}
	for _, key := range p.text {
		if err := k.text(ctx, k.have[key], want[key]); err != nil {
			return err
		}
	}
	return nil
}

func (k *groups) add(ctx context.Context, key string, o offer) error {
	path, err := k.bus.make(ctx, "EntryGroupNew")
	if word := avahiSays(err); word != "" {
		k.refuse(key, o, word)
		return nil
	}
	if err != nil {
		return fmt.Errorf("begin to announce %s: %w", o.Name, err)
	}
	g := &group{key: key, path: path}
	k.have[key], k.byPath[path] = g, g
	return k.settle(ctx, g, o)
}

// settle puts an offer into an empty group, under its own name at first.
func (k *groups) settle(ctx context.Context, g *group, o offer) error {
	g.name, g.tries = o.Name, 0
	return k.fill(ctx, g, o)
}

// fill puts an offer into an empty group and commits it; under another name if
// somebody on this host has the present one.
func (k *groups) fill(ctx context.Context, g *group, o offer) error {
	for {
		err := k.put(ctx, g, o)
		if err == nil {
			err = k.bus.call(ctx, g.path, ifGroup+".Commit").Err
		}
		switch word := avahiSays(err); {
		case err == nil:
			g.offer = o
			k.note(g, standing{Waiting, g.name, asking})
			return nil
		case word == "":
			return fmt.Errorf("announce %s: %w", o.Name, err)
		case word != "CollisionError":
			return k.giveUp(ctx, g, o, word)
		}
		if err := k.empty(ctx, g); err != nil {
			return err
		}
		if ok, err := k.rename(ctx, g, o); !ok {
			return err
		}
	}
}

func (k *groups) put(ctx context.Context, g *group, o offer) error {
	if o.Type == "" {
		proto := protoIPv4
		if o.Addr.Is6() {
			proto = protoIPv6
		}
		return k.bus.call(ctx, g.path, ifGroup+".AddAddress", anyInterface, proto, flagNoReverse, g.name+".local", o.Addr.String()).Err
	}
	host := ""
	if o.Host != "" {
		host = o.Host + ".local"
		if h := k.have[hostKey+foldName(o.Host)]; h != nil {
			host = h.name + ".local"
		}
	}
	err := k.bus.call(ctx, g.path, ifGroup+".AddService", anyInterface, anyProtocol, noFlags, g.name, o.Type, "", host, uint16(o.Port), txtBytes(o.TXT)).Err
	for _, sub := range o.Subtypes {
		if err == nil {
			err = k.bus.call(ctx, g.path, ifGroup+".AddServiceSubtype", anyInterface, anyProtocol, noFlags, g.name, o.Type, "", sub+"._sub."+o.Type).Err
		}
	}
	return err
}

func txtBytes(txt []string) [][]byte {
	out := make([][]byte, 0, len(txt))
	for _, t := range txt {
		out = append(out, []byte(t))
	}
	return out
}

// text changes the texts of what is announced in place.
func (k *groups) text(ctx context.Context, g *group, o offer) error {
	err := k.bus.call(ctx, g.path, ifGroup+".UpdateServiceTxt", anyInterface, anyProtocol, noFlags, g.name, o.Type, "", txtBytes(o.TXT)).Err
	if word := avahiSays(err); word != "" {
		return k.giveUp(ctx, g, o, word)
	}
	if err != nil {
		return fmt.Errorf("change the texts of %s: %w", o.Name, err)
	}
	g.offer = o
	k.note(g, g.since)
	return nil
}

// empty takes everything out of a group; it keeps its place.
func (k *groups) empty(ctx context.Context, g *group) error {
	g.offer = offer{}
	if err := k.bus.call(ctx, g.path, ifGroup+".Reset").Err; err != nil && avahiSays(err) == "" {
		return fmt.Errorf("withdraw %s: %w", g.name, err)
	}
	return nil
}

func (k *groups) drop(ctx context.Context, g *group) error {
	delete(k.have, g.key)
	delete(k.byPath, g.path)
	if err := k.bus.call(ctx, g.path, ifGroup+".Free").Err; err != nil && avahiSays(err) == "" {
		return fmt.Errorf("withdraw %s: %w", g.name, err)
	}
	return nil
}

// rename takes the next name to try; false if there is none.
func (k *groups) rename(ctx context.Context, g *group, o offer) (bool, error) {
	if g.tries++; g.tries >= maxTries {
		return false, k.giveUp(ctx, g, o, fmt.Sprintf("others have this name and the next %d", maxTries-1))
	}
	method := "GetAlternativeServiceName"
	if o.Type == "" {
		method = "GetAlternativeHostName"
	}
	var next string
	err := k.bus.call(ctx, "/", ifServer+"."+method, g.name).Store(&next)
	if word := avahiSays(err); word != "" {
		return false, k.giveUp(ctx, g, o, word)
	}
	if err != nil {
		return false, fmt.Errorf("find another name for %s: %w", o.Name, err)
	}
	g.name = next
	return true, nil
}

func (k *groups) giveUp(ctx context.Context, g *group, o offer, why string) error {
	k.refuse(g.key, o, why)
	return k.drop(ctx, g)
}

func (k *groups) refuse(key string, o offer, why string) {
	if o.Type == "" {
		k.b.cfg.Log.Warn("host name not announced", "host", o.Name, "address", o.Addr, "err", why)
	}
	k.refused[key] = o
	k.noteKey(key, o, standing{Refused, o.Name, "avahi-daemon refuses it: " + why})
}

// changed is a group's new state.
func (k *groups) changed(ctx context.Context, s *dbus.Signal) error {
	g := k.byPath[s.Path]
	var state int32
	var msg string
	if g == nil || g.offer.Name == "" || dbus.Store(s.Body, &state, &msg) != nil {
		return nil // of a group that was freed or emptied since
	}
	switch state {
	case groupRegistering:
		k.note(g, standing{Waiting, g.name, asking})
	case groupEstablished:
		g.tries = 0
		reason := ""
		if g.name != g.offer.Name {
			reason = "another host has the name " + g.offer.Name
		}
		k.note(g, standing{Announced, g.name, reason})
	case groupCollision:
		return k.collided(ctx, g)
	case groupFailure:
		return k.giveUp(ctx, g, g.offer, Printable(msg, maxShownText))
	}
	return nil
}

// collided: another host has the name.
func (k *groups) collided(ctx context.Context, g *group) error {
	o := g.offer
	if err := k.empty(ctx, g); err != nil {
		return err
	}
	if ok, err := k.rename(ctx, g, o); !ok {
		return err
	}
	if err := k.fill(ctx, g, o); err != nil || o.Type != "" {
		return err
	}
	// A host has another label now: services that point to it are announced anew.
	k.b.cfg.Log.Warn("another host has this host name", "host", o.Name, "now", g.name)
	for _, key := range slices.Sorted(maps.Keys(k.have)) {
		if s := k.have[key]; strings.EqualFold(s.offer.Host, o.Name) {
			if err := k.empty(ctx, s); err != nil {
				return err
			}
		}
	}
	return k.reconcile(ctx)
}

// invalidate: avahi-daemon takes another host name; every group is to be filled anew.
func (k *groups) invalidate() {
	for _, g := range k.have {
		g.offer = offer{}
		k.noteKey(g.key, offer{}, standing{Waiting, g.name, "avahi-daemon looks for a host name"})
	}
}

// forgive lets everything that was refused be tried again.
func (k *groups) forgive() { clear(k.refused) }

func (k *groups) unsettled() bool { return len(k.refused) > 0 }

func (k *groups) note(g *group, st standing) {
	g.since = st
	k.noteKey(g.key, g.offer, st)
}

func (k *groups) noteKey(key string, o offer, st standing) {
	if key, ok := strings.CutPrefix(key, "s"); ok {
		k.b.note(key, o, st)
	}
}
