package avahi

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// The library tells a host's addresses along with its services, but answers nobody
// who asks for a host alone: two minutes after an announcement (the TTL of its
// addresses) the name could not be resolved any more, and a service that is withdrawn
// takes the addresses of its host along. So we answer for host names ourselves.

const (
	hostTTL   = 120         // seconds; RFC 6762, 10
	legacyTTL = 10          // seconds, to askers that know no multicast DNS; RFC 6762, 6.7
	hostPause = time.Second // between two answers about a host; RFC 6762, 6
	probeWait = 250 * time.Millisecond
	mdnsPort  = 5353
	flushBit  = 1 << 15 // in a class: all that is known is in this answer, or "answer me alone"
)

var mdnsGroup = net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: mdnsPort}

// hostSockets answers on each interface.
type hostSockets struct {
	conns []*net.UDPConn
	hosts atomic.Pointer[map[string][]netip.Addr] // by folded label
	wg    sync.WaitGroup
}

func (grandcat) answer(ifs []net.Interface) (hostAnswers, error) {
	h := &hostSockets{}
	h.hosts.Store(&map[string][]netip.Addr{})
	var errs []error
	for _, i := range ifs {
		c, err := listenMDNS(i)
		if err != nil {
			errs = append(errs, fmt.Errorf("listen for multicast DNS on %s: %w", i.Name, err))
			continue
		}
		h.conns = append(h.conns, c)
		h.wg.Go(func() { h.serve(c) })
	}
	if len(h.conns) == 0 {
		return nil, errors.Join(errs...)
	}
	return h, nil
}

// listenMDNS takes what comes in on one interface, and on no other.
func listenMDNS(i net.Interface) (*net.UDPConn, error) {
	c, err := net.ListenMulticastUDP("udp4", &i, &mdnsGroup)
	if err != nil {
		return nil, err
	}
	raw, err := c.SyscallConn()
	if err == nil {
		var serr error
		err = raw.Control(func(fd uintptr) {
			serr = errors.Join(
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 255),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 1)) // programs of this host ask, too
		})
		err = errors.Join(err, serr)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (h *hostSockets) set(hosts map[string][]netip.Addr) {
	was := *h.hosts.Swap(&hosts)
	for label, addrs := range hosts {
		if !slices.Equal(was[label], addrs) {
			h.announce()
			return
		}
	}
}

func (h *hostSockets) announce() {
	m := &dns.Msg{}
	for label, addrs := range *h.hosts.Load() {
		m.Answer = append(m.Answer, hostRecords(label, addrs, hostTTL, flushBit)...)
	}
	m.Response, m.Authoritative = true, true
	h.send(m)
}

// keepTTL is how long others believe in a service that changes its backend, in
// seconds. A withdrawn one is forgotten after one second, and avahi-daemon asks
// about as long whether the name is free.
const keepTTL = 10

func (h *hostSockets) keep(services []offer) {
	for part := range slices.Chunk(services, 10) { // all of a packet's records fit into it
		m := &dns.Msg{Compress: true}
		m.Response, m.Authoritative = true, true
		for _, o := range part {
			m.Answer = append(m.Answer, &dns.PTR{
				Hdr: dns.RR_Header{Name: o.Type + ".local.", Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: keepTTL},
				Ptr: presentation(o.Name) + "." + o.Type + ".local."})
		}
		h.send(m)
	}
}

func (h *hostSockets) send(m *dns.Msg) {
	p, err := m.Pack()
	if err != nil || len(m.Answer) == 0 {
		return
	}
	for _, c := range h.conns {
		c.WriteToUDP(p, &mdnsGroup) // an interface that went away is noticed elsewhere
	}
}

func (h *hostSockets) stop() {
	for _, c := range h.conns {
		c.Close()
	}
	h.wg.Wait()
}

