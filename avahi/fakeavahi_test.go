package avahi

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// fakeAvahi is an avahi-daemon on a fakeBus. It behaves as 0.8 does where it
// matters: states, groups that belong to a client, a second for asking whether a
// name is free, collisions with this host and with others.
type fakeAvahi struct {
	bus *fakeBus

	mu      sync.Mutex
	present bool
	state   int32
	frozen  bool              // takes calls and says nothing
	refuses map[string]string // method → error
	next    int
	groups  map[string]*fakeGroup
	lan     map[string]fakeService // what others announce, by name and type
	viewers map[string]fakeViewer  // browsers and resolvers, by path
	calls   []string
}

type fakeGroup struct {
	owner    *busClient
	services map[string]fakeService // by name and type
	hosts    map[string]string
	state    int32
	round    int // of commits and resets: an answer to an older one is void
}

type fakeService struct {
	name, typ, host, addr string
	port                  uint16
	txt                   []string
	subtypes              []string
	mute                  bool // it is announced, but does not tell where it is
}

type fakeViewer struct {
	owner     *busClient
	kind, typ string
	name      string
	// what a resolver told first: when a service moves to another host, 0.8 goes on
	// telling the address of the old one
	host, addr string
}

func newFakeAvahi(t *testing.T) *fakeAvahi {
	f := &fakeAvahi{bus: &fakeBus{t: t}, refuses: map[string]string{}, lan: map[string]fakeService{}}
	f.bus.handle = f.handle
	f.forget()
	return f
}

func (f *fakeAvahi) forget() {
	f.groups, f.viewers = map[string]*fakeGroup{}, map[string]fakeViewer{}
}

// start and stop are the daemon's; stop is a crash.
func (f *fakeAvahi) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.present, f.state = true, 1
	f.owner("", ":1.99")
	time.AfterFunc(900*time.Millisecond, func() { f.setState(serverRunning) })
}

func (f *fakeAvahi) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.present, f.state, f.frozen = false, 0, false
	f.forget()
	f.owner(":1.99", "")
}

func (f *fakeAvahi) owner(old, now string) {
	for _, c := range f.bus.everybody() {
		c.signal("/org/freedesktop/DBus", "org.freedesktop.DBus.NameOwnerChanged", busName, old, now)
	}
}

func (f *fakeAvahi) setState(state int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.present {
		return
	}
	f.state = state
	for _, c := range f.bus.everybody() {
		c.signal("/", ifServer+".StateChanged", state, "")
	}
}

// handle is the daemon's and the bus's answer to a call.
func (f *fakeAvahi) handle(c *busClient, m call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.member == "gone" {
		maps.DeleteFunc(f.groups, func(_ string, g *fakeGroup) bool { return g.owner == c })
		maps.DeleteFunc(f.viewers, func(_ string, v fakeViewer) bool { return v.owner == c })
		return
	}
	if m.dest == "org.freedesktop.DBus" {
		switch m.member {
		case "NameHasOwner":
			c.reply(m, f.present)
		default:
			c.reply(m)
		}
		return
	}
	f.calls = append(f.calls, m.member)
	switch {
	case !f.present:
		c.fail(m, "org.freedesktop.DBus.Error.ServiceUnknown")
	case f.frozen:
	case f.refuses[m.member] != "":
		c.fail(m, busName+"."+f.refuses[m.member])
	case m.ifc == ifServer:
		f.server(c, m)
	case m.ifc == ifGroup:
		f.group(c, m)
	case m.member == "Free":
		delete(f.viewers, m.path)
		c.reply(m)
	default:
		c.fail(m, "org.freedesktop.DBus.Error.UnknownMethod")
	}
}

func (f *fakeAvahi) object(kind string) dbus.ObjectPath {
	f.next++
	return dbus.ObjectPath(fmt.Sprintf("/Client0/%s%d", kind, f.next))
}

func (f *fakeAvahi) server(c *busClient, m call) {
	switch m.member {
	case "GetState":
		c.reply(m, f.state)
	case "EntryGroupNew":
		path := f.object("EntryGroup")
		f.groups[string(path)] = &fakeGroup{owner: c, services: map[string]fakeService{}, hosts: map[string]string{}}
		c.reply(m, path)
	case "GetAlternativeServiceName":
		c.reply(m, alternative(m.body[0].(string)))
	case "GetAlternativeHostName":
		c.reply(m, m.body[0].(string)+"-2")
	case "ServiceTypeBrowserNew":
		path := f.object("ServiceTypeBrowser")
		f.viewers[string(path)] = fakeViewer{owner: c, kind: "types"}
		c.reply(m, path)
		seen := map[string]bool{}
		for _, s := range f.lan {
			if !seen[s.typ] {
				seen[s.typ] = true
				c.signal(path, ifTypeBrowser+".ItemNew", int32(2), protoIPv4, s.typ, "local", noFlags)
			}
		}
	case "ServiceBrowserNew":
		path := f.object("ServiceBrowser")
		typ := m.body[2].(string)
		f.viewers[string(path)] = fakeViewer{owner: c, kind: "services", typ: typ}
		c.reply(m, path)
		for _, key := range slices.Sorted(maps.Keys(f.lan)) {
			if s := f.lan[key]; s.typ == typ {
				c.signal(path, ifBrowser+".ItemNew", int32(2), protoIPv4, s.name, s.typ, "local", noFlags)
			}
		}
	case "ServiceResolverNew":
		path := f.object("ServiceResolver")
		name, typ := m.body[2].(string), m.body[3].(string)
		f.viewers[string(path)] = fakeViewer{owner: c, kind: "resolver", typ: typ, name: name}
		c.reply(m, path)
		if s, ok := f.lan[name+typ]; ok {
			f.tell(c, path, s)
		}
	}
}

