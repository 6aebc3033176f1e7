package avahi

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	// maxTypes of services that are looked for at once.
	maxTypes = 100
	// resolveRetry is when services that did not tell where they are are asked again.
	resolveRetry = 30 * time.Second
	// floodPause follows on more signals than could be handled: it will be the same
	// at the next attempt.
	floodPause = time.Minute
)

// lookThroughAvahi looks for services until ctx ends. It has a connection of its
// own: avahi-daemon counts objects by connection, and what strangers announce must
// not take the place of what we announce.
func lookThroughAvahi(ctx context.Context, cfg Config, b *Board) {
	for {
		err := (&lookup{cfg: cfg, b: b}).run(ctx)
		if ctx.Err() != nil {
			return
		}
		cfg.Log.Warn("looking for services broke off", "err", err)
		wait := busRetry
		if errors.Is(err, errFlooded) {
			wait = floodPause
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// lookup is one connection's browsers and resolvers. A resolver lives as long as its
// service is there: it tells when texts or addresses change.
type lookup struct {
	cfg Config
	b   *Board
	bus objects

	all       dbus.ObjectPath            // browser of types, "" = none
	announced map[string]int             // types that it has found, on how many interfaces
	browsers  map[string]dbus.ObjectPath // by type
	byBrowser map[dbus.ObjectPath]string
	items     map[string]*item // by id
	byPath    map[dbus.ObjectPath]*item
}

// objects are those that avahi-daemon keeps for a connection, a [bus].
type objects interface {
	make(ctx context.Context, method string, args ...any) (dbus.ObjectPath, error)
	call(ctx context.Context, path dbus.ObjectPath, method string, args ...any) *dbus.Call
}

// item is a service on one interface.
type item struct {
	id                string
	ifc, proto        int32
	name, typ, domain string
	local             bool
	host              string          // where it was found last
	resolver          dbus.ObjectPath // "" = none: it did not answer
}

func (l *lookup) run(ctx context.Context) error {
	bus, err := dialBus(ctx, l.cfg)
	if err != nil {
		return err
	}
	defer bus.close() // frees every browser and resolver
	l.begin(bus)
	settle, retry := time.NewTimer(settling), stopped()
	defer settle.Stop()
	defer retry.Stop()
	if err := l.reconcile(ctx, retry); err != nil {
		return err
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-bus.lost():
			return errBusLost
		case <-bus.in.full:
			return errFlooded
		case s := <-bus.in.signals:
			err = l.signal(ctx, s, retry)
		case <-l.b.looked:
			err = l.reconcile(ctx, retry)
		case <-retry.C:
			err = l.again(ctx, retry)
		case <-settle.C:
			l.b.found.settled()
		}
		if err != nil {
			return err
		}
	}
}

// begin with a connection on which there is nothing yet.
func (l *lookup) begin(bus objects) {
	l.bus = bus
	l.announced, l.browsers, l.byBrowser = map[string]int{}, map[string]dbus.ObjectPath{}, map[dbus.ObjectPath]string{}
	l.items, l.byPath = map[string]*item{}, map[dbus.ObjectPath]*item{}
	l.b.found.begin()
}

// reconcile makes the types that are looked for those that somebody wants.
func (l *lookup) reconcile(ctx context.Context, retry *time.Timer) error {
	want, all := l.b.lookingFor()
	if err := l.browseTypes(ctx, all, retry); err != nil {
		return err
	}
	for t := range l.announced {
		want = append(want, t)
	}
	want = sortedTypes(want)
	for t, path := range l.browsers {
		if _, ok := slices.BinarySearch(want, t); !ok {
			if err := l.stop(ctx, t, path); err != nil {
				return err
			}
		}
	}
	l.b.found.keepTypes(func(t string) bool { _, ok := slices.BinarySearch(want, t); return ok || all })
	for _, t := range want {
		if l.browsers[t] != "" || len(l.browsers) >= maxTypes {
			continue
		}
		path, err := l.bus.make(ctx, "ServiceBrowserNew", anyInterface, protoIPv4, t, "", noFlags)
		if avahiSays(err) != "" {
			l.cfg.Log.Debug("type not looked for", "type", t, "err", err)
			retry.Reset(resolveRetry)
			continue
		}
		if err != nil {
			return fmt.Errorf("look for %s: %w", t, err)
		}
		l.browsers[t], l.byBrowser[path] = path, t
	}
	return nil
}

func (l *lookup) browseTypes(ctx context.Context, all bool, retry *time.Timer) (err error) {
	switch {
	case all && l.all == "":
		l.all, err = l.bus.make(ctx, "ServiceTypeBrowserNew", anyInterface, protoIPv4, "", noFlags)
		if avahiSays(err) != "" {
			l.cfg.Log.Debug("types not looked for", "err", err)
			retry.Reset(resolveRetry)
			return nil
		}
		if err != nil {
			return fmt.Errorf("look for all types: %w", err)
		}
	case !all && l.all != "":
		err = l.free(ctx, l.all, ifTypeBrowser)
		l.all = ""
		clear(l.announced)
	}
	return err
}

// stop looking for a type.
func (l *lookup) stop(ctx context.Context, typ string, path dbus.ObjectPath) error {
	delete(l.browsers, typ)
	delete(l.byBrowser, path)
	if err := l.free(ctx, path, ifBrowser); err != nil {
		return err
	}
	for _, it := range l.items {
		if it.typ == typ {
			if err := l.forget(ctx, it); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *lookup) free(ctx context.Context, path dbus.ObjectPath, ifc string) error {
	if err := l.bus.call(ctx, path, ifc+".Free").Err; err != nil && avahiSays(err) == "" {
		return fmt.Errorf("stop looking: %w", err)
	}
	return nil
}

func (l *lookup) signal(ctx context.Context, s *dbus.Signal, retry *time.Timer) error {
	switch s.Name {
	case ifTypeBrowser + ".ItemNew", ifTypeBrowser + ".ItemRemove":
		return l.typ(ctx, s, retry)
	case ifBrowser + ".ItemNew", ifBrowser + ".ItemRemove":
		return l.item(ctx, s, retry)
	case ifResolver + ".Found":
		return l.resolved(ctx, s, retry)
	case ifResolver + ".Failure":
		if it := l.byPath[s.Path]; it != nil {
			retry.Reset(resolveRetry)
			l.b.found.lose(it.id)
			return l.unresolve(ctx, it)
		}
	case ifBrowser + ".Failure":
		if t, ok := l.byBrowser[s.Path]; ok {
			retry.Reset(resolveRetry)
			return l.stop(ctx, t, s.Path)
		}
	case ifTypeBrowser + ".Failure":
		if s.Path == l.all {
			retry.Reset(resolveRetry)
			return l.browseTypes(ctx, false, retry)
		}
	}
	return nil
}

// typ: somebody announces services of a type, or nobody does any more.
func (l *lookup) typ(ctx context.Context, s *dbus.Signal, retry *time.Timer) error {
	var ifc, proto int32
	var t, domain string
	var flags uint32
	if s.Path != l.all || dbus.Store(s.Body, &ifc, &proto, &t, &domain, &flags) != nil || !ValidType(t) {
		return nil
	}
	was := l.announced[t]
	if strings.HasSuffix(s.Name, "New") {
		if was == 0 && len(l.announced) >= maxTypes {
			return nil
		}
		l.announced[t]++
	} else if was > 0 {
		if l.announced[t]--; l.announced[t] == 0 {
			delete(l.announced, t)
		}
	}
	if (was == 0) == (l.announced[t] == 0) {
		return nil
	}
	return l.reconcile(ctx, retry)
}

// item: a service is there, or there no more.
func (l *lookup) item(ctx context.Context, s *dbus.Signal, retry *time.Timer) error {
	it := &item{}
	var flags uint32
	if dbus.Store(s.Body, &it.ifc, &it.proto, &it.name, &it.typ, &it.domain, &flags) != nil || l.byBrowser[s.Path] != it.typ {
		return nil
	}
	it.id = fmt.Sprintf("%d/%d/%s/%s", it.ifc, it.proto, it.typ, it.name)
	it.local = flags&flagsLocal != 0
	was := l.items[it.id]
	if strings.HasSuffix(s.Name, "Remove") {
		if was != nil {
			return l.forget(ctx, was)
		}
		return nil
	}
	if was != nil || len(l.items) >= maxEntries {
		return nil
	}
	l.items[it.id] = it
	return l.resolve(ctx, it, retry)
}

func (l *lookup) resolve(ctx context.Context, it *item, retry *time.Timer) error {
	path, err := l.bus.make(ctx, "ServiceResolverNew", it.ifc, it.proto, it.name, it.typ, it.domain, protoIPv4, noFlags)
	if avahiSays(err) != "" {
		retry.Reset(resolveRetry)
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask where %s is: %w", Printable(it.name, maxShownName), err)
	}
	it.resolver, l.byPath[path] = path, it
	return nil
}

func (l *lookup) unresolve(ctx context.Context, it *item) error {
	path := it.resolver
	if path == "" {
		return nil
	}
	delete(l.byPath, path)
	it.resolver, it.host = "", ""
	return l.free(ctx, path, ifResolver)
}

func (l *lookup) forget(ctx context.Context, it *item) error {
	delete(l.items, it.id)
	l.b.found.lose(it.id)
	return l.unresolve(ctx, it)
}

// again asks for what was not answered.
func (l *lookup) again(ctx context.Context, retry *time.Timer) error {
	for _, it := range l.items {
		if it.resolver == "" {
			if err := l.resolve(ctx, it, retry); err != nil {
				return err
			}
		}
	}
	return l.reconcile(ctx, retry)
}

// resolved: where a service is, and what it says of itself.
func (l *lookup) resolved(ctx context.Context, s *dbus.Signal, retry *time.Timer) error {
	it := l.byPath[s.Path]
	var ifc, proto, aproto int32
	var name, typ, domain, host, addr string
	var port uint16
	var txt [][]byte
	var flags uint32
	if it == nil || dbus.Store(s.Body, &ifc, &proto, &name, &typ, &domain, &host, &aproto, &addr, &port, &txt, &flags) != nil {
		return nil
	}
	if it.host != "" && it.host != host {
		// A service that moved to another host, as after a failover: avahi-daemon 0.8
		// goes on telling the address of the old one. A fresh resolver knows better.
		if err := l.unresolve(ctx, it); err != nil {
			return err
		}
		return l.resolve(ctx, it, retry)
	}
	it.host = host
	ip, _ := netip.ParseAddr(addr)
	e := Entry{Name: it.name, Type: it.typ, Host: strings.TrimSuffix(host, ".local"), Addr: ip, Port: int(port), Local: it.local || flags&flagsLocal != 0}
	for _, t := range slices.Backward(txt) { // avahi-daemon has them the wrong way round
		e.TXT = append(e.TXT, string(t))
	}
	l.b.found.see(it.id, e)
	return nil
}