func (h *hostSockets) serve(c *net.UDPConn) {
	buf := make([]byte, 9000) // RFC 6762, 17
	last := map[string]time.Time{}
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(probeWait) // the interface is down, perhaps; not as fast as can be
			continue
		}
		hosts := *h.hosts.Load()
		if len(last) > 2*len(hosts) {
			clear(last)
		}
		answer := answerHosts(buf[:n], from.Port() != mdnsPort, hosts, last, time.Now())
		if answer == nil {
			continue
		}
		to := mdnsGroup.AddrPort()
		if from.Port() != mdnsPort {
			to = from
		}
		c.WriteToUDPAddrPort(answer, to)
	}
}

// answerHosts is the answer to a packet, nil if there is none to give. last is when
// which host was told of; a legacy asker is answered alone.
func answerHosts(packet []byte, legacy bool, hosts map[string][]netip.Addr, last map[string]time.Time, now time.Time) []byte {
	// Most packets of a LAN are answers; they are not worth being taken apart.
	if len(packet) < 12 || packet[2]&0x80 != 0 {
		return nil
	}
	var q, a dns.Msg
	if q.Unpack(packet) != nil || q.Opcode != dns.OpcodeQuery {
		return nil
	}
	a.Response, a.Authoritative = true, true
	ttl, flush := uint32(hostTTL), uint16(flushBit)
	if legacy {
		ttl, flush = legacyTTL, 0
		a.Id, a.Question = q.Id, q.Question
	}
	pause := hostPause
	if len(q.Ns) > 0 { // somebody is about to take the name
		pause = probeWait
	}
	told := map[string]bool{}
	for _, question := range q.Question {
		label, ok := strings.CutSuffix(foldName(question.Name), ".local.")
		addrs := hosts[label]
		if !ok || len(addrs) == 0 || told[label] || question.Qclass&^flushBit != dns.ClassINET || question.Qtype != dns.TypeA && question.Qtype != dns.TypeAAAA && question.Qtype != dns.TypeANY {
			continue
		}
		records := slices.DeleteFunc(hostRecords(label, addrs, ttl, flush), func(r dns.RR) bool {
			t := r.Header().Rrtype
			return question.Qtype != dns.TypeANY && question.Qtype != t || !legacy && knownAnswer(r, q.Answer)
		})
		if len(records) == 0 || !legacy && now.Sub(last[label]) < pause {
			continue
		}
		told[label] = true
		if !legacy {
			last[label] = now
		}
		a.Answer = append(a.Answer, records...)
	}
	if len(a.Answer) == 0 {
		return nil
	}
	p, err := a.Pack()
	if err != nil {
		return nil
	}
	return p
}

func hostRecords(label string, addrs []netip.Addr, ttl uint32, flush uint16) []dns.RR {
	var out []dns.RR
	for _, addr := range addrs {
		h := dns.RR_Header{Name: label + ".local.", Rrtype: dns.TypeA, Class: dns.ClassINET | flush, Ttl: ttl}
		if addr.Is4() {
			out = append(out, &dns.A{Hdr: h, A: addr.AsSlice()})
		} else {
			h.Rrtype = dns.TypeAAAA
			out = append(out, &dns.AAAA{Hdr: h, AAAA: addr.AsSlice()})
		}
	}
	return out
}

// knownAnswer: the asker has this answer, and not only for a moment.
func knownAnswer(r dns.RR, known []dns.RR) bool {
	return slices.ContainsFunc(known, func(k dns.RR) bool {
		kh, rh := k.Header(), r.Header()
		if kh.Rrtype != rh.Rrtype || kh.Ttl < hostTTL/2 || !strings.EqualFold(kh.Name, rh.Name) {
			return false
		}
		switch k := k.(type) {
		case *dns.A:
			return k.A.Equal(r.(*dns.A).A)
		case *dns.AAAA:
			return k.AAAA.Equal(r.(*dns.AAAA).AAAA)
		}
		return false
	})
}