func (f *fakeAvahi) tell(c *busClient, path dbus.ObjectPath, s fakeService) {
	if s.mute {
		c.signal(path, ifResolver+".Failure", "Timeout reached")
		return
	}
	v := f.viewers[string(path)]
	if v.host == "" || v.host == s.host {
		v.host, v.addr = s.host, s.addr
		f.viewers[string(path)] = v
	}
	s.addr = v.addr
	txt := txtBytes(s.txt)
	slices.Reverse(txt)
	c.signal(path, ifResolver+".Found", int32(2), protoIPv4, s.name, s.typ, "local", s.host+".local", protoIPv4, s.addr, s.port, txt, noFlags)
}

func (f *fakeAvahi) group(c *busClient, m call) {
	g := f.groups[m.path]
	if g == nil {
		c.fail(m, busName+".InvalidObjectError")
		return
	}
	arg := func(i int) string { return m.body[i].(string) }
	switch m.member {
	case "AddService":
		s := fakeService{name: arg(3), typ: arg(4), host: arg(6), port: m.body[7].(uint16)}
		for _, t := range m.body[8].([][]byte) {
			s.txt = append(s.txt, string(t))
		}
		for _, o := range f.groups {
			if _, ok := o.services[s.name+s.typ]; ok {
				c.fail(m, busName+".CollisionError")
				return
			}
		}
		g.services[s.name+s.typ] = s
	case "AddServiceSubtype":
		s := g.services[arg(3)+arg(4)]
		s.subtypes = append(s.subtypes, arg(6))
		g.services[arg(3)+arg(4)] = s
	case "AddAddress":
		for _, o := range f.groups {
			if _, ok := o.hosts[arg(3)]; ok {
				c.fail(m, busName+".CollisionError")
				return
			}
		}
		g.hosts[arg(3)] = arg(4)
	case "UpdateServiceTxt":
		s := g.services[arg(3)+arg(4)]
		s.txt = nil
		for _, t := range m.body[6].([][]byte) {
			s.txt = append(s.txt, string(t))
		}
		g.services[arg(3)+arg(4)] = s
	case "Commit":
		f.become(g, m.path, 1)
		round := g.round
		time.AfterFunc(900*time.Millisecond, func() { f.decide(g, m.path, round) })
	case "Reset":
		clear(g.services)
		clear(g.hosts)
		f.become(g, m.path, 0)
	case "Free":
		delete(f.groups, m.path)
	}
	c.reply(m)
}

func (f *fakeAvahi) become(g *fakeGroup, path string, state int32) {
	g.state = state
	g.round++
	g.owner.signal(dbus.ObjectPath(path), ifGroup+".StateChanged", state, "")
}

// decide, after a second of asking, whether the names are free.
func (f *fakeAvahi) decide(g *fakeGroup, path string, round int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.groups[path] != g || g.round != round {
		return
	}
	state := int32(groupEstablished)
	for key := range g.services {
		if _, ok := f.lan[key]; ok {
			state = groupCollision
		}
	}
	for host := range g.hosts {
		if _, ok := f.lan[host]; ok {
			state = groupCollision
		}
	}
	f.become(g, path, state)
}

// others announce, change, or withdraw a service.
func (f *fakeAvahi) others(s fakeService) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, had := f.lan[s.name+s.typ]
	f.lan[s.name+s.typ] = s
	for path, v := range f.viewers {
		path := dbus.ObjectPath(path)
		switch {
		case v.kind == "types" && !had:
			v.owner.signal(path, ifTypeBrowser+".ItemNew", int32(2), protoIPv4, s.typ, "local", noFlags)
		case v.kind == "services" && v.typ == s.typ && !had:
			v.owner.signal(path, ifBrowser+".ItemNew", int32(2), protoIPv4, s.name, s.typ, "local", noFlags)
		case v.kind == "resolver" && v.typ == s.typ && v.name == s.name:
			f.tell(v.owner, path, s)
		}
	}
}

func (f *fakeAvahi) withdrawn(name, typ string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.lan, name+typ)
	last := true
	for _, s := range f.lan {
		last = last && s.typ != typ
	}
	for path, v := range f.viewers {
		switch {
		case v.kind == "services" && v.typ == typ:
			v.owner.signal(dbus.ObjectPath(path), ifBrowser+".ItemRemove", int32(2), protoIPv4, name, typ, "local", noFlags)
		case v.kind == "types" && last:
			v.owner.signal(dbus.ObjectPath(path), ifTypeBrowser+".ItemRemove", int32(2), protoIPv4, typ, "local", noFlags)
		}
	}
}

// announced is what the daemon really announces now, sorted.
func (f *fakeAvahi) announced() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, g := range f.groups {
		if g.state != groupEstablished {
			continue
		}
		for _, s := range g.services {
			line := fmt.Sprintf("%s %s %d %s", s.name, s.typ, s.port, strings.Join(s.txt, ","))
			if s.host != "" {
				line += " at " + s.host
			}
			if s.subtypes != nil {
				line += " " + strings.Join(s.subtypes, ",")
			}
			out = append(out, line)
		}
		for h, a := range g.hosts {
			out = append(out, h+"="+a)
		}
	}
	slices.Sort(out)
	return out
}

// taken are the calls since the last time, counted by method.
func (f *fakeAvahi) taken() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]int{}
	for _, c := range f.calls {
		out[c]++
	}
	f.calls = nil
	return out
}

// count of objects of a kind: groups, services, types, resolver.
func (f *fakeAvahi) count(kind string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if kind == "groups" {
		return len(f.groups)
	}
	for _, v := range f.viewers {
		if v.kind == kind {
			n++
		}
	}
	return n
}

func (f *fakeAvahi) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}
