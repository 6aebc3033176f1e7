package avahi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// fakeMDNS is the library: a LAN whose answers come after 100 ms.
type fakeMDNS struct {
	mu         sync.Mutex
	lan        []Entry
	registered map[string]bool
	log        []string // what was registered and withdrawn, in order
	asked      map[string]int
	hosts      map[string][]netip.Addr
	announced  int // unasked, of hosts
	broken     error
}

func (f *fakeMDNS) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeMDNS) register(o offer, label string, addrs []netip.Addr, ifs []net.Interface) (func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return nil, f.broken
	}
	line := strings.TrimSpace(fmt.Sprintf("%s %s %s%v:%d %s", o.Name, o.Type, label, addrs, o.Port, strings.Join(o.TXT, ",")))
	if f.registered == nil {
		f.registered = map[string]bool{}
	}
	f.registered[line] = true
	f.log = append(f.log, "+"+line)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.registered, line)
		f.log = append(f.log, "-"+line)
	}, nil
}

func (f *fakeMDNS) browse(ctx context.Context, typ string, ifs []net.Interface, each func(Entry)) error {
	f.mu.Lock()
	if f.asked == nil {
		f.asked = map[string]int{}
	}
	f.asked[typ]++
	err := f.broken
	f.mu.Unlock()
	if err != nil {
		return err
	}
	if pause(ctx, 100*time.Millisecond) {
		f.mu.Lock()
		lan := slices.Clone(f.lan)
		f.mu.Unlock()
		for _, e := range lan {
			switch typ {
			case AllTypes:
				each(Entry{Type: e.Type})
			case e.Type:
				each(e)
			}
		}
	}
	<-ctx.Done()
	return nil
}

func (f *fakeMDNS) answer([]net.Interface) (hostAnswers, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return nil, f.broken
	}
	return fakeHosts{f}, nil
}

type fakeHosts struct{ f *fakeMDNS }

func (h fakeHosts) set(m map[string][]netip.Addr) { h.f.set(func() { h.f.hosts = m }) }
func (h fakeHosts) announce()                     { h.f.set(func() { h.f.announced++ }) }
func (h fakeHosts) keep(os []offer) {
	h.f.set(func() {
		for _, o := range os {
			h.f.log = append(h.f.log, "="+o.Name)
		}
	})
}
func (h fakeHosts) stop() { h.f.set(func() { h.f.hosts = nil }) }

// now is what is registered, sorted.
func (f *fakeMDNS) now() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for l := range f.registered {
		out = append(out, l)
	}
	slices.Sort(out)
	return out
}

var errBroken = errors.New("no buffer space available")

// testLinks are interfaces with addresses that a test can change.
type testLinks struct {
	mu    sync.Mutex
	addrs []string
}

func (l *testLinks) set(addrs ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addrs = addrs
}

func (l *testLinks) look() links {
	l.mu.Lock()
	defer l.mu.Unlock()
	return linksOf([]net.Interface{{Index: 2, Name: "eth0"}}, func(net.Interface) (out []net.Addr) {
		for _, a := range l.addrs {
			out = append(out, &net.IPNet{IP: net.ParseIP(a), Mask: net.CIDRMask(24, 32)})
		}
		return out
	})
}
