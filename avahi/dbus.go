package avahi

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names on the bus, and Avahi's numbers (avahi-common/defs.h).
const (
	busName    = "org.freedesktop.Avahi"
	ifServer   = busName + ".Server"
	ifGroup    = busName + ".EntryGroup"
	ifBrowser  = busName + ".ServiceBrowser"
	ifResolver = busName + ".ServiceResolver"

	serverRunning    = 2
	groupCollision   = 3
	groupEstablished = 2
	anyInterface     = int32(-1)
	anyProtocol      = int32(-1)
	protoIPv4        = int32(0)
	flagNoReverse    = uint32(16) // AVAHI_PUBLISH_NO_REVERSE
	callTimeout      = 5 * time.Second
)

func connectBus(address string) (*dbus.Conn, error) {
	if address == "" {
		return dbus.ConnectSystemBus()
	}
	return dbus.Connect(address)
}

// avahiRuns says whether avahi-daemon has its name on the bus.
func avahiRuns(address string) bool {
	c, err := connectBus(address)
	if err != nil {
		return false
	}
	defer c.Close()
	var has bool
	err = c.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, busName).Store(&has)
	return err == nil && has
}

// busBackend speaks with avahi-daemon. All of it belongs to run's goroutine.
type busBackend struct {
	cfg  Config
	must bool // wait for avahi-daemon instead of giving up on it

	conn      *dbus.Conn
	b         *Board
	groups    map[string]*group // by Service.key
	byPath    map[dbus.ObjectPath]*group
	browsers  map[dbus.ObjectPath]string         // path → type
	resolvers map[dbus.ObjectPath]found          // path → what it resolves
	resolving map[string]dbus.ObjectPath         // id → path
	early     map[dbus.ObjectPath][]*dbus.Signal // signals of objects whose creation has not returned yet
}

type group struct {
	path   dbus.ObjectPath
	want   Service
	actual string
}

type found struct{ typ, id string }

func (k *busBackend) run(ctx context.Context, b *Board) error {
	conn, err := connectBus(k.cfg.BusAddress)
	if err != nil {
		return fmt.Errorf("connect to D-Bus: %w", err)
	}
	// Closing the connection withdraws everything; so does a crash.
	defer conn.Close()
	k.conn, k.b = conn, b
	signals := make(chan *dbus.Signal, 1024)
	conn.Signal(signals)
	for _, m := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(busName)},
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName)},
	} {
		if err := conn.AddMatchSignal(m...); err != nil {
			return fmt.Errorf("listen on D-Bus: %w", err)
		}
	}
	if err := k.begin(ctx); err != nil && !k.must {
		return err
	}
	retry := time.NewTicker(30 * time.Second)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case s, ok := <-signals:
			if !ok {
				return errors.New("D-Bus closed the connection")
			}
			if err := k.signal(ctx, s); err != nil {
				return err
			}
		case <-b.wanted:
			k.publish(ctx)
		case <-retry.C: // what failed for a passing reason
			k.publish(ctx)
		}
	}
}

// begin sets everything up with a fresh avahi-daemon.
func (k *busBackend) begin(ctx context.Context) error {
	k.groups, k.byPath = map[string]*group{}, map[dbus.ObjectPath]*group{}
	k.browsers, k.resolvers, k.resolving = map[dbus.ObjectPath]string{}, map[dbus.ObjectPath]found{}, map[string]dbus.ObjectPath{}
	k.early = map[dbus.ObjectPath][]*dbus.Signal{}
	state, err := k.state(ctx)
	if err != nil {
		return err
	}
	for _, t := range k.cfg.Browse {
		var path dbus.ObjectPath
		if err := k.call(ctx, "/", ifServer+".ServiceBrowserNew", anyInterface, protoIPv4, t, "", uint32(0)).Store(&path); err != nil {
			return fmt.Errorf("browse for %s: %w", t, err)
		}
		k.browsers[path] = t
		k.replay(ctx, path)
	}
	if state == serverRunning {
		k.publish(ctx)
	}
	return nil
}

