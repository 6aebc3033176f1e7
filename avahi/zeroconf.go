package avahi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/grandcat/zeroconf"
)

// zeroBackend is mDNS of our own, for hosts without avahi-daemon. The library asks
// only until its first answer and never tells of removals, so it looks in rounds
// with a fresh resolver each and compares.
type zeroBackend struct {
	cfg   Config
	until func() error // not nil: an error ends the backend

	servers map[string]*announced
	missed  map[string]int // by type and id: rounds without an answer
}

type announced struct {
	want  Service
	addrs string
	srv   *zeroconf.Server
}

const (
	roundLength = 3 * time.Second
	roundPause  = 7 * time.Second
	missedMax   = 3 // rounds; a lost packet is no removal
)

// realInterfaces leaves out what belongs to containers and tunnels: on those
// nobody listens, and answering there makes avahi-daemon on other hosts rename.
func realInterfaces() []net.Interface {
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var out []net.Interface
next:
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagMulticast == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		for _, p := range []string{"veth", "cni", "docker", "flannel", "br-", "virbr", "tun", "tap", "wg", "cali", "kube"} {
			if strings.HasPrefix(i.Name, p) {
				continue next
			}
		}
		out = append(out, i)
	}
	return out
}

func addrsOf(ifs []net.Interface) []string {
	var out []string
	for _, i := range ifs {
		as, _ := i.Addrs()
		for _, a := range as {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
				out = append(out, n.IP.String())
			}
		}
	}
	return out
}

func (z *zeroBackend) run(ctx context.Context, b *Board) error {
	// The library logs to the global logger, about every odd packet of strangers.
	log.SetOutput(io.Discard)
	z.servers, z.missed = map[string]*announced{}, map[string]int{}
	defer func() {
		for _, a := range z.servers {
			a.srv.Shutdown()
		}
	}()
	ifaces := z.cfg.Interfaces
	if ifaces == nil {
		ifaces = realInterfaces
	}
	for {
		ifs := ifaces()
		if len(ifs) > 0 {
			z.publish(b, ifs)
			z.round(ctx, b, ifs)
			z.publish(b, ifs)
		}
		t := time.NewTimer(roundPause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-b.wanted:
			t.Stop()
		case <-t.C:
		}
		if z.until != nil {
			if err := z.until(); err != nil {
				return err
			}
		}
	}
}

// publish makes what is announced what is wanted, on the addresses of now.
func (z *zeroBackend) publish(b *Board, ifs []net.Interface) {
	want := map[string]Service{}
	for _, s := range b.wants() {
		want[s.key()] = s
	}
	host, _ := os.Hostname()
	host, _, _ = strings.Cut(host, ".")
	own := addrsOf(ifs)
	for key, a := range z.servers {
		s, ok := want[key]
		if !ok || !s.sameRecords(a.want) || a.addrs != strings.Join(own, " ") {
			a.srv.Shutdown()
			delete(z.servers, key)
			b.unnote(key)
		} else if !equalTXT(a.want.TXT, s.TXT) {
			a.srv.SetText(s.TXT)
			a.want = s
		}
	}
	for key, s := range want {
		if z.servers[key] != nil || len(own) == 0 {
			continue
		}
		// A label of our own: with the host's, an avahi-daemon elsewhere would believe
		// in a second host of this name.
		label, addrs := host+"-relevo", own
		if s.Host != "" {
			label, addrs = s.Host, []string{s.Addr.String()}
		}
		name := z.free(b, s)
		srv, err := zeroconf.RegisterProxy(undot(name), s.Type, "local.", s.Port, label, addrs, s.TXT, ifs)
		if err != nil {
			z.cfg.Log.Warn("service not announced", "name", s.Name, "type", s.Type, "err", err)
			b.note(s, name, err)
			continue
		}
		z.servers[key] = &announced{s, strings.Join(own, " "), srv}
		b.note(s, name, nil)
	}
}

// free is the name, or a numbered one if another host announces it already.
func (z *zeroBackend) free(b *Board, s Service) string {
	taken := map[string]bool{}
	for _, e := range b.Found() {
		if e.Type == s.Type {
			taken[e.Name] = true
		}
	}
	name := s.Name
	for i := 2; taken[undot(name)] && i < 100; i++ {
		suffix := fmt.Sprintf(" #%d", i)
		name = s.Name[:min(len(s.Name), MaxName-len(suffix))] + suffix
	}
	return name
}

// round asks once for every type and compares with what was there.
func (z *zeroBackend) round(ctx context.Context, b *Board, ifs []net.Interface) {
	for _, typ := range z.cfg.Browse {
		seen := map[string]bool{}
		err := browse(ctx, typ, ifs, func(e Entry) {
			id := e.Name + "@" + e.Addr.String()
			if z.ours(b, e) {
				return
			}
			seen[id] = true
			b.see(typ, id, e)
		})
		if err != nil {
			z.cfg.Log.Debug("looking for services failed", "type", typ, "err", err)
			continue
		}
		b.mu.Lock()
		var ids []string
		for id := range b.found[typ] {
			ids = append(ids, id)
		}
		b.mu.Unlock()
		for _, id := range ids {
			key := typ + id
			if seen[id] {
				delete(z.missed, key)
			} else if z.missed[key]++; z.missed[key] >= missedMax {
				delete(z.missed, key)
				b.lose(typ, id)
			}
		}
	}
}

func (z *zeroBackend) ours(b *Board, e Entry) bool {
	for _, p := range b.Published() {
		if p.Type == e.Type && undot(p.ActualName) == e.Name && p.Port == e.Port && z.servers[p.key()] != nil {
			return true
		}
	}
	return false
}

// browse is one round of questions.
func browse(ctx context.Context, typ string, ifs []net.Interface, each func(Entry)) error {
	r, err := zeroconf.NewResolver(zeroconf.SelectIPTraffic(zeroconf.IPv4), zeroconf.SelectIfaces(ifs))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, roundLength)
	defer cancel()
	entries := make(chan *zeroconf.ServiceEntry, 64)
	if err := r.Browse(ctx, typ, "local.", entries); err != nil {
		return err
	}
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			for range entries { // the library closes it, and must not block until then
			}
			return nil
		case e, ok := <-entries:
			if !ok {
				return nil
			}
			if n >= maxEntries {
				return errors.New("too many answers")
			}
			for _, ip := range e.AddrIPv4 {
				if a, ok := netip.AddrFromSlice(ip.To4()); ok {
					each(Entry{Name: unescape(e.Instance), Type: typ, Host: strings.TrimSuffix(e.HostName, ".local."), Addr: a, Port: e.Port, TXT: e.Text})
				}
			}
		}
	}
}

// unescape undoes the library's presentation format: \032 and \. become bytes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c != '\\' || i+1 >= len(s) {
			b.WriteByte(c)
			continue
		}
		i++
		if i+2 < len(s) && isDigit(s[i]) && isDigit(s[i+1]) && isDigit(s[i+2]) {
			if n := int(s[i]-'0')*100 + int(s[i+1]-'0')*10 + int(s[i+2]-'0'); n < 256 {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
