package avahi

import (
	"context"
	"io"
	"log"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/grandcat/zeroconf"
)

// mdns is what is needed of a library for multicast DNS.
type mdns interface {
	// register announces a service on a host label, until stop withdraws it.
	register(o offer, label string, addrs []netip.Addr, ifs []net.Interface) (stop func(), err error)
	// browse asks for a type and hands over the answers until ctx ends; for
	// AllTypes, entries with nothing but a type.
	browse(ctx context.Context, typ string, ifs []net.Interface, each func(Entry)) error
	// answer tells where hosts are, as set says, until stop is called.
	answer(ifs []net.Interface) (hostAnswers, error)
}

// hostAnswers answers for host labels, which the library does not.
type hostAnswers interface {
	set(hosts map[string][]netip.Addr)
	announce() // now, unasked
	// keep has others go on believing for some seconds in services that are withdrawn
	// here only because another backend announces them.
	keep(services []offer)
	stop()
}

// grandcat is the library zeroconf.
type grandcat struct{}

// quiet keeps the library's complaints about odd packets of strangers from the log:
// it writes to the global one.
var quiet = sync.OnceFunc(func() { log.SetOutput(without{log.Writer(), "zeroconf"}) })

type without struct {
	w    io.Writer
	word string
}

func (f without) Write(p []byte) (int, error) {
	if strings.Contains(string(p), f.word) {
		return len(p), nil
	}
	return f.w.Write(p)
}

func (grandcat) register(o offer, label string, addrs []netip.Addr, ifs []net.Interface) (func(), error) {
	quiet()
	ips := make([]string, 0, len(addrs))
	for _, a := range addrs {
		ips = append(ips, a.String())
	}
	// Nobody else may change what the library keeps.
	srv, err := zeroconf.RegisterProxy(presentation(o.Name), o.Type, "local.", o.Port, label, ips, wireTXT(o.TXT), slices.Clone(ifs))
	if err != nil {
		return nil, err
	}
	return srv.Shutdown, nil
}

// wireTXT writes texts as the library reads them: with escapes, and one empty text
// where there is none, as RFC 6763 wants it.
func wireTXT(txt []string) []string {
	if len(txt) == 0 {
		return []string{""}
	}
	out := make([]string, 0, len(txt))
	for _, t := range txt {
		out = append(out, strings.ReplaceAll(t, `\`, `\\`))
	}
	return out
}

func (grandcat) browse(ctx context.Context, typ string, ifs []net.Interface, each func(Entry)) error {
	quiet()
	r, err := zeroconf.NewResolver(zeroconf.SelectIPTraffic(zeroconf.IPv4), zeroconf.SelectIfaces(ifs))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan *zeroconf.ServiceEntry, 64)
	if err := r.Browse(ctx, typ, "local.", answers); err != nil {
		return err
	}
	// The library closes the channel when ctx ends, and hangs where nobody reads until
	// then. It remembers every answer: after too many it is stopped.
	for n := 0; ; n++ {
		a, ok := <-answers
		if !ok {
			return nil
		}
		if n == maxEntries {
			cancel()
		}
		if n < maxEntries {
			readAnswer(typ, a, each)
		}
	}
}

// maxAddrs of one service that are believed.
const maxAddrs = 8

func readAnswer(typ string, a *zeroconf.ServiceEntry, each func(Entry)) {
	if typ == AllTypes {
		if t := strings.TrimSuffix(a.Instance, ".local"); ValidType(t) {
			each(Entry{Type: t})
		}
		return
	}
	e := Entry{Name: unescape(a.Instance), Type: typ, Host: unescape(strings.TrimSuffix(strings.TrimSuffix(a.HostName, "."), ".local")), Port: a.Port}
	for _, t := range a.Text[:min(len(a.Text), maxTexts)] {
		e.TXT = append(e.TXT, unescape(t))
	}
	for _, ip := range a.AddrIPv4[:min(len(a.AddrIPv4), maxAddrs)] {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			e.Addr = addr.Unmap()
			each(e)
		}
	}
}