func (k *busBackend) state(ctx context.Context) (state int32, err error) {
	if err = k.call(ctx, "/", ifServer+".GetState").Store(&state); err != nil {
		return 0, fmt.Errorf("ask avahi-daemon for its state: %w", err)
	}
	return state, nil
}

func (k *busBackend) call(ctx context.Context, path dbus.ObjectPath, method string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return k.conn.Object(busName, path).CallWithContext(ctx, method, 0, args...)
}

// publish makes what is announced what is wanted.
func (k *busBackend) publish(ctx context.Context) {
	if state, err := k.state(ctx); err != nil || state != serverRunning {
		return // it will say when it runs
	}
	want := map[string]Service{}
	for _, s := range k.b.wants() {
		want[s.key()] = s
	}
	for key, g := range k.groups {
		if s, ok := want[key]; !ok || !s.sameRecords(g.want) {
			k.drop(ctx, key, g)
		}
	}
	for key, s := range want {
		g := k.groups[key]
		var err error
		switch {
		case g == nil:
			err = k.add(ctx, s)
		case !equalTXT(g.want.TXT, s.TXT):
			err = k.call(ctx, g.path, ifGroup+".UpdateServiceTxt", anyInterface, anyProtocol, uint32(0), g.actual, s.Type, "", txtBytes(s.TXT)).Err
			if err == nil {
				g.want = s
				k.b.note(s, g.actual, nil)
			}
		}
		if err != nil {
			k.cfg.Log.Warn("service not announced", "name", s.Name, "type", s.Type, "err", err)
			k.b.note(s, s.Name, err)
		}
	}
}

func equalTXT(a, b []string) bool { return strings.Join(a, "\x00") == strings.Join(b, "\x00") }

func txtBytes(txt []string) [][]byte {
	out := make([][]byte, 0, len(txt))
	for _, t := range txt {
		out = append(out, []byte(t))
	}
	return out
}

func (k *busBackend) add(ctx context.Context, s Service) error {
	g := &group{want: s, actual: s.Name}
	if err := k.call(ctx, "/", ifServer+".EntryGroupNew").Store(&g.path); err != nil {
		return err
	}
	k.groups[s.key()], k.byPath[g.path] = g, g
	if err := k.fill(ctx, g); err != nil {
		k.drop(ctx, s.key(), g)
		return err
	}
	k.replay(ctx, g.path)
	return nil
}

