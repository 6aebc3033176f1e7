package avahi

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/grandcat/zeroconf"
	"github.com/miekg/dns"
)

var ourHosts = map[string][]netip.Addr{"pi1-relevo": {netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}}

func ask(t *testing.T, change func(*dns.Msg), questions ...dns.Question) []byte {
	t.Helper()
	m := &dns.Msg{Question: questions}
	m.Id = 77
	if change != nil {
		change(m)
	}
	p, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// answers are the records of a packet, one word each.
func answers(t *testing.T, p []byte) string {
	t.Helper()
	if p == nil {
		return ""
	}
	var m dns.Msg
	if err := m.Unpack(p); err != nil {
		t.Fatal(err)
	}
	if !m.Response || !m.Authoritative {
		t.Errorf("this is no answer: %v", m.MsgHdr)
	}
	var out []string
	for _, r := range m.Answer {
		f := strings.Fields(r.String())
		out = append(out, f[len(f)-1]+fmt.Sprintf("/%d/%x", r.Header().Ttl, r.Header().Class))
	}
	if len(m.Question) > 0 {
		out = append(out, fmt.Sprintf("id=%d", m.Id))
	}
	return strings.Join(out, " ")
}

func TestAnswerHosts(t *testing.T) {
	q := func(name string, typ uint16) dns.Question {
		return dns.Question{Name: name, Qtype: typ, Qclass: dns.ClassINET}
	}
	now := time.Now()
	for what, c := range map[string]struct {
		packet []byte
		legacy bool
		want   string
	}{
		"A":              {ask(t, nil, q("pi1-relevo.local.", dns.TypeA)), false, "10.0.0.1/120/8001"},
		"other case":     {ask(t, nil, q("PI1-Relevo.Local.", dns.TypeA)), false, "10.0.0.1/120/8001"},
		"AAAA":           {ask(t, nil, q("pi1-relevo.local.", dns.TypeAAAA)), false, "fd00::1/120/8001"},
		"ANY":            {ask(t, nil, q("pi1-relevo.local.", dns.TypeANY)), false, "10.0.0.1/120/8001 fd00::1/120/8001"},
		"twice in one":   {ask(t, nil, q("pi1-relevo.local.", dns.TypeA), q("pi1-relevo.local.", dns.TypeA)), false, "10.0.0.1/120/8001"},
		"legacy":         {ask(t, nil, q("pi1-relevo.local.", dns.TypeA)), true, "10.0.0.1/10/1 id=77"},
		"another host":   {ask(t, nil, q("pi2-relevo.local.", dns.TypeA)), false, ""},
		"another domain": {ask(t, nil, q("pi1-relevo.lan.", dns.TypeA)), false, ""},
		"another type":   {ask(t, nil, q("pi1-relevo.local.", dns.TypeSRV)), false, ""},
		"an answer":      {ask(t, func(m *dns.Msg) { m.Response = true }, q("pi1-relevo.local.", dns.TypeA)), false, ""},
		"known": {ask(t, func(m *dns.Msg) {
			m.Answer = hostRecords("pi1-relevo", ourHosts["pi1-relevo"], 100, 0)
		}, q("pi1-relevo.local.", dns.TypeA)), false, ""},
		"known, but not for long": {ask(t, func(m *dns.Msg) {
			m.Answer = hostRecords("pi1-relevo", ourHosts["pi1-relevo"], 10, 0)
		}, q("pi1-relevo.local.", dns.TypeA)), false, "10.0.0.1/120/8001"},
		"nonsense": {[]byte("not a packet at all"), false, ""},
	} {
		if got := answers(t, answerHosts(c.packet, c.legacy, ourHosts, map[string]time.Time{}, now)); got != c.want {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}

	last := map[string]time.Time{}
	p := ask(t, nil, q("pi1-relevo.local.", dns.TypeA))
	probe := ask(t, func(m *dns.Msg) {
		m.Ns = hostRecords("pi1-relevo", []netip.Addr{netip.MustParseAddr("10.0.0.66")}, 120, 0)
	}, q("pi1-relevo.local.", dns.TypeANY))
	for i, c := range []struct {
		packet []byte
		at     time.Duration
		want   bool
	}{{p, 0, true}, {p, time.Second / 2, false}, {probe, time.Second / 2, true}, {p, 2 * time.Second, true}} {
		if got := answerHosts(c.packet, false, ourHosts, last, now.Add(c.at)); (got != nil) != c.want {
			t.Errorf("%d: answered %t, want %t", i, got != nil, c.want)
		}
	}
}

func FuzzAnswerHosts(f *testing.F) {
	for _, typ := range []uint16{dns.TypeA, dns.TypeANY, dns.TypePTR} {
		m := &dns.Msg{Question: []dns.Question{{Name: "pi1-relevo.local.", Qtype: typ, Qclass: dns.ClassINET}}, Answer: hostRecords("x", ourHosts["pi1-relevo"], 1, 0)}
		p, _ := m.Pack()
		f.Add(p, true)
		f.Add(p[:len(p)-3], false)
	}
	f.Fuzz(func(t *testing.T, packet []byte, legacy bool) {
		last := map[string]time.Time{}
		p := answerHosts(packet, legacy, ourHosts, last, time.Now())
		if len(last) > len(ourHosts) {
			t.Errorf("strangers fill our memory: %v", last)
		}
		if p == nil {
			return
		}
		var m dns.Msg
		if err := m.Unpack(p); err != nil || len(m.Answer) == 0 || len(m.Answer) > 2 || !legacy && len(p) > 200 {
			t.Errorf("%d bytes for %d: %v, %v", len(p), len(packet), m.Answer, err)
		}
	})
}

// What the library reads from the network, however odd, becomes something that can
// be shown, or nothing.
func FuzzAnswer(f *testing.F) {
	f.Add(`C\195\161mara`, "pi.local.", "k=v\x00", 80, []byte{10, 0, 0, 1})
	f.Add("\x00", ".", "=", -1, []byte{})
	f.Add(`\999\`, strings.Repeat("x.", 200), strings.Repeat(`\255`, 300), 1<<20, []byte{127, 0, 0, 1})
	f.Add("evil\u202e", "host", "", 443, make([]byte, 16))
	f.Fuzz(func(t *testing.T, instance, host, txt string, port int, ip []byte) {
		a := zeroconf.NewServiceEntry(instance, "_http._tcp", "local.")
		a.HostName, a.Port = host, port
		for range 100 {
			a.Text, a.AddrIPv4 = append(a.Text, txt), append(a.AddrIPv4, net.IP(ip))
		}
		found := newFound()
		n := 0
		readAnswer("_http._tcp", a, func(e Entry) {
			n++
			found.see(fmt.Sprint(n), e)
		})
		readAnswer(AllTypes, a, func(e Entry) {
			if !ValidType(e.Type) {
				t.Errorf("type %q", e.Type)
			}
		})
		if n > maxAddrs {
			t.Errorf("%d addresses are believed", n)
		}
		for _, e := range found.all() {
			size := len(e.Name) + len(e.Host)
			for _, s := range append(e.TXT, e.Name, e.Host) {
				size += len(s)
				if Printable(s, 1<<20) != s {
					t.Errorf("%q is not fit to be shown", s)
				}
			}
			if size > 4*maxShownName+maxAllTexts || len(e.TXT) > maxTexts || e.Port < 1 || e.Port > 65535 || e.Addr.IsLoopback() {
				t.Errorf("%d bytes: %+v", size, e)
			}
		}
	})
}

func TestWireTXT(t *testing.T) {
	for _, txt := range []string{`a=\b`, `a=\065`, "bin=\x00\xff\"", "é"} {
		rr := &dns.TXT{Hdr: dns.RR_Header{Name: "x.local.", Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: wireTXT([]string{txt})}
		m := &dns.Msg{Answer: []dns.RR{rr}}
		p, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Unpack(p); err != nil {
			t.Fatal(err)
		}
		if got := unescape(m.Answer[0].(*dns.TXT).Txt[0]); got != txt {
			t.Errorf("%q comes back as %q", txt, got)
		}
	}
	if got := wireTXT(nil); len(got) != 1 || got[0] != "" {
		t.Errorf("no texts: %q", got)
	}
}

func TestRealInterface(t *testing.T) {
	up := net.FlagUp | net.FlagMulticast
	for name, want := range map[string]bool{"eth0": true, "wlan0": true, "enp3s0": true, "br0": true, "bond0": true, "veth1a2b": false, "cni0": false, "docker0": false,
		"flannel.1": false, "tun0": false, "wg0": false, "br-1234": false, "cali123": false} {
		if got := realInterface(net.Interface{Name: name, Flags: up}); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if realInterface(net.Interface{Name: "eth0", Flags: net.FlagMulticast}) || realInterface(net.Interface{Name: "lo", Flags: up | net.FlagLoopback}) {
		t.Error("an interface that is down, or lo")
	}
}