// fill puts a service into its group and commits it, under another name if the
// present one is taken on this host.
func (k *busBackend) fill(ctx context.Context, g *group) error {
	s := g.want
	host := ""
	if s.Host != "" {
		host = s.Host + ".local"
		proto := protoIPv4
		if s.Addr.Is6() {
			proto = 1
		}
		if err := k.call(ctx, g.path, ifGroup+".AddAddress", anyInterface, proto, flagNoReverse, host, s.Addr.String()).Err; err != nil {
			return fmt.Errorf("announce %s as %v: %w", host, s.Addr, err)
		}
	}
	for range 10 {
		err := k.call(ctx, g.path, ifGroup+".AddService", anyInterface, anyProtocol, uint32(0), g.actual, s.Type, "", host, uint16(s.Port), txtBytes(s.TXT)).Err
		var de dbus.Error
		if errors.As(err, &de) && strings.HasSuffix(de.Name, ".CollisionError") {
			if err := k.rename(ctx, g); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		return k.call(ctx, g.path, ifGroup+".Commit").Err
	}
	return errors.New("every name that was tried is taken")
}

func (k *busBackend) rename(ctx context.Context, g *group) error {
	return k.call(ctx, "/", ifServer+".GetAlternativeServiceName", g.actual).Store(&g.actual)
}

func (k *busBackend) drop(ctx context.Context, key string, g *group) {
	k.call(ctx, g.path, ifGroup+".Free")
	delete(k.groups, key)
	delete(k.byPath, g.path)
	k.b.unnote(key)
}

// replay handles what an object said before we knew its name.
func (k *busBackend) replay(ctx context.Context, path dbus.ObjectPath) {
	ss := k.early[path]
	delete(k.early, path)
	for _, s := range ss {
		k.signal(ctx, s)
	}
}

// signal returns an error when avahi-daemon is gone and somebody else may take over.
func (k *busBackend) signal(ctx context.Context, s *dbus.Signal) error {
	switch s.Name {
	case "org.freedesktop.DBus.NameOwnerChanged":
		var name, old, now string
		if dbus.Store(s.Body, &name, &old, &now) != nil || name != busName {
			return nil
		}
		k.b.reset("avahi")
		if now == "" {
			if !k.must {
				return errors.New("avahi-daemon is gone")
			}
			return nil
		}
		k.cfg.Log.Info("avahi-daemon is back")
		return k.begin(ctx)
	case ifServer + ".StateChanged":
		var state int32
		var msg string
		if dbus.Store(s.Body, &state, &msg) == nil && state == serverRunning {
			k.publish(ctx)
		}
	case ifGroup + ".StateChanged":
		return k.groupChanged(ctx, s)
	case ifBrowser + ".ItemNew", ifBrowser + ".ItemRemove":
		return k.item(ctx, s)
	case ifResolver + ".Found":
		return k.resolved(s)
	}
	return nil
}

// keep holds a signal back whose object is not known yet; bounded.
func (k *busBackend) keep(s *dbus.Signal) {
	if len(k.early) < 256 && len(k.early[s.Path]) < 64 {
		k.early[s.Path] = append(k.early[s.Path], s)
	}
}

func (k *busBackend) groupChanged(ctx context.Context, s *dbus.Signal) error {
	g := k.byPath[s.Path]
	if g == nil {
		k.keep(s)
		return nil
	}
	var state int32
	var msg string
	if dbus.Store(s.Body, &state, &msg) != nil {
		return nil
	}
	switch state {
	case groupEstablished:
		k.b.note(g.want, g.actual, nil)
	case groupCollision:
		was := g.actual
		k.call(ctx, g.path, ifGroup+".Reset")
		err := k.rename(ctx, g)
		if err == nil {
			err = k.fill(ctx, g)
		}
		k.cfg.Log.Warn("another host announces a service of this name", "name", was, "now", g.actual, "err", err)
	}
	return nil
}

func (k *busBackend) item(ctx context.Context, s *dbus.Signal) error {
	typ, ok := k.browsers[s.Path]
	if !ok {
		k.keep(s)
		return nil
	}
	var ifc, proto int32
	var name, t, domain string
	var flags uint32
	if dbus.Store(s.Body, &ifc, &proto, &name, &t, &domain, &flags) != nil || t != typ {
		return nil
	}
	id := fmt.Sprintf("%d/%d/%s", ifc, proto, name)
	if strings.HasSuffix(s.Name, "Remove") {
		if path, ok := k.resolving[id+t]; ok {
			k.call(ctx, path, ifResolver+".Free")
			delete(k.resolvers, path)
			delete(k.resolving, id+t)
		}
		k.b.lose(typ, id)
		return nil
	}
	if len(k.resolving) >= maxEntries || k.resolving[id+t] != "" {
		return nil
	}
	var path dbus.ObjectPath
	if err := k.call(ctx, "/", ifServer+".ServiceResolverNew", ifc, proto, name, t, domain, protoIPv4, uint32(0)).Store(&path); err != nil {
		k.cfg.Log.Debug("service not resolved", "name", name, "type", t, "err", err)
		return nil
	}
	k.resolving[id+t], k.resolvers[path] = path, found{typ, id}
	k.replay(ctx, path)
	return nil
}

func (k *busBackend) resolved(s *dbus.Signal) error {
	f, ok := k.resolvers[s.Path]
	if !ok {
		k.keep(s)
		return nil
	}
	var ifc, proto, aproto int32
	var name, typ, domain, host, addr string
	var port uint16
	var txt [][]byte
	var flags uint32
	if dbus.Store(s.Body, &ifc, &proto, &name, &typ, &domain, &host, &aproto, &addr, &port, &txt, &flags) != nil {
		return nil
	}
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return nil
	}
	e := Entry{Name: name, Type: typ, Host: strings.TrimSuffix(host, ".local"), Addr: ip, Port: int(port)}
	for _, t := range txt {
		e.TXT = append(e.TXT, string(t))
	}
	k.b.see(f.typ, f.id, e)
	return nil
}
